"""Posting a run's events to an address, and who else is told of them."""

from __future__ import annotations

import json
import sys
from typing import Any

import keras

from carcls.config import Config
from carcls.train.events import Listener, LogLines, plain
from carcls.train.notify import Notifier
from carcls.train.outbox import Outbox


class SafeRemoteMonitor(keras.callbacks.RemoteMonitor):
    """Keras's RemoteMonitor that cannot delay, stop or change a run."""

    wants_pictures = wants_earlier = True

    def __init__(
        self,
        root: str = "http://localhost:9000",
        path: str = "/publish/epoch/end/",
        field: str = "data",
        headers: dict[str, str] | None = None,
        send_as_json: bool = True,
    ) -> None:
        super().__init__(root.rstrip("/"), path, field, headers, send_as_json)
        self.outbox = Outbox("monitor", self.root + self.path, self.headers)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.post({"epoch": epoch, **(logs or {})})

    def post(self, event: dict[str, Any]) -> None:
        """Queue one event; returns at once."""
        event = plain(event)
        if self.send_as_json:
            self.outbox.post(json=event)
        else:
            self.outbox.post(data={self.field: json.dumps(event)})

    def close(self, wait: float = 5.0) -> None:
        """Send what is queued, for at most ``wait`` seconds. Nothing is sent afterwards."""
        self.outbox.close(wait)


def listeners(cfg: Config) -> list[Listener]:
    """Who is told of a run's events beside its progress.jsonl.

    Raises ConfigError if ``notify_url`` lacks what its service needs.
    """
    told: list[Listener] = []
    if cfg.monitor_url:
        told.append(SafeRemoteMonitor(*cfg.monitor_url.parts()))
    if cfg.notify_url:
        told.append(Notifier(cfg.notify_url.get_secret_value()))
    if not sys.stdout.isatty():  # a log, not a person who watches as it comes
        told.append(LogLines())  # last: where the log is gone, the others hear of that
    return told

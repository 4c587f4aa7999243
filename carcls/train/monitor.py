"""What tells the outside about a run: events to a file, and to a remote monitor if there is one."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import deque
from http.client import HTTPException
from pathlib import Path
from typing import Any

import keras
import numpy as np
import requests
from urllib3.exceptions import HTTPError

from carcls import disk
from carcls.errors import full_disk_named
from carcls.values import Address, hide


def plain(value: Any) -> Any:
    """What JSON can hold of ``value``: numbers of any library, None for NaN and infinities."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "__array__"):  # numpy, a tensor of any backend, a Keras variable
        return plain(np.asarray(value).tolist())
    return str(value)


class SafeRemoteMonitor(keras.callbacks.RemoteMonitor):
    """Keras's RemoteMonitor that cannot delay, stop or change a run.

    ``post`` only queues; a daemon thread sends, with time-outs, and when it lags the oldest events
    are dropped. Any reply but HTTP 2xx is a failure (a redirect would lose the event); after
    ``tries`` failures in a row nothing more is sent, and one printed line says so. ``post`` or
    ``close`` prints it: a daemon thread that prints while Python ends can crash it.
    """

    timeout = (3.0, 5.0)  # seconds to connect, to answer
    tries = 3

    def __init__(
        self,
        root: str = "http://localhost:9000",
        path: str = "/publish/epoch/end/",
        field: str = "data",
        headers: dict[str, str] | None = None,
        send_as_json: bool = True,
    ) -> None:
        super().__init__(root.rstrip("/"), path, field, headers, send_as_json)
        self._queue: deque[dict[str, Any]] = deque(maxlen=64)
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._trouble = ""  # set by the thread once it has given up
        self._closing = self._said = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.post({"epoch": epoch, **(logs or {})})

    def post(self, event: dict[str, Any]) -> None:
        """Queue one event; returns at once, raises nothing."""
        if self._trouble or self._closing:
            self._say(self._trouble)
            return
        with self._wake:
            self._queue.append(plain(event))
            self._wake.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="monitor", daemon=True)
            self._thread.start()

    def close(self, wait: float = 5.0) -> None:
        """Send what is queued, for at most ``wait`` seconds. Nothing is sent afterwards."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(wait)
            late = (
                self._thread.is_alive()
                and f"no answer in {wait:g} s; the last events were not sent"
            )
            self._say(self._trouble or late or "")
        with self._wake:
            self._queue.clear()

    def _say(self, trouble: str) -> None:
        if trouble and not self._said:
            self._said = True
            print(f"monitor {hide(self.root)}: {trouble}; the run goes on without it", flush=True)

    def _work(self) -> None:
        failures, problem = 0, ""
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    self._trouble = problem and f"the last events were not sent ({problem})"
                    return
                event = self._queue.popleft()
            problem = self._send(event)
            failures = failures + 1 if problem else 0
            if failures >= self.tries:
                self._trouble = f"gave up after {failures} failures in a row ({problem})"
                return

    def _send(self, event: dict[str, Any]) -> str:
        """Send one event; what went wrong, or ''."""
        body: dict[str, Any] = (
            {"json": event} if self.send_as_json else {"data": {self.field: json.dumps(event)}}
        )
        try:
            # stream: the reply's body, however long, is never read
            with requests.post(
                self.root + self.path,
                headers=self.headers,
                timeout=self.timeout,
                stream=True,
                allow_redirects=False,
                **body,
            ) as reply:
                is_taken = reply.status_code // 100 == 2
                return "" if is_taken else f"HTTP {reply.status_code}"
        except (
            OSError,
            ValueError,
            HTTPError,
            HTTPException,
        ) as error:  # requests' own errors are OSErrors
            return _cause(error)


def _cause(error: BaseException) -> str:
    """What an error began with; requests' and urllib3's own words quote the address."""
    while error.__context__:
        error = error.__context__
    is_quiet = isinstance(error, OSError) and not isinstance(error, requests.RequestException)
    return f"{type(error).__name__}: {error}"[:200] if is_quiet else type(error).__name__


class Events:
    """Every event of a run: a JSON line in ``path``, and the same to the monitor if any."""

    def __init__(self, path: Path, monitor: SafeRemoteMonitor | None = None) -> None:
        self.path, self.monitor = path, monitor
        if path.exists() and not path.is_file():
            disk.remove(path)
        self._start = time.monotonic()

    def send(self, kind: str, **values: Any) -> None:
        """Record one event; adds ``kind`` and ``time``, seconds since this object was made."""
        event = {"kind": kind, "time": round(time.monotonic() - self._start, 3), **plain(values)}
        with full_disk_named(self.path), self.path.open("ab+") as file:
            # A kill or a full disk may have left a part of a line.
            torn = file.tell() and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n"
            line = json.dumps(event, allow_nan=False) + "\n"
            file.write(("\n" * bool(torn) + line).encode())
        if self.monitor:
            self.monitor.post(event)

    def close(self, wait: float = 5.0) -> None:
        """Let the monitor finish, for at most ``wait`` seconds."""
        if self.monitor:
            self.monitor.close(wait)


def open_events(path: Path, url: Address | str) -> Events:
    """The events of a run, posted to that address too if there is one."""
    address = Address(url) if isinstance(url, str) else url
    return Events(path, SafeRemoteMonitor(*address.parts()) if address else None)

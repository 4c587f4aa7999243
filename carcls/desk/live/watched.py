"""A watched kernel's events in the monitor's folder, from which a page shows them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from carcls.desk.live import store

_LAST_NUMBER = 999_999_999  # of the event with which a session ends that could not say so itself


class Watched:
    """Writes each event of a kernel's log once, however often the log is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written: dict[str, set[str]] = {}  # run → ids of the events in its file
        self._session = ""  # RUN.SESSION of the last event
        self._numbers: set[int] = set()  # of the session's events
        self._is_over = False
        self._at = 0.0
        self._is_full = False

    def take(self, event: dict[str, Any], is_live: bool) -> None:
        """Write an event of the log, unless it is there.

        is_live: it happens now, as far as the clocks agree.
        """
        session, _, number = event["id"].rpartition(".")
        if session != self._session:
            self._session, self._numbers, self._is_over = session, set(), False
        self._numbers.add(int(number))
        self._is_over |= event["kind"] in ("end", "failed")
        at = event.get("at")
        self._at = at if isinstance(at, (int, float)) else self._at
        if event["kind"] != "picture":  # none comes through a log: they are in the kernel's output
            self._write(event, time.time() if is_live else self._at)

    def close(self, how: str) -> None:
        """The whole log was read; how: it ended, as Kaggle says."""
        if not self._session:
            print(
                "page     its log has no events: it was pushed by an older version of carcls, or "
                "ended before the run began",
                flush=True,
            )
            return
        lost = max(self._numbers) - len(self._numbers)
        if lost:
            print(f"page     {lost} events did not come whole in Kaggle's log", flush=True)
        if not self._is_over:
            ident = f"{self._session}.{_LAST_NUMBER}"
            event = {"id": ident, "kind": "failed", "at": self._at}
            event["error"] = f"{how}; the run itself did not say so"
            self._write(event, self._at)

    def _write(self, event: dict[str, Any], received: float) -> None:
        run = event["id"].partition(".")[0]
        if run not in self._written:
            self._written[run] = _ids(self.folder / run / store.NAME)
        if event["id"] in self._written[run] or self._is_full:
            return
        try:
            store.append(self.folder, event, received)
        except (ValueError, OSError) as error:  # Full among them
            self._is_full = True
            print(f"the page gets no more events: {error}", flush=True)
        self._written[run].add(event["id"])


def _ids(path: Path) -> set[str]:
    """The ids of the events in a file of them, which need not be there."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = set()
    for line in text.splitlines():
        try:
            found.add(str(store.parse(line)["id"]))
        except (ValueError, KeyError):  # a part of a line
            continue
    return found

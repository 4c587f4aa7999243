"""What the list of runs says of a run, kept while its events are read; no event itself is kept."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any

UNKNOWN_S = 100.0  # between two events of a training, as long as nothing is known of it
LEAST_S = 30.0  # a run says nothing for a minute at most, but while it traces or draws
TEXT, LONG_TEXT = 200, 500  # characters of a name, of an error
GAPS, DELAYS = 64, 64  # the last that count, of the intervals between events and of what they took
PICTURES = 200  # names, of a run


def number(value: Any) -> float | None:
    """A number that can be calculated with; None for anything else, whatever it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # As integers first: a float cannot hold what a long row of digits means.
    return float(value) if -(10**15) < value < 10**15 and math.isfinite(value) else None


def text(value: Any, most: int = TEXT) -> str:
    """A string, cut; "" for anything else."""
    return value[:most] if isinstance(value, str) else ""


class Run:
    """What is known of one run. Its events may have any value under any name.

    ``version`` rises with every event; ``highest`` is the number of the last id; ``epoch`` the
    number of the last epoch; ``pictures`` says which file shows what.
    """

    def __init__(self, run: str, name: str, source: str) -> None:
        """source: "folder" or "posted"; name: what it is called until a start event says more."""
        self.run, self.name, self.source = run, name, source
        self.identity, self.state, self.error, self.metric = "", "running", "", ""
        self.best: float | None = None
        self.score: float | None = None
        self.highest = self.version = 0
        self.epoch = -1.0
        self.pictures: dict[str, str] = {}
        self._first: float | None = None
        self._started: float | None = None
        self._last = 0.0
        # What events took to come, by two clocks that may differ: the least of them counts.
        self._delays: deque[float] = deque(maxlen=DELAYS)
        self._step: float | None = None
        self._gaps: deque[float] = deque(maxlen=GAPS)

    def add(self, event: dict[str, Any]) -> None:
        """Take note of an event of this run, whose id is in order."""
        self.version += 1
        self._note_time(event)
        self.highest = max(self.highest, int(event["id"].rpartition(".")[2]))
        note = {
            "start": self._start,
            "epoch": self._epoch,
            "submission": self._scored,
            "picture": self._picture,
            "failed": self._failed,
            "end": self._end,
        }.get(text(event.get("kind")))
        if note:
            note(event)

    def shown(self, now: float) -> dict[str, Any]:
        """The summary that a page gets; times are of this machine's clock, seconds since 1970."""
        late = min(self._delays, default=0.0)
        gaps = self._gaps
        return {
            "run": self.run,
            "name": self.name,
            "state": self.state,
            "error": self.error,
            "began": (self._first or 0.0) + late,
            "started": (self._started or self._first or 0.0) + late,  # its last session
            "last": self._last + late,
            "usual_s": max(LEAST_S, statistics.median(gaps)) if gaps else UNKNOWN_S,
            "best": self.best,
            "metric": self.metric,
            "score": self.score,
            "source": self.source,
            "now": now,
        }

    def _note_time(self, event: dict[str, Any]) -> None:
        at, received = number(event.get("at")), number(event.get("received"))
        at = received if at is None else at
        if at is None:
            return
        if received is not None:
            self._delays.append(received - at)
        self._first = at if self._first is None else self._first
        self._last = max(self._last, at)
        if event.get("kind") in ("step", "epoch"):
            if self._step is not None and at > self._step:
                self._gaps.append(at - self._step)
            self._step = at

    def _start(self, event: dict[str, Any]) -> None:
        self.state, self.error = "running", ""
        self.identity = text(event.get("identity"))
        self.name = text(event.get("name")) or self.name
        self.metric = text(event.get("metric")) or self.metric
        self._step = None  # the time between two sessions is no interval
        self._started = self._last or None

    def _epoch(self, event: dict[str, Any]) -> None:
        epoch, accuracy = number(event.get("epoch")), number(event.get("val_accuracy"))
        self.epoch = self.epoch if epoch is None else epoch
        if accuracy is not None:
            self.best = accuracy if self.best is None else max(self.best, accuracy)

    def _scored(self, event: dict[str, Any]) -> None:
        self.metric = text(event.get("metric")) or self.metric
        self.score = number(event.get("score"))

    def _picture(self, event: dict[str, Any]) -> None:
        name, file = text(event.get("name")), text(event.get("file"))
        if name in self.pictures or len(self.pictures) < PICTURES:
            self.pictures[name] = file

    def _failed(self, event: dict[str, Any]) -> None:
        self.state, self.error = "failed", text(event.get("error"), LONG_TEXT)

    def _end(self, event: dict[str, Any]) -> None:
        self.state, self.error = "ended", ""
        self.metric = text(event.get("metric")) or self.metric
        score = number(event.get("validation_score"))
        self.score = self.score if score is None else score

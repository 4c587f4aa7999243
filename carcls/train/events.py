"""The events of a run: lines of progress.jsonl, marked lines of the log, and whoever listens.

An event is a JSON object of less than 60 kB. Every one has ``id`` (RUN.SESSION.NUMBER: eight hex
digits, the same in all sessions of a run; four, of the session; a number from 1), ``kind`` and
``at``, seconds since 1970 (UTC). Numbers that are not finite are null. Of what would be too long,
texts are cut, with … at their end, and lists after so many items. By kind they have:

start       identity, name, settings, machine (lines), source, photos {train, validation, test},
            metric, networks [{name, stages [[height, width, epochs], …]}], ends_at (or null)
phase       name: a part of the log that begins
step        network, what ("train", "validation", "test votes", …), done, steps, images_per_s; of
            a training also stage, epoch, loss, accuracy, left_s: where nothing was sent for a
            minute, but not of a first step
epoch       network, stage, stages, height, width, epoch, epochs (of the stage, from 1), photos, lr,
            loss, accuracy, val_loss, val_accuracy, best, images_per_s, waiting (share of the
            time after the epoch's first step in which its steps waited for photos; null where there
            is one step), seconds, left_s (of training)
early_stop  network, epoch, best_epoch, best_loss
submission  made_by, metric, score (of validation), early, rows
verdict     of ("views", "blend", "pseudo", "refit", "temperature"), network ("" where of all),
            accepted (bool), reason
tuned       verdict, settings, networks (as of a start; those that are to be trained now): what a
            search came to; of its trainings there are only steps
picture     name, file (relative to the run folder), caption (not in a log); what is posted has
            ``jpeg``, too: at most 40 kB, base64
failed      error
end         metric, validation_score, validation_interval_95, validation_photos, true_score (where
            it is known), seconds, made_by, warnings, submission (path); only seconds of a search
            alone, and of a training of a study
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import secrets
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from carcls import disk
from carcls.errors import full_disk_named

MARK = "~event"  # begins an event in a log: MARK LENGTH CRC32 JSON, all of it ASCII
MOST = 60_000  # bytes of an event's JSON are fewer
# Kinds that a page needs of earlier sessions. Where it has them already, their ids say so.
RETOLD = frozenset({"start", "epoch", "early_stop", "submission", "verdict", "tuned"})
LONGEST_CAPTION = 450  # characters, of up to twelve bytes each
# Of a picture that is posted: bytes of the JPEG, the longer side at first (px), the quality.
PICTURE, SIDE, QUALITY = 40_000, 1200, 60
_ID = re.compile(r"[0-9a-f]{8}\.[0-9a-f]{4}\.\d{1,9}")


class Listener(Protocol):
    """Who is told of every event, without keeping the run waiting."""

    wants_pictures: bool  # as JPEGs; else only where they are
    wants_earlier: bool  # also, at first, the events of the run's earlier sessions (RETOLD)

    def post(self, event: dict[str, Any]) -> None: ...

    def close(self, wait: float) -> None: ...


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


def log_line(event: dict[str, Any]) -> str:
    """The event as a line of a log, which can be found and checked among other output."""
    text = json.dumps(event, allow_nan=False, separators=(",", ":"))
    return f"{MARK} {len(text)} {zlib.crc32(text.encode()):08x} {text}"


class LogLines:
    """Prints every event as a marked line: a kernel's log can be watched on a page."""

    wants_pictures, wants_earlier = False, True

    def post(self, event: dict[str, Any]) -> None:
        shown = {key: value for key, value in event.items() if key != "caption"}  # of no picture
        sys.stdout.write(log_line(shown) + "\n")  # at once, as other threads print, too
        sys.stdout.flush()

    def close(self, wait: float) -> None:
        """Nothing is under way."""


class Events:
    """Every event of a run: a JSON line in ``path``, and the same to every listener."""

    def __init__(self, path: Path, identity: str = "", listeners: Sequence[Listener] = ()) -> None:
        """identity: of the run; a file whose last start has the same one goes on with its run."""
        self.path, self.identity, self.listeners = path, identity, listeners
        if path.exists() and not path.is_file():
            disk.remove(path)
        known = _events_of(path.read_bytes() if path.is_file() else b"")
        self.run = _run_of(known, identity) or secrets.token_hex(4)
        earlier = [event for event in known if event["id"].startswith(self.run)]
        self._session, self._count = secrets.token_hex(2), 0
        while any(event["id"].startswith(f"{self.run}.{self._session}.") for event in earlier):
            self._session = secrets.token_hex(2)
        self.last_kind, self.sent_at = "", time.monotonic()  # of the last event, and when it was
        self._left_out: frozenset[str] = frozenset()
        self._pictures: dict[str, str] = {}  # file → digest of what was told of
        self._lock = threading.Lock()  # on JAX steps end in several threads
        for listener in listeners if earlier else ():
            for event in earlier if listener.wants_earlier else ():
                if event.get("kind") in RETOLD:
                    listener.post(event)

    def send(self, kind: str, **values: Any) -> None:
        """Record one event."""
        self._send(kind, values)

    def picture(self, path: Path, caption: str) -> None:
        """Tell of a picture in the run folder, unless it is gone or as it was when last told of."""
        file = path.relative_to(self.path.parent).as_posix()
        try:
            content = path.read_bytes()
        except OSError:  # a picture is not worth a run
            return
        digest = hashlib.sha256(content).hexdigest()
        if self._pictures.get(file) == digest:
            return
        self._pictures[file] = digest
        name = file.rpartition(".")[0].replace("/", "-")
        values = {"name": name, "file": file, "caption": _cut(caption, LONGEST_CAPTION)}
        is_wanted = any(listener.wants_pictures for listener in self.listeners)
        self._send("picture", values, _jpeg(content) if is_wanted else "")

    @contextmanager
    def without(self, *kinds: str) -> Iterator[None]:
        """Inside, events of these kinds are not sent."""
        before, self._left_out = self._left_out, self._left_out.union(kinds)
        try:
            yield
        finally:
            self._left_out = before

    def close(self, wait: float = 5.0) -> None:
        """Let the listeners finish, for ``wait`` seconds in all, and a second each in any case."""
        until = time.monotonic() + wait
        for listener in self.listeners:
            listener.close(max(1.0, until - time.monotonic()))

    def _send(self, kind: str, values: dict[str, Any], jpeg: str = "") -> None:
        """jpeg: in base64, for the listeners that want it."""
        if kind in self._left_out:
            return
        with self._lock:
            self._count += 1
            self.last_kind, self.sent_at = kind, time.monotonic()
            ident = f"{self.run}.{self._session}.{self._count}"
            event = _fitted({"id": ident, "kind": kind, "at": round(time.time(), 3)}, plain(values))
            try:
                self._write(json.dumps(event, allow_nan=False) + "\n")
            finally:  # that the disk is full is what they should hear of
                for listener in self.listeners:
                    has_picture = jpeg and listener.wants_pictures
                    listener.post({**event, "jpeg": jpeg} if has_picture else event)

    def _write(self, line: str) -> None:
        with full_disk_named(self.path), self.path.open("ab+") as file:
            # A kill or a full disk may have left a part of a line.
            torn = file.tell() and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n"
            file.write(("\n" * bool(torn) + line).encode())


def _events_of(text: bytes) -> list[dict[str, Any]]:
    """The events in a progress.jsonl that have an id."""
    found = []
    for line in text.split(b"\n"):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # a part of a line, or no event
            continue
        if isinstance(event, dict) and _ID.fullmatch(str(event.get("id"))):
            found.append(event)
    return found


def _run_of(known: list[dict[str, Any]], identity: str) -> str:
    """The run of the last start among these events, if that was of this identity; else ""."""
    starts = [event for event in known if event.get("kind") == "start"]
    is_same = starts and identity and starts[-1].get("identity") == identity
    return starts[-1]["id"].partition(".")[0] if is_same else ""


def _fitted(head: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """An event of fewer than MOST bytes: longer texts and lists are cut, the longest first."""
    event, most = {**head, **values}, 4096
    while most and len(json.dumps(event, allow_nan=False)) >= MOST:
        event = {**head, **{key: _cut(value, most) for key, value in values.items()}}
        most //= 2
    return event


def _cut(value: Any, most: int) -> Any:
    """Of JSON's values: texts of at most so many characters, lists and objects of so many items."""
    if isinstance(value, str):
        return value if len(value) <= most else value[: most - 1] + "…"
    if isinstance(value, list):
        return [_cut(item, most) for item in value[:most]]
    if isinstance(value, dict):
        return {_cut(key, most): _cut(item, most) for key, item in [*value.items()][:most]}
    return value


def _jpeg(content: bytes) -> str:
    """A picture's file as a JPEG in base64, shrunk until it fits; "" if it is none."""
    import cv2

    side = SIDE
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # it is empty, or too large
        return ""
    while picture is not None and side:
        height, width = picture.shape[:2]
        scale = min(1.0, side / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if encoded.size <= PICTURE:
            return base64.b64encode(encoded.tobytes()).decode()
        side = side * 9 // 10
    return ""

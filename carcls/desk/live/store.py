"""The files that a page shows: the monitor's folder, and run folders that it follows.

FOLDER/RUN/progress.jsonl has the events of a run that were posted, FOLDER/RUN/pictures its
pictures. Files only grow: whoever adds a line (``append``, a run, another process) is noticed by
its length. Of events in them no list is kept; what a page asks for is read from the file.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from carcls import disk
from carcls.desk.live.summary import PICTURES, Run
from carcls.errors import InputError

RUN = re.compile(r"[0-9a-f]{8}")
ID = re.compile(r"([0-9a-f]{8})\.[0-9a-f]{4}\.[0-9]{1,9}")
NAME = "progress.jsonl"
RUNS = 200  # folders of runs at most
RUN_BYTES = 32 << 20  # of a run's file: an event a second for half a day
BLOCK = 256 << 10  # bytes that are read at once


class Full(InputError):  # noqa: N818  (it says what happened)
    """No more room for a run, or in its file; the message says what to do."""


def parse(line: bytes | str) -> dict[str, Any]:
    """An object in JSON; numbers that are not finite become None. Raises ValueError if it is none.

    What it returns can be written as JSON that a browser reads.
    """
    try:
        text = line.decode() if isinstance(line, bytes) else line
        value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def run_of(event: dict[str, Any]) -> str:
    """The run that an event belongs to; "" if its id is none of ours."""
    ident = event.get("id")
    match = ID.fullmatch(ident) if isinstance(ident, str) else None
    return match[1] if match else ""


def append(folder: Path, event: dict[str, Any], received: float) -> None:
    """Add an event to its run's file in the monitor's folder, with one write.

    received: seconds since 1970. Raises Full, OSError (a full disk), or ValueError if the event's
    id is none of ours or it cannot be written as JSON.
    """
    run = run_of(event)
    if not run:
        raise ValueError("the event has no id")
    try:
        line = json.dumps({**event, "received": round(received, 3)}, allow_nan=False) + "\n"
    except RecursionError:
        raise ValueError("nested too deeply") from None
    path = folder / run / NAME
    if not path.exists():
        _make_room(folder, run)
    opened = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(opened, fcntl.LOCK_EX)  # who looks at the end sees no half of another's
        _write(opened, line.encode(), path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(opened)


def _write(opened: int, line: bytes, path: Path) -> None:
    size = os.fstat(opened).st_size
    if size + len(line) > RUN_BYTES:
        raise Full(f"{path}: expected at most {RUN_BYTES >> 20} MB of a run; found it full")
    if size and os.pread(opened, 1, size - 1) != b"\n":  # a full disk has cut the last one
        line = b"\n" + line
    while line:  # the second write says why the first one was cut
        line = line[os.write(opened, line) :]


def _make_room(folder: Path, run: str) -> None:
    if not (folder / run).is_dir() and len(_posted_runs(folder)) >= RUNS:
        raise Full(f"{folder}: expected at most {RUNS} runs, found that many; delete old ones")
    (folder / run).mkdir(parents=True, exist_ok=True)


def _posted_runs(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if RUN.fullmatch(path.name))
    except OSError:  # not there yet
        return []


def picture_path(folder: Path, run: str, name: str) -> Path:
    """Where the posted picture of that name is kept."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:60] or "picture"
    return folder / run / "pictures" / f"{plain}.jpg"


def keep_picture(folder: Path, run: str, name: str, jpeg: bytes) -> None:
    """Write a posted picture; one of the same name is replaced. Raises Full, OSError."""
    path = picture_path(folder, run, name)
    if not path.exists():
        _make_room(folder, run)
        path.parent.mkdir(exist_ok=True)
        if len(list(path.parent.iterdir())) >= PICTURES:
            raise Full(f"{path.parent}: expected at most {PICTURES} pictures of a run")
    disk.write_atomic(path, jpeg)


class Tail:
    """One progress.jsonl as it grows, and where in it the events of each run lie."""

    def __init__(self, path: Path, source: str, default: str) -> None:
        """source: of Run; default: the name of its runs as long as no event says one."""
        self.path, self.source, self.default = path, source, default
        self.runs: dict[str, Run] = {}
        self.begins: dict[str, int] = {}  # bytes
        self.ends: dict[str, int] = {}
        self._offset, self._inode = 0, 0

    def read(self) -> bool:
        """Read at most a block of what is new; whether there was anything."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:  # another file
                    self.runs, self.begins, self.ends, self._offset = {}, {}, {}, 0
                    self._inode = status.st_ino
                if status.st_size == self._offset:
                    return False
                file.seek(self._offset)
                lines = whole_lines(file.read(BLOCK))
        except OSError:  # gone, or not readable
            self.runs, self._inode = {}, 0
            return False
        for line in lines:
            self._take(line)
        return bool(lines)

    def _take(self, line: bytes) -> None:
        begin, self._offset = self._offset, self._offset + len(line)
        try:
            event = parse(line)
        except ValueError:  # a part of a line, or nobody's
            return
        name = run_of(event)
        if name:
            if name not in self.runs:
                self.runs[name] = Run(name, self.default, self.source)
                self.begins[name] = begin
            self.runs[name].add(event)
            self.ends[name] = self._offset

    def lines(self, run: str, position: int) -> tuple[list[str], int]:
        """Events of the run from that position on, as JSON, at most a block; where they end.

        A position that cannot be one of this file's counts as the run's beginning.
        """
        begin, end = self.begins[run], self.ends[run]
        with self.path.open("rb") as file:
            if not begin < position <= end or os.pread(file.fileno(), 1, position - 1) != b"\n":
                position = begin
            file.seek(position)
            lines = whole_lines(file.read(min(BLOCK, end - position)))
            if lines and not lines[-1].endswith(b"\n"):
                lines += _rest_of_line(file)
        if not lines:  # the file is not what it was, which the next look at it will show
            return [], end
        # A carriage return would end the line for a browser; in JSON it is a space.
        texts = [line.decode().replace("\r", " ").strip() for line in lines if _is_of(run, line)]
        return texts, position + sum(map(len, lines))


def _rest_of_line(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.readline(BLOCK):
        yield piece
        if piece.endswith(b"\n"):
            return


def _is_of(run: str, line: bytes) -> bool:
    try:
        # A browser's parser refuses NaN, and the stream is UTF-8.
        return run_of(json.loads(line.decode(), parse_constant=_refuse)) == run
    except (ValueError, RecursionError, AttributeError):
        return False


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def whole_lines(block: bytes) -> list[bytes]:
    """The lines of a block of a file that have an end, with it.

    A line longer than a block is given in pieces, none of which is an event.
    """
    if len(block) == BLOCK and b"\n" not in block:
        return [block]
    return [line + b"\n" for line in block.split(b"\n")[:-1]]


class Store:
    """All runs that a page can show, of the monitor's folder and of the followed run folders."""

    def __init__(self, folder: Path, followed: Sequence[Path] = ()) -> None:
        self.folder = folder
        # Of a run that is both posted and followed, its own folder has more.
        self._followed = [Tail(path / NAME, "folder", path.resolve().name) for path in followed]
        self._posted: dict[str, Tail] = {}

    def tails(self) -> list[Tail]:
        """All files of events that there are now."""
        names = _posted_runs(self.folder)
        self._posted = {name: self._posted.get(name) or self._tail(name) for name in names}
        return [*self._followed, *self._posted.values()]

    def poll(self) -> bool:
        """Notice what was added, at most a block of each file; whether there was anything."""
        return sum(tail.read() for tail in self.tails()) > 0  # of every one

    def add(self, event: dict[str, Any]) -> None:
        """Append an event that comes now, and notice it at once. Raises what ``append`` raises."""
        append(self.folder, event, time.time())
        name = run_of(event)
        self._posted.setdefault(name, self._tail(name)).read()

    def tail_of(self, run: str) -> Tail | None:
        """The file to read a run's events from."""
        tails = [*self._followed, self._posted.get(run)]
        return next((tail for tail in tails if tail and run in tail.runs), None)

    def runs(self) -> dict[str, Run]:
        """All runs by their names."""
        found: dict[str, Run] = {}
        for tail in self._followed:
            found = {**tail.runs, **found}
        posted = ((name, tail.runs.get(name)) for name, tail in self._posted.items())
        return {**{name: run for name, run in posted if run}, **found}

    def newest_posted(self, identity: str, name: str) -> Run | None:
        """The run that began last of those that were posted with this identity and name."""
        runs = [(run, tail) for tail in self._posted.values() for run in tail.runs.values()]
        fitting = [each for each in runs if (each[0].identity, each[0].name) == (identity, name)]
        if not fitting:
            return None
        run, tail = max(fitting, key=lambda each: each[0].shown(0)["began"])
        while tail.read():  # at a server's start its last events may not have been read yet
            pass
        return run

    def _tail(self, name: str) -> Tail:
        return Tail(self.folder / name / NAME, "posted", name)

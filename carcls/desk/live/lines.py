"""Events out of a kernel's log as it streams: marked lines, however the stream has cut them.

The log comes as lines, but a line of it need not be one that the kernel wrote: what Kaggle streams
are pieces of stdout and stderr in turn, and the kaggle command ends each with a newline. So an
event may come as the ends and beginnings of several lines, with lines of the other stream between.
Its length and checksum tell which of them belong together.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from carcls.desk.live import store
from carcls.train.events import MARK

_LONGEST = 65_536  # characters of an event's JSON
_WITHIN = 32  # lines in which all parts of an event come
_WAYS = 512  # to put lines together that are tried at once
_IDS = 100_000  # events that are told apart from repeated ones
_HEAD = re.compile(rf"{MARK} (\d{{1,5}}) ([0-9a-f]{{8}}) ")
_CUT = "|".join(MARK[:n] for n in range(1, len(MARK)))
_PART_OF_HEAD = re.compile(rf"{_CUT}|{MARK}( \d{{0,5}}| \d{{1,5}} [0-9a-f]{{0,8}})?")
_BEGIN = re.compile(rf"{_HEAD.pattern}|({_PART_OF_HEAD.pattern})\Z")


@dataclass(frozen=True)
class _Way:
    """An event that may have begun: its text so far, and the lines that it would be made of."""

    text: str
    lines: tuple[int, ...]  # their numbers
    start: int  # of the text in the first of them


class Lines:
    """Takes a log's lines one by one; keeps back those that may have parts of an event."""

    def __init__(self) -> None:
        self._number = 0  # of the last line
        self._held: dict[int, str] = {}
        self._ways: list[_Way] = []
        self._ids: dict[str, None] = {}

    def feed(self, line: str) -> tuple[list[str], list[dict[str, Any]]]:
        """Take a line without its newline; returns lines to show, and events that became whole.

        What is shown has no events in it, and may have been kept back since earlier lines; what
        only looked like an event is shown as it came. An event comes once, however often the log
        repeats it.
        """
        self._number += 1
        text, rest, events = "", line, []
        ways, whole = self._go_on(rest, 0)
        is_plain = not whole
        while whole:
            way, event, end = whole
            text += self._cut_out(way, len(text), rest)
            rest = rest[end:]
            events += self._new(event)
            # The kernel was at the beginning of a line: nothing older goes on.
            self._ways = []
            ways, whole = self._go_on(rest, len(text))
        if is_plain or (text + rest).strip():
            self._held[self._number] = text + rest
        older = [way for way in self._ways if way.lines[0] > self._number - _WITHIN]
        if len(line) > _LONGEST:  # it is no part, nor does it come between parts
            older, ways = [], []
        # Of few lines, and of late ones: those are the likely ones.
        self._ways = sorted(ways + older, key=lambda way: len(way.lines))[:_WAYS]
        return self._release(), events

    def end(self) -> list[str]:
        """The log has ended; returns the lines that were kept back."""
        self._ways = []
        return self._release()

    def restart(self) -> None:
        """The log will come from its beginning again, and with it the lines that are kept back."""
        self._ways, self._held = [], {}

    def _go_on(
        self, rest: str, before: int
    ) -> tuple[list[_Way], tuple[_Way, dict[str, Any], int] | None]:
        """Ways that take the rest of the last line, which has ``before`` characters to show.

        Up to the first that makes an event whole; that one with its event and its end in ``rest``.
        """
        ways: list[_Way] = []
        for way, start in self._candidates(rest, before):
            text = way.text + rest[start : start + _LONGEST + 32]
            head = _HEAD.match(text)
            if not head:
                if _PART_OF_HEAD.fullmatch(text):
                    ways.append(_Way(text, way.lines, way.start))
                continue
            length = int(head[1])
            end = head.end() + length
            if length > _LONGEST:
                continue
            if len(text) < end:
                if len(ways) < 2 * _WAYS:  # those that go on, and as many that begin
                    ways.append(_Way(text, way.lines, way.start))
            elif event := _event(text[head.end() : end], length, head[2]):
                return [], (way, event, start + end - len(way.text))
        return ways, None

    def _candidates(self, rest: str, before: int) -> Iterator[tuple[_Way, int]]:
        """What the rest of a line may go on or begin, each with where in the rest it does so."""
        for way in self._ways if rest else ():
            yield _Way(way.text, (*way.lines, self._number), way.start), 0
        for found in _BEGIN.finditer(rest):
            yield _Way("", (self._number,), before + found.start()), found.start()

    def _cut_out(self, way: _Way, before: int, rest: str) -> str:
        """Take an event out of the lines held; returns what stands before it in the last line."""
        first, *others = way.lines
        if not others:
            return rest[: way.start - before]
        self._held[first] = self._held[first][: way.start]
        if not self._held[first].strip():
            del self._held[first]
        for number in others[:-1]:
            del self._held[number]
        return ""

    def _release(self) -> list[str]:
        """The lines in front of the first that an event may begin in; they are no longer held."""
        first = min((way.lines[0] for way in self._ways), default=self._number + 1)
        numbers = [number for number in self._held if number < first]
        return [self._held.pop(number) for number in numbers]

    def _new(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        if event["id"] in self._ids:
            return []
        self._ids[event["id"]] = None
        if len(self._ids) > _IDS:
            del self._ids[next(iter(self._ids))]
        return [event]


def _event(text: str, length: int, checksum: str) -> dict[str, Any] | None:
    """The event of a marked line, or None if the text is not what its head says."""
    if len(text) != length or not text.isascii():
        return None
    if zlib.crc32(text.encode()) != int(checksum, 16):
        return None
    try:
        event = store.parse(text)
    except ValueError:
        return None
    return event if store.run_of(event) and isinstance(event.get("kind"), str) else None

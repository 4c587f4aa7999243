"""A kernel's log: its lines printed, its events handed on, each once, however often it is read."""

from __future__ import annotations

from collections import deque

from carcls.desk import kaggle
from carcls.desk.live.lines import Lines
from carcls.desk.live.watched import Watched

_TAIL = 25  # lines that an error quotes


class Log:
    """Kaggle gives it from its beginning each time. ``tail`` has the last lines.

    Events are no lines to print; they are for the page, if there is one.
    """

    def __init__(self, kernel: str, watched: Watched | None) -> None:
        self.kernel, self.watched = kernel, watched
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self._lines = Lines()
        self._at = self._printed = 0  # lines of this reading, of all
        self._is_live = True

    def read(self, silence: float) -> kaggle.Reply | None:
        """Read what there is, as ``kaggle.follow`` does, until it ends or is silent, in seconds."""
        self._at = 0
        self._lines.restart()
        return kaggle.follow(["kernels", "logs", "-f", self.kernel], self._take, silence)

    def read_rest(self, how: str) -> None:
        """Read it to its end. how: the kernel ended, as Kaggle says."""
        self._is_live = False
        reply = self.read(kaggle.SECONDS)
        self._print(self._lines.end())
        if reply is None or reply.code:
            print(f"no log (Kaggle said: {reply.words if reply else 'nothing'})")
        elif self.watched:
            self.watched.close(how)

    def _take(self, line: str) -> None:
        texts, events = self._lines.feed(line)
        self._print(texts)
        for event in events:
            if self.watched:
                self.watched.take(event, self._is_live)

    def _print(self, texts: list[str]) -> None:
        for text in texts:
            self._at += 1
            if self._at > self._printed:
                self._printed = self._at
                self.tail.append(text)
                print(text, flush=True)

"""Posting to one address in the background, which cannot harm a run."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import requests

from carcls.values import hide

MOST_WAITING = 1024  # requests: what an earlier session told comes all at once
_BUSY = {408, 425, 429}  # and 5xx: the same request may be taken later
_REFUSED = {400, 413, 422}  # this request is wrong; another one may be taken


class _Session(requests.Session):
    """Takes a redirect as any reply: requests reads its body, even where it does not follow it."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: there is none to follow."""


class Outbox:
    """A queue of requests to one address, which a daemon thread sends.

    A reply is judged by its status alone: its body, however long, is not read, and a redirect,
    which would lose what is posted, is not followed. What fails is sent again after each of
    ``pauses``, so a server that restarts meanwhile loses nothing; what was taken without an answer
    may arrive twice. Once the last try has failed, or a reply says that no other request will be
    taken either (401, 404, a redirect, …), nothing more is sent, and one printed line says so,
    without the address's secret parts. ``post`` or ``close`` prints it: a daemon thread that prints
    while Python ends can crash it.
    """

    timeout = (3.0, 5.0)  # seconds to connect, to answer
    # Seconds: for a hiccup, a server that restarts, and a person who starts it again.
    pauses = (1.0, 5.0, 25.0)

    def __init__(self, name: str, url: str, headers: dict[str, str] | None = None) -> None:
        """name: what the printed line begins with, before the host."""
        self.name = f"{name} {hide(url).removesuffix('/…')}"
        self._url, self._headers = url, headers
        self._queue: deque[dict[str, Any]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._trouble = ""  # why nothing more is sent
        self._dropped, self._why = 0, ""  # requests that were not sent before that, and the reason
        self._closing = self._closed = self._said = False

    def post(self, **body: Any) -> None:
        """Queue one request, ``json`` or ``data`` as requests has it; returns at once.

        Where too many wait, the oldest is dropped. Raises nothing.
        """
        if self._trouble or self._closing:
            self._say(self._trouble)
            return
        with self._wake:
            if len(self._queue) == MOST_WAITING:
                self._queue.popleft()
                self._drop("too many waited")
            self._queue.append(body)
            self._wake.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # the machine allows no more threads
                self._thread, self._trouble = None, f"cannot send ({error})"

    def close(self, wait: float = 5.0) -> None:
        """Send what is queued, without pauses and for at most ``wait`` seconds; then nothing."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(wait)
        late = dropped = ""
        if self._thread is not None and self._thread.is_alive():
            late = f"no answer in {wait:g} s; the last messages were not sent"
        if self._dropped:
            dropped = f"messages that were not sent: {self._dropped} ({self._why})"
        self._say(self._trouble or late or dropped)
        self._closed = True

    def _say(self, trouble: str) -> None:
        if trouble and not self._said:
            self._said = True
            print(f"{self.name}: {trouble}", flush=True)

    def _drop(self, why: str) -> None:
        self._dropped, self._why = self._dropped + 1, why

    def _work(self) -> None:
        failures, body = 0, self._next()  # failures in a row
        while body is not None and not self._closed:
            status, problem = self._send(body)
            if status // 100 == 2:
                failures, body = 0, self._next()
                continue
            failures += 1
            may_improve = not status or status >= 500 or status in _BUSY | _REFUSED
            if failures > len(self.pauses) or not may_improve:
                times = f" after {failures} failures in a row" if failures > 1 else ""
                self._trouble = f"gave up{times} ({problem}); the run goes on without it"
                return
            with self._wake:
                self._wake.wait_for(lambda: self._closing, self.pauses[failures - 1])
                if status in _REFUSED:
                    self._drop(problem)
            if status in _REFUSED:
                body = self._next()

    def _next(self) -> dict[str, Any] | None:
        """The oldest request, once there is one; None: closed, and nothing is left."""
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._closing)
            return self._queue.popleft() if self._queue else None

    def _send(self, body: dict[str, Any]) -> tuple[int, str]:
        """Send one request: the reply's status, 0 for none, and what went wrong."""
        try:
            with (
                _Session() as session,
                session.post(
                    self._url, headers=self._headers, timeout=self.timeout, stream=True, **body
                ) as reply,
            ):
                return reply.status_code, f"HTTP {reply.status_code}"
        except Exception as error:  # whatever a library raises, the thread lives on to say it
            return 0, _cause(error)


def _cause(error: BaseException) -> str:
    """What an error began with; requests' and urllib3's own words quote the address."""
    while error.__context__:
        error = error.__context__
    is_quiet = isinstance(error, OSError) and not isinstance(error, requests.RequestException)
    return f"{type(error).__name__}: {error}"[:200] if is_quiet else type(error).__name__

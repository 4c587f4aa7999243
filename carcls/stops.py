"""Stops that are asked for by a signal: they arrive at once, or at the next step at the latest.

Python drops what a signal raises inside garbage collection and some callbacks of libraries. So the
signal is noted as well, and ``check`` raises it again.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from carcls.errors import Stopped

# Also a terminal that is closed. Not everywhere are there all of them.
SIGNALS = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n))

_asked: BaseException | None = None  # the stop that was asked for


@contextmanager
def heeded() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP raise Stopped, Ctrl-C KeyboardInterrupt; not in a thread.

    Signals that are ignored, as nohup does, stay so.
    """
    global _asked  # noqa: PLW0603  (of the process, as signals are)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in SIGNALS}
    before = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    is_outermost = _stop not in before.values()
    try:
        for number in before:
            signal.signal(number, _stop)
        yield
    except BaseException as error:
        # TensorFlow's C++ may have made another error of it: a SystemError was seen.
        if _asked and error is not _asked and not isinstance(error, SystemExit):
            raise _asked from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if is_outermost:
            _asked = None


def check() -> None:
    """Raise the stop that was asked for, unless the run is ending because of it already."""
    if _asked and not _is_on_its_way():
        raise _asked


def _stop(number: int, frame: Any) -> None:
    global _asked  # noqa: PLW0603  (of the process, as signals are)
    if _asked is None:
        name = signal.Signals(number).name
        how = f"{name}; the same run again goes on from the last whole epoch"
        _asked = KeyboardInterrupt() if name == "SIGINT" else Stopped(how, number)
    check()  # a second signal does not break what the first one has begun to tidy up


def _is_on_its_way() -> bool:
    """Whether what is being handled right now has come from the stop."""
    error = sys.exception()
    while error is not None and error is not _asked:
        error = error.__context__
    return error is not None

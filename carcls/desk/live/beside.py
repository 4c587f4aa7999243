"""The page's server as a process beside a command, which ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from carcls import errors

FOLDER = Path("monitor")  # where `carcls monitor` keeps events
_START_S = 10.0  # that the command waits for the page's address
_LAST_S = 1.5  # in which pages get the last events
_END_S = 5.0


@contextmanager
def page(followed: Sequence[Path], again: Path) -> Iterator[None]:
    """Meanwhile a page shows these run folders, and FOLDER; its address is printed.

    again: the run folder with which the page is seen again. A server that does not
    start, or ends, is told of, and the command goes on. Raises ConfigError if it is not installed.
    """
    from carcls.desk.live import serve  # noqa: F401  (says so if something is not installed)

    with subprocess.Popen(
        [sys.executable, "-m", "carcls.desk.live.beside", *map(str, followed)],
        stdin=subprocess.PIPE,  # its end tells the server that this process has ended
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C is for the command, which ends the server
    ) as server:
        told, is_over = threading.Event(), threading.Event()
        reader = threading.Thread(target=_read, args=(server, told, is_over), daemon=True)
        reader.start()
        try:
            told.wait(_START_S)
            yield
        finally:
            was_there = reader.is_alive()
            try:
                time.sleep(_LAST_S if was_there else 0)
            finally:
                is_over.set()
                _end(server)
                reader.join()
                if was_there:
                    words = f'make monitor RUNS="{again}", or carcls monitor {again}'
                    print(f"page     ended; seen again with: {words}", flush=True)


def _read(server: subprocess.Popen[str], told: threading.Event, is_over: threading.Event) -> None:
    """Print the page's address; say it once if the server ends too early."""
    assert server.stdout is not None
    last: deque[str] = deque(maxlen=3)
    with suppress(OSError, ValueError):  # nobody reads what is printed
        for line in server.stdout:
            last.append(line.strip())
            if line.startswith("page ") and not told.is_set():
                print(line, end="", flush=True)
                told.set()
        if not is_over.is_set():
            words = " ".join(last) or "it said nothing"
            print(f"no page, going on without it: its server has ended ({words})", flush=True)
    told.set()


def _end(server: subprocess.Popen[str]) -> None:
    server.terminate()
    try:
        server.wait(_END_S)
    except subprocess.TimeoutExpired:
        server.kill()


def _serve(followed: list[str]) -> None:
    """What the process does: as ``carcls monitor``, until its input ends."""
    from carcls.desk.live import serve

    threading.Thread(target=_end_with_input, daemon=True).start()
    serve.main(followed, str(FOLDER), "127.0.0.1", 0)


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(errors.end_well(lambda: _serve(sys.argv[1:])))

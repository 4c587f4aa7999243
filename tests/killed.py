"""Runs that are killed, for test_resume: a process that imports once and forks a run for each line that it reads.

A line is JSON: settings, and what happens in the run: "file": it kills itself with SIGKILL before the n-th time that a file
is about to get its name or is removed; "seconds": it is killed so long after the first batch. Answers with one JSON line:
how it ended (the exit code, −9 if killed) and how many such file operations there were.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import conftest  # noqa: F401  # its settings of the environment
import keras
import numpy as np
import small

from carcls import config
from carcls.errors import Stopped
from carcls.report import charts as figures
from carcls.report import page as report
from carcls.spine import run
from carcls.train import loop as training
from carcls.train import watchers as callbacks  # noqa: F401  # imported before the fork


def prepare(order: dict, count: list[int]) -> None:
    """Count the moments at which files come and go, and die at the one that is asked for."""
    small.add_tiny()
    figures.augmentation = lambda *_: None  # drawn anew by every session; not what is tested here
    report.write = lambda *_: []

    def counted(function):
        def wrapper(*args, **named):
            count[0] += 1
            if count[0] == order.get("file"):
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **named)

        return wrapper

    for owner, name in (
        (Path, "replace"),
        (Path, "rename"),
        (Path, "unlink"),
        (os, "fsync"),
        (np, "savez"),
    ):
        setattr(owner, name, counted(getattr(owner, name)))
    if "seconds" in order:
        fit = keras.Model.fit

        def soon(self, *args, **named):
            if not getattr(soon, "begun", False):
                soon.begun = True
                ends = order.get("signal", signal.SIGKILL)
                threading.Timer(order["seconds"], os.kill, (os.getpid(), ends)).start()
            return fit(self, *args, **named)

        keras.Model.fit = soon


def child(order: dict, pipe: int) -> None:
    sys.stdout = sys.stderr = Path(order["log"]).open("a", buffering=1)  # noqa: SIM115  # until the process ends
    if "kaggle" in order:
        os.environ["CARCLS_KAGGLE_ROOT"] = order["kaggle"]
    count, code = [0], 0
    prepare(order, count)
    try:
        run(config.parse(order["settings"]))
    except Stopped as stopped:
        print(stopped)
        code = 143
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    os.write(pipe, str(count[0]).encode())
    os._exit(code)


def main() -> None:
    assert training
    for line in sys.stdin:
        order = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reader)
            child(order, writer)
        os.close(writer)
        counted = b"".join(iter(lambda reader=reader: os.read(reader, 100), b""))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"exit": status, "operations": int(counted or 0)}), flush=True)


if __name__ == "__main__":
    main()

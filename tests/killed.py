"""Runs that are killed: in a process of their own (see Killer in test_resume), or by an exception.

As a program it imports once and forks a run for each line that it reads. A line is JSON: settings,
and what happens in the run: "file": it kills itself with SIGKILL before the n-th time that a file
is about to get its name or is removed; "seconds": it gets "signal" so long after the first batch;
"bytes": a file may have so many. "traced": steps are traced, which takes longer than a few of them.
It answers with one JSON line: the exit code, −9 if killed.
"""

import json
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import conftest  # noqa: F401  # its settings of the environment
import keras
import numpy as np
import pytest
import small

from carcls import config, errors, run
from carcls.report import page
from carcls.train.state import States


@contextmanager
def stopped_after(epochs: int) -> Iterator[None]:
    """The run inside is stopped by hand once so many epochs are kept."""
    save, kept = States.save, []

    def stop(self: States, *args: Any) -> None:
        save(self, *args)
        kept.append(1)
        if len(kept) == epochs:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(States, "save", stop)
        yield


def die_at(number: int) -> None:
    """Kill this process before that file operation."""
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **named)

        return wrapper

    for owner, names in (
        (Path, ("replace", "rename", "unlink")),
        (os, ("fsync",)),
        (np, ("savez",)),
    ):
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))


def die_after(seconds: float, number: int) -> None:
    """Send this process that signal so long after training begins."""
    fit = keras.Model.fit

    def watched(*args: Any, **named: Any) -> Any:
        keras.Model.fit = fit
        threading.Timer(seconds, os.kill, (os.getpid(), number)).start()
        return fit(*args, **named)

    keras.Model.fit = watched


def child(order: dict[str, Any]) -> int:
    sys.stdout = sys.stderr = Path(order["log"]).open("a", buffering=1)  # noqa: SIM115
    if "kaggle" in order:
        os.environ["CARCLS_KAGGLE_ROOT"] = order["kaggle"]
    small.add_tiny()
    # Drawn anew by every session; not what is tested here.
    page.before_training = page.write = lambda *_: []
    if not order.get("traced"):
        keras.Model.run_eagerly = property(lambda net: True, lambda net, value: None)
    if "file" in order:
        die_at(order["file"])
    if "seconds" in order:
        die_after(order["seconds"], order["signal"])
    if "bytes" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["bytes"],) * 2)
    try:
        return errors.end_well(lambda: run(config.parse(order["settings"])))
    except BaseException:
        traceback.print_exc()
        return 1


def main() -> None:
    import carcls.network  # noqa: F401  # before the fork

    for line in sys.stdin:
        order, pid = json.loads(line), os.fork()
        if not pid:
            os._exit(child(order))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"exit": status}), flush=True)


if __name__ == "__main__":
    main()

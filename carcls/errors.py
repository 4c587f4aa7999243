"""What a run may end with, as one tree, and the one way in which a process ends with it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class CarclsError(Exception):
    """Anything that the package itself raises; the message is for the person who runs it."""


class ConfigError(CarclsError, ValueError):
    """A setting that cannot be used: its name, what was found, what was expected."""


class InputError(CarclsError, ValueError):
    """Files that cannot be used: their names, what was found, what was expected."""


class TrainingDiverged(CarclsError, RuntimeError):  # noqa: N818  (it says what happened)
    """The loss is no longer a number. Arguments: where it happened, and what to try."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


class Stopped(BaseException):
    """The run was told to end (SIGTERM); what it has done so far is in the run folder."""

    def __init__(self, how: str, number: int = 15):
        super().__init__(how)
        self.number = number  # of the signal


# What ends a run without a traceback, on the command line and in a kernel, with its exit code.
EXIT_CODES: dict[type[BaseException], int] = {
    ConfigError: 2,
    InputError: 2,
    BrokenPipeError: 141,  # nobody reads the output any more: as SIGPIPE ends others
    OSError: 2,  # a full disk, a folder that may not be read, another in a file's place
    MemoryError: 2,
    TrainingDiverged: 3,
    KeyboardInterrupt: 130,
    Stopped: 143,
}


def exit_code(error: BaseException) -> int:
    """The exit code of a process that this error ends; 1 if it is not in EXIT_CODES."""
    if isinstance(error, Stopped):
        return 128 + error.number
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def last_words(error: BaseException) -> str:
    """The one line that such a process prints on stderr."""
    if isinstance(error, KeyboardInterrupt):
        return "carcls: stopped by hand; the same command goes on from the last whole epoch"
    if isinstance(error, Stopped):
        return f"carcls: stopped by {error}"
    if isinstance(error, MemoryError):
        return f"carcls: too little memory{f' ({error})' if str(error) else ''}"
    if isinstance(error, OSError) and error.filename:
        return f"carcls: {error.filename}: {error.strerror}"
    return f"carcls: {error}"


def end_well(work: Callable[[], Any]) -> int:
    """Do the work of a process; what ends it is said in one line. Returns its exit code."""
    show_all()
    code = 0
    try:
        work()
    except tuple(EXIT_CODES) as error:
        code = exit_code(error)
        if not isinstance(error, BrokenPipeError):
            with suppress(OSError):  # its terminal is gone
                print(last_words(error), file=sys.stderr, flush=True)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # Python would flush again at its end, and complain
                code = code or EXIT_CODES[BrokenPipeError]
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def show_all() -> None:
    """Let stdout and stderr take every text: what their encoding lacks is shown by its number."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, and the next file that is opened would get its number
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):  # a notebook's has no such method
            # Line by line: a Kaggle script's output would come late.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)


# --- A full disk ----------------------------------------------------------------------------------

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """A full disk, or a limit of it, is an OSError that names the folder and what is free there."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(path.parent).free / 1e6
        told = f"{error.strerror}: {free:,.1f} MB free; what is finished stays, and with more room "
        told += "the same run goes on from it"
        raise OSError(error.errno, told, str(path.parent)) from None

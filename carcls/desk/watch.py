"""``make watch``: the log of a pushed kernel, its end, its output, and the submission."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carcls import disk, record
from carcls.desk import kaggle, metadata, push
from carcls.errors import InputError

OUTPUT = Path("build/output")
DOWNLOAD_SECONDS = 3600.0
_GOES_ON = ("QUEUED", "NEW_SCRIPT", "RUNNING", "CANCEL_REQUESTED")
_PATIENCE = 5  # answers in a row that may fail while a kernel runs for hours
_TAIL = 25  # lines of the log that an error quotes


@dataclass
class _Log:
    """Lines of a log that is read from its beginning several times, each printed once."""

    printed: int = 0
    at: int = 0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))

    def __call__(self, line: str) -> None:
        self.at += 1
        if self.at > self.printed:
            self.printed = self.at
            self.tail.append(line)
            print(line, flush=True)


def main(kernel: str, every: float, send: bool) -> None:
    """Follow the kernel to its end, fetch its output, say its accuracy; send: and submit it.

    Raises InputError if the kernel failed, or left nothing that could be submitted.
    """
    kernel = named(kernel)
    try:
        failure = wait(kernel, every)
    except KeyboardInterrupt:
        raise SystemExit(
            f"\nno longer watching; {kernel} goes on, and `make watch` follows it again"
        ) from None
    with _after(failure, "What it left was not fetched"):
        out = download(kernel, OUTPUT / kernel.partition("/")[2])
    with _after(failure, "It left nothing to submit"):
        found, submission = summary(out)
    print("\n== result", *found, sep="\n  ", flush=True)
    if failure:
        again = f"; make push EARLIER={kernel}, with the same SET and ACCELERATOR, goes on from it"
        raise InputError(
            f"{failure}\nWhat it had until then is in {out}, and was not submitted"
            f"{again if record.is_run(out) else ''}"
        )
    if send:
        print(f"  submitted  {submit(out, submission, competition(out))}")


@contextmanager
def _after(failure: str, then: str) -> Iterator[None]:
    """Say what failed first where that is why something more fails."""
    try:
        yield
    except InputError as error:
        if not failure:
            raise
        raise InputError(f"{failure}\n{then}: {error}") from None


def last_pushed(folder: Path = push.FOLDER) -> str:
    """owner/slug of the kernel that was pushed last. Raises InputError if none was."""
    path = folder / metadata.FILE
    if not path.is_file():
        raise InputError(
            f"{path}: no such file, so nothing was pushed from here; name the kernel: owner/slug"
        )
    return str(json.loads(path.read_text(encoding="utf-8"))["id"])


def named(kernel: str) -> str:
    """The kernel to watch, as given or the one pushed last. Raises InputError if not owner/slug."""
    kernel = kernel or last_pushed()
    if not re.fullmatch(r"[\w-]+/[\w-]{5,}", kernel):
        raise InputError(f"kernel {kernel!r}: expected owner/slug, as in its address on Kaggle")
    return kernel


def wait(kernel: str, every: float = 10.0, silence: float = 600.0) -> str:
    """Print the kernel's log until it ends; returns how it failed, "" if it completed."""
    log = _Log()
    said, failures = "", 0
    while True:
        try:
            state, message = status(kernel)
            failures = 0
        except InputError:
            failures += 1  # hours of waiting should survive a minute without network
            if failures >= _PATIENCE:
                raise
            time.sleep(every)
            continue
        if state not in _GOES_ON:
            break
        if state == "RUNNING":
            log.at = 0
            reply = kaggle.follow(["kernels", "logs", "-f", kernel], log, silence)
            if reply and reply.code and reply.words != said:
                said = reply.words
                print(f"no log at the moment, waiting without it (Kaggle said: {said})")
        elif state != said:
            said = state
            print(f"{kernel}: {state.lower().replace('_', ' ')}", flush=True)
        time.sleep(every)
    _print_rest(kernel, log)
    if state == "COMPLETE":
        return ""
    end = "\n".join(f"  {line}" for line in log.tail) or "  (no log)"
    return (
        f"kernel {kernel} ended as {state}{message and f' ({message})'}. The end of its log:\n{end}"
    )


def status(kernel: str) -> tuple[str, str]:
    """The kernel's state and, if it failed, Kaggle's message. Raises InputError."""
    reply = kaggle.call("kernels", "status", kernel)
    found = re.search(r'has status "(?:KernelWorkerStatus\.)?(\w+)"', reply.text)
    if reply.code or not found:
        raise kaggle.refused(f"state of kernel {kernel}", reply)
    message = re.search(r'Failure message: "(.*)"', reply.text, re.DOTALL)
    return found[1].upper(), message[1] if message else ""


def _print_rest(kernel: str, log: _Log) -> None:
    """What the log had after it was last followed, or all of a kernel that has ended already."""
    log.at = 0
    reply = kaggle.follow(["kernels", "logs", "-f", kernel], log, silence=kaggle.SECONDS)
    if reply is None or reply.code:
        print(f"no log (Kaggle said: {reply.words if reply else 'nothing'})")


def download(kernel: str, out: Path) -> Path:
    """The kernel's output in a fresh folder. Raises InputError if it cannot be had."""
    part = out.with_name(f".{out.name}.part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    reply = kaggle.call(
        "kernels", "output", kernel, "-p", str(part), "--force", seconds=DOWNLOAD_SECONDS
    )
    if reply.code:
        raise kaggle.refused(f"output of kernel {kernel}", reply)
    if out.exists():  # an earlier run's, which must not pass for this one's
        shutil.rmtree(out)
    part.rename(out)
    return out


def summary(out: Path) -> tuple[list[str], dict[str, Any]]:
    """Lines on what a kernel left, and its submission.json. Raises InputError on damage."""
    table, about = out / "submission.csv", out / "submission.json"
    if not table.is_file() or not about.is_file():
        raise InputError(
            f"{out}: no submission.csv with submission.json. There is:\n{disk.tree(out)}"
        )
    made = _json(about, "rows", "made_by", "validation_accuracy", "sha256", "warnings")
    found = hashlib.sha256(table.read_bytes()).hexdigest()
    if found != made["sha256"]:
        raise InputError(
            f"{table}: sha256 {found}, expected {made['sha256']} by {about}; download it again"
        )
    lines = [f"submission {table}, {made['rows']} rows", f"made by    {made['made_by']}"]
    result = out / "result.json"
    if result.is_file():
        numbers = _json(
            result, "validation_accuracy", "validation_interval_95", "validation_photos"
        )
        low, high = numbers["validation_interval_95"]
        lines.insert(
            0,
            f"validation {numbers['validation_accuracy']:.4f} accuracy, "
            f"95 % interval {low:.4f}–{high:.4f}, {numbers['validation_photos']} photos",
        )
    else:
        lines.insert(
            0,
            f"validation {made['validation_accuracy']:.4f} accuracy of an early submission: "
            "the run has no result",
        )
    report = out / "report.html"
    lines.append(f"report     {report if report.is_file() else 'none'}")
    return [*lines, *(f"warning    {warning}" for warning in made["warnings"])], made


def _json(path: Path, *names: str) -> dict[str, Any]:
    """A JSON file of a run, with these names in it. Raises InputError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file ({error}); download it again") from None
    lacks = [name for name in names if name not in found]
    if lacks:
        raise InputError(f"{path}: has no {', '.join(lacks)}; expected what a run of carcls writes")
    return dict(found)


def competition(out: Path) -> str:
    """The slug of the competition that a kernel's output is for. Raises InputError."""
    path = out / "config.json"
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; expected the settings of the run, to know the competition"
        )
    return str(_json(path, "competition")["competition"])


def submit(out: Path, made: dict[str, Any], competition: str) -> str:
    """Send submission.csv; returns Kaggle's words. Raises InputError if it was refused."""
    against = [warning for warning in made["warnings"] if "do not submit" in warning]
    if against:
        raise InputError(f"{out / 'submission.csv'}: not sent: {against[0]}")
    message = f"carcls: {made['made_by']}, validation {made['validation_accuracy']:.4f}"
    reply = kaggle.call(
        "competitions",
        "submit",
        "-q",
        "-f",
        str(out / "submission.csv"),
        "-m",
        message,
        competition,
        seconds=600,
    )
    if reply.code or "successfully submitted" not in reply.text.lower():
        raise kaggle.refused(f"submission to {competition}", reply)
    return reply.words

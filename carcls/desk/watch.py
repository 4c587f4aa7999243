"""``make watch``: the log of a pushed kernel, its end, its output, and the submission."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from carcls import disk, metrics, record
from carcls.desk import kaggle, metadata, push
from carcls.desk.live import beside
from carcls.desk.live.watched import Watched
from carcls.desk.log import Log
from carcls.desk.push import OUTPUT
from carcls.errors import ConfigError, InputError

DOWNLOAD_SECONDS = 3600.0
SCORE_SECONDS = 900.0  # a file of answers is scored in seconds, in a busy hour in minutes
_GOES_ON = ("QUEUED", "NEW_SCRIPT", "RUNNING", "CANCEL_REQUESTED")
# Questions in a row that may fail while a kernel runs for hours, and the longest pause between two,
# in pauses as they are otherwise: two hours with one of ten seconds.
_PATIENCE, _SLOWEST = 120, 6
Answer = TypeVar("Answer")


def main(kernel: str, every: float, send: bool, page: bool = False) -> None:
    """Follow the kernel to its end, fetch its output, say its accuracy; send: and submit it.

    page: show it on a page meanwhile. Raises InputError if the kernel failed, or left nothing that
    could be submitted.
    """
    if not 0 <= every <= 3600:
        raise ConfigError(f"--every {every:g}: expected 0 to 3600 seconds")
    kernel = named(kernel)
    with beside.page([], OUTPUT / kernel.split("/")[1]) if page else nullcontext():
        _see_through(kernel, every, send, Watched(beside.FOLDER) if page else None)


def _see_through(kernel: str, every: float, send: bool, watched: Watched | None) -> None:
    owner, slug = kernel.split("/")[:2]
    try:
        failure = wait(kernel, every, watched=watched)
    except KeyboardInterrupt:
        raise SystemExit(
            f"\nno longer watching; {kernel} goes on, and `make watch` follows it again"
        ) from None
    with _after(failure, "What it left was not fetched"):
        folder = OUTPUT / slug
        out = _patiently(lambda: download(kernel, folder), every)
    again = (
        f"make push EARLIER={owner}/{slug}, with the same SET and ACCELERATOR, goes on from it"
        if record.is_run(out)
        else "it has no whole epoch to go on from, so the next push starts anew"
    )
    with _after(failure, f"It left nothing to submit; {again}"):
        found, submission = summary(out)
    print("\n== result", *found, sep="\n  ", flush=True)
    if failure:
        had = f"What it had until then is in {out}, and was not submitted"
        raise InputError(f"{failure}\n{had}; {again}")
    if send:
        words = submit(out, submission, competition(out))
        print(f"  submitted  {words}", flush=True)
        print(f"  score      {score(words, competition(out), every)}")


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
    """owner/slug/version of the kernel that was pushed last. Raises InputError if none was.

    Without the version where it is not known whether it was pushed.
    """
    if (folder / push.VERSION).is_file():
        return (folder / push.VERSION).read_text(encoding="utf-8").strip()
    path = folder / metadata.FILE
    if not path.is_file():
        raise InputError(
            f"{path}: no such file, so nothing was pushed from here; name the kernel: owner/slug"
        )
    return str(json.loads(path.read_text(encoding="utf-8"))["id"])


def named(kernel: str) -> str:
    """The kernel to watch, as given or the one pushed last; of several versions, the latest one.

    Raises InputError if it is not owner/slug or owner/slug/version.
    """
    kernel = kernel or last_pushed()
    if not re.fullmatch(r"[\w-]+/[\w-]{5,}(/\d+)?", kernel):
        raise InputError(
            f"kernel {kernel!r}: expected owner/slug, as in its address on Kaggle, or "
            "owner/slug/version"
        )
    return kernel


def wait(
    kernel: str, every: float = 10.0, silence: float = 600.0, watched: Watched | None = None
) -> str:
    """Print the kernel's log until it ends; returns how it failed, "" if it completed.

    watched: gets the log's events.
    """
    log = Log(kernel, watched)
    said = ""
    while True:
        state, message = _patiently(lambda: status(kernel), every)
        if state not in _GOES_ON:
            break
        if state == "RUNNING":
            reply = log.read(silence)
            if reply and reply.code and reply.words != said:
                said = reply.words
                print(f"no log at the moment, waiting without it (Kaggle said: {said})")
        elif state != said:
            said = state
            print(f"{kernel}: {state.lower().replace('_', ' ')}", flush=True)
        time.sleep(every)
    how = f"kernel {kernel} ended as {state}{message and f' ({message})'}"
    log.read_rest(how)
    if state == "COMPLETE":
        return ""
    end = "\n".join(f"  {line}" for line in log.tail) or "  (no log)"
    return f"{how}. The end of its log:\n{end}"


def _patiently(ask: Callable[[], Answer], every: float) -> Answer:
    """Ask again, after ever longer pauses, while an answer fails in a way that may pass."""
    for failures in itertools.count():
        try:
            answer = ask()
        except kaggle.NoAnswerError as error:
            if failures >= _PATIENCE:
                raise
            if not failures:
                print(f"{error}; asking again until there is an answer", flush=True)
            time.sleep(every * min(2.0**failures, _SLOWEST))
        else:
            if failures:
                print("Kaggle answers again", flush=True)
            return answer
    raise AssertionError


def status(kernel: str) -> tuple[str, str]:
    """The kernel's state and, if it failed, Kaggle's message. Raises InputError."""
    reply = kaggle.call("kernels", "status", kernel)
    found = re.search(r'has status "(?:KernelWorkerStatus\.)?(\w+)"', reply.text)
    if reply.code or not found:
        raise kaggle.refused(f"state of kernel {kernel}", reply)
    message = re.search(r'Failure message: "(.*)"', reply.text, re.DOTALL)
    return found[1].upper(), message[1] if message else ""


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
    made = _json(about, "rows", "made_by", "metric", "score", "sha256", "warnings")
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
        metric = numbers.get("metric", "accuracy")  # earlier runs had no other
        value = numbers.get("validation_score", numbers["validation_accuracy"])
        lines.insert(
            0,
            f"validation {metrics.shown(metric, value)}, "
            f"95 % interval {low:.4f}–{high:.4f}, {numbers['validation_photos']} photos",
        )
    else:
        lines.insert(
            0,
            f"validation {made['score']:.4f} {_shown(made)} of an early submission: "
            "the run has no result",
        )
    report = out / "report.html"
    lines.append(f"report     {report if report.is_file() else 'none'}")
    return [*lines, *(f"warning    {warning}" for warning in made["warnings"])], made


def _shown(made: dict[str, Any]) -> str:
    """The metric of a submission, as people call it."""
    return str(metrics.SHOWN.get(made["metric"], made["metric"]))


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
    message = f"carcls: {made['made_by']}, validation {made['score']:.4f} {_shown(made)}"
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
        look = f"https://www.kaggle.com/competitions/{competition}/submissions"
        raise kaggle.refused(f"submission to {competition}", reply, look=look)
    return reply.words


def score(words: str, competition: str, every: float, patience: float = SCORE_SECONDS) -> str:
    """The public score of what was submitted with these words, or why it is not known.

    Raises InputError if Kaggle could not score it.
    """
    look = f"it will stand at https://www.kaggle.com/competitions/{competition}/submissions"
    ref = re.search(r"[Ss]ubmission ref: (\d+)", words)
    if not ref:
        return f"not known, as Kaggle's answer does not name the submission; {look}"
    end = time.monotonic() + patience
    while True:
        try:
            said = kaggle.call("competitions", "submission", ref[1]).text
        except KeyboardInterrupt:
            return f"not waited for; {look}"
        except InputError as error:  # the submission is made, whatever becomes of this question
            said = str(error)
        found = dict(re.findall(r"^(Status|Error|Public Score): +(\S.*)$", said, re.MULTILINE))
        if found.get("Status") == "COMPLETE":
            return f"{found.get('Public Score', 'none published')} on the public board"
        if found.get("Status") == "ERROR":
            why = found.get("Error", "no reason given")
            raise InputError(f"submission {ref[1]}: Kaggle could not score it ({why}); {look}")
        if time.monotonic() >= end:
            last = found.get("Status") or " ".join(said.split())[-300:]
            return f"not there after {patience / 60:g} minutes ({last}); {look}"
        time.sleep(every)

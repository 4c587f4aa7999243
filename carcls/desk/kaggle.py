"""The ``kaggle`` command as a program that is run: its answers, its ways to fail, its login.

It ends with 0 on many refusals, so whoever calls it looks for the words of success. Nothing here
reads a key or token but to hide it in what the command said.
"""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from carcls.errors import InputError

INSTALL = "`make .venv/push` in the repository installs it (or pip install -e '.[push]')"
LOGIN = (
    f"log in with `{Path(sys.executable).parent / 'kaggle'} auth login`, or set KAGGLE_USERNAME "
    "and KAGGLE_KEY, or put kaggle.json (Kaggle → Settings → API) into ~/.kaggle"
)
SECONDS = 120.0  # for an answer; the command itself would wait for ever
_ASKS_FOR_LOGIN = "Authentication required to call the Kaggle API"
# Words of an answer that asking again does not change. Other failures may pass: a server that is
# busy or down, a network that is, a proxy's page instead of Kaggle's answer.
_LASTING = re.compile(
    r"\b4(?!29|08)\d\d Client Error|not found|denied|forbidden|unauthori[sz]ed|permission|"
    r"invalid|unrecognized|push error|already in use|conflict",
    re.IGNORECASE,
)
_BUSY = re.compile(r"\b(408|429) Client Error|\b5\d\d Server Error|too many", re.IGNORECASE)
_UNREACHED = re.compile(
    r"Connection refused|Failed to establish|Failed to resolve|connect timeout|Tunnel connection|"
    r"unreachable|certificate",
    re.IGNORECASE,
)


class NoAnswerError(InputError):
    """No answer, or one that says that asking again later may help."""


@dataclass(frozen=True)
class Reply:
    """What the command said (stdout and stderr as they came) and its exit code."""

    text: str
    code: int

    @property
    def words(self) -> str:
        """The last lines, on one line, to quote in an error; of a traceback the last alone."""
        last = -1 if "Traceback (most recent call last)" in self.text else -8
        text = " ".join(self.text.split("\n")[last:])
        return text.strip()[-800:] or f"nothing, exit code {self.code}"


def command() -> str:
    """The kaggle command that belongs to this Python. Raises InputError if it is not installed."""
    for name in ("kaggle", "kaggle.exe"):
        # Beside the Python that runs, unresolved: in a virtual environment that is a link to
        # another folder.
        if (found := Path(sys.executable).parent / name).is_file():
            return str(found)
    raise InputError(f"{Path(sys.executable).parent / 'kaggle'}: no such command; {INSTALL}")


def call(*words: str, seconds: float = SECONDS) -> Reply:
    """Run ``kaggle words…``; the caller judges the reply.

    Raises InputError if there is no such command, or it gives no answer in time, cannot start, or
    knows no login.
    """
    args = [command(), "-W", *words]  # -W: no advice about newer versions among the words
    try:
        done = subprocess.run(
            args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswerError(
            f"kaggle {' '.join(words[:2])}: no answer in {seconds:.0f} s; whether it was done is "
            "not known: look on Kaggle before you repeat it"
        ) from None
    except (
        OSError
    ) as error:  # of an environment that was moved, it names a Python that is not there
        raise InputError(
            f"{args[0]}: cannot be started ({error.strerror or error}); {INSTALL}"
        ) from None
    reply = Reply(hide_secrets(done.stdout.strip()), done.returncode)
    if reply.code and "ModuleNotFoundError" in reply.text:
        raise InputError(f"{args[0]}: does not start ({reply.text.splitlines()[-1]}); {INSTALL}")
    if _ASKS_FOR_LOGIN in reply.text:  # also what it says to 401, a login that has expired
        raise InputError(
            f"kaggle {' '.join(words[:2])}: Kaggle knows no login here, or it has expired or was "
            f"revoked; {LOGIN}"
        )
    return reply


def hide_secrets(text: str) -> str:
    """Without keys and tokens, and without what signs or opens an address: people paste errors."""
    for name, value in os.environ.items():
        if re.match(r"KAGGLE_\w*(KEY|TOKEN|SECRET|PASSWORD)", name) and len(value) >= 8:
            text = text.replace(value, "…")
    text = re.sub(r"(://)[^\s/@]+@", r"\1…@", text)
    text = re.sub(r"((?:://|url: /)[^\s?'\"]*\?)[^\s'\")]+", r"\1…", text)
    named = (
        r"((?:bearer|basic)\s+|(?:key|token|password|secret)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;})]{8,}"
    )
    return re.sub(named, r"\1…", text, flags=re.IGNORECASE)


def refused(doing: str, reply: Reply, hint: str = "", look: str = "") -> InputError:
    """The error for a reply without the words of success.

    look: where to see whether it was done all the same, of what must not be done twice.
    """
    words = f"{reply.words}{hint and f' — {hint}'}"
    if _UNREACHED.search(reply.text):
        return NoAnswerError(
            f"{doing}: Kaggle was not reached; is there a network? It said: {words}"
        )
    said = re.sub(r"\S*/\S*", "", reply.text)  # names and addresses may have any words
    if _LASTING.search(said) and not _BUSY.search(said):
        return InputError(f"{doing}: Kaggle refused. It said: {words}")
    if look and not re.search(r"\b429 |too many", said, re.IGNORECASE):
        return InputError(
            f"{doing}: no answer as Kaggle gives it, so it may have been done all the same: look "
            f"at {look} before you repeat it. The command said: {words}"
        )
    return NoAnswerError(f"{doing}: Kaggle gave no answer to it. The command said: {words}")


def username() -> str:
    """The user as whom the kaggle command acts, by whatever way of login.

    Raises InputError if there is no login.
    """
    reply = call("config", "view")  # asks Kaggle whose it is, where the login is a token
    found = re.search(r"^- username: (\S+)$", reply.text, re.MULTILINE)
    if reply.code or not found or found[1] == "None":
        raise InputError(f"kaggle config view: names no user ({reply.words}); {LOGIN}")
    return found[1]


def follow(words: Sequence[str], each: Callable[[str], None], silence: float) -> Reply | None:
    """Run ``kaggle words…`` and hand over each line as it comes.

    The reply has what the command wrote to stderr; it is None if no line came for ``silence``
    seconds. Raises InputError if there is no such command.
    """
    lines: queue.Queue[str | None] = queue.Queue()
    args = [command(), "-W", *words]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as beside,
        subprocess.Popen(
            args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=beside,
            encoding="utf-8",
            errors="replace",
        ) as running,
    ):
        assert running.stdout is not None
        reader = threading.Thread(target=_read, args=(running.stdout, lines), daemon=True)
        reader.start()
        try:
            while (line := lines.get(timeout=silence)) is not None:
                each(line)
            code = running.wait(SECONDS)  # its output has ended, and so has it
        except queue.Empty:
            return None
        finally:
            running.kill()
            reader.join()
        beside.seek(0)
        return Reply(hide_secrets(beside.read().strip()), code)


def _read(stream: object, lines: queue.Queue[str | None]) -> None:
    for line in stream:  # type: ignore[attr-defined]  # a text stream
        lines.put(line.rstrip("\n"))
    lines.put(None)

"""A short text to a phone or a chat at a run's start, first submission, end and failure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from carcls.errors import ConfigError
from carcls.metrics import SHOWN
from carcls.train import clock
from carcls.train.outbox import Outbox
from carcls.values import hide

# Characters: ntfy takes 4,096 bytes, Discord 2,000 characters, Telegram 4,096.
_MOST, _MOST_A_VALUE = 1000, 300


@dataclass(frozen=True)
class Note:
    """What a person is told."""

    title: str
    lines: tuple[str, ...]
    is_bad: bool = False

    @property
    def text(self) -> str:
        return "\n".join(filter(None, self.lines))[: _MOST - len(self.title) - 1]

    def __str__(self) -> str:
        return f"{self.title}\n{self.text}"


Form = Callable[[Note, dict[str, Any]], dict[str, Any]]  # note and its event → JSON to post


class Notifier:
    """Tells a phone or a chat of a run, by the form that the address's host wants."""

    wants_pictures = wants_earlier = False

    def __init__(self, url: str) -> None:
        """Raises ConfigError if the address lacks what its service needs."""
        target, self._form = form_of(url)
        self.outbox = Outbox("notify", target)
        self._run, self._has_trained, self._has_submitted = "run", False, False

    def post(self, event: dict[str, Any]) -> None:
        """Queue a text if the event is worth one; returns at once, raises nothing."""
        note = self._note(event)
        if note:
            self.outbox.post(json=self._form(note, event))

    def close(self, wait: float = 5.0) -> None:
        """Send what is queued, for at most ``wait`` seconds. Nothing is sent afterwards."""
        self.outbox.close(wait)

    def _note(self, event: dict[str, Any]) -> Note | None:
        kind = event.get("kind")
        if kind == "start":
            competition = _dict(event.get("settings")).get("competition")
            self._run = _line(event.get("name") or competition or "run")[:60]
            return Note(f"{self._run}: started", _about_start(event))
        if kind == "epoch":
            self._has_trained = True
        # Before the first epoch, all that there is to submit is the most frequent class.
        if kind == "submission" and self._has_trained and not self._has_submitted:
            self._has_submitted = True
            by = f"by {_line(event.get('made_by'))}"
            return Note(f"{self._run}: first submission", (f"validation {_score(event)}", by))
        if kind == "verdict" and "diverged" in str(event.get("reason")):
            about = f"{_line(event.get('network'))}: {_line(event.get('reason'))}"
            return Note(f"{self._run}: training diverged", (about.removeprefix(": "),), True)
        if kind == "failed":
            what, *lines = _about_failure(str(event.get("error")))
            return Note(f"{self._run}: {what}", tuple(lines), True)
        if kind == "end":
            return self._end(event)
        return None

    def _end(self, event: dict[str, Any]) -> Note:
        if "metric" not in event:  # a search alone, or a training of a study
            return Note(f"{self._run}: ended", (f"after {_time(event.get('seconds'))}",))
        low, high = (_number(value) for value in _pair(event.get("validation_interval_95")))
        photos = event.get("validation_photos")
        warnings = [f"WARNING: {_line(text)}" for text in _list(event.get("warnings"))]
        score = _score({**event, "score": event.get("validation_score")})
        return Note(
            f"{self._run}: ended with {score}",
            (
                f"95 % interval {low}–{high}, {_line(photos)} validation photos",
                f"made by {_line(event.get('made_by'))} in {_time(event.get('seconds'))}",
                _line(event.get("submission") or ""),
                *warnings,
            ),
            bool(warnings),
        )


# --- Texts ----------------------------------------------------------------------------------------


def _about_start(event: dict[str, Any]) -> tuple[str, ...]:
    """What is to be done, and where."""
    photos = _dict(event.get("photos"))
    counts = [f"{_line(photos[part])} {part}" for part in photos]
    networks = [str(_dict(network).get("name")) for network in _list(event.get("networks"))]
    device = [_line(line) for line in _list(event.get("machine")) if str(line).startswith("device")]
    out = _line(_dict(event.get("settings")).get("out") or "")
    return (
        f"photos {', '.join(counts)}" if counts else "",
        f"networks {_line(', '.join(networks))}" if networks else "",
        *device[:1],
        f"run folder {out}" if out else "",
    )


def _about_failure(error: str) -> tuple[str, ...]:
    """What happened in a few words, and lines about it."""
    kind, _, text = error.partition(": ")
    text = _line(text.strip().partition("\n")[0])
    if kind == "KeyboardInterrupt":
        return "stopped by hand", "the same command goes on from the last whole epoch"
    if kind == "Stopped":
        return f"stopped by {text}", "the same run goes on from the last whole epoch"
    if kind == "TrainingDiverged":
        return "training diverged", text
    return "failed", f"{_line(kind)}: {text}"


def _line(value: Any) -> str:
    """A value as one line, which mentions nobody and shows no address whole."""
    text = " ".join(hide(str(value)[: 4 * _MOST]).split())[:_MOST_A_VALUE]
    # Chats take @name for a call; a space of no width keeps how it looks.
    return text.replace("@", "@\u200b").encode("utf-8", "replace").decode()


def _score(event: dict[str, Any]) -> str:
    metric = str(event.get("metric"))
    return f"{_number(event.get('score'))} {_line(SHOWN.get(metric, metric))}"


def _number(value: Any) -> str:
    try:
        return f"{float(value):.4f}"
    except (TypeError, ValueError, OverflowError):
        return "unknown"


def _time(seconds: Any) -> str:
    try:
        return clock.show(float(seconds))
    except (TypeError, ValueError, OverflowError):
        return "unknown time"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _pair(value: Any) -> list[Any]:
    return [*_list(value), None, None][:2]


# --- Forms ----------------------------------------------------------------------------------------


def form_of(url: str) -> tuple[str, Form]:
    """Where the texts for this address are posted, and as what JSON, by its host.

    Raises ConfigError, which quotes nothing of the address, if it lacks what its service needs.
    """
    whole = urlsplit(url)
    host = whole.hostname or ""
    if host.startswith("ntfy."):
        topic = whole.path.strip("/")
        if not re.fullmatch(r"[-\w]{1,64}", topic, re.ASCII):
            raise ConfigError("notify_url: no topic of ntfy; expected https://ntfy.sh/TOPIC")
        return whole._replace(path="/").geturl(), lambda note, event: {
            "topic": topic,
            "title": note.title,
            "message": note.text,
            **({"priority": 4, "tags": ["warning"]} if note.is_bad else {}),
        }
    if host == "api.telegram.org":
        query = dict(parse_qsl(whole.query))
        if "chat_id" not in query or not re.fullmatch(r"/bot[^/]+/sendMessage", whole.path):
            expected = "https://api.telegram.org/botTOKEN/sendMessage?chat_id=NUMBER"
            raise ConfigError(f"notify_url: no method or chat of Telegram; expected {expected}")
        query.pop("parse_mode", None)  # nothing in a text is markup
        target = whole._replace(query="").geturl()
        return target, lambda note, event: {**query, "text": str(note)}
    if host == "hooks.slack.com":
        return url, lambda note, event: {"text": _escaped(str(note))}
    if re.search(r"(^|\.)discord(app)?\.com$", host):
        quiet: dict[str, Any] = {"allowed_mentions": {"parse": []}}
        return url, lambda note, event: {"content": str(note), **quiet}
    return url, lambda note, event: {
        "text": str(note),
        "event": event.get("kind"),
        "id": event.get("id"),
        "at": event.get("at"),
    }


def _escaped(text: str) -> str:
    """As Slack wants it: otherwise <!channel> would call everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

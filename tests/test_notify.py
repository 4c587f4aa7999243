"""Short texts to a phone or a chat: what they say, in which form, and what they never do."""

import json
import math
import time

import pytest
from recorder import Raw

from carcls import config, network
from carcls.errors import ConfigError, Stopped, TrainingDiverged
from carcls.train.notify import Note, Notifier, form_of
from carcls.train.outbox import Outbox

START = {
    "kind": "start",
    "id": "0123abcd.0123.1",
    "at": 1.5,
    "name": "cars",
    "settings": {"competition": "slug", "out": "/kaggle/working", "seed": 1},
    "machine": ["backend    jax: set", "device     2 × gpu (cuda:0): the fastest one here"],
    "photos": {"train": 27, "validation": 9, "test": 10},
    "networks": [{"name": "tiny", "stages": [[32, 48, 2]]}, {"name": "large", "stages": []}],
}
FREQUENT = {"kind": "submission", "made_by": "the most frequent class", "score": 0.3}
FREQUENT |= {"metric": "accuracy", "early": True, "rows": 10}
FIRST = FREQUENT | {"made_by": "member 1: first epoch, one view", "score": 0.61237}
END = {
    "kind": "end",
    "metric": "log_loss",
    "validation_score": 0.43912,
    "validation_interval_95": [0.4, 0.51],
    "validation_photos": 367,
    "seconds": 725.2,
    "made_by": "2 members",
    "warnings": [],
    "submission": "/kaggle/working/submission.csv",
}
FAILED = {"kind": "failed", "error": "InputError: train.csv: no such file"}
VERDICT = {"kind": "verdict", "of": "refit", "network": "member 1", "accepted": False}
VERDICT |= {"reason": "stays: going on diverged (the loss is nan)"}


class Kept(Notifier):
    """Its texts are kept, not posted."""

    def __init__(self):
        super().__init__("http://127.0.0.1:1")
        self.kept: list[dict] = []
        self.outbox.post = lambda **body: self.kept.append(body["json"])


def texts(*events: dict) -> list[str]:
    notifier = Kept()
    for event in events:
        notifier.post(event)
    return [note["text"] for note in notifier.kept]


def test_a_run_is_told_from_its_start_to_its_end():
    epoch = {"kind": "epoch", "epoch": 1, "accuracy": 0.5}
    step = {"kind": "step", "done": 1}
    better = FIRST | {"score": 0.7}
    start, first, end = texts(START, FREQUENT, step, epoch, FIRST, epoch, better, END)
    assert start.splitlines() == [
        "cars: started",
        "photos 27 train, 9 validation, 10 test",
        "networks tiny, large",
        "device 2 × gpu (cuda:0): the fastest one here",
        "run folder /kaggle/working",
    ]
    assert first.splitlines()[0] == "cars: first submission"
    assert "0.6124 accuracy" in first and "member 1: first epoch, one view" in first
    assert end.splitlines() == [
        "cars: ended with 0.4391 log-loss",
        "95 % interval 0.4000–0.5100, 367 validation photos",
        "made by 2 members in 12:05",
        "/kaggle/working/submission.csv",
    ]


def test_a_search_or_a_training_of_a_study_ends_without_a_score():
    assert texts(START, {"kind": "end", "seconds": 61})[1] == "cars: ended\nafter 1:01"


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (KeyboardInterrupt(), "stopped by hand"),
        (Stopped("SIGTERM"), "stopped by SIGTERM"),
        (TrainingDiverged("loss nan at step 3", "try lr=1e-4"), "training diverged"),
        (ValueError("no photos\nat all"), "failed"),
    ],
)
def test_what_ends_a_run_early_is_told_in_its_first_line(error, title):
    event = {"kind": "failed", "error": f"{type(error).__name__}: {error}"}
    (text,) = texts(event)
    assert text.splitlines()[0] == f"run: {title}"
    assert "at all" not in text
    assert str(error).partition("\n")[0] in text or isinstance(error, Stopped)


def test_a_divergence_that_a_run_survives_is_told(monkeypatch):
    def diverges(s, job):
        raise TrainingDiverged("the loss is nan at step 3 of epoch 2")

    monkeypatch.setattr(network, "make", diverges)
    member = object()
    kept, reason = network._try_to_go_on(None, member, object())
    assert kept is member
    (text,) = texts(VERDICT | {"reason": reason}, VERDICT | {"reason": "stays: no time to go on"})
    assert text.splitlines() == ["run: training diverged", f"member 1: {reason}"]


NASTY = "<!channel> @everyone https://me:t0ps3cret@host/t0ps3cret \udcff ü"


@pytest.mark.parametrize("key", ["name", "made_by", "submission", "warnings"])
def test_a_name_or_a_path_calls_nobody_and_shows_no_address(key):
    value = [NASTY] if key == "warnings" else NASTY
    text = texts(START | {key: value}, END | {key: value})[-1]
    assert "ü" in text and "everyone" in text and "https://host/…" in text
    assert "@everyone" not in text and "t0ps3cret" not in text
    text.encode()  # no half of a character, which no server takes
    _, form = form_of("https://hooks.slack.com/services/T/B/x")
    assert not set("<>") & set(form(Note("a", (text,)), {})["text"])


# --- Forms ----------------------------------------------------------------------------------------

GOOD, BAD = Note("cars: ended ü", ("one", "", "two")), Note("cars: failed", ("<!here> & x",), True)
EVENT = {"id": "0123abcd.0123.7", "at": 1.5, "kind": "end", "warnings": ["not posted"]}


@pytest.mark.parametrize(
    ("url", "target", "good", "bad"),
    [
        (
            "https://ntfy.sh/my_topic-1",
            "https://ntfy.sh/",
            {"topic": "my_topic-1", "title": "cars: ended ü", "message": "one\ntwo"},
            {
                "topic": "my_topic-1",
                "title": "cars: failed",
                "message": "<!here> & x",
                "priority": 4,
                "tags": ["warning"],
            },
        ),
        (
            "http://me:pw@ntfy.example.org:8080/topic/?auth=abc",
            "http://me:pw@ntfy.example.org:8080/?auth=abc",
            {"topic": "topic", "title": "cars: ended ü", "message": "one\ntwo"},
            None,
        ),
        (
            "https://hooks.slack.com/services/T0/B0/x",
            "https://hooks.slack.com/services/T0/B0/x",
            {"text": "cars: ended ü\none\ntwo"},
            {"text": "cars: failed\n&lt;!here&gt; &amp; x"},
        ),
        *(
            (
                f"https://{host}/api/webhooks/1/x",
                f"https://{host}/api/webhooks/1/x",
                {"content": "cars: ended ü\none\ntwo", "allowed_mentions": {"parse": []}},
                {"content": "cars: failed\n<!here> & x", "allowed_mentions": {"parse": []}},
            )
            for host in ("discord.com", "discordapp.com", "canary.discord.com")
        ),
        (
            "https://api.telegram.org/bot12:x_y/sendMessage?chat_id=-100&message_thread_id=3&"
            "parse_mode=HTML",
            "https://api.telegram.org/bot12:x_y/sendMessage",
            {"chat_id": "-100", "message_thread_id": "3", "text": "cars: ended ü\none\ntwo"},
            {"chat_id": "-100", "message_thread_id": "3", "text": "cars: failed\n<!here> & x"},
        ),
        (
            "https://example.org/a?b=c",
            "https://example.org/a?b=c",
            {"text": "cars: ended ü\none\ntwo", "event": "end", "id": "0123abcd.0123.7", "at": 1.5},
            None,
        ),
        ("https://notdiscord.com/x", "https://notdiscord.com/x", None, None),
    ],
)
def test_each_service_gets_its_form(url, target, good, bad):
    address = config.from_words([f"notify_url={url}"]).notify_url.get_secret_value()
    found, form = form_of(address)
    assert found == target
    assert form(GOOD, EVENT) == good or good is None
    assert form(BAD, EVENT) == bad or bad is None
    assert good is not None or set(form(GOOD, EVENT)) == {"text", "event", "id", "at"}


@pytest.mark.parametrize(
    "url",
    [
        "https://ntfy.sh",
        "https://ntfy.sh/s3cret/s3cret",
        "https://ntfy.sh/s3cret.x",
        "https://api.telegram.org/bots3cret/sendMessage",
        "https://api.telegram.org/bots3cret?chat_id=s3cret",
    ],
)
def test_an_address_that_lacks_what_its_service_needs_is_refused_and_not_quoted(url):
    with pytest.raises(ConfigError, match="notify_url: .*; expected https://") as refused:
        Notifier(url)
    assert "s3cret" not in str(refused.value)


# --- It obeys every rule of the monitor -----------------------------------------------------------


def test_texts_arrive_and_nothing_of_the_address_is_said(receiver, capsys):
    receiver.answers["/hooks/t0ps3cret"] = {}
    url = f"{receiver.url.replace('//', '//me:t0ps3cret@')}/hooks/t0ps3cret?token=t0ps3cret"
    notifier = Notifier(url)
    notifier.post(START)
    notifier.post(END | {"id": "0123abcd.0123.9", "at": 2.5})
    notifier.close()
    first, last = receiver.sent("/hooks/t0ps3cret")
    assert (first["event"], first["id"], first["at"]) == ("start", START["id"], 1.5)
    assert last["text"].startswith("cars: ended with 0.4391 log-loss\n")
    assert set(last) == {"text", "event", "id", "at"}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://ntfy.sh/topic?auth=x", "http://ntfy.sh/?auth=x"),
        ("http://hooks.slack.com/services/T/B/x", "http://hooks.slack.com/services/T/B/x"),
        ("http://api.telegram.org/bot1:x/sendMessage?chat_id=5", ".org/bot1:x/sendMessage"),
    ],
)
def test_a_service_is_asked_as_its_form_says(receiver, monkeypatch, capsys, url, asked):
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTP_PROXY", receiver.url)  # so that it is the service's host
    monkeypatch.setenv("http_proxy", receiver.url)
    receiver.answers |= {"x": {}, "sendMessage": {}}
    address = config.from_words([f"notify_url={url}"]).notify_url
    notifier = Notifier(address.get_secret_value())
    notifier.post(END)
    notifier.close()
    assert [path.endswith(asked) for path in receiver.asked] == [True]
    ((_, body),) = receiver.seen
    assert any("0.4391 log-loss" in str(value) for value in body.values())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("trouble", [500, 404, 429, 413, "silent", "nobody"])
def test_a_service_that_fails_is_said_once_and_delays_nothing(
    receiver, monkeypatch, capsys, trouble
):
    monkeypatch.setattr(Outbox, "pauses", (0.01, 0.01))
    monkeypatch.setattr(Outbox, "timeout", (0.1, 0.1))
    url = "http://127.0.0.1:1" if trouble == "nobody" else receiver.url
    receiver.answers["t0ps3cret"] = (
        Raw(b"", trouble) if isinstance(trouble, int) else Raw(b"", seconds=5)
    )
    notifier, began = Notifier(f"{url}/t0ps3cret"), time.monotonic()
    for _ in range(20):
        notifier.post(END)
    assert time.monotonic() - began < 1
    notifier.close(wait=3)
    said = capsys.readouterr().out
    assert said.startswith(f"notify {url}: ") and said.count("\n") == 1
    assert "s3cret" not in said


def test_a_failure_that_ends_a_run_at_once_still_arrives(receiver):
    notifier = Notifier(receiver.url)
    notifier.post(FAILED)
    notifier.close(wait=5)
    ((_, note),) = receiver.seen
    assert note["text"].splitlines() == ["run: failed", "InputError: train.csv: no such file"]


ODD = [None, True, -1, 10**400, math.inf, math.nan, "", "x", [], ["x", None], {"x": [1]}]


@pytest.mark.parametrize(
    "event", [START, FIRST, END, FAILED, VERDICT], ids=lambda event: event["kind"]
)
def test_no_event_is_too_strange(event):
    """Each of its values in turn is missing, or something else."""
    for name in set(event) - {"kind"}:
        without = {key: value for key, value in event.items() if key != name}
        for strange in [without, *(event | {name: odd} for odd in ODD)]:
            for text in texts({"kind": "epoch"}, strange):
                json.dumps(text).encode()
                assert "\n" in text and len(text) <= 1000


def test_a_long_error_is_cut_in_no_time():
    began = time.monotonic()
    (text,) = texts({"kind": "failed", "error": "E: " + "x" * 60_000})
    assert len(text) < 400 and time.monotonic() - began < 1
    (text,) = texts(END | {"warnings": ["w" * 400] * 9})
    assert len(text) == 1000

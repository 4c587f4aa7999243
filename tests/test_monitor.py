"""The remote monitor and the addresses of what is posted, with a server on the loopback."""

import io
import json
import sys
from pathlib import Path
from urllib.parse import parse_qs

import keras
import numpy as np
import pytest

from carcls import config, session
from carcls.config import Config
from carcls.errors import ConfigError
from carcls.train import monitor
from carcls.train.events import Events, LogLines
from carcls.train.monitor import SafeRemoteMonitor
from carcls.train.notify import Notifier

PATH = "/publish/epoch/end/"
BOTH = pytest.mark.parametrize("name", sorted(config.SECRETS))


def test_the_monitor_is_sent_what_progress_jsonl_has(receiver, tmp_path, capsys):
    path = tmp_path / "progress.jsonl"
    events = Events(path, listeners=[SafeRemoteMonitor(receiver.url + "/")])
    events.send("epoch", loss=float("nan"), n=np.int64(3))
    events.send("end", sizes=(np.array([1.5]), Path("a")), nothing=None)
    events.close()
    assert receiver.sent(PATH) == [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["kind"] for event in receiver.sent(PATH)] == ["epoch", "end"]
    assert capsys.readouterr().out == ""


def test_who_listens_follows_from_settings_and_from_what_the_output_is(monkeypatch):
    def kinds(*words: str) -> list[type]:
        return [type(each) for each in monitor.listeners(config.from_words(list(words)))]

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert kinds() == []
    both = kinds("monitor_url=http://host", "notify_url=http://host/x")
    assert both == [SafeRemoteMonitor, Notifier]
    assert [each.wants_pictures for each in both] == [True, False]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert kinds() == [LogLines]


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("", PATH),
        ("/", PATH),
        ("/a't0ps3cret?token=b", "/a't0ps3cret?token=b"),
        ("?'\"t0ps3cret", "/?%27%22t0ps3cret"),
        ("/#top", PATH),
        ("?token=t0ps3cret", "/?token=t0ps3cret"),
        ("/hooks/t0ps3cret", "/hooks/t0ps3cret"),
        ("/hooks/t0ps3cret/?a=1&b=2#top", "/hooks/t0ps3cret/?a=1&b=2"),
    ],
)
def test_an_address_is_posted_to_as_it_is_and_a_root_as_keras_does(
    receiver, tmp_path, capsys, given, asked
):
    cfg = config.from_words([f"monitor_url={receiver.url.replace('//', '//me:t0ps3cret@')}{given}"])
    listeners = [SafeRemoteMonitor(*cfg.monitor_url.parts())]
    events = Events(tmp_path / "progress.jsonl", listeners=listeners)
    events.send("start", settings=cfg.model_dump(mode="json"))
    events.close()
    assert receiver.asked == [asked]
    written = (tmp_path / "progress.jsonl").read_text()
    shown = [repr(cfg), str(cfg.monitor_url), cfg.model_dump_json(), written]
    shown += [str([body for _, body in receiver.seen]), capsys.readouterr().out]
    assert not [text for text in shown if "t0ps3cret" in text or "me:" in text]
    assert f"{receiver.url}/…" in cfg.model_dump_json()


def test_a_log_that_is_gone_is_told_to_who_is_posted_to(receiver, tmp_path, monkeypatch):
    def is_gone(text: str) -> None:
        raise BrokenPipeError

    cfg = config.from_words([f"monitor_url={receiver.url}", f"notify_url={receiver.url}"])
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", io.StringIO())
        events = Events(tmp_path / "progress.jsonl", listeners=monitor.listeners(cfg))
        patch.setattr("sys.stdout.write", is_gone)
        with pytest.raises(BrokenPipeError):
            events.send("failed", error="BrokenPipeError: ")
    events.close()
    assert sorted(body.get("kind") or body["event"] for _, body in receiver.seen) == ["failed"] * 2


@BOTH
def test_a_setting_that_is_hidden_is_kept_by_a_variant_and_not_read_back(tmp_path, name):
    url = "https://host/hooks/t0ps3cret"
    cfg = config.from_words([f"{name}={url}"])
    assert getattr(cfg.replace(seed=2), name).get_secret_value() == url
    (tmp_path / "config.json").write_text(cfg.model_dump_json())
    assert not getattr(config.load(tmp_path / "config.json"), name)
    cfg = config.from_words([f"{name}=http://host:9000"])  # nothing to hide
    (tmp_path / "config.json").write_text(cfg.model_dump_json())
    assert config.load(tmp_path / "config.json") == cfg


def test_a_session_says_and_leaves_nothing_of_an_address_but_its_host(receiver, cfg, capsys):
    root = receiver.url.replace("//", "//me:t0ps3cret@")
    given = cfg.replace(monitor_url=f"{root}?token=t0ps3cret", notify_url=f"{root}/?t0ps3cret")
    with pytest.raises(RuntimeError), session.start(given):
        raise RuntimeError("stopped here")
    left = {path: path.read_bytes() for path in Path(cfg.out).rglob("*") if path.is_file()}
    assert {"config.json", "progress.jsonl"} <= {path.name for path in left}
    assert not [path for path, content in left.items() if b"t0ps3cret" in content]
    kinds = sorted(body.get("kind") or body["event"] for _, body in receiver.seen)
    assert kinds == ["failed", "failed", "start", "start"]
    assert "t0ps3cret" not in str(receiver.seen) + "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "word",
    [
        "monitor_url=ftp://me:t0ps3cret@host/x",
        "monitor_url=host/t0ps3cret",
        "monitor_url=mailto:t0ps3cret@host",
        "monitor_url=file:///t0ps3cret",
        "monitor_url=http:///t0ps3cret",
        "monitor_url=http://me:t0ps3cret@:80/",
        "monitor_url=http://me:t0p/s3cret@host/",
        "monitor_url=http://host:99999/t0ps3cret",
        "monitor_url=http://host:0/t0ps3cret",
        "monitor_url=http://host:http/t0ps3cret",
        "monitor_url=http://host/t0ps3cret here",
        "monitor_url=ftp://host/a't0ps3cret",
        "http://host/a't0ps3cret",
        "http://host\"/a't0ps3cret",
        "monitor_url=http://host/t0ps3cret\n",
        "monitor_url= http://host/t0ps3cret",
        "monitor_url=http://a..host/t0ps3cret",
        "monitor_url=http://999.1.1.1/t0ps3cret",
        "monitor_url=http:\\\\host\\t0ps3cret",
        "monitor_url=http://host/…",  # as it is shown
        "http://host/t0ps3cret",
        "http://host/?token=t0ps3cret",
        "members=seed=1/monitor_url=http://host/t0ps3cret",
    ],
)
@BOTH
def test_what_cannot_be_posted_to_is_refused_and_not_quoted(word, name):
    word = word.replace("monitor_url", name)
    with pytest.raises(ConfigError) as refused:
        config.from_words([word])
    assert name in str(refused.value) or not word.startswith(name)
    assert "s3cret" not in str(refused.value)
    with pytest.raises(ConfigError, match=f"{name} is given twice") as refused:
        config.from_words([f"{name}=http://a/t0ps3cret", f"{name}=http://b/t0ps3cret"])
    assert "s3cret" not in str(refused.value)
    with pytest.raises(ValueError, match="views") as wrong:
        Config(**{name: "http://a/t0ps3cret", "views": "many"})
    assert "s3cret" not in str(wrong.value)


def test_the_monitor_is_a_keras_callback_and_sends_forms_and_headers(receiver, monkeypatch):
    answer, headers = receiver.answer, []

    def keep(handler, name: str) -> None:
        headers.append(handler.headers["X-Key"])
        answer(handler, name)

    monkeypatch.setattr(receiver, "answer", keep)
    receiver.answers["/here"] = {}
    told = SafeRemoteMonitor(receiver.url, "/here", "form", {"X-Key": "a"}, send_as_json=False)
    assert isinstance(told, keras.callbacks.RemoteMonitor)
    told.on_epoch_end(3, {"loss": 0.5})
    told.close()
    [body] = receiver.sent("/here")
    assert json.loads(parse_qs(body.decode())["form"][0]) == {"epoch": 3, "loss": 0.5}
    assert headers == ["a"]

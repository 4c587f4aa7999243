"""Events and the remote monitor, with a server on the loopback that misbehaves in every way."""

import json
import math
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs

import keras
import numpy as np
import pytest
from recorder import Raw, Recorder

from carcls import config, session
from carcls.config import Config
from carcls.errors import ConfigError
from carcls.train.monitor import Events, SafeRemoteMonitor, open_events

PATH, REFUSED = "/publish/epoch/end/", "http://127.0.0.1:1"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    recorder = Recorder()
    recorder.url = f"http://127.0.0.1:{recorder.server.server_port}"
    recorder.answers[PATH] = {}
    yield recorder
    recorder.close()


def lines(path: Path) -> list[dict]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_the_monitor_is_sent_what_progress_jsonl_has(server, tmp_path, capsys):
    events = open_events(tmp_path / "progress.jsonl", server.url + "/")
    tensor, variable = keras.ops.convert_to_tensor(0.5), keras.Variable(3.0)
    numbers = {"loss": math.nan, "rate": np.float32(math.inf), "n": np.int64(3)}
    events.send("epoch", **numbers, accuracy=tensor, v=variable)
    events.send("end", sizes=(np.array([1.5, -math.inf]), Path("a")), best=True, nothing=None)
    events.close()
    first, second = written = lines(tmp_path / "progress.jsonl")
    assert server.sent(PATH) == written
    assert 0 <= first.pop("time") <= second.pop("time") < 5
    assert first == {"kind": "epoch", "loss": None, "rate": None, "n": 3, "accuracy": 0.5, "v": 3.0}
    assert second == {"kind": "end", "sizes": [[1.5, None], "a"], "best": True, "nothing": None}
    assert open_events(tmp_path / "alone.jsonl", "").monitor is None
    assert capsys.readouterr().out == ""


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
    server, tmp_path, capsys, given, asked
):
    cfg = config.from_words([f"monitor_url={server.url.replace('//', '//me:t0ps3cret@')}{given}"])
    events = open_events(tmp_path / "progress.jsonl", cfg.monitor_url)
    events.send("start", settings=cfg.model_dump(mode="json"))
    events.close()
    assert server.asked == [asked]
    written = (tmp_path / "progress.jsonl").read_text()
    shown = [repr(cfg), str(cfg.monitor_url), cfg.model_dump_json(), written]
    shown += [str([body for _, body in server.seen]), capsys.readouterr().out]
    assert not [text for text in shown if "t0ps3cret" in text or "me:" in text]
    assert f"{server.url}/…" in cfg.model_dump_json()


def test_a_setting_that_is_hidden_is_kept_by_a_variant_and_not_read_back_from_a_file(tmp_path):
    cfg = config.from_words(["monitor_url=https://host/hooks/t0ps3cret"])
    assert cfg.replace(seed=2).monitor_url.parts() == ("https://host", "/hooks/t0ps3cret")
    (tmp_path / "config.json").write_text(cfg.model_dump_json())
    assert not config.load(tmp_path / "config.json").monitor_url
    cfg = config.from_words(["monitor_url=http://host:9000"])  # nothing to hide
    (tmp_path / "config.json").write_text(cfg.model_dump_json())
    assert config.load(tmp_path / "config.json") == cfg


def test_a_session_says_and_leaves_nothing_of_an_address_but_its_host(server, cfg, capsys):
    root = server.url.replace("//", "//me:t0ps3cret@")
    server.answers["/"] = {}
    given = cfg.replace(monitor_url=f"{root}?token=t0ps3cret")
    with pytest.raises(RuntimeError), session.start(given):
        raise RuntimeError("stopped here")
    left = {path: path.read_bytes() for path in Path(cfg.out).rglob("*") if path.is_file()}
    assert {"config.json", "progress.jsonl"} <= {path.name for path in left}
    assert not [path for path, content in left.items() if b"t0ps3cret" in content]
    assert [body["kind"] for _, body in server.seen] == ["start", "failed"]
    assert "t0ps3cret" not in str(server.seen) + "".join(capsys.readouterr())


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
def test_what_cannot_be_posted_to_is_refused_and_not_quoted(word):
    with pytest.raises(ConfigError) as refused:
        config.from_words([word])
    assert "monitor_url" in str(refused.value) or not word.startswith("monitor_url")
    assert "s3cret" not in str(refused.value)
    with pytest.raises(ConfigError, match="monitor_url is given twice") as refused:
        config.from_words(["monitor_url=http://a/t0ps3cret", "monitor_url=http://b/t0ps3cret"])
    assert "s3cret" not in str(refused.value)
    with pytest.raises(ValueError, match="views") as wrong:
        Config(monitor_url="http://a/t0ps3cret", views="many")
    assert "s3cret" not in str(wrong.value)


@pytest.mark.parametrize("trouble", ["refused", "silent", "hangs up", "proxy"])
def test_a_failure_does_not_quote_the_address(server, monkeypatch, capsys, trouble):
    server.answers["/"] = Raw(b"", seconds=5)
    root = REFUSED if trouble == "refused" else server.url
    if trouble == "proxy":
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("HTTP_PROXY", "http://me:t0ps3cret@127.0.0.1:1")
    if trouble == "hangs up":
        monkeypatch.setattr(server, "answer", lambda handler, name: None)
    monkeypatch.setattr(SafeRemoteMonitor, "timeout", (0.2, 0.05))
    root = root.replace("//", "//me:t0ps3cret@")
    monitor = SafeRemoteMonitor(root, "/?token=t0ps3cret")
    monitor.post({})
    monitor.close()
    said = capsys.readouterr().out
    assert "not sent" in said
    assert "s3cret" not in said and "me:" not in said


def test_the_monitor_is_a_keras_callback_and_sends_forms(server):
    server.answers["/here"] = {}
    monitor = SafeRemoteMonitor(server.url, path="/here", field="form", send_as_json=False)
    monitor.on_epoch_end(3, {"loss": 0.5})
    monitor.close()
    [body] = server.sent("/here")
    assert json.loads(parse_qs(body.decode())["form"][0]) == {"epoch": 3, "loss": 0.5}


@pytest.mark.parametrize("trouble", [500, 404, 301, "refused", "no url"])
def test_the_monitor_gives_up_and_says_so_once(server, trouble, capsys):
    server.answers[PATH] = Raw(b"", trouble if isinstance(trouble, int) else 200)
    monitor = SafeRemoteMonitor({"refused": REFUSED, "no url": "http://["}.get(trouble, server.url))
    for epoch in range(20):
        monitor.post({"epoch": epoch})
        time.sleep(0.01)
    monitor.close()
    monitor.close()
    monitor.post({"epoch": 99})
    assert len(server.seen) == (3 if isinstance(trouble, int) else 0)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "gave up after 3 failures" in said
    assert str(trouble) in said or isinstance(trouble, str)


def test_one_lost_event_is_said_too(capsys):
    monitor = SafeRemoteMonitor(REFUSED)
    monitor.post({})
    monitor.close()
    assert "not sent" in capsys.readouterr().out


def test_a_success_between_failures_is_forgiven(monkeypatch, capsys):
    answers = iter(["bad", "bad", "", "bad", "bad", ""])
    monitor = SafeRemoteMonitor()
    monkeypatch.setattr(monitor, "_send", lambda event: next(answers))
    for _ in range(6):
        monitor.post({})
    monitor.close()
    assert not list(answers) and capsys.readouterr().out == ""


def test_a_server_that_never_answers_delays_nothing(server, tmp_path, capsys):
    server.answers[PATH] = Raw(b"", seconds=30)
    events = Events(tmp_path / "progress.jsonl", SafeRemoteMonitor(server.url))
    began = time.monotonic()
    for epoch in range(200):
        events.send("epoch", epoch=epoch)
    events.close(wait=0.3)
    assert time.monotonic() - began < 5
    assert (len(server.seen), len(lines(tmp_path / "progress.jsonl"))) == (1, 200)
    assert "no answer" in capsys.readouterr().out


def test_a_full_queue_keeps_the_newest(monkeypatch):
    sent, go = [], threading.Event()
    monitor = SafeRemoteMonitor()
    monkeypatch.setattr(monitor, "_send", lambda event: go.wait(5) and sent.append(event["n"]))
    for n in range(100):
        monitor.post({"n": n})
    go.set()
    monitor.close()
    assert sent[-64:] == list(range(36, 100))
    assert len(sent) in (64, 65)  # and the one that was on its way, if the thread was that quick


def test_a_line_that_a_kill_has_torn_is_ended_before_the_next(tmp_path):
    path = tmp_path / "progress.jsonl"
    Events(path).send("start")
    path.write_text(path.read_text() + '{"kind": "epo')
    Events(path).send("epoch", name="ü")
    Events(path).send("end")
    lines = path.read_text().splitlines()
    assert [json.loads(lines[n])["kind"] for n in (0, 2, 3)] == ["start", "epoch", "end"]
    assert len(lines) == 4

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

"""Posting in the background, to a server on the loopback that misbehaves in every way."""

import json
import threading
import time

import pytest
from recorder import Raw, Recorder

from carcls.train import outbox
from carcls.train.outbox import MOST_WAITING, Outbox

REFUSED = "http://127.0.0.1:1"  # nobody listens there


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(Outbox, "pauses", (0.01, 0.02, 0.03))


def wait_for(condition) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def numbers(receiver) -> list[int]:
    return [body["n"] for _, body in receiver.seen]


def test_a_server_that_restarts_loses_nothing(receiver, monkeypatch, capsys):
    monkeypatch.setattr(Outbox, "pauses", (0.1,) * 40)
    box = Outbox("monitor", receiver.url)
    box.post(json={"n": 0})
    wait_for(lambda: numbers(receiver) == [0])
    port = receiver.server.server_port
    receiver.server.shutdown()
    receiver.server.server_close()
    for n in (1, 2, 3):
        box.post(json={"n": n})
    time.sleep(0.02)  # the first try finds nobody
    again = Recorder(port)
    again.answers["/"] = {}
    wait_for(lambda: numbers(again) == [1, 2, 3])
    box.close()
    again.close()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("trouble", [500, 503, 408, 429, "refused", "no url"])
def test_what_may_pass_is_tried_again_until_it_is_given_up_and_said_once(receiver, capsys, trouble):
    receiver.answers["/"] = Raw(b"", trouble if isinstance(trouble, int) else 200)
    box = Outbox("monitor", {"refused": REFUSED, "no url": "http://["}.get(trouble, receiver.url))
    for n in range(20):
        box.post(json={"n": n})
    wait_for(lambda: box._trouble)
    for _ in range(3):
        box.post(json={})
        box.close()
    assert numbers(receiver) == ([0, 0, 0, 0] if isinstance(trouble, int) else [])
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "gave up after 4 failures in a row" in said
    assert f"HTTP {trouble}" in said or isinstance(trouble, str)


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405, 410])
def test_what_will_not_get_better_is_given_up_at_once(receiver, capsys, status):
    receiver.answers["/"] = Raw(b"", status)
    box = Outbox("monitor", receiver.url)
    box.post(json={"n": 0})
    box.post(json={"n": 1})
    box.close()
    assert numbers(receiver) == [0]
    assert f"gave up (HTTP {status})" in capsys.readouterr().out


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_is_dropped_alone_and_counted(receiver, capsys, status):
    receiver.answers["/"] = [{}, Raw(b"", status), {}]
    box = Outbox("monitor", receiver.url)
    for n in range(4):
        box.post(json={"n": n})
    box.close()
    assert numbers(receiver) == [0, 1, 2, 3]  # the second one not again
    assert f"not sent: 1 (HTTP {status})" in capsys.readouterr().out


def test_a_success_between_failures_is_forgiven(receiver, capsys):
    bad = [Raw(b"", 500)] * 3
    receiver.answers["/"] = [*bad, {}, *bad, {}]
    box = Outbox("monitor", receiver.url)
    box.post(json={"n": 0})
    box.post(json={"n": 1})
    wait_for(lambda: numbers(receiver) == [0] * 4 + [1] * 4)
    box.close()
    assert capsys.readouterr().out == ""


def test_closing_cuts_a_pause_short(receiver, monkeypatch, capsys):
    monkeypatch.setattr(Outbox, "pauses", (60.0,))
    receiver.answers["/"] = [Raw(b"", 503), {}]
    box = Outbox("monitor", receiver.url)
    box.post(json={"n": 0})
    box.post(json={"n": 1})
    wait_for(lambda: receiver.seen)
    began = time.monotonic()
    box.close()
    assert time.monotonic() - began < 3
    assert (numbers(receiver), capsys.readouterr().out) == ([0, 0, 1], "")


def test_a_server_that_never_answers_delays_nothing_and_gets_nothing_later(receiver, capsys):
    receiver.answers["/"] = Raw(b"", seconds=30)
    box = Outbox("monitor", receiver.url)
    box.timeout = (1, 0.5)
    began = time.monotonic()
    for n in range(50):
        box.post(json={"n": n})
    posted = time.monotonic()
    box.close(wait=0.2)
    assert (posted - began < 1, time.monotonic() - posted < 1) == (True, True)
    assert "no answer in 0.2 s" in capsys.readouterr().out
    box._thread.join(5)
    assert len(receiver.seen) == 1


def test_a_full_queue_keeps_the_newest_and_says_how_many_it_dropped(receiver, monkeypatch, capsys):
    sent, go = [], threading.Event()
    monkeypatch.setattr(
        Outbox, "_send", lambda box, body: (200 * go.wait(5), sent.append(body["json"]))
    )
    box = Outbox("monitor", receiver.url)
    box.post(json=-1)
    wait_for(lambda: not box._queue)  # the first one is on its way
    for n in range(1100):
        box.post(json=n)
    go.set()
    box.close()
    assert sent == [-1, *range(1100 - MOST_WAITING, 1100)]
    assert f"not sent: {1100 - MOST_WAITING} (too many" in capsys.readouterr().out


def test_an_answer_is_not_read_and_a_redirect_not_followed(receiver, monkeypatch, capsys):
    def endless(handler, name) -> None:
        receiver.seen.append((name, json.loads(handler.rfile.read(8))))
        handler.send_response(200 if len(receiver.seen) == 1 else 307)
        handler.send_header("Location", f"{receiver.url}/elsewhere")
        handler.send_header("Content-Length", "1000000000")
        handler.end_headers()
        receiver.done.wait(5)

    monkeypatch.setattr(receiver, "answer", endless)
    box = Outbox("monitor", receiver.url)
    box.timeout = (1, 0.5)
    box.post(json={"n": 1})
    box.post(json={"n": 2})
    box.close(wait=3)
    assert receiver.asked == ["/", "/"]
    assert "gave up (HTTP 307)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        ("refused", "ConnectionRefusedError"),
        ("silent", "TimeoutError"),
        ("hangs up", "RemoteDisconnected"),
        ("proxy", "ConnectionRefusedError"),
    ],
)
def test_a_failure_says_its_cause_and_does_not_quote_the_address(
    receiver, monkeypatch, capsys, trouble, cause
):
    receiver.answers["t0ps3cret"] = Raw(b"", seconds=20)
    root = REFUSED if trouble == "refused" else receiver.url
    if trouble == "proxy":
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("HTTP_PROXY", "http://me:t0ps3cret@127.0.0.1:1")
    if trouble == "hangs up":
        monkeypatch.setattr(receiver, "answer", lambda handler, name: None)
    monkeypatch.setattr(Outbox, "timeout", (0.2, 0.05))
    box = Outbox("monitor", f"{root.replace('//', '//me:t0ps3cret@')}/t0ps3cret?token=t0ps3cret")
    box.post(json={})
    box.close()
    said = capsys.readouterr().out
    assert f"monitor {root}: gave up after 4 failures in a row ({cause}" in said
    assert "s3cret" not in said and "me:" not in said


def test_whatever_goes_wrong_is_said_by_the_thread_of_the_run(monkeypatch, capsys):
    def breaks(*words, **named):
        raise RecursionError

    monkeypatch.setattr(outbox.requests.Session, "post", breaks)
    box = Outbox("monitor", REFUSED)
    box.post(json={})
    wait_for(lambda: box._trouble)
    assert capsys.readouterr().out == ""
    box.close()
    assert "RecursionError" in capsys.readouterr().out
    monkeypatch.setattr(threading.Thread, "start", lambda thread: breaks())
    box = Outbox("monitor", REFUSED)
    box.post(json={})
    box.close()
    assert "monitor http://127.0.0.1:1: " in capsys.readouterr().out

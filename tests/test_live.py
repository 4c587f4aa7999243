"""The monitor's server: what it stores, shows and refuses. Over ASGI, and some over sockets."""

import asyncio
import base64
import contextlib
import errno
import io
import json
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import keras
import pytest
import requests
from PIL import Image

from carcls.desk.live import load, serve, server, store
from carcls.desk.live.server import make_app
from carcls.desk.live.store import Store, Tail, append
from carcls.desk.live.summary import Run
from carcls.errors import ConfigError

TOKEN = "a-token_of-24-bytes-or-so"
RUN = "0123abcd"
SLOW = bool(os.environ.get("CARCLS_SLOW"))


def event(number: int = 1, kind: str = "epoch", run: str = RUN, **values: object) -> dict:
    return {"id": f"{run}.0001.{number}", "kind": kind, "at": 1000.0 + number, **values}


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Monitor:
    """The application, asked without a socket."""

    folder: Path
    followed: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(self.folder, self.followed)
        self.app, self.live = make_app(self.store, TOKEN)

    def ask(self, method: str, path: str, *chunks: bytes, **headers: str) -> Reply:
        return asyncio.run(self.ask_async(method, path, *chunks, **headers))

    def post(self, value: object, path: str = "", **headers: str) -> Reply:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask("POST", f"/{TOKEN}{path}", body, **headers)

    async def ask_async(self, method: str, path: str, *chunks: bytes, **headers: str) -> Reply:
        path, _, query = path.partition("?")
        waiting, sent = list(chunks) or [b""], []

        async def receive() -> dict:
            if not waiting:
                await asyncio.sleep(3600)
            body = waiting.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(waiting)}

        async def send(message: dict) -> None:
            sent.append(message)

        names = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
        scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}}
        scope |= {"http_version": "1.1", "method": method, "path": path, "headers": names}
        scope |= {"query_string": query.encode("utf-8", "replace"), "root_path": ""}
        await self.app(scope, receive, send)
        head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], head, b"".join(m.get("body", b"") for m in sent[1:]))

    def lines(self, run: str = RUN) -> list[dict]:
        text = (self.folder / run / "progress.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def told(self, runs: str = "", seconds: float = 0.3, **headers: str) -> list[tuple[str, str]]:
        """(event's name, data) of a stream that is closed after some time; at most, ids."""
        return [(name, data) for name, data, _ in self.stream(runs, seconds, **headers)]

    def stream(self, runs: str, seconds: float, **headers: str) -> list[tuple[str, str, str]]:
        async def read() -> Reply:
            asyncio.get_running_loop().call_later(seconds, self.live.close)
            await self.live.read_all()
            return await self.ask_async("GET", f"/{TOKEN}/events?runs={runs}", **headers)

        text = asyncio.run(read()).body.decode()
        self.live.is_closing = False
        return [parsed for block in text.split("\n\n") if (parsed := parse_block(block))[0]]

    def ids(self, runs: str = RUN, **headers: str) -> list[str]:
        """Of the events that a new stream shows."""
        return [
            i for name, data in self.told(runs, **headers) if name == "lines" for i in ids(data)
        ]


def parse_block(block: str) -> tuple[str, str, str]:
    fields: dict[str, list[str]] = {}
    for line in block.splitlines():
        name, _, value = line.partition(": ")
        fields.setdefault(name, []).append(value)
    return tuple("\n".join(fields.get(name, [])) for name in ("event", "data", "id"))


def ids(data: str) -> list[str]:
    return [json.loads(line)["id"] for line in data.splitlines()]


@pytest.fixture
def monitor(tmp_path: Path) -> Monitor:
    return Monitor(tmp_path / "monitor")


@contextlib.contextmanager
def listening(monitor: Monitor) -> Iterator[str]:
    """The address of the same application at a socket, served by a thread."""
    sock = serve._listen("127.0.0.1", 0)
    running = serve._Server(serve._config(monitor.app), monitor.live)
    thread = threading.Thread(target=running.run, args=([sock],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/{TOKEN}"
    finally:
        running.should_exit = True
        thread.join(5)
        assert not thread.is_alive()


def jpeg(width: int = 32, height: int = 24, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, kind)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A small JPEG whose head claims another size."""
    content = jpeg()
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", side, side) + content[at + 4 :]


def picture(content: bytes, name: str = "errors", number: int = 1) -> dict:
    return event(number, "picture", name=name, jpeg=base64.b64encode(content).decode())


# --- Who gets in, and what every answer has -------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        f"/{TOKEN}x/",
        f"/{TOKEN[:-1]}/",
        "//",
        f"//{TOKEN}/",
        "/ü/",
        "/\udcff",
        f"/{TOKEN}\0/",
    ],
)
def test_nothing_is_there_without_the_token(monitor, path, monkeypatch):
    compared = []

    def compare(given, secret):
        compared.append(type(given))
        return real(given, secret)

    real = server.hmac.compare_digest
    monkeypatch.setattr(server.hmac, "compare_digest", compare)
    for method in ("GET", "POST"):
        assert monitor.ask(method, path, b'{"epoch": 0}').status == 404
    assert compared == [bytes, bytes] and not monitor.folder.exists()


def test_every_answer_keeps_scripts_frames_and_caches_out(monitor):
    asked = [
        ("GET", "/page/uplot.js"),
        ("POST", "/"),
        ("GET", "/nothing"),
        ("PUT", "/"),
        ("GET", ""),
    ]
    replies = [monitor.ask(method, f"/{TOKEN}{path}") for method, path in asked]
    replies.append(monitor.ask("GET", "/wrong/"))
    assert [reply.status for reply in replies] == [200, 400, 404, 405, 307, 404]
    for reply in replies:
        assert reply.headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "name", ["../server.py", "..%2fserver.py", "uplot.LICENSE", "\0", "", "a/b"]
)
def test_only_the_parts_of_the_page_are_served(monitor, name):
    assert monitor.ask("GET", f"/{TOKEN}/page/{name}").status == 404


# --- Posts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/", "/publish/epoch/end/"])
def test_a_posted_event_is_a_line_of_its_run(monitor, path):
    before = time.time()
    assert monitor.post(event(name="<script>", loss=0.5), path).status == 204
    (line,) = monitor.lines()
    assert before - 1 < line.pop("received") < time.time() + 1
    assert line == event(name="<script>", loss=0.5)


def test_an_event_may_come_in_a_form(monitor):
    form = "application/x-www-form-urlencoded"
    body = urlencode({"data": json.dumps(event(1, name="ü&="))}).encode()
    assert monitor.post(body, content_type=form).status == 204
    assert monitor.post(event(2), content_type=form).status == 204  # curl -d '{…}'
    assert [line["id"] for line in monitor.lines()] == [event(1)["id"], event(2)["id"]]
    assert monitor.lines()[0]["name"] == "ü&="


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"id": 1, "kind": "epoch"}',
        b'{"id": "../../x", "kind": "epoch"}',
        b'{"id": "0123abcd.0001.1"}',
        b'{"id": "0123abcd.0001.1\\n", "kind": "epoch"}',
        b'{"id": "0123ABCD.0001.1", "kind": "epoch"}',
        '{"id": "0123abcd.0001.١", "kind": "epoch"}'.encode(),
        b'{"id": "0123abcd.0001.1", "kind": ["epoch"]}',
        b'{"epoch": "1"}',
        b'{"epoch": true}',
        b'{"epoch": -1}',
        b'{"epoch": 0.5}',
        b'{"epoch": NaN}',
        b'{"epoch": ' + b"9" * 5000 + b"}",
        b'{"epoch": ' + b"9" * 400 + b"}",
        b'{"epoch": 1e999}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"epoch": 0} x',
        b'{"epoch": 0, "x": "\xff"}',
        json.dumps({"epoch": 0}).encode("utf-16"),
        b"data=%ff",
        b"a&" * 1000,
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
def test_what_is_no_event_is_refused_with_a_line(monitor, body, kind):
    reply = monitor.post(body, content_type=kind)
    assert reply.status == 400
    assert len(reply.body.splitlines()) == 1 and reply.headers["content-type"].startswith(
        "text/plain"
    )
    assert not monitor.folder.exists()


def test_what_is_stored_is_json_for_a_browser(monitor):
    body = (
        b'{"id": "0123abcd.0001.1", "kind": "epoch", "kind": "step", "loss": NaN, "a": -Infinity,'
    )
    body += b' "b": 1e999, "c": [Infinity], "s": "\\ud800", "n": 1' + b"0" * 400 + b"}"
    assert monitor.post(body).status == 204
    raw = (monitor.folder / RUN / "progress.jsonl").read_bytes()
    assert raw.isascii()
    line = json.loads(raw, parse_constant=pytest.fail)
    assert (line["kind"], line["loss"], line["a"], line["b"], line["c"]) == (
        "step",
        None,
        None,
        None,
        [None],
    )
    assert monitor.ids() == [f"{RUN}.0001.1"]


def test_a_request_is_counted_while_it_is_read(monitor):
    most = server.BODY
    padded = event(text="x" * (most - len(json.dumps(event(text="")))))
    assert len(json.dumps(padded)) == most
    assert monitor.post(padded).status == 204
    assert monitor.post(json.dumps(padded).encode() + b" ").status == 413
    taken = []

    def endless():
        while True:
            taken.append(1)
            assert len(taken) < 1000
            yield b" " * 1000

    class Chunks(list):
        source = endless()

        def pop(self, at):
            return next(self.source)

    async def ask() -> list:
        chunks, sent = Chunks([1]), []

        async def receive():
            return {"type": "http.request", "body": chunks.pop(0), "more_body": True}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": f"/{TOKEN}/", "query_string": b""}
        headers = [(b"content-length", b"5")]  # a lie
        await monitor.app({**scope, "headers": headers, "root_path": ""}, receive, send)
        return sent

    assert asyncio.run(ask())[0]["status"] == 413
    assert len(taken) <= most // 1000 + 2


def test_a_slow_body_is_cut_off(monitor, monkeypatch):
    monkeypatch.setattr(server, "BODY_S", 0.05)

    async def ask() -> list:
        sent = []

        async def receive():
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": b" ", "more_body": True}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": f"/{TOKEN}/", "query_string": b""}
        await monitor.app({**scope, "headers": [], "root_path": ""}, receive, send)
        return sent

    assert asyncio.run(ask())[0]["status"] == 408


def test_posts_have_a_rate(monitor, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(server.time, "monotonic", lambda: clock[0])
    live = server.Live(monitor.store)
    assert sum(live.may_post() for _ in range(1000)) == server.BURST
    clock[0] += 1  # at a time: what fifty runs need comes back
    assert sum(live.may_post() for _ in range(1000)) == server.RATE >= 4 * load.SENDERS
    monkeypatch.setattr(monitor.live, "may_post", lambda: False)
    assert monitor.post(event()).status == 429


# --- Keras's own monitor --------------------------------------------------------------------------


def test_epochs_without_ids_get_them(monitor):
    for epoch in (0, 1, 2, 0):
        assert monitor.post({"epoch": epoch, "loss": 1.0, "id": 7, "kind": {}}).status == 204
    for epoch, path in ((0, "?run=mine"), (1, ""), (1, "?run=mine")):
        assert monitor.post({"epoch": epoch}, path).status == 204
    runs = monitor.store.runs().values()
    assert sorted((run.name, run.epoch) for run in runs) == [
        ("keras", 2),
        ("keras", 3),
        ("mine", 2),
    ]
    first = next(run.run for run in runs if run.epoch == 3)
    lines = monitor.lines(first)
    assert [line["kind"] for line in lines] == ["start", "epoch", "epoch", "epoch"]
    assert [line.get("epoch") for line in lines] == [None, 1, 2, 3]
    assert len({line["id"] for line in lines}) == 4


def test_a_script_goes_on_with_its_run_after_the_server_was_started_again(monitor):
    monitor.post({"epoch": 0})
    again = Monitor(monitor.folder)
    again.store.poll()
    again.post({"epoch": 1})
    assert [run.epoch for run in again.store.runs().values()] == [2]


def test_a_server_is_there_before_it_has_read_all_and_knows_every_run(monitor, monkeypatch):
    other = "ffffffff"
    for number in range(100):
        monitor.post({"epoch": number})
        monitor.post(event(number, run=other))
    monkeypatch.setattr(store, "BLOCK", 1000)
    again = Monitor(monitor.folder)

    async def start() -> None:
        waiting = [{"type": "lifespan.startup"}]

        async def receive() -> dict:
            return waiting.pop() if waiting else await asyncio.sleep(3600)

        async def send(message: dict) -> None:
            said.append(message["type"])

        said: list[str] = []
        serving = asyncio.create_task(again.app({"type": "lifespan"}, receive, send))
        while not said:
            await asyncio.sleep(0)
        serving.cancel()

    asyncio.run(start())
    runs = again.store.runs()
    assert len(runs) == 2 and all(0 < run.version < 20 for run in runs.values())
    # A script goes on nevertheless.
    assert again.post({"epoch": 100}).status == 204
    (keras_run,) = (run for run in again.store.runs().values() if run.run != other)
    assert keras_run.epoch == 101
    assert len({line["id"] for line in again.lines(keras_run.run)}) == 102
    assert again.ids(other) == [event(number, run=other)["id"] for number in range(100)]


@pytest.mark.parametrize("send_as_json", [True, False])
def test_keras_remote_monitor_itself(monitor, send_as_json):
    with listening(monitor) as address:
        root, path = address, "/publish/epoch/end/?run=b"
        for callback in (
            keras.callbacks.RemoteMonitor(root, send_as_json=send_as_json),
            keras.callbacks.RemoteMonitor(root, path=path, send_as_json=send_as_json),
        ):
            for epoch in range(3):
                callback.on_epoch_end(
                    epoch, {"loss": 0.5 / (epoch + 1), "val_accuracy": 0.25 * epoch}
                )
    runs = [run.shown(0) for run in monitor.store.runs().values()]
    assert sorted((run["name"], run["best"]) for run in runs) == [("b", 0.5), ("keras", 0.5)]


# --- Room -----------------------------------------------------------------------------------------


def test_a_folder_full_of_runs_takes_no_more(monitor, monkeypatch):
    monkeypatch.setattr(store, "RUNS", 2)
    replies = [monitor.post(event(run=f"{number:08x}")).status for number in range(4)]
    assert replies == [204, 204, 507, 507]
    assert monitor.post({"epoch": 0}).status == 507
    assert monitor.post(event(2, run="00000001")).status == 204  # one that is there goes on
    assert len(list(monitor.folder.iterdir())) == 2


def test_a_run_has_so_many_bytes(monitor, monkeypatch):
    monkeypatch.setattr(store, "RUN_BYTES", 2000)
    replies = [monitor.post(event(number, x="y" * 300)) for number in range(1, 10)]
    statuses = [reply.status for reply in replies]
    assert set(statuses) == {204, 507} and statuses == sorted(statuses)
    assert (monitor.folder / RUN / "progress.jsonl").stat().st_size <= 2000
    assert b"\n" not in replies[-1].body


@pytest.mark.parametrize("part", [0, 40])
def test_a_full_disk_is_said_and_recovered_from(monitor, monkeypatch, part):
    write, full = os.write, [True]

    def writes(file, data):
        if not full[0]:
            return write(file, data)
        if len(data) > part and part and not torn:
            torn.append(1)
            return write(file, data[:part])
        raise OSError(errno.ENOSPC, "No space left on device")

    torn: list = []
    assert monitor.post(event(1)).status == 204
    monkeypatch.setattr(os, "write", writes)
    reply = monitor.post(event(2))
    assert reply.status == 507 and b"No space" in reply.body
    full[0] = False
    assert monitor.post(event(3)).status == 204
    assert monitor.ids() == [event(1)["id"], event(3)["id"]]
    assert Monitor(monitor.folder).ids() == [event(1)["id"], event(3)["id"]]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_another_trouble_of_the_disk_is_said(monitor, monkeypatch, number):
    def fails(*_, **named):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fails)
        assert monitor.post(event()).status == 503
        patch.setattr(Path, "open", fails)
        assert monitor.post(picture(jpeg())).status in (503, 507)
    assert monitor.post(event()).status == 204


def test_concurrent_posts_of_a_run_keep_whole_lines(monitor):
    other = Store(monitor.folder)  # a second server on the same folder

    def add(number):
        events = (event(number, text="x" * 20_000), time.time())
        append(monitor.folder, *events)
        return other.poll()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(1, 101)))
    numbers = [int(line["id"].split(".")[2]) for line in monitor.lines()]
    assert sorted(numbers) == list(range(1, 101))


# --- Pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["errors", "../../../x", "/etc/passwd", "<script>", "ü" * 300, "a\0b", "..", "", "\ud800"],
)
def test_a_posted_picture_is_kept_in_its_run_whatever_it_is_called(monitor, tmp_path, name):
    assert monitor.post(picture(jpeg(), name)).status == 204
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    kept = next(path for path in files if path.suffix == ".jpg")
    assert kept.parent == monitor.folder / RUN / "pictures" and len(files) == 2
    assert "jpeg" not in monitor.lines()[0]
    if name in ("errors", "<script>"):
        reply = monitor.ask("GET", f"/{TOKEN}/pictures/{RUN}/{name}")
        assert (reply.status, reply.headers["content-type"]) == (200, "image/jpeg")
        assert reply.body == jpeg()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<svg onload=x>",
        jpeg(kind="PNG"),
        jpeg()[:200],
        b"\xff\xd8\xff" + b"x" * 99,
        bomb(2001),
        bomb(12_000),
        bomb(65_535),
    ],
)
def test_what_is_no_small_jpeg_is_refused(monitor, content):
    assert monitor.post(picture(content)).status == 400
    assert not monitor.folder.exists()


def test_a_jpeg_of_a_thousand_scans_does_not_stop_the_server(monitor):
    file = io.BytesIO()
    Image.new("L", (2000, 2000)).save(file, "JPEG", progressive=True, quality=10)
    content = file.getvalue()
    scan = min((b"\xff\xda" + part for part in content[:-2].split(b"\xff\xda")[1:]), key=len)
    began = time.perf_counter()
    assert monitor.post(picture(content[:-2] + scan * 1000 + b"\xff\xd9")).status == 400
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("value", [1, [], {"a": 1}, "no base64!", "ü"])
def test_a_jpeg_of_another_type_is_refused(monitor, value):
    assert monitor.post(event(1, "picture", name="x", jpeg=value)).status == 400


def test_pictures_of_a_run_are_bounded(monitor, monkeypatch):
    monkeypatch.setattr(store, "PICTURES", 2)
    replies = [monitor.post(picture(jpeg(), name, n)).status for n, name in enumerate("abca", 1)]
    assert replies == [204, 204, 507, 204]


def test_a_followed_folder_shows_the_pictures_that_it_names(tmp_path):
    out, secret = tmp_path / "out", tmp_path / "secret.png"
    out.mkdir()
    for path in (secret, out / "real.png", out / "folder" / "b.png"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(kind="PNG"))
    (out / "link.png").symlink_to(secret)
    (out / "loop.png").symlink_to("loop.png")
    (out / "page.png").write_text("<script>alert(1)</script>")
    os.mkfifo(out / "pipe.png")
    shown = ["real.png", "folder/b.png"]
    refused = [
        "link.png",
        "loop.png",
        "page.png",
        "pipe.png",
        "../secret.png",
        str(secret),
        "none",
        "folder",
    ]
    refused += ["a\0b", "\ud800", "x" * 5000, "", "."]
    events = [event(n, "picture", name=str(n), file=file) for n, file in enumerate(shown + refused)]
    (out / "progress.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    monitor = Monitor(tmp_path / "monitor", [out])
    monitor.store.poll()
    replies = [monitor.ask("GET", f"/{TOKEN}/pictures/{RUN}/{n}") for n in range(len(events))]
    assert [reply.status for reply in replies] == [200] * len(shown) + [404] * len(refused)
    assert replies[0].headers["content-type"] == "image/png"
    assert monitor.ask("GET", f"/{TOKEN}/pictures/{RUN}/real.png").status == 404  # no event has it


def test_a_picture_that_nobody_reads_takes_little_memory(tmp_path):
    content = jpeg(kind="PNG") + bytes(1 << 20)
    (tmp_path / "a.png").write_bytes(content)
    write(tmp_path / "progress.jsonl", event(1, "picture", name="a", file="a.png"))
    monitor, parts = Monitor(tmp_path / "monitor", [tmp_path]), list[bytes]()
    monitor.store.poll()

    async def receive() -> dict:
        return await asyncio.sleep(3600)

    async def send(message: dict) -> None:  # the server waits for its end
        parts.append(message.get("body", b""))

    scope = {"type": "http", "method": "GET", "path": f"/{TOKEN}/pictures/{RUN}/a", "headers": []}
    asyncio.run(monitor.app({**scope, "query_string": b"", "root_path": ""}, receive, send))
    assert b"".join(parts) == content and max(map(len, parts)) <= 64 << 10


# --- Files that grow ------------------------------------------------------------------------------


def write(path: Path, *events: object, mode: str = "a", end: str = "\n") -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open(mode) as file:
        file.write("".join((e if isinstance(e, str) else json.dumps(e)) + end for e in events))


def test_a_followed_folder_has_the_runs_of_its_file_one_after_the_other(tmp_path):
    monitor = Monitor(tmp_path / "monitor", [tmp_path / "out"])
    path, other = tmp_path / "out" / "progress.jsonl", "ffffffff"
    assert not monitor.store.poll()  # not there yet
    write(path, event(1, "start", name="first"), "no event", event(2))
    write(path, event(1, "start", run=other), event(2, run=other))
    assert monitor.ids(RUN) == [f"{RUN}.0001.1", f"{RUN}.0001.2"]
    write(path, event(3, run=other))
    assert monitor.ids(f"{other}") == [f"{other}.0001.{n}" for n in (1, 2, 3)]
    runs = monitor.store.runs()
    assert {name: (run.name, run.source) for name, run in runs.items()} == {
        RUN: ("first", "folder"),
        other: ("out", "folder"),
    }
    monitor.post(event(9))  # posted, too: its own folder has more
    assert monitor.store.runs()[RUN].source == "folder"


def test_a_half_written_line_is_shown_once_it_is_whole(tmp_path):
    tail, text = Tail(tmp_path / "progress.jsonl", "folder", "out"), json.dumps(event(2))
    write(tail.path, event(1), text[:20], end="")
    write(tail.path, "", mode="w", end="")
    write(tail.path, event(1))
    write(tail.path, text[:20], end="")
    assert tail.read() and not tail.read()
    assert ids("\n".join(tail.lines(RUN, 0)[0])) == [event(1)["id"]]
    write(tail.path, text[20:])
    assert tail.read() and not tail.read()
    assert len(tail.lines(RUN, 0)[0]) == 2


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    monitor, path = Monitor(tmp_path / "monitor", [tmp_path]), tmp_path / "progress.jsonl"
    write(path, event(1), event(2))
    monitor.store.poll()
    path.unlink()
    monitor.store.poll()
    assert monitor.store.runs() == {}
    write(path, event(1, run="ffffffff"))
    monitor.store.poll()
    assert list(monitor.store.runs()) == ["ffffffff"]


def test_lines_that_a_browser_cannot_read_are_left_out(tmp_path):
    path = tmp_path / "progress.jsonl"
    nan = json.dumps(event(2, loss=float("nan")))
    deep = json.dumps(event(3))[:-1] + ', "x": ' + "[" * 50_000 + "]" * 50_000 + "}"
    long = json.dumps(event(4, x="y" * 3 * store.BLOCK))
    carriage = json.dumps(event(5)).replace(", ", ",\r")
    write(path, event(1), nan, deep, long, "\n\n", "null", '"id"', carriage, event(6))
    monitor = Monitor(tmp_path / "monitor", [tmp_path])
    assert monitor.ids() == [event(n)["id"] for n in (1, 5, 6)]


def test_memory_does_not_grow_with_a_run(tmp_path):
    path = tmp_path / "progress.jsonl"
    write(path, *(event(number, "step", text="x" * 1000) for number in range(1, 4001)))  # 4 MB
    tracemalloc.start()
    try:
        monitor = Monitor(tmp_path / "monitor", [tmp_path])
        while monitor.store.poll():
            pass
        tail, position, count = monitor.store.tail_of(RUN), 0, 0
        while position < tail.ends[RUN]:
            lines, position = tail.lines(RUN, position)
            assert sum(map(len, lines)) <= store.BLOCK
            count += len(lines)
        assert count == 4000
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


# --- Streams --------------------------------------------------------------------------------------


def test_a_stream_tells_of_all_runs_and_of_the_events_of_those_asked_for(monitor):
    for number in (1, 2):
        monitor.post(event(number))
        monitor.post(event(number, run="ffffffff"))
    told = monitor.told(RUN)
    assert [name for name, _ in told] == ["runs", "lines"]
    assert {run["run"] for run in json.loads(told[0][1])} == {RUN, "ffffffff"}
    assert ids(told[1][1]) == [event(1)["id"], event(2)["id"]]


def test_a_stream_goes_on_where_it_ended(monitor):
    other = "ffffffff"
    monitor.post(event(1))
    last = monitor.stream(f"{RUN},{other}", 0.2)[-1][2]
    assert last.count(":") == 2
    monitor.post(event(2))
    monitor.post(event(1, run=other))
    got = monitor.ids(f"{RUN},{other}", last_event_id=last)
    assert got == [event(2)["id"], event(1, run=other)["id"]]


@pytest.mark.parametrize(
    "last", ["x", f"{RUN}:7", f"{RUN}:999999", f"{RUN}:-1", "aaaaaaaa:3", f"{RUN}:0"]
)
def test_a_position_that_cannot_be_starts_at_the_beginning(monitor, last):
    for number in (1, 2):
        monitor.post(event(number))
    assert monitor.ids(last_event_id=last) == [event(1)["id"], event(2)["id"]]


def test_an_event_that_comes_is_told_at_once(monitor):
    async def follow() -> float:
        asyncio.get_running_loop().call_later(1.0, monitor.live.close)
        stream = server._tell(monitor.live, {RUN: 0})
        await anext(stream), await anext(stream)
        asyncio.get_running_loop().call_later(
            0.1, lambda: (monitor.store.add(event()), monitor.live.wake())
        )
        start = time.monotonic()
        async for text in stream:
            if "event: lines" in text:
                return time.monotonic() - start
        return float("inf")

    assert asyncio.run(follow()) < 0.6


@pytest.mark.parametrize("runs", ["x", "0123abc", "../../etc", ",".join(["0123abcd"] * 65)])
def test_what_is_no_run_cannot_be_asked_for(monitor, runs):
    assert monitor.ask("GET", f"/{TOKEN}/events?runs={runs}").status == 400


# --- Summaries ------------------------------------------------------------------------------------


def summary(*events: dict, now: float = 0.0) -> dict:
    run = Run(RUN, "default", "posted")
    for each in events:
        run.add(each)
    return run.shown(now)


def test_a_summary_says_how_a_run_stands():
    start = event(1, "start", name="cars", metric="accuracy")
    epochs = [event(n, "epoch", val_accuracy=v) for n, v in ((11, 0.5), (51, 0.8), (91, 0.7))]
    got = summary(start, *epochs, now=5.0)
    assert got["name"] == "cars" and got["state"] == "running" and got["metric"] == "accuracy"
    assert (got["best"], got["usual_s"], got["now"]) == (0.8, 40.0, 5.0)
    failed = summary(start, event(2, "failed", error="out of memory"))
    assert (failed["state"], failed["error"], failed["usual_s"]) == (
        "failed",
        "out of memory",
        100.0,
    )
    ended = summary(start, event(2, "submission", score=0.6), event(3, "end", validation_score=0.7))
    assert (ended["state"], ended["score"]) == ("ended", 0.7)
    assert summary(start, event(2, "failed"), event(3, "start"))["state"] == "running"


def test_clocks_that_differ_do_not_matter():
    # Its clock is an hour behind; the second event took 3 s less to come than the others.
    came = [4600.0 + n + late for n, late in ((1, 5.0), (2, 2.0), (9, 5.0))]
    events = [event(n, received=at) for n, at in zip((1, 2, 9), came, strict=True)]
    got = summary(*events)
    assert got["last"] == pytest.approx(4600 + 9 + 2) and got["began"] == pytest.approx(
        4600 + 1 + 2
    )


def test_a_clock_that_is_set_on_meanwhile_does_not_matter_for_long():
    before = [event(n, received=float(n)) for n in range(1, 100)]
    after = [event(n, received=n + 3600.0) for n in range(100, 200)]
    assert summary(*before, *after)["last"] == pytest.approx(199 + 3600)


def test_a_run_that_goes_on_is_newer_than_one_that_began_meanwhile():
    first = [event(1, "start"), event(2)]
    assert summary(*first)["started"] == summary(*first)["began"]
    later = {**event(3, "start"), "at": 5000.0}
    again = summary(*first, later)
    assert (again["started"], again["began"]) == (5000.0, summary(*first)["began"])


ODD = [None, True, -1, 0.5, 1e308, 10**400, "", "text", "\ud800", "<script>", [], [1], {}, {"a": 1}]
KINDS = ["start", "step", "epoch", "submission", "verdict", "picture", "failed", "end", "new"]
KEYS = ["at", "received", "name", "identity", "metric", "epoch", "val_accuracy", "score", "error"]
KEYS += ["validation_score", "file", "kind", "stages", "networks"]


def test_summaries_bear_any_value_under_any_name():
    run, count = Run(RUN, "default", "posted"), 0
    for kind in KINDS:
        for key in KEYS:
            for value in ODD:
                count += 1
                run.add({**event(count, kind), key: value})
                json.dumps(run.shown(0.0), allow_nan=False)
    assert run.version == count


# --- At sockets -----------------------------------------------------------------------------------


def say(address: str, data: bytes, seconds: float = 5.0) -> bytes:
    """What comes back, up to the end of the connection."""
    parts, got = urlsplit(address), b""
    with socket.create_connection((parts.hostname, parts.port), seconds) as sock:
        sock.sendall(data)
        while True:
            try:
                part = sock.recv(1 << 16)
            except ConnectionResetError:
                part = b""
            if not part:
                return got
            got += part


def test_whoever_sends_slowly_or_lies_is_cut_off(monitor, monkeypatch):
    monkeypatch.setattr(serve, "HEAD_S", 0.2)
    monkeypatch.setattr(server, "BODY_S", 0.2)
    post = f"POST /{TOKEN} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
    with listening(monitor) as address:
        start = time.monotonic()
        assert say(address, b"") == b""
        assert say(address, b"GET / HT") == b""
        assert b" 408 " in say(address, post + b"Content-Length: 9\r\n\r\n{")
        assert b" 413 " in say(address, post + b"Content-Length: 99999\r\n\r\n" + b"x" * 70_000)
        chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
        assert b" 413 " in say(address, post + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3)
        for junk in (b"\0\r\n\r\n", post + b"Content-Length: -1\r\n\r\n", post + b"x" * 99_999):
            assert b" 400 " in say(address, junk)
        assert time.monotonic() - start < 4
        assert requests.post(address, json=event(), timeout=5).status_code == 204


@pytest.mark.parametrize("path", ["/wrong", f"/{TOKEN}"])
def test_a_body_that_is_refused_is_not_read_on(monitor, path):
    chunks = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with listening(monitor) as address:
        start = time.monotonic()
        assert say(address, head + 3 * chunks)[9:12] in (b"404", b"413")
        assert time.monotonic() - start < 3  # and not HEAD_S
        assert requests.post(f"{address}x", json=event(), timeout=5).status_code == 404


def test_open_streams_are_closed_at_the_end(monitor):
    with listening(monitor) as address:
        parts = urlsplit(address)
        streams = [socket.create_connection((parts.hostname, parts.port), 5) for _ in range(3)]
        for stream in streams:
            stream.sendall(f"GET {parts.path}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert b"200 OK" in stream.recv(1000)
        start = time.monotonic()
    assert time.monotonic() - start < 2
    for stream in streams:
        with stream:
            told = b"".join(iter(lambda: stream.recv(1000), b""))  # noqa: B023
            assert told.endswith(b"0\r\n\r\n")  # ended, not broken off


@contextlib.contextmanager
def process(folder: Path, *args: str) -> Iterator[tuple[subprocess.Popen, list[str]]]:
    """`carcls monitor` itself, and the lines that it has printed."""
    command = [sys.executable, "-m", "carcls", "monitor", "--folder", str(folder), *args]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as started:
        try:
            yield started, [started.stdout.readline() for _ in range(4)]
        finally:
            started.kill()


def test_a_killed_server_has_all_that_it_acknowledged(tmp_path):
    acknowledged, failures, is_done = [], [], threading.Event()

    def send(address: str) -> None:
        number = 0
        while not is_done.is_set():
            number += 1
            try:
                if requests.post(address, json=event(number), timeout=5).status_code == 204:
                    acknowledged.append(event(number)["id"])
            except requests.RequestException:
                failures.append(number)
                time.sleep(0.02)

    with process(tmp_path, "--port", "0") as (first, printed):
        name, page = printed[0].split()
        address, port = page.rstrip("/"), str(urlsplit(page).port)
        assert name == "page" and stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
        sender = threading.Thread(target=send, args=(address,))
        sender.start()
        with requests.get(f"{page}events?runs={RUN}", stream=True, timeout=5) as stream:
            lines = stream.iter_lines()
            last = next(line for line in lines if line.startswith(b"id: "))[4:].decode()
            shown = {json.loads(next(lines)[6:])["id"]}
        first.kill()
        first.wait()
    while not failures:
        time.sleep(0.01)
    with process(tmp_path, "--port", port) as (second, printed):
        assert printed[0].split()[1] == page
        before = len(acknowledged)
        while len(acknowledged) < before + 5:
            time.sleep(0.01)
        is_done.set()
        sender.join()
        text = ""
        with requests.get(
            f"{page}events?runs={RUN}", stream=True, timeout=5, headers={"Last-Event-ID": last}
        ) as stream:
            for line in stream.iter_lines(decode_unicode=True):
                text += line + "\n"
                if acknowledged[-1] in line:
                    break
        got = ids("\n".join(x[6:] for x in text.splitlines() if x.startswith('data: {"id"')))
        size = int(last.split(":")[1])
        kept = (tmp_path / RUN / "progress.jsonl").read_bytes()
        told = [json.loads(line)["id"] for line in kept[:size].splitlines()]
        assert shown <= set(told) and not set(told) & set(got)  # it goes on
        assert told + got == acknowledged[: len(told + got)]
        with process(tmp_path / "other", "--port", port) as (third, _):
            assert third.wait(10) == 2
            (line,) = third.stderr.read().splitlines()
            assert port in line and "in use" in line
        second.send_signal(signal.SIGINT)
        assert second.wait(5) == 0 and second.stderr.read() == ""


def test_sigterm_ends_it_quietly_and_another_host_is_said_aloud(tmp_path):
    with process(tmp_path, "--port", "0", "--host", "0.0.0.0") as (started, printed):
        assert printed[0].startswith("page     http://127.0.0.1:")
        assert "encrypted" in started.stdout.readline()
        started.terminate()
        assert started.wait(5) == 0 and started.stderr.read() == ""


def test_the_token_stays_and_is_checked(tmp_path):
    with ThreadPoolExecutor(4) as pool:  # servers that start at once
        tokens = set(pool.map(lambda _: serve.read_token(tmp_path), range(4)))
    assert len(tokens) == 1 and len(tokens.pop()) >= 32
    (tmp_path / "token").write_text("short")
    with pytest.raises(ConfigError, match="token"):
        serve.read_token(tmp_path)


@pytest.mark.parametrize(
    "host, port", [("127.0.0.1", 70_000), ("127.0.0.1", -1), ("a host", 0), ("192.0.2.1", 0)]
)
def test_an_address_that_cannot_be_is_named(host, port):
    with pytest.raises(ConfigError, match=str(port)):
        serve._listen(host, port)


def test_without_the_extra_it_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    spec = util.spec_from_file_location("another_server", server.__file__)
    with pytest.raises(ConfigError, match="make .venv/monitor"):
        spec.loader.exec_module(util.module_from_spec(spec))


def test_nothing_is_lost_under_load(capsys):
    measured = load.main(0.02, senders=5, readers=4)
    assert measured.refused == measured.lost() == 0
    assert len(measured.delays) >= 5 and max(measured.delays) < 2
    assert "0 lost" in capsys.readouterr().out


# --- Malformed requests ---------------------------------------------------------------------------

IDS = [f"{RUN}.0001.1", "ffffffff.0000.7", "00000001.0001.2", "../../x.0001.1", f"{RUN}.0001.-1"]
NAMES = [*KEYS, "id", "jpeg", "loss", "", "<b>", "é\ud800"]
JUNK = [b"NaN", b'"', b"}", b"\\ud800", b"\xff", b"\0", b"x" * 70_000, b"[" * 5000, b"1e999", b", "]
PATHS = ["", "/", "/", "/publish/epoch/end/", "/?run=a", "/?run=%ff&run=", "/?run=../../x", "/\0"]
PATHS += ["", "/"] * 9 + [
    "/page/page.js",
    "/pictures/0123abcd/errors",
    "/pictures/../x",
    "/page/../../x",
    "/ü",
]
METHODS = ["POST"] * 30 + ["GET", "PUT", "HEAD", "", "get"]
TYPES = ["", "application/json", "application/x-www-form-urlencoded", "multipart/form-data", "ÿ"]


def odd_value(rng: random.Random, depth: int = 0) -> object:
    kind = rng.randrange(8 if depth < 3 else 4)
    if kind == 6:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == 7:
        return {rng.choice(NAMES): odd_value(rng, depth + 1) for _ in range(rng.randrange(3))}
    numbers = [rng.uniform(-1, 1), rng.randrange(-3, 9), 10.0 ** rng.randrange(300), float("inf")]
    return rng.choice(ODD + numbers)


def odd_body(rng: random.Random) -> bytes:
    """An event, or nearly one, with odd values; then often something is done to its bytes."""
    event: dict = {rng.choice(NAMES): odd_value(rng) for _ in range(rng.randrange(5))}
    if rng.random() < 0.8:
        event = {"id": rng.choice(IDS), "kind": rng.choice(KINDS), **event}
    if rng.random() < 0.3:
        content = rng.choice([JPEG, JPEG[: rng.randrange(len(JPEG))], rng.randbytes(30)])
        event |= {"kind": "picture", "jpeg": base64.b64encode(content).decode()}
    body = json.dumps(event).encode()
    if rng.random() < 0.1:
        body = urlencode({"data": body}).encode()
    at = rng.randrange(len(body))
    changes = [body] * 5 + [body[:at], body[:at] + rng.choice(JUNK) + body[at:], body * 2]
    return rng.choice([*changes, rng.randbytes(at)])


JPEG = jpeg()


def test_malformed_requests_neither_break_nor_bloat_nor_escape(tmp_path, monkeypatch):
    """2,000 of them; 10,000 with CARCLS_SLOW=1."""
    inside, statuses, rng = tmp_path / "monitor", dict[int, int](), random.Random(0)
    monitor, count = Monitor(inside), 10_000 if SLOW else 2_000
    monkeypatch.setattr(monitor.live, "may_post", lambda: True)
    monkeypatch.setattr(store, "RUN_BYTES", 20_000)
    monkeypatch.setattr(store, "RUNS", 2)
    monkeypatch.setattr(os, "fsync", lambda file: None)

    async def send() -> None:
        for _ in range(count):
            path = f"/{rng.choice([TOKEN] * 19 + ['x'])}{rng.choice(PATHS)}"
            body, parts = odd_body(rng), rng.randrange(1, 4)
            size = len(body) // parts + 1
            chunks = [body[n : n + size] for n in range(0, len(body), size)]
            asked = (rng.choice(METHODS), path)
            reply = await monitor.ask_async(*asked, *chunks, content_type=rng.choice(TYPES))
            statuses[reply.status] = statuses.get(reply.status, 0) + 1
            assert reply.status < 500 or reply.status == 507, (*asked, body, reply)
            runs = monitor.store.runs()
            json.dumps([run.shown(0.0) for run in runs.values()][-3:], allow_nan=False)

    asyncio.run(send())
    print("statuses", sorted(statuses.items()))
    assert {204, 400, 404, 405, 413, 507} <= set(statuses) and statuses[204] > 100
    assert list(tmp_path.iterdir()) == [inside]
    assert len(list(inside.iterdir())) <= 5
    for path in inside.rglob("progress.jsonl"):
        assert path.stat().st_size <= 20_000 and len(list(path.parent.iterdir())) <= 2
        for line in path.read_text().splitlines():
            json.loads(line, parse_constant=pytest.fail)
    assert len(list(inside.rglob("*.jpg"))) <= 5 * store.PICTURES

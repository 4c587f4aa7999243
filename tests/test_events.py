"""Events: their ids over sessions, their size, their pictures, and files that are no progress."""

import base64
import errno
import io
import json
import math
import re
import struct
import threading
import time
import zlib
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from carcls.config import Config
from carcls.train import events, monitor
from carcls.train.events import Events, LogLines

IDENT = re.compile(r"[0-9a-f]{8}\.[0-9a-f]{4}\.\d{1,9}")


def lines(path: Path) -> list[dict]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


class Ear:
    def __init__(self, wants_pictures: bool = False, wants_earlier: bool = False) -> None:
        self.wants_pictures, self.wants_earlier, self.heard = wants_pictures, wants_earlier, []

    def post(self, event: dict) -> None:
        self.heard.append(event)

    def close(self, wait: float) -> None:
        self.heard.append(wait)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "progress.jsonl"


def session(path: Path, identity: str) -> list[str]:
    """The ids of a session's events."""
    told = Events(path, identity, [ear := Ear()])
    told.send("start", identity=identity)
    told.send("end")
    return [event["id"] for event in ear.heard]


def test_a_page_that_was_not_there_is_told_of_earlier_sessions(path):
    first = Events(path, "a")
    first.send("start", identity="a")
    for epoch in (1, 2):
        first.send("epoch", epoch=epoch)
    first.send("step")
    first.send("failed", error="stopped")
    page, phone = Ear(wants_earlier=True), Ear()
    again = Events(path, "a", [page, phone])
    again.send("start", identity="a")
    assert [event["kind"] for event in page.heard] == ["start", "epoch", "epoch", "start"]
    assert [event["kind"] for event in phone.heard] == ["start"]
    assert len(lines(path)) == 6  # nothing is written twice
    assert page.heard[:3] == lines(path)[:3]
    other = Ear(wants_earlier=True)
    Events(path, "b", [other])
    assert other.heard == []


def runs(idents: list[str]) -> list[str]:
    return [ident.partition(".")[0] for ident in idents]


def test_values_of_every_library_are_plain_and_the_same_for_who_listens(path):
    told = Events(path, "", [ear := Ear()])
    tensor, variable = keras.ops.convert_to_tensor(0.5), keras.Variable(3.0)
    numbers = {"loss": math.nan, "rate": np.float32(math.inf), "n": np.int64(3)}
    told.send("epoch", **numbers, accuracy=tensor, v=variable)
    told.send("end", sizes=(np.array([1.5, -math.inf]), Path("a")), best=True, nothing=None)
    told.close(2.5)
    first, second = written = lines(path)
    assert ear.heard == [*written, pytest.approx(2.5, abs=0.1)]
    head = {"kind": "epoch", "id": first["id"], "at": first["at"]}
    assert first == head | {"loss": None, "rate": None, "n": 3, "accuracy": 0.5, "v": 3.0}
    sizes = {"sizes": [[1.5, None], "a"], "best": True, "nothing": None}
    assert second == {"kind": "end", "id": second["id"], "at": second["at"]} | sizes


def test_a_run_keeps_its_name_over_sessions_and_another_one_gets_a_new_one(path):
    first, second = session(path, "a"), session(path, "a")
    other, back = session(path, "b"), session(path, "a")
    every = [*first, *second, *other, *back]
    assert len({*every}) == 8 and all(IDENT.fullmatch(ident) for ident in every)
    assert [ident.rpartition(".")[2] for ident in every] == ["1", "2"] * 4
    assert len({*runs(first), *runs(second)}) == 1
    assert len({*runs(first), *runs(other), *runs(back)}) == 3  # each lies together in the file
    assert [event["id"] for event in lines(path)] == every


def test_without_an_identity_every_session_is_a_run(path):
    assert {*runs(session(path, ""))}.isdisjoint(runs(session(path, "")))


START = b'{"id": "0a0b0c0d.0001.1", "kind": "start", "identity": "a"}\n'


@pytest.mark.parametrize(
    ("content", "goes_on"),
    [
        (START, True),
        (START + b'{"id": "0a0b0c0d.0001.2", "kind": "epo', True),
        (START + b'\xff\x00\xfe\x80 "start" \x1f\n' + b"[" * 100_000 + b'"start"\n5\nnull\n', True),
        (START + START.replace(b'"a"', b'"b"'), False),
        (START + b'{"kind": "start", "time": 0.1}\n', True),  # without an id: of an older version
        (START.replace(b"0a0b0c0d.0001.1", b"../../x.1.1"), False),
        (START.replace(b'"0a0b0c0d.0001.1"', b"[5]"), False),
        (START.replace(b'"a"', b'["a"]'), False),
        (b"\x00" * 1000, False),
        (b"", False),
    ],
)
def test_what_the_file_has_harms_nothing_and_stays(path, content, goes_on):
    path.write_bytes(content)
    idents = session(path, "a")
    assert (runs(idents)[0] == "0a0b0c0d") == goes_on
    assert all(IDENT.fullmatch(ident) for ident in idents)
    assert path.read_bytes().startswith(content)
    after = path.read_bytes().split(b"\n")[-3:-1]
    assert [json.loads(line)["id"] for line in after] == idents


def test_a_folder_in_the_place_of_the_file_makes_way(path):
    (path / "inside").mkdir(parents=True)
    assert len(session(path, "a")) == len(lines(path)) == 2


@pytest.mark.parametrize(
    "values",
    [
        {"reason": "long " * 100_000},
        {"reason": "\N{AUTOMOBILE}" * 10_000, "warnings": ["\0" * 9_000] * 30},
        {"settings": {f"key{n}": {"members": [f"seed={n}"] * 90} for n in range(300)}},
        {"settings": {"k" * 70_000: 1}, "machine": list(range(50_000))},
    ],
)
def test_what_is_too_long_is_cut_and_the_rest_stays(path, values):
    told = Events(path, "", [ear := Ear()])
    told.send("end", **values, score=0.5, made_by="one member", few=["a", {"b": None}])
    (event,), text = ear.heard, path.read_text()
    assert 1000 < len(text) < events.MOST == 60_000
    assert len(events.log_line(event)) < events.MOST
    assert lines(path) == [event] and {*values} < {*event}
    assert (event["kind"], event["score"], event["made_by"]) == ("end", 0.5, "one member")
    assert event["few"] == ["a", {"b": None}] and IDENT.fullmatch(event["id"])
    longest = values.get("reason", "")
    assert not longest or (event["reason"][-1] == "…" and event["reason"][:-1] in longest)


def test_what_fits_is_not_cut(path):
    Events(path).send("verdict", reason="x" * 59_000)
    assert lines(path)[0]["reason"] == "x" * 59_000


def test_a_marked_line_a_piece_in_a_log(path, capsys):
    told = Events(path, "a", [LogLines()])
    told.send("phase", name="größer\n~event")
    (line,) = capsys.readouterr().out.splitlines()
    mark, length, _, text = line.split(" ", 3)
    assert (mark, int(length)) == (events.MARK, len(text)) and line.isascii()
    assert [json.loads(text)] == lines(path)
    told.send("picture", name="errors", caption="Look for labels that are wrong.")
    assert "Look for" not in capsys.readouterr().out  # the log has no picture
    assert "Look for" in path.read_text()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_gets_no_marked_lines(monkeypatch, is_terminal):
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stdout", screen)
    kinds = [type(listener) for listener in monitor.listeners(Config())]
    assert kinds == ([] if is_terminal else [LogLines])


def test_events_of_several_threads_have_ids_and_lines_of_their_own(path):
    told = Events(path, "a", [ear := Ear()])

    def send() -> None:
        for n in range(40):
            told.send("step", done=n)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = lines(path)
    assert [int(event["id"].rpartition(".")[2]) for event in sent] == list(range(1, 241))
    assert ear.heard == sent


def test_kinds_can_be_left_out(path):
    told = Events(path)
    with told.without("epoch"), told.without("early_stop"):
        for kind in ("epoch", "early_stop", "step"):
            told.send(kind)
    told.send("epoch")
    assert [event["kind"] for event in lines(path)] == ["step", "epoch"]


def write_noise(path: Path, height: int, width: int, seed: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    cv2.imwrite(str(path), noise)
    return path


@pytest.mark.parametrize("size", [(1100, 1500), (2, 6000), (30, 40)])
def test_a_picture_is_sent_small_to_those_who_want_it_once(path, size):
    ears = wants, other = Ear(True), Ear()
    told = Events(path, "", ears)
    picture = write_noise(path.parent / "member1" / "curves.png", *size)
    for _ in range(2):
        told.picture(picture, "\N{AUTOMOBILE}" * 1000)
    (event,), (posted,) = other.heard, wants.heard
    assert (event["name"], event["file"]) == ("member1-curves", "member1/curves.png")
    assert lines(path) == [event]
    jpeg = posted.pop("jpeg")
    assert posted == event and len(json.dumps(event)) + len(jpeg) < events.MOST
    content = base64.b64decode(jpeg)
    assert len(content) <= 40_000
    seen = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    scale = max(seen.shape) / max(size)
    assert scale <= 1 and (scale == 1 or len(content) > 25_000 or min(size) < 10)
    assert abs(seen.shape[0] - scale * size[0]) <= 1 and abs(seen.shape[1] - scale * size[1]) <= 1
    write_noise(picture, *size, seed=1)  # drawn anew
    told.picture(picture, "Noise")
    assert len(wants.heard) == 2


def huge_png() -> bytes:
    """Of a header that promises more pixels than OpenCV takes."""
    content = bytearray(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize("content", [b"", b"no picture", huge_png()], ids=["empty", "text", "huge"])
def test_a_picture_that_cannot_be_read_is_sent_without_it(path, content):
    told = Events(path, "", [ear := Ear(True)])
    (path.parent / "a.png").write_bytes(content)
    told.picture(path.parent / "a.png", "?")
    assert lines(path) == ear.heard and ear.heard[0]["file"] == "a.png"


def test_a_picture_that_is_gone_is_not_told_of(path):
    Events(path, "", [ear := Ear(True)]).picture(path.parent / "a.png", "?")
    assert not ear.heard


def test_a_full_disk_is_told_to_who_listens(path, monkeypatch):
    told = Events(path, "", [ear := Ear()])

    def is_full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(Path, "open", is_full)
        told.send("failed", error="the disk is full")
    told.send("end")
    assert [event["kind"] for event in ear.heard] == ["failed", "end"]
    assert [event["kind"] for event in lines(path)] == ["end"]


def test_all_who_listen_finish_in_one_time(path):
    class Slow(Ear):
        def close(self, wait: float) -> None:
            super().close(wait)
            time.sleep(0.3)

    Events(path, "", ears := [Slow(), Slow(), Ear()]).close(1.5)
    assert [ear.heard[0] for ear in ears] == pytest.approx([1.5, 1.2, 1.0], abs=0.1)

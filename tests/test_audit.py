"""What is found odd about files, what is done about it, and which files are the same."""

import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from cases import ODD, Case, encoded, found, jpeg, part, picture, write

from carcls.data import aloud, audit, files, photos, pixels
from carcls.data.headers import JPEG_END
from carcls.data.pixels import read_photo
from carcls.errors import InputError


def test_odd_files_are_found_and_said_what_is_done(tmp_path):
    test = {name: data for name, (data, _, _) in ODD.items()}
    train = {f"train {name}": (k % 2, data) for k, (name, data) in enumerate(test.items())}
    table = Case(tmp_path, train, test).load()
    rows = table.audit[~table.audit["finding"].str.startswith("duplicate")]
    readable = part(table, photos.TEST).set_index("id")["readable"]
    for name, (_, finding, _) in ODD.items():
        assert rows.loc[rows["id"].eq(name), "finding"].tolist() == [finding] * bool(finding), name
        of_train = rows.loc[rows["id"].eq(f"train {name}"), "finding"].tolist()
        assert of_train == [finding] * bool(finding), name
        lost = finding in ("truncated", "unreadable")
        assert (f"train {name}" in set(table.frame["id"])) != lost, name
        assert readable[name] == (finding != "unreadable"), name
    actions = set(rows[["source", "finding", "action"]].itertuples(index=False, name=None))
    assert actions >= {
        ("train", "truncated", "dropped"),
        ("test", "truncated", "decoded as far as it goes"),
        ("test", "unreadable", "predicted from a grey photo"),
        ("test", "EXIF-rotated", "turned upright"),
    }
    size = part(table, photos.TEST).set_index("id").loc["turned.jpg"]
    assert (size["height"], size["width"]) == (64, 48)
    lines = photos.summary(table)
    assert "audit: 6 train unreadable → dropped" in lines and "WARNING: 6 test photos" in lines[-1]


def test_duplicates(tmp_path):
    train = {"same.jpg": (0, jpeg(100)), "clash.jpg": (1, jpeg(101)), "twin.jpg": (1, jpeg(200))}
    test = {"900.jpg": jpeg(102), "901.jpg": jpeg(901), "902.jpg": jpeg(901), "a": b"", "b": b""}
    table = Case(tmp_path, train, test).load()
    assert sorted(row for row in found(table) if row[2] != "unreadable") == [
        ("test", "900.jpg", "duplicate of a train photo", "kept"),
        ("test", "902.jpg", "duplicate", "kept"),
        ("train", "101.jpg", "duplicate with another label", "dropped"),
        ("train", "clash.jpg", "duplicate with another label", "dropped"),
        ("train", "same.jpg", "duplicate", "on the same side of the split"),
        ("train", "twin.jpg", "duplicate", "on the same side of the split"),
    ]
    assert not {"101.jpg", "clash.jpg"} & set(table.frame["id"])
    detail = table.audit.set_index("id")["detail"]
    assert detail["900.jpg"] == "same as 102.jpg, label 0"
    assert detail["same.jpg"] == "same as 100.jpg"


def test_damaged_files_never_end_in_a_traceback(tmp_path):
    path = tmp_path / "a.jpg"
    whole = [data for data, _, _ in ODD.values() if data]
    for seed in range(8 * len(whole)):
        rng = np.random.default_rng(seed)
        data = bytearray(whole[seed % len(whole)])
        for _ in range(rng.integers(1, 20)):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data) + 1)] if seed % 16 == 0 else data)
        facts = audit.look([str(path)])[str(path)]
        if facts.readable:  # what the audit lets through can be read, and has the size it says
            assert read_photo(path).shape == (facts.height, facts.width, 3)
        else:
            with pytest.raises(InputError, match=r"a\.jpg"):
                read_photo(path)


def finding(path: Path) -> tuple[str, str]:
    """The only one, and what it says."""
    facts = audit.look([str(path)])[str(path)]
    assert facts.readable == (facts.findings[0][0] not in ("unreadable", "too large"))
    return facts.findings[0]


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
        kinds = {path.stem: finding(path) for path in tmp_path.iterdir()}
    assert {what for what, _ in kinds.values()} == {"unreadable"} and len(kinds) == 7
    assert {kinds[name][1] for name in ("fifo", "link", "zero")} == {"FIFO or device"}
    assert "folder" in kinds["folder"][1] and "No such file" in kinds["nowhere"][1]


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jpg", jpeg(1))
    os.truncate(path, 3 * 10**9)  # takes no room on the disk
    began = time.monotonic()
    what, detail = finding(path)
    assert (what, time.monotonic() - began < 1) == ("too large", True) and "3.0 GB" in detail


CONTENTS = {
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "HTML page": b"<!DOCTYPE html>\n<html><title>Sign in</title></html>",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50),
    "PDF": b"%PDF-1.7\n" + bytes(50),
    "zero bytes": bytes(5000),
    "DDS": encoded(picture(1), "DDS"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_is_no_photo_is_said_to_be_what_it_is(tmp_path, kind):
    what, detail = finding(write(tmp_path / "a.jpg", CONTENTS[kind]))
    assert what == "unreadable" and kind in detail


def test_a_large_photo_is_not_damaged(tmp_path, monkeypatch):
    """Beyond Pillow's limit, at which a progressive JPEG was called truncated."""
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    for name in ("progressive.jpg", "cmyk.jpg", "grey.png"):
        data, expected, _ = ODD[name]
        facts = audit.look([str(write(tmp_path / name, data))])[str(tmp_path / name)]
        assert [what for what, _ in facts.findings] == [expected] * bool(expected), name


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "restarts"])
@pytest.mark.parametrize("damage", [b"\xff\x42", bytes(range(200, 256)) * 2, b"\xff" * 40])
def test_damaged_pixels_of_a_jpeg_are_found(tmp_path, kind, damage):
    more = {"progressive": {"progressive": True}, "restarts": {"restart_marker_rows": 1}}
    data = encoded(picture(5, 200, 300), quality=95, **more.get(kind, {}))
    at = data.rindex(b"\xff\xda") + 100
    assert not audit.look([str(write(tmp_path / "a.jpg", data))])[str(tmp_path / "a.jpg")].findings
    what, detail = finding(write(tmp_path / "a.jpg", data[:at] + damage + data[at + len(damage) :]))
    assert what in ("damaged JPEG data", "truncated", "unreadable") and detail


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "restarts"])
@pytest.mark.parametrize("how", ["half", "tenth", "hole", "zeros", "zeros and end"])
def test_what_a_decoder_prints_is_told_of_its_file(tmp_path, capfd, kind, how):
    more = {"progressive": {"progressive": True}, "restarts": {"restart_marker_rows": 1}}
    paths = []
    for seed in range(6):
        data = encoded(picture(seed, 200, 300), quality=95, **more.get(kind, {}))
        half, end = len(data) // 2, JPEG_END
        if seed == 3:
            data = {
                "half": data[:half] + end,
                "tenth": data[: data.index(b"\xff\xda") + half // 5] + end,
                "hole": data[:half] + bytes(2000) + data[half + 2000 :],
                "zeros": data[:half] + bytes(half),
                "zeros and end": data[:half] + bytes(half) + end,
            }[how]
        paths.append(str(write(tmp_path / f"{seed}.jpg", data)))
    looks = audit.look(paths)
    assert [path for path in paths if looks[path].findings] == [paths[3]]
    ((what, detail),) = looks[paths[3]].findings
    assert what == "damaged JPEG data" or (how, what) == ("zeros", "truncated")
    assert detail
    read_photo(paths[3])  # the cache, later
    assert not capfd.readouterr().err


def test_what_others_print_while_a_decoder_is_overheard_is_shown(capfd):
    with aloud.overheard("a.jpg") as said:
        os.write(2, b"Corrupt JPEG data: 3 extraneous bytes\nanother thread's\n")
    assert said == ["Corrupt JPEG data: 3 extraneous bytes"]
    assert capfd.readouterr().err == "another thread's\n"


CASES = Path(__file__).parents[2] / "shared" / "cases"


@pytest.mark.parametrize("name", ["panorama", "tiff_rotated"])
def test_the_table_has_the_size_that_is_decoded(tmp_path, name):
    if not (CASES / name).is_dir():
        pytest.skip(f"{CASES / name} is not there")
    cfg = Case(tmp_path).cfg.replace(data=str(CASES / name))
    frame = photos.load(cfg, files.locate(cfg)).frame
    sizes = [pixels.read_photo(path).shape[:2] for path in frame["path"]]
    assert sizes == list(zip(frame["height"], frame["width"], strict=True))

"""Zipped photos: unpacked once and whole, and refused where they would do harm."""

import errno
import os
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from carcls.data import unzip
from carcls.disk import photo_files
from carcls.errors import InputError

NAMES = ["train/0/1.jpg", "train/1/2.jpg"]


@pytest.fixture
def source(tmp_path) -> Path:
    return write(tmp_path / "train.zip", *NAMES)


@pytest.fixture
def target(tmp_path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch" / "train"


def write(path: Path, *names: str, content: bytes = b"a photo", **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name in names:
            archive.writestr(name, content)
    return path


def unpack(source: Path, target: Path, *known: str) -> Path:
    unzip.unpack({target: source}, lambda: known)
    return target


def add(path: Path, name: str, mode: int = 0) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, "../../outside")


def names(folder: Path) -> list[str]:
    return [f"{at}/{name}" for at, name in photo_files(folder)]


@pytest.mark.parametrize(
    ("name", "mode", "why"),
    [
        ("/etc/photo.jpg", 0, "absolute path"),
        ("C:/photo.jpg", 0, "absolute path"),
        ("train/../../photo.jpg", 0, "leaves the folder"),
        ("train\\..\\..\\photo.jpg", 0, "leaves the folder"),
        ("train/0/photo.jpg", stat.S_IFLNK | 0o777, "symbolic link"),
        ("train/0/photo.jpg", stat.S_IFIFO | 0o600, "FIFO"),
        ("train/0/photo.jpg", stat.S_IFBLK | 0o600, "device"),
    ],
)
def test_unsafe_members_are_refused(tmp_path, source, target, name, mode, why):
    add(source, name, mode)
    with pytest.raises(InputError, match=f"train.zip: member .*photo.jpg' .*{why}"):
        unpack(source, target)
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.parametrize("top", ["./", ".\\", "././"])
def test_member_names_as_other_zip_tools_write_them(source, target, top):
    with zipfile.ZipFile(source, "w") as archive:
        for name in ("", "train/", "train/0/1.jpg", "train/1/./2.jpg"):
            info = zipfile.ZipInfo((top + name).replace("/", top[-1]))
            info.filename = info.orig_filename  # the constructor may have mended it
            archive.writestr(info, b"a photo" if name.endswith("jpg") else b"")
    assert names(unpack(source, target)) == NAMES
    before = target.stat().st_ino
    assert unpack(source, target).stat().st_ino == before  # not unpacked again


def test_a_zip_that_is_not_whole_is_refused_and_leaves_nothing(source, target):
    def refused(content: bytes, why: str = "") -> None:
        source.write_bytes(content)
        with pytest.raises(InputError, match=f"train.zip: not a whole zip file{why}"):
            unpack(source, target)
        assert not target.exists()

    whole = source.read_bytes()
    refused(whole[: len(whole) // 2])
    at = whole.index(b"a photo")
    refused(whole[:at] + b"A" + whole[at + 1 :], " .*1.jpg")  # its checksum
    noise = np.random.default_rng(0).integers(0, 99, 9000, np.uint8).tobytes()
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        packed = write(source, NAMES[0], content=noise, compression=method).read_bytes()
        refused(packed[:3000] + bytes(3000) + packed[6000:])
    source.write_bytes(whole)
    assert names(unpack(source, target)) == NAMES


def test_what_a_mac_adds_is_left_out_and_photos_are_expected(source, target):
    add(source, "__MACOSX/train/0/._1.jpg")
    assert names(unpack(source, target)) == NAMES
    with pytest.raises(InputError, match=r"test.zip: no photo in it \(1 files\)"):
        unpack(write(source.with_name("test.zip"), "readme.txt"), target)


def test_a_zip_larger_than_the_disk(source, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(InputError, match=r"train.zip: .*needs .* MB in .*free: 0.0 MB"):
        unpack(source, target)


def test_it_is_unpacked_once_and_again_when_needed(source, target):
    first = unpack(source, target) / NAMES[0]
    os.utime(first, (1, 1))
    unpack(source, target)
    assert first.stat().st_mtime == 1  # not unpacked again
    first.unlink()
    unpack(source, target)
    assert first.exists()  # an incomplete folder is
    add(source, "train/1/new.jpg")
    assert names(unpack(source, target)) == [*NAMES, "train/1/new.jpg"]  # so is another zip


def test_processes_that_unpack_at_the_same_time_get_whole_folders(source, target):
    write(source, *(f"train/{n}.jpg" for n in range(400)), content=bytes(2000))
    (target.parent / "train.999999999.part").mkdir()  # of a process that is no more
    code = "import sys, pathlib as p; from carcls.data.unzip import unpack; "
    code += "unpack({p.Path(sys.argv[2]): p.Path(sys.argv[1])})"
    env = {**os.environ, "PYTHONPATH": str(Path(unzip.__file__).parents[2])}
    command = [sys.executable, "-c", code, str(source), str(target)]
    both = [subprocess.Popen(command, env=env) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(names(target)) == 400
    assert [path.name for path in target.parent.iterdir()] == ["train"]


# --- Names ---------------------------------------------------------------------------------------


def named(path: Path, *names: bytes, extra: bytes = b"", flag: bool = False) -> Path:
    """A zip file whose names are these bytes, without the flag that says UTF-8 unless asked for."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo(f"{number}".rjust(len(name), "#"))
            info.extra = extra
            archive.writestr(info, b"a photo")
    content = path.read_bytes()
    for number, name in enumerate(names):
        content = content.replace(f"{number}".rjust(len(name), "#").encode(), name)
    if flag:
        content = content.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\0\x08")
    path.write_bytes(content)
    return path


def unpacked(source: Path, *known: str) -> tuple[list[str], list[str]]:
    """Names of what is unpacked, and lines for the log."""
    target = source.parent / "scratch" / "train"
    notes = unzip.unpack({target: source}, lambda: known)
    return names(target), notes


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("cp866", ["Лада", "Москвич", "УАЗ"]),
        ("cp1251", ["Лада", "Москвич", "УАЗ"]),
        ("koi8_r", ["Лада", "Москвич", "УАЗ"]),
        ("cp437", ["Citroën", "Coupé"]),
        ("cp850", ["Ação", "Citroën"]),
        ("cp1252", ["Citroën", "Coupé"]),
        ("cp852", ["Škoda", "Žuk"]),
        ("cp1250", ["Škoda", "Łada"]),
        (
            "cp932",
            ["ソニー表", "トヨタ", "能登"],
        ),  # the second bytes of ソ, 表 and 能 are backslashes
        ("euc_jp", ["日産", "トヨタ"]),
        ("gbk", ["红旗", "比亚迪"]),
        ("cp949", ["현대", "기아"]),
        ("big5", ["裕隆", "納智捷", "許功"]),
        ("cp737", ["Αθήνα", "Ελλάδα"]),
        ("cp1256", ["سيارة", "لادا"]),
    ],
)
def test_names_are_read_in_the_code_page_that_makes_them_ids_or_labels(source, target, page, words):
    files = [f"{word}/{n}.jpg" for n, word in enumerate(words)]
    named(source, *(file.encode(page) for file in files))
    found, notes = unpacked(source, words[0], "another ü")
    assert sorted(found) == sorted(files)
    assert len(notes) == 1 and "WARNING" not in notes[0] and words[0] in notes[0]
    found, _ = unpacked(source, f"train/{words[-1]}/{len(words) - 1}.png")  # ids may be paths
    assert sorted(found) == sorted(files)


def test_names_that_say_how_they_are_to_be_read_and_utf8(source, target):
    name = "Лада/1.jpg"
    assert unpacked(named(source, name.encode())) == ([name], [])
    assert unpacked(named(source, name.encode(), flag=True), "ðøð") == ([name], [])
    raw = name.encode("cp866")
    field = struct.pack("<BL", 1, zlib.crc32(raw)) + name.encode()
    extra = struct.pack("<HH", 0x7075, len(field)) + field
    assert unpacked(named(source, raw, extra=b"\x99\x99\1\0\0" + extra)) == ([name], [])
    stale = extra.replace(struct.pack("<L", zlib.crc32(raw)), b"1234")  # of another name
    assert unpacked(named(source, raw, extra=stale), "Лада")[0] == [name]


def test_a_name_that_is_not_the_utf8_that_it_is_marked_as_is_called_so(source, target):
    named = write(source, "train/Нива/1.jpg").read_bytes()
    source.write_bytes(named.replace("Н".encode(), b"\xd0\xd0"))
    with pytest.raises(InputError, match=r"train.zip: .*marked as UTF-8 and is not .*train/\\xd0"):
        unpack(source, target)


@pytest.mark.parametrize("order", [1, -1])
def test_the_code_page_of_one_zip_file_tells_that_of_another(tmp_path, target, order):
    train = named(tmp_path / "train.zip", "лом/1.jpg".encode("cp866"))
    test = named(tmp_path / "test.zip", "фото.jpg".encode("cp866"))
    targets = [(target, train), (target.with_name("test"), test)][::order]
    notes = unzip.unpack(dict(targets), lambda: ["фото"])
    assert names(target) == ["лом/1.jpg"]
    assert len(notes) == 2 and all("cp866" in note and "WARNING" not in note for note in notes)


def test_names_in_doubt_are_said_and_a_folder_with_wrong_names_is_not_kept(source, target):
    raw = "Лада/1.jpg".encode("cp866")
    found, (note,) = unpacked(named(source, raw))
    assert found == ["ïáñá/1.jpg"]
    assert note.startswith(f"WARNING: {source}: 1 names") and repr(raw) in note
    assert unpacked(source, "Лада")[0] == ["Лада/1.jpg"]
    # Of two tools: one code page cannot be that of all.
    mixed = named(source, raw, "Москвич/2.jpg".encode())
    assert unpacked(mixed, "Лада")[1][0].startswith("WARNING: ")
    both = named(source, "Škoda/1.jpg".encode("cp1250"), b"\xa3\xe1/2.jpg")  # Łá or £á
    assert unpacked(both, "Škoda")[0] == ["Łá/2.jpg", "Škoda/1.jpg"]
    unclear = named(source, "Škoda/1.jpg".encode("cp1250"), b"\xe8/2.jpg")  # č or è
    assert "cp1252" in unpacked(unclear, "Škoda")[1][0]


def test_names_in_code_pages_are_checked_after_they_are_read(tmp_path, source, target):
    source = named(source, "/表.jpg".encode("cp932"))
    with pytest.raises(InputError, match="absolute path"):
        unpack(source, target, "表")


def test_names_that_differ_only_in_form_are_both_kept_and_the_same_ones_said(source, target):
    forms = ["\u0160koda/1.jpg", "S\u030ckoda/1.jpg"]
    assert sorted(unpacked(write(source, *forms))[0]) == sorted(forms)
    with pytest.warns(UserWarning, match="Duplicate"):
        write(source, "train/1.jpg", "train//1.jpg", "train/1.jpg", "train/2.jpg")
    found, (note,) = unpacked(source)
    assert found == ["train/1.jpg", "train/2.jpg"] and "2 names come more than once" in note


def test_a_disk_that_takes_two_names_for_one_does_not_lose_a_file(source, target, monkeypatch):
    write(source, "train/A.jpg", "train/a.jpg")
    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *args, **kind: opened(path.with_name(path.name.lower()), *args, **kind),
    )
    with pytest.raises(InputError, match=r"train.zip: member 'train/a.jpg' cannot be written"):
        unpack(source, target)
    assert not list(target.parent.iterdir())


# --- What cannot be unpacked ---------------------------------------------------------------------


def patched(path: Path, at: int, value: bytes, header: bytes = b"PK\1\2") -> Path:
    content = bytearray(path.read_bytes())
    start = content.rindex(header) + at
    content[start : start + len(value)] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (10, b"\x09\0", "Deflate64"),
        (10, b"\x5d\0", "Zstandard"),
        (10, b"\x63\0", "number 99"),
        (8, b"\x01\0", "encrypted"),
        (34, b"\x01\0", "several parts"),
        (6, b"\xff\0", "Python cannot unpack it"),
    ],
)
def test_what_python_cannot_unpack_is_called_so_before_anything_is(source, target, at, value, why):
    other = target.with_name("test")
    test = write(source.with_name("test.zip"), "1.jpg")
    patched(source, at, value)
    with pytest.raises(InputError, match=f"train.zip: .*{why}.*7z") as caught:
        unzip.unpack({other: test, target: source})
    assert "download" not in str(caught.value)
    assert not list(target.parent.iterdir())


def test_a_part_of_a_zip_file(source, target):
    whole = source.read_bytes()
    patched(source, 4, b"\1\0", b"PK\5\6")
    with pytest.raises(InputError, match="several parts"):
        unpack(source, target)
    source.write_bytes(b"PK\7\x08" + whole[:40])
    with pytest.raises(InputError, match="several parts"):
        unpack(source, target)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"Rar!\x1a\x07\x01\0" + bytes(99), "rar; unpack .* into .*/train"),
        (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(99), "7z; unpack"),
        (b"<!DOCTYPE html><html><title>Sign in</title>", "HTML page .*Sign in"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b'{"code":401,"message":"Unauthorized"}', "JSON .*401"),
        (b"", "empty"),
        (bytes(5000), "nothing but zero bytes"),
    ],
)
def test_another_file_with_the_name_of_a_zip_file(source, target, content, what):
    source.write_bytes(content)
    with pytest.raises(InputError, match=f"train.zip: not a zip file but: {what}"):
        unpack(source, target)


@pytest.mark.parametrize("name", ["Ж" * 128 + ".jpg", "a/" * 2100 + "1.jpg"])
def test_a_name_that_no_disk_takes(source, target, name):
    add(source, f"train/{name}")
    with pytest.raises(InputError, match=r"member .*\.jpg' has a name too long"):
        unpack(source, target)
    assert not list(target.parent.iterdir())


# --- A full disk ---------------------------------------------------------------------------------


def test_a_part_of_the_disk_stays_free(source, target, monkeypatch):
    usage, free = shutil._ntuple_diskusage, [30_000]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(400_000, 0, free[0]))
    unpack(source, target)  # 2 files, 4096 bytes each; 20,000 stay
    other = write(source.with_name("test.zip"), "1.jpg", "2.jpg", "3.jpg")
    free[0] = 28_100
    with pytest.raises(InputError, match="test.zip: .*free: 0.0 MB"):
        unpack(other, target.with_name("test"))
    assert names(target) == NAMES
    assert [path.name for path in target.parent.iterdir()] == ["train"]


def test_a_disk_that_fills_up_meanwhile_keeps_what_was_there(source, target, monkeypatch):
    unpack(source, target)
    add(source, "train/1/new.jpg")

    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for function, error in ((fails, InputError), (lambda *_: 1 / 0, ZeroDivisionError)):
        monkeypatch.setattr(shutil, "copyfileobj", function)
        with pytest.raises(error):
            unpack(source, target)
        assert names(target) == NAMES
        assert [path.name for path in target.parent.iterdir()] == ["train"]


def test_a_folder_with_a_cut_file_is_unpacked_again(source, target):
    (unpack(source, target) / NAMES[0]).write_bytes(b"")  # as a power cut may leave it
    assert (unpack(source, target) / NAMES[0]).read_bytes() == b"a photo"

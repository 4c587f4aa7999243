"""Zipped photos: unpacked once and whole, and refused where they would do harm."""

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from carcls.data import unzip
from carcls.data.unzip import unpack
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
    named = write(source, "train/Нива/1.jpg").read_bytes()
    refused(named.replace("Н".encode(), b"\xd0\xd0"), " .*decode")  # no UTF-8 any more
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
    with pytest.raises(InputError, match=r"train.zip: needs .* MB in .*free: 0 MB"):
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
    code += "unpack(*map(p.Path, sys.argv[1:]))"
    env = {**os.environ, "PYTHONPATH": str(Path(unzip.__file__).parents[2])}
    command = [sys.executable, "-c", code, str(source), str(target)]
    both = [subprocess.Popen(command, env=env) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(names(target)) == 400
    assert [path.name for path in target.parent.iterdir()] == ["train"]

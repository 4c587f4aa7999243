"""Files written whole or not at all, and what people are shown of folders."""

from pathlib import Path

import pytest

from carcls import disk
from carcls.errors import InputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new folder" / "a.weights.h5"
    disk.write_atomic(path, "ü\n")
    assert path.read_bytes() == b"\xc3\xbc\n"
    with disk.replacing(path) as part:
        assert part.parent == path.parent and part.name.endswith(".weights.h5")
        part.write_bytes(b"new")
        assert path.read_bytes() == b"\xc3\xbc\n"
    assert path.read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError), disk.replacing(path) as part:
        part.write_bytes(b"torn")
        _ = 1 / 0

    def fails(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        disk.write_atomic(path, b"newer")
    assert path.read_bytes() == b"new" and names(path.parent) == ["a.weights.h5"]


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(disk, "flush", lambda file: done.append(Path(file.name).read_bytes()))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *paths: done.append("named") or replace(*paths))
    disk.write_atomic(tmp_path / "a", b"all")
    assert done == [b"all", "named"]


def test_a_home_folder_that_nobody_has_is_named():
    assert disk.user_path("~/a") == Path.home() / "a"
    with pytest.raises(InputError, match="~nobody-here"):
        disk.user_path("~nobody-here/a")


def test_folders_are_walked_level_by_level_without_those_of_photos_and_circles(tmp_path):
    for name in ("b/train/x", "b/c/d", "a", ".git/x", "1/2/3/4/5/6/7/8"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in disk.folders_below(tmp_path)]
    assert found[:7] == [".", "1", "a", "b", "1/2", "b/c", "1/2/3"]
    assert found[-1] == "1/2/3/4/5/6/7" and not {"b/train", ".git", "a/up"} & set(found)
    assert list(disk.folders_below(tmp_path / "gone")) == []


def test_photos_are_found_in_order_and_without_what_is_hidden(tmp_path):
    for name in ("b/2.JPG", "b/1.png", "a.jpeg", "__MACOSX/1.jpg", ".x/1.jpg", "b/._1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    photos = [("", "a.jpeg"), ("b", "1.png"), ("b", "2.JPG")]
    assert list(disk.photo_files(tmp_path)) == photos
    assert all(disk.is_photo_name(name) for _, name in photos)
    assert not disk.is_photo_name("jpg") and not disk.is_photo_name("a.jpg.txt")


def test_tree_is_short_and_shows_csv_first(tmp_path):
    for number in range(100):
        (tmp_path / f"{number:03}.jpg").touch()
    (tmp_path / "train.csv").touch()
    (tmp_path / "a" / "b" / "c" / "d").mkdir(parents=True)
    shown = disk.tree(tmp_path).splitlines()
    assert shown[1:] == [
        "  a/",
        "    b/",
        "      c/",
        "  train.csv",
        "  000.jpg",
        "  001.jpg",
        "  002.jpg",
        "  … 97 more files",
    ]
    assert len(disk.tree(tmp_path, most=4).splitlines()) == 5
    assert "(empty)" in disk.tree(tmp_path / "a" / "b" / "c" / "d")
    assert "No such file" in disk.tree(tmp_path / "gone")


def test_search_roots(tmp_path, monkeypatch):
    monkeypatch.setenv("CARCLS_HOME", str(tmp_path / "home"))
    assert disk.search_roots() == [tmp_path / "home" / "weights", Path()]
    (tmp_path / "kaggle" / "input").mkdir(parents=True)
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "kaggle"))
    assert disk.search_roots()[0] == tmp_path / "kaggle" / "input"


def test_a_folder_is_locked_alone_or_together_until_it_is_let_go(tmp_path):
    folder = tmp_path / "new"
    with disk.locked(folder) as first, disk.locked(folder) as second:
        assert (first, second) == (True, False)
        assert not disk.lock(folder, disk.TOGETHER)
    with disk.locked(folder, disk.TOGETHER) as first, disk.locked(folder, disk.TOGETHER) as second:
        assert first and second and disk.lock(folder) is None
    with pytest.raises(ZeroDivisionError), disk.locked(folder, disk.IN_TURN):
        _ = 1 / 0
    disk.unlock(disk.lock(folder))
    with disk.locked(folder) as again:
        assert again

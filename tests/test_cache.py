"""PhotoCache: what photos it gives, where it keeps them, and that it gives their room back."""

import errno
import gc
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import write_photo

from carcls.data import audit, cache, pixels
from carcls.data.cache import PhotoCache
from carcls.data.photos import Rows
from carcls.errors import InputError
from carcls.session import Session

GB = 10**9


def table(paths, heights, widths, labels=0, fold=1) -> pd.DataFrame:
    """The columns of a table of photos that batches are made of, the row as the id."""
    frame = pd.DataFrame({"path": list(map(str, paths)), "height": heights, "width": widths})
    ids = frame.index.astype(str)
    return frame.assign(id=ids, label=labels, fold=fold, readable=True)


def noise_photos(folder: Path, count: int = 21) -> pd.DataFrame:
    """Photos of noise, each of another shape, of three classes in turn."""
    rng, paths = np.random.default_rng(0), []
    heights, widths = 30 + np.arange(count), 64 - np.arange(count)
    for n, (h, w) in enumerate(zip(heights, widths, strict=True)):
        photo = rng.integers(0, 256, (h, w, 3), np.uint8)
        paths.append(write_photo(folder / f"{n}.png", photo))
    return table(paths, heights, widths, np.arange(count) % 3)


@pytest.fixture(scope="module")
def frame(tmp_path_factory) -> pd.DataFrame:
    return noise_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def room(monkeypatch):
    """Sets the bytes that are free in memory and on disk."""

    def set_room(memory: float, disk: float = 0) -> None:
        monkeypatch.setattr(cache, "free_memory", lambda: int(memory))
        monkeypatch.setattr(cache, "disk_room", lambda scratch: int(disk))

    return set_room


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_photos_keep_their_shape_and_are_as_large_as_needed(frame, tmp_path, fit):
    small = PhotoCache(frame, (12, 16), fit, tmp_path)
    for row, (full_h, full_w) in enumerate(frame[["height", "width"]].to_numpy()):
        h, w = small[row].shape[:2]
        assert h / w == pytest.approx(full_h / full_w, rel=0.1)
        ratios = sorted((12 / h, 16 / w))
        assert ratios[0 if fit == "pad" else 1] <= 1 / cache.MARGIN + 1e-9


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_photo_that_is_far_too_large_is_shrunk_without_aliasing(tmp_path, kind):
    checks = np.indices((1024, 1024)).sum(0) % 2 * 255
    path = write_photo(tmp_path / f"0.{kind}", np.repeat(checks[..., None], 3, 2).astype(np.uint8))
    seen = PhotoCache(table([path], 1024, 1024), (18, 18), "pad", tmp_path)[0]
    assert seen.shape[0] < 25 and np.abs(seen.astype(int) - 127).max() < 5


def audited(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with what the audit says of its files."""
    facts = [audit.look([path])[path] for path in frame["path"]]
    return frame.assign(digest=[each.digest for each in facts])


@pytest.fixture
def photos(tmp_path, monkeypatch) -> PhotoCache:
    """Of 28 photos, as they are in the audit; what vanishes is looked for again at once."""
    monkeypatch.setattr(cache, "WAITS", (0.001,) * 3)
    return PhotoCache(audited(noise_photos(tmp_path / "photos", 28)), (24, 32), "pad", tmp_path)


def test_what_cannot_be_read_is_grey(frame, tmp_path):
    frame = frame.assign(readable=frame.index != 4)
    frame.loc[4, ["path", "height", "width"]] = ["", 0, 0]
    photos = PhotoCache(frame, (24, 32), "pad", tmp_path)
    assert set(photos[4].ravel()) == {127} and not photos.replaced


def gone(path: Path) -> None:
    path.unlink()


def of_other_bytes(path: Path) -> None:
    write_photo(path, np.zeros((30, 64, 3), np.uint8))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [gone, of_other_bytes, emptied, a_fifo])
def test_a_photo_that_is_no_longer_as_it_was_is_grey_and_kept_in_mind(photos, change, capsys):
    before = photos[0].copy()
    for row in (0, 3):
        change(Path(photos.paths[row]))
    assert (photos[0] == before).all()  # it was decoded in time
    assert set(photos[3].ravel()) == {127}
    assert list(photos.replaced) == [3] and photos.paths[3] in str(photos.replaced[3])
    assert photos.paths[3] in capsys.readouterr().out
    assert photos[4].std() > 20 and photos.fault is None


def test_photos_that_cannot_be_decoded_are_told_and_spoil_nothing(
    photos, frame, monkeypatch, tmp_path
):
    def fails(*_):
        raise InputError("a.jpg: cannot be decoded")

    monkeypatch.setattr(pixels, "read_photo", fails)
    assert all(set(photos[row].ravel()) == {127} for row in range(12))  # more than a few
    assert len(photos.replaced) == 12 and photos.fault is None
    s = Session(*[SimpleNamespace(frame=frame)] * 7, caches={0: photos})
    (told,) = s.warnings()
    assert "12 of" in told and "a.jpg" in told and "anew" not in told
    every = Rows(np.arange(len(frame)), np.zeros(len(frame), np.int64))
    assert not s.spoiled(every)
    photos.replaced[13] = pixels.NotAsAudited("b.jpg: has changed")
    assert s.spoiled(every) and len(s.warnings()) == 2


def test_a_photo_that_comes_back_at_once_is_taken(photos, monkeypatch):
    path = Path(photos.paths[5])
    path.rename(path.with_name("aside"))
    monkeypatch.setattr(cache.time, "sleep", lambda _: path.with_name("aside").replace(path))
    assert photos[5].std() > 20 and not photos.replaced


def test_many_photos_that_are_no_longer_as_they_were_end_it(photos):
    assert [cache.few_of(count) for count in (4, 28, 640, 22_000)] == [1, 2, 3, 110]
    for row in range(3):
        Path(photos.paths[row]).unlink()
    assert {photos[row].max() for row in (0, 1)} == {127}
    for row in (2, 20):  # and nothing comes after it
        with pytest.raises(InputError, match=f"{Path(photos.paths[0]).parent}: 3 photos"):
            photos[row]


def test_a_folder_that_is_gone_ends_it_at_once(photos):
    folder = Path(photos.paths[0]).parent
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(InputError, match=f"{folder}: the folder is gone"):
        photos[0]


def test_rows_are_kept_in_memory_then_on_disk_then_not(frame, tmp_path, room, monkeypatch):
    read, paths = pixels.read_photo, []
    monkeypatch.setattr(pixels, "read_photo", lambda *a: paths.append(a[0]) or read(*a))
    room(GB)
    whole = PhotoCache(frame, (24, 32), "pad", tmp_path)
    assert whole.in_memory == 21
    size = int(whole.offsets[-1])
    room(size, size / 3)
    part = PhotoCache(frame, (24, 32), "pad", tmp_path)
    assert 0 < part.in_memory < part.kept < 21
    assert part.memory.nbytes <= size / 2 and part.disk.nbytes <= size / 3
    assert f"{part.in_memory} in memory, {part.kept - part.in_memory} on disk" in str(part)
    assert all((part[row] == whole[row]).all() for row in range(21))
    paths.clear()
    assert all((part[row] == whole[row]).all() for row in range(21))
    assert paths == part.paths[part.kept :]  # the others are decoded once
    assert list(tmp_path.iterdir()) == []  # the file on disk has no name
    room(0)
    assert (PhotoCache(frame, (24, 32), "pad", tmp_path)[20] == whole[20]).all()


def test_a_disk_that_fills_up_meanwhile_is_no_error(frame, tmp_path, room, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    room(0, GB)
    photos = PhotoCache(frame, (24, 32), "pad", tmp_path)
    assert photos.kept == 0 and photos[0].any()
    assert list(tmp_path.iterdir()) == []


V1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")
V2 = ("memory.max", "memory.current", "memory.stat")


@pytest.mark.parametrize(("names", "prefix"), [(V2, ""), (V1, "total_")], ids=["v2", "v1"])
def test_the_limit_of_a_container_counts_without_its_pages_of_files(tmp_path, names, prefix):
    assert cache.container_memory(tmp_path) == []
    stat = f"{prefix}active_file 3000\n{prefix}inactive_file 4000\n"
    (tmp_path / "memory").mkdir()
    for name, text in zip(names, ("29000\n", "20000\n", stat), strict=True):
        (tmp_path / name).write_text(text)
    assert cache.container_memory(tmp_path) == [16000]
    (tmp_path / "memory.max").write_text("max\n")
    assert cache.container_memory(tmp_path) == ([] if not prefix else [16000])
    assert 0 < cache.free_memory() < 1 << 50


def resident() -> dict[str, int]:
    """Bytes of this process in memory: RssAnon its own, RssFile of files."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(rows[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux's /proc measures memory")
@pytest.mark.parametrize("where", ["RssAnon", "RssFile"])
def test_memory_is_taken_as_photos_are_decoded_and_given_back(tmp_path, room, where):
    photo = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    frame = table([write_photo(tmp_path / "a.jpg", photo)] * 80, 480, 640)
    room(*((GB, 0) if where == "RssAnon" else (0, GB)))
    PhotoCache(frame.head(8), (384, 512), "pad", tmp_path)[0]  # buffers that stay
    before, size = resident(), 80 * 442 * 589 * 3
    photos = PhotoCache(frame, (384, 512), "pad", tmp_path)
    assert int(photos.offsets[-1]) == size
    assert resident()[where] < before[where] + 0.1 * size
    for row in range(80):
        photos[row]
    taken = {name: size - before[name] for name, size in resident().items()}
    assert taken[where] > 0.95 * size
    assert sum(taken.values()) < 1.2 * size
    del photos
    gc.collect()
    assert resident()[where] < before[where] + 0.2 * size

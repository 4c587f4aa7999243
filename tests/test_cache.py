"""PhotoCache: what photos it gives, where it keeps them, and that it gives their room back."""

import errno
import gc
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_photo

from carcls.data import cache, pixels
from carcls.data.cache import PhotoCache

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


def test_what_cannot_be_read_is_grey(frame, tmp_path, capsys):
    frame = frame.assign(readable=frame.index != 4)
    frame.loc[4, ["path", "height", "width"]] = ["", 0, 0]
    gone = tmp_path / "gone.png"
    frame.loc[5, "path"] = str(gone)  # since the audit
    photos = PhotoCache(frame, (24, 32), "pad", tmp_path)
    assert set(photos[4].ravel()) == set(photos[5].ravel()) == {127}
    assert str(gone) in capsys.readouterr().out


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

"""Decoded photos of one size, kept where there is room for them."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
import threading
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from carcls.data import augment, boxes, pixels
from carcls.errors import InputError

MARGIN = 1.15  # times the size at which it is shown, so that a crop which zooms in is not blurred
MEMORY_SHARE = 0.5  # of the free memory; the network and the batches need the rest
WAITS = (0.5, 1.0, 2.0)  # seconds before a photo that is not as it was is looked for again
DISK_SHARE = 0.95  # of the free disk; the run's own files need the rest


class PhotoCache:
    """Photos of a table at one size (height, width): ``cache[row]`` is uint8 (h, w, 3).

    A photo is decoded when it is first asked for, by one thread. It is cut to its box, keeps its
    shape, and is MARGIN times as large as it will be shown, unless the file is smaller. The first
    rows are kept in memory, the next ones on disk, those that find no room are decoded each time.
    Where a photo cannot be decoded, or is no longer as it was in the audit, a grey one takes its
    place for good, and it is in ``replaced``; more than a few of the latter are a ``fault``, which
    is raised.
    """

    def __init__(self, frame: pd.DataFrame, size: tuple[int, int], fit: str, scratch: Path):
        self.size = size
        self.ids = frame["id"].astype(str).tolist()
        self.paths = frame["path"].tolist()
        self.readable = frame["readable"].to_numpy(bool)
        self.digests = frame["digest"].tolist() if "digest" in frame else [""] * len(frame)
        # To draw views from: of the same file the same, whatever it is called and wherever it is.
        names = [one or other for one, other in zip(self.digests, self.ids, strict=True)]
        self.keys = [zlib.crc32(name.encode()) for name in names]
        self.file_sizes = frame[["height", "width"]].to_numpy(int)  # (N, 2)
        self.boxes = boxes.of(frame)  # (N, 4)
        self.shapes = _kept_shapes(frame, size, fit)  # (N, 2)
        self.offsets = np.concatenate([[0], np.cumsum(self.shapes.prod(1) * 3)])  # (N + 1,) bytes
        self.decoded = np.zeros(len(frame), bool)
        self.replaced: dict[int, InputError] = {}  # row → why
        self.fault: InputError | None = None
        self.locks = [threading.Lock() for _ in range(64)]
        self.free = free_memory()
        self.in_memory = self._rows_within(int(MEMORY_SHARE * self.free))
        self.memory = _memory(int(self.offsets[self.in_memory]))
        self.kept = self.in_memory
        if self.in_memory < len(frame):
            self.kept, self.disk = self._on_disk(scratch)

    def __len__(self) -> int:
        return len(self.paths)

    def __str__(self) -> str:
        total, start = self.offsets[-1] / 1e9, f"{len(self):,} photos decoded"
        if self.in_memory == len(self):
            return f"{start} in memory: {total:.2f} GB of {self.free / 1e9:.1f} GB free"
        places = {
            "in memory": self.in_memory,
            "on disk": self.kept - self.in_memory,
            "again each time": len(self) - self.kept,
        }
        shares = ", ".join(f"{count:,} {place}" for place, count in places.items() if count)
        return f"{start}, {shares}: {total:.2f} GB, {self.free / 1e9:.1f} GB of memory free"

    def __getitem__(self, row: int) -> np.ndarray:
        h, w = self.shapes[row]
        if row >= self.kept:
            photo = np.empty((h, w, 3), np.uint8)
            self._decode(row, photo)
            return photo
        start, end = self.offsets[row], self.offsets[row + 1]
        if row < self.in_memory:
            slot = self.memory[start:end].reshape(h, w, 3)
        else:
            first = self.offsets[self.in_memory]
            slot = self.disk[start - first : end - first].reshape(h, w, 3)
        if not self.decoded[row]:
            with self.locks[row % len(self.locks)]:
                if not self.decoded[row]:
                    self._decode(row, slot)
                    self.decoded[row] = True  # only now: another thread may look at any moment
        return slot

    def _rows_within(self, size: int) -> int:
        """How many of the first rows have so many bytes together."""
        return int(np.searchsorted(self.offsets, size, "right")) - 1

    def _on_disk(self, scratch: Path) -> tuple[int, np.ndarray]:
        """How many rows are kept in all, and the file (bytes,) uint8 of those not in memory."""
        first = int(self.offsets[self.in_memory])
        kept = self._rows_within(first + int(DISK_SHARE * disk_room(scratch)))
        file = _nameless_file(int(self.offsets[kept]) - first, scratch)
        return (self.in_memory, np.empty(0, np.uint8)) if file is None else (kept, file)

    def _decode(self, row: int, into: np.ndarray) -> None:
        """Write the photo of that row into an array (h, w, 3) uint8 of its kept size."""
        h, w = into.shape[:2]
        photo = self._read(row, h, w) if self.readable[row] else None
        if photo is None:
            into[:] = augment.GREY
        elif photo.shape[:2] == (h, w):
            into[:] = photo
        else:
            # Below a factor of two, which reduced decoding leaves, INTER_LINEAR does not alias, and
            # INTER_AREA costs more than the decoding (MEASUREMENTS: resizing decoded photos).
            far = photo.shape[0] >= 2 * h and photo.shape[1] >= 2 * w
            how = cv2.INTER_AREA if far else cv2.INTER_LINEAR
            cv2.resize(photo, (w, h), dst=into, interpolation=how)

    def _read(self, row: int, h: int, w: int) -> pixels.Pixels | None:
        """None if it cannot be read. Raises InputError if that is so of more than a few."""
        for wait in (*WAITS, 0):
            if self.fault:
                raise self.fault
            if row in self.replaced:
                break
            try:
                return pixels.read_box(
                    self.paths[row],
                    self.boxes[row],
                    (h, w),
                    self.file_sizes[row],
                    self.digests[row],
                )
            except pixels.NotAsAudited as error:  # a mount may come back, a file be written anew
                if wait:
                    time.sleep(wait)
                else:
                    self._replace(row, error)
            except InputError as error:  # it looked sound in the audit, and always will
                self.replaced[row] = error
                print(f"warning: {error}; a grey photo takes its place", flush=True)
                break
        return None

    def _replace(self, row: int, error: pixels.NotAsAudited) -> None:
        """Go on with a grey photo, if they are few and their folder is there."""
        self.replaced[row] = error
        count, few = len(changed(self.replaced)), few_of(len(self))
        folder = Path(self.paths[row]).parent
        if count > few or not folder.is_dir():
            seen = f"{count:,} photos are no longer as when the run began"
            self.fault = InputError(
                f"{folder}: {seen if folder.is_dir() else 'the folder is gone'}; a run goes on "
                f"without {few:,} of {len(self):,} photos at most: {error}"
            )
            raise self.fault
        print(f"warning: {error}; a grey photo takes its place", flush=True)


def changed(replaced: dict[int, InputError], really: bool = True) -> dict[int, InputError]:
    """Of photos that were replaced those that are no longer as they were, or the others."""
    return {
        row: why for row, why in replaced.items() if isinstance(why, pixels.NotAsAudited) == really
    }


def few_of(photos: int) -> int:
    """Without how many photos a run goes on: one in 200, three of a few hundred, one of a few."""
    return max(1, min(3, photos // 10), photos // 200)


def _kept_shapes(frame: pd.DataFrame, size: tuple[int, int], fit: str) -> np.ndarray:
    """(N, 2) int height and width at which photos are kept for a network of this size."""
    left, top, right, bottom = boxes.of(frame).astype(float).T
    cut = np.stack([bottom - top, right - left], axis=1)
    cut[~frame["readable"].to_numpy(bool)] = size
    ratio = np.array(size) / cut
    scale = (ratio.min(1) if fit == "pad" else ratio.max(1)) * MARGIN
    shapes = np.ceil(cut * np.minimum(scale, 1.0)[:, None])
    return np.asarray(np.maximum(1, shapes).astype(int))


def _memory(size: int) -> np.ndarray:
    """(size,) uint8: takes no memory before it is written to, and gives it back with the cache."""
    if not size:
        return np.empty(0, np.uint8)
    # Of its own, as malloc may keep what is freed.
    return np.frombuffer(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def _nameless_file(size: int, scratch: Path) -> np.ndarray | None:
    """(size,) uint8 in a file that leaves nothing behind; None if the disk has no room for it."""
    if not size:
        return None
    with tempfile.NamedTemporaryFile(dir=scratch, prefix="photos-") as file:
        try:
            # truncate only promises room: a disk that fills up later would kill the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            return None
        return np.memmap(file.name, np.uint8, "r+", shape=(size,))  # stays when the name is gone


def disk_room(scratch: Path) -> int:
    """Bytes free on the disk of this folder, which is made if need be."""
    scratch.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(scratch).free


def free_memory() -> int:
    """Bytes that this process may still take, of the machine and of its container."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        free = _numbers(meminfo, ":")["MemAvailable"] * 1024
    else:  # other systems do not say what they would give back: half of what there is
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return max(0, min([free, *container_memory(Path("/sys/fs/cgroup"))]))


def container_memory(root: Path) -> list[int]:
    """Bytes free by each limit of a control group, version 2 or 1; empty without a limit."""
    free = []
    for folder, limit, used, prefix in (
        (root, "memory.max", "memory.current", ""),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        if not all((folder / name).exists() for name in (limit, used, "memory.stat")):
            continue
        if (text := (folder / limit).read_text().strip()) == "max":
            continue
        pages = _numbers(folder / "memory.stat", " ")
        # Pages of files, also of a cache on disk, are given back when memory is asked for.
        files = sum(pages.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
        free.append(int(text) - int((folder / used).read_text()) + files)
    return free


def _numbers(path: Path, separator: str) -> dict[str, int]:
    rows = (line.split(separator) for line in path.read_text().splitlines())
    return {name: int(value.split()[0]) for name, value in rows}

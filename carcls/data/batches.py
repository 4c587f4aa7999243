"""The only place where batches are made: train, validation, test and test-time augmentation.

tf.data schedules; a batch is made by one Python function from the cache of decoded photos, so that
order and augmentation depend on the seed alone, however many threads there are.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tensorflow as tf

from carcls.config import Config, Stage
from carcls.data import augment, boxes, photos
from carcls.errors import InputError
from carcls.machine import Runtime

# Photos are kept a little larger than the network sees them, so that a zoomed-in crop is not
# blurred.
MARGIN = 1.15


class PhotoCache:
    """Decoded photos at one size, each decoded when first asked for: row → uint8 (h, w, 3).

    Every photo, cut to its box where it has one, keeps its shape and is at least MARGIN × its fitted size, unless the file is smaller. Where they are
    kept, ``kept_where`` decides: in memory, in a file in scratch, or as many as memory has room for; the others are then
    decoded each time that they are asked for.
    """

    def __init__(
        self, frame: pd.DataFrame, height: int, width: int, fit: str, share: float, scratch: Path
    ):
        self.paths = frame["path"].tolist()
        # What a test-time view of a photo is depends on its id, not on its place among the photos.
        self.keys = [zlib.crc32(str(ident).encode()) for ident in frame["id"]]
        self.readable = frame["readable"].to_numpy(bool)
        self.full = frame[["height", "width"]].to_numpy(int)  # (N, 2) of the file
        self.boxes, self.shapes = (
            boxes.of(frame),
            shapes(frame, height, width, fit),
        )  # (N, 4), (N, 2)
        self.offsets = np.concatenate([[0], np.cumsum(self.shapes.prod(1) * 3)])
        self.bytes = int(self.offsets[-1])
        self.free = free_memory()
        self.where = kept_where(self.bytes, share * self.free, disk_room(scratch))
        store = _on_disk(self.bytes, scratch) if self.where == DISK else None
        if self.where == DISK and store is None:
            self.where = PART
        self.kept = (
            len(frame)
            if self.where != PART
            else int(np.searchsorted(self.offsets, share * self.free, "right")) - 1
        )
        self.store = _in_memory(int(self.offsets[self.kept])) if store is None else store
        self.done = np.zeros(len(frame), bool)
        self.locks = [
            threading.Lock() for _ in range(64)
        ]  # a photo that two threads ask for is decoded once

    def __len__(self) -> int:
        return len(self.paths)

    def __str__(self) -> str:
        size = f"{self.bytes / 1e9:.2f} GB, {self.free / 1e9:.1f} GB of memory free"
        if self.where != PART:
            return f"{len(self)} photos decoded {self.where}: {size}"
        return (
            f"{len(self)} photos decoded: {size}, not enough, nor has the disk; {self.kept} are kept, the others are decoded "
            "again each time"
        )

    def __getitem__(self, row: int) -> np.ndarray:
        h, w = self.shapes[row]
        if row >= self.kept:
            photo = np.empty((h, w, 3), np.uint8)
            self._decode(row, photo)
            return photo
        slot = self.store[self.offsets[row] : self.offsets[row + 1]].reshape(h, w, 3)
        if not self.done[row]:
            with self.locks[row % len(self.locks)]:
                if not self.done[row]:
                    self._decode(row, slot)
                    self.done[row] = True  # after the pixels: another thread may look at any moment
        return slot

    def _decode(self, row: int, into: np.ndarray) -> None:
        """The photo of that row at the size of ``into``, (h, w, 3) uint8."""
        h, w = into.shape[:2]
        photo = None
        if self.readable[row]:
            try:
                photo = photos.read_box(self.paths[row], self.boxes[row], h, w, *self.full[row])
            except InputError as error:
                # It looked sound in the audit. A grey photo keeps the batch, and a test photo its
                # row.
                print(f"warning: {error}; a grey photo takes its place", flush=True)
        if photo is None:
            into[:] = augment.GREY  # stands in for a test photo that cannot be read
        elif photo.shape[:2] == (h, w):
            into[:] = photo
        else:
            # Reduced decoding leaves less than a factor of two, where INTER_LINEAR does not alias
            # and INTER_AREA would cost more than the decoding (1,791 against 2,806 photos/s). More
            # is left of photos that are no JPEGs, or more than sixteen times as large.
            far = photo.shape[0] >= 2 * h and photo.shape[1] >= 2 * w
            cv2.resize(
                photo, (w, h), dst=into, interpolation=cv2.INTER_AREA if far else cv2.INTER_LINEAR
            )


MEMORY, DISK, PART = "in memory", "on disk", "in part"


def kept_where(size: int, memory: float, disk: int) -> str:
    """Where so many bytes of photos are kept: MEMORY if they fit into its bytes, else DISK, else PART of them in memory.

    A whole cache on disk comes before a part in memory: a photo from the disk's page cache costs a copy, one that is
    decoded again far more. But a run never ends for want of room.
    """
    if size <= memory:
        return MEMORY
    return DISK if size <= 0.95 * disk else PART


def shapes(frame: pd.DataFrame, height: int, width: int, fit: str) -> np.ndarray:
    """(N, 2) height and width of what is kept of each photo, for photos of that size."""
    left, top, right, bottom = boxes.of(frame).astype(float).T
    cut = np.stack([bottom - top, right - left], axis=1)
    cut[~frame["readable"].to_numpy(bool)] = (height, width)
    ratio = np.array([height, width]) / cut
    scale = (ratio.min(1) if fit == "pad" else ratio.max(1)) * MARGIN
    return np.asarray(np.maximum(1, np.ceil(cut * np.minimum(scale, 1.0)[:, None])).astype(int))


def _in_memory(size: int) -> np.ndarray:
    """(size,) uint8, empty. A mapping of its own goes back to the system when the cache does, whatever malloc keeps."""
    if not size:
        return np.empty(0, np.uint8)
    return np.frombuffer(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def _on_disk(size: int, scratch: Path) -> np.ndarray | None:
    """(size,) uint8 in a file without a name, which leaves nothing behind; None if the disk has no room after all."""
    with tempfile.NamedTemporaryFile(dir=scratch, prefix="photos-") as file:
        try:
            # Room that is only promised (ftruncate) would kill the process without a word once the
            # disk is full.
            os.posix_fallocate(file.fileno(), 0, size) if hasattr(
                os, "posix_fallocate"
            ) else file.truncate(size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            return None
        return np.memmap(
            file.name, np.uint8, "r+", shape=(size,)
        )  # keeps the space when the name is gone


@dataclass(frozen=True)
class Kept:
    """The decoded photos of one cache."""

    size: int  # bytes of all of them
    where: str  # MEMORY, DISK or PART
    memory: int  # bytes that are kept in memory

    def __str__(self) -> str:
        gb = f"{self.size / 1e9:.2f} GB"
        return (
            f"{gb} {self.where}"
            if self.where != PART
            else (
                f"{gb}, {self.memory / 1e9:.2f} of them in memory and the others, for which the disk has no room, decoded each time"
            )
        )


@dataclass(frozen=True)
class MemoryPlan:
    """The decoded photos of a stage: how much there is of them, where they are kept, and what memory that takes."""

    stage: Stage
    training: Kept  # train and validation photos
    test: Kept
    beside: bool  # the test photos are predicted while the training photos are kept, not after
    in_flight: int  # bytes of batches being made or waiting
    free: int  # bytes of memory

    @property
    def memory(self) -> int:
        """Bytes of memory that are taken at most, beside the network's own."""
        held = (self.training.memory, self.test.memory)
        return (sum(held) if self.beside else max(held)) + self.in_flight

    def __str__(self) -> str:
        share = f" ({100 * self.memory / self.free:.0f} %)" if self.free else ""
        return (
            f"photos     {self.stage}: to train and validate {self.training}; {'beside them' if self.beside else 'then'} to "
            f"predict {self.test}; with {self.in_flight / 1e9:.2f} GB of batches {self.memory / 1e9:.1f} of "
            f"{self.free / 1e9:.1f} GB of free memory{share}"
        )


def plan(
    cfg: Config, frame: pd.DataFrame, scratch: Path, free: int = -1, disk: int = -1
) -> list[MemoryPlan]:
    """What each stage will keep of the table's photos. free, disk: bytes; measured if negative.

    Test photos are predicted beside the training photos after the first epoch and after each stage but the last, at the
    stage's size; the last stage has given its photos back by then.
    """
    free = free_memory() if free < 0 else free
    disk = disk_room(scratch) if disk < 0 else disk
    is_test = (frame["fold"] == photos.TEST).to_numpy()

    def kept(size: int, memory: int, room: int) -> Kept:
        share = cfg.cache_share * memory
        where = kept_where(size, share, room)
        return Kept(size, where, {MEMORY: size, DISK: 0, PART: int(share)}[where])

    plans = []
    for number, stage in enumerate(cfg.stages):
        sizes = shapes(frame, stage.height, stage.width, cfg.fit).prod(1) * 3
        beside = number == 0 or number + 1 < len(cfg.stages)
        training = kept(int(sizes[~is_test].sum()), free, disk)
        on_disk = training.size if training.where == DISK else 0
        test = kept(
            int(sizes[is_test].sum()), free - beside * training.memory, disk - beside * on_disk
        )
        batch = cfg.batch * stage.height * stage.width * 3 * (4 if cfg.mixup or cfg.cutmix else 1)
        # Each thread makes one, as an array and as a tensor; two wait, one is in use.
        plans.append(MemoryPlan(stage, training, test, beside, (2 * threads() + 3) * batch, free))
    return plans


def disk_room(scratch: Path) -> int:
    """Bytes free where decoded photos are kept on disk; makes the folder."""
    scratch.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(scratch).free


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, or of its control group if that is less."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        free = _table(meminfo, ":")["MemAvailable"] * 1024
    else:  # not Linux, whose systems do not say what they would give back: half of what there is
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return max(0, min([free, *_group_memory(Path("/sys/fs/cgroup"))]))


def _group_memory(root: Path) -> list[int]:
    """Bytes free in the control group (a container's), by version 2 or 1 of its files; empty without a limit."""
    found = []
    for folder, limit, used, prefix in (
        (root, "memory.max", "memory.current", ""),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        if not all((folder / name).exists() for name in (limit, used, "memory.stat")):
            continue
        if (text := (folder / limit).read_text().strip()) == "max":
            continue
        pages = _table(folder / "memory.stat", " ")
        # Pages of files are given back when asked for, also those of a cache on disk.
        cached = sum(pages.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
        found.append(int(text) - int((folder / used).read_text()) + cached)
    return found


def _table(path: Path, separator: str) -> dict[str, int]:
    rows = (line.split(separator) for line in path.read_text().splitlines())
    return {name: int(value.split()[0]) for name, value in rows}


@dataclass(frozen=True)
class Batches:
    """Batches of (images, labels, weights) and how many there are.

    images uint8 (B, H, W, 3) RGB, or float32 0–255 after MixUp or CutMix; labels float32 (B, classes), all
    zero where unknown; weights float32 (B,): 0 for a row that only fills the last batch, else the same number, such
    that Keras's mean over batches is the mean over photos.
    """

    dataset: tf.data.Dataset
    maker: _Maker  # must live as long as the dataset is used
    steps: int  # an epoch of training, or one pass
    rows: int  # photos in it
    batch: int  # photos per step, of all processes together
    views: int = 1

    def collect(self, outputs: np.ndarray) -> np.ndarray:
        """(steps × B, C) in the order of the batches → (views, rows, C): every row once per view."""
        return outputs[: self.views * self.rows].reshape(self.views, self.rows, outputs.shape[1])


def make_batches(
    cfg: Config,
    cache: PhotoCache,
    rows: np.ndarray,
    labels: np.ndarray,
    size: tuple[int, int],
    classes: int,
    *,
    train: Callable[[int], float] | None = None,
    epochs: range = range(1),
    steps: int | None = None,
    stage: int = 0,
    views: range = range(1),
    rt: Runtime | None = None,
) -> Batches:
    """Batches of the given cache rows.

    rows (N,) int: rows of the cache. labels (N,) int, −1 where unknown. size: (height, width).
    train: epoch → strength of the policy. With it every epoch is a new permutation, augmented, and
    only whole batches are made, of the given epochs (numbers within the stage) and of at most as many rows as there are;
    with fewer rows than devices the one batch is padded and masked. steps: of each of these epochs, the first ones of its permutation;
    None: all there are. Without ``train`` every row comes exactly once per view, in order, the
    last batch padded and masked. views: numbers of test-time views, 0 the photo itself, 1 its mirror image,
    then random ones; a batch may hold the end of one view and the start of the next, so that few photos fill batches too.
    rt: what computes; None: one device. Its devices share a batch, so B is a multiple of their number (``batch_size``); of
    several processes each makes its own share of every batch. With XLA the dataset's shapes are fixed; without it one
    trace serves all sizes.
    """
    assert train or steps is None, "steps are those of an epoch of training"
    rt = rt or _ONE_DEVICE
    cv2.setNumThreads(1)  # tf.data's threads are the parallelism; OpenCV's own would fight them
    maker = _Maker(cfg, cache, rows, labels, size, train, steps, stage, views, rt)
    # TensorFlow keeps a numpy_function's function for as long as the process lives. It holds only a
    # weak reference, so that the photos go with the Batches.
    made_by = weakref.ref(maker)

    def make(i: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        alive = made_by()
        assert alive is not None, "the Batches of this dataset are gone; keep them while it is used"
        return alive(int(i)) if i >= first else alive.blank()

    def tensors(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images, label, weights = tf.numpy_function(
            make, [i], (tf.uint8, tf.int64, tf.float32), stateful=False
        )
        images.set_shape((share, *size, 3) if rt.xla else (share, None, None, 3))
        label.set_shape((share,))
        weights.set_shape((share,))
        return images, tf.one_hot(label, classes), weights

    # A strategy splits batches whose size it knows; otherwise batches of all sizes share a trace.
    share = maker.batch // rt.processes if rt.xla or rt.strategy else None
    first, end = (
        (epochs.start * maker.steps, epochs.stop * maker.steps) if train else (0, maker.steps)
    )
    mixed = train and (cfg.mixup or cfg.cutmix)
    # keras-cv draws from one generator: what earlier epochs have drawn is drawn again, on blank
    # photos, to go on from there.
    dataset = tf.data.Dataset.range(0 if mixed else first, end).map(
        tensors, num_parallel_calls=threads(), deterministic=True
    )
    if mixed:
        dataset = dataset.map(_mixer(cfg), num_parallel_calls=1, deterministic=True).skip(first)
    # There is nothing to tune, and an iterator that ends waits, idle, for the tuner's thread to
    # wake, longer the longer it ran. Timed in a script around ``fit`` of Lite0 at 96x160 on two
    # cores: 2 s after 12 steps, 0 s without the tuner.
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = dataset.prefetch(2).with_options(options)
    return Batches(dataset, maker, maker.steps, len(rows), maker.batch, len(views))


_ONE_DEVICE = Runtime("tensorflow", ("any",), "float32", xla=False, fast_layers=False)


class _Maker:
    """Number of a batch → images uint8 (B, H, W, 3), labels int64 (B,), weights float32 (B,)."""

    def __init__(
        self,
        cfg: Config,
        cache: PhotoCache,
        rows: np.ndarray,
        labels: np.ndarray,
        size: tuple[int, int],
        strength: Callable[[int], float] | None,
        steps: int | None,
        stage: int,
        views: range,
        rt: Runtime,
    ):
        self.cfg, self.cache, self.rows, self.labels = cfg, cache, rows, labels.astype(np.int64)
        self.strength, self.stage, self.views, self.size = strength, stage, views, size
        self.batch = rt.batch_size(cfg.batch, len(rows) if strength else None)
        looks = len(rows) * len(views)
        whole = max(1, len(rows) // self.batch) if strength else -(-looks // self.batch)
        self.steps = min(steps or whole, whole)
        own = self.batch // rt.processes
        self.own = slice(
            rt.process * own, (rt.process + 1) * own
        )  # this process's share of a batch
        self.policies = _Policies(cfg, size)
        self.known = (-1, np.empty((2, 0), int))  # an epoch and its order

    def __call__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._training(i, self.strength) if self.strength else self._evaluation(i)

    def blank(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A batch that nobody will see."""
        count = self.own.stop - self.own.start
        shape = (count, *self.policies.size, 3)
        return np.zeros(shape, np.uint8), np.zeros(count, np.int64), np.ones(count, np.float32)

    def _training(
        self, i: int, strength: Callable[[int], float]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, step = divmod(i, self.steps)
        policy = self.policies.get(self.cfg.augment, strength(epoch))
        known = self.known  # replaced as a whole: threads come to it at once
        if known[0] != epoch:
            known = self.known = (epoch, self._order(epoch))
        # Fewer rows than devices come again to fill the only batch, with weight 0.
        places = np.arange(step * self.batch, (step + 1) * self.batch)[self.own]
        chosen, copies = known[1][:, places % len(self.rows)]
        images = self._stack(
            policy(
                self.cache[row], (self.cfg.seed, self.stage, epoch, row, *([copy] if copy else []))
            )
            for row, copy in zip(self.rows[chosen], copies, strict=True)
        )
        scale = max(1.0, self.batch / len(self.rows))
        return images, self.labels[chosen], (places < len(self.rows)) * np.float32(scale)

    def _order(self, epoch: int) -> np.ndarray:
        """(2, N) of an epoch's photos: places among the rows, and which copy of the photo each is, 0 the first."""
        rng, count = np.random.default_rng((self.cfg.seed, self.stage, epoch)), len(self.rows)
        order = rng.permutation(count)
        if not self.cfg.oversample:
            return np.stack([order, np.zeros_like(order)])
        # Each class in turn, its photos in this order and from the front again where they run out.
        by_class = order[np.argsort(self.labels[order], kind="stable")]
        groups = np.split(by_class, np.flatnonzero(np.diff(self.labels[by_class])) + 1)
        quotas = rng.permutation([len(part) for part in np.array_split(order, len(groups))])
        drawn = [
            np.stack([np.resize(group, quota), np.arange(quota) // len(group)])
            for group, quota in zip(groups, quotas, strict=True)
        ]
        return np.concatenate(drawn, axis=1)[:, rng.permutation(count)]

    def _evaluation(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        looks = len(self.rows) * len(self.views)
        places = np.arange(i * self.batch, (i + 1) * self.batch)[self.own]
        numbers, chosen = np.divmod(np.minimum(places, looks - 1), len(self.rows))
        images = self._stack(
            self.policies.look(self.cache[row], self.views[number], self.cache.keys[row])
            for number, row in zip(numbers, self.rows[chosen], strict=True)
        )
        # Keras divides a batch's loss by its size, padding included; this makes up for it over the
        # whole pass.
        scale = self.steps * self.batch / looks
        return images, self.labels[chosen], (places < looks) * np.float32(scale)

    def _stack(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """(B, H, W, 3) uint8, each photo written to its place as it comes: np.stack would hold all of them twice."""
        batch = np.empty((self.own.stop - self.own.start, *self.size, 3), np.uint8)
        for place, image in zip(batch, images, strict=True):
            place[:] = image
        return batch


def threads() -> int:
    return min(
        8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


class _Policies:
    """One policy per thread, strength and kind: a Compose shared by threads shares its random state."""

    def __init__(self, cfg: Config, size: tuple[int, int]):
        self.cfg, self.size = cfg, size
        self.local = threading.local()

    def get(self, name: str, strength: float) -> augment.Policy:
        known = self.local.__dict__
        key = f"{name} {strength}"
        if key not in known:
            known.clear()
            known[key] = augment.policy(name, *self.size, self.cfg.fit, strength)
        return known[key]

    def look(self, photo: np.ndarray, number: int, key: int) -> np.ndarray:
        """Test-time view of a photo: its draws depend on seed, view and the photo, not on the batch (S51)."""
        if number < 2:
            return augment.view(photo, self.size, self.cfg.fit, mirror=number == 1)
        return self.get("light", self.cfg.tta_strength)(photo, (self.cfg.seed, _TTA, number, key))


_TTA = 1_000_003  # keeps the views' draws apart from those of training stages


def _mixer(cfg: Config) -> Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """MixUp or CutMix by keras-cv, on a batch; the labels are mixed alike."""
    import keras_cv

    layer = (
        keras_cv.layers.MixUp(alpha=cfg.mixup, seed=cfg.seed)
        if cfg.mixup
        else keras_cv.layers.CutMix(alpha=cfg.cutmix, seed=cfg.seed)
    )

    def mix(
        images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        mixed = layer({"images": tf.cast(images, tf.float32), "labels": labels}, training=True)
        return mixed["images"], mixed["labels"], weights

    return mix

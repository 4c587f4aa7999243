"""The only place where batches are made: train, validation, test and test-time augmentation.

tf.data schedules; a batch is made by one Python function from the cache of decoded photos, so that
order and augmentation depend on the seed alone, however many threads there are.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tensorflow as tf

from carcls import augment, inputs, photos
from carcls.config import Config

# Photos are kept a little larger than the network sees them, so that a zoomed-in crop is not blurred.
MARGIN = 1.15


class PhotoCache:
    """Decoded photos at one size, each decoded when first asked for: row → uint8 (h, w, 3).

    Every photo keeps its shape and is at least MARGIN × its fitted size, unless the file is
    smaller. In memory while all of them fit into ``share`` of what is free, else in a file in scratch.
    """

    def __init__(self, frame: pd.DataFrame, height: int, width: int, fit: str, share: float, scratch: Path):
        self.paths = frame["path"].tolist()
        # What a test-time view of a photo is depends on its id, not on its place among the photos.
        self.keys = [zlib.crc32(str(ident).encode()) for ident in frame["id"]]
        self.readable = frame["readable"].to_numpy(bool)
        full = frame[["height", "width"]].to_numpy(float)  # (N, 2)
        full[~self.readable] = (height, width)
        ratio = np.array([height, width]) / full
        scale = (ratio.min(1) if fit == "pad" else ratio.max(1)) * MARGIN
        self.full = full.astype(int)
        self.shapes = np.maximum(1, np.ceil(full * np.minimum(scale, 1.0)[:, None])).astype(int)  # (N, 2)
        sizes = self.shapes.prod(1) * 3
        self.offsets = np.concatenate([[0], np.cumsum(sizes)])
        self.bytes = int(self.offsets[-1])
        self.free = free_memory()
        self.on_disk = self.bytes > share * self.free
        if self.on_disk:
            scratch.mkdir(parents=True, exist_ok=True)
            room = shutil.disk_usage(scratch).free
            if self.bytes > 0.95 * room:  # a full disk would kill the process without a word
                raise inputs.InputError(
                    f"{scratch}: {room / 1e9:.1f} GB free, the decoded photos need {self.bytes / 1e9:.1f} GB at "
                    f"{height}x{width}; free some, take smaller stages, or raise cache_share to use memory"
                )
            with tempfile.NamedTemporaryFile(dir=scratch, prefix="photos-") as file:
                file.truncate(self.bytes)
                # The mapping keeps the space; the name is gone when the block ends, so nothing is left behind.
                self.store: np.ndarray = np.memmap(file.name, np.uint8, "r+", shape=(self.bytes,))
        else:
            self.store = np.empty(self.bytes, np.uint8)
        self.done = np.zeros(len(frame), bool)

    def __len__(self) -> int:
        return len(self.paths)

    def __str__(self) -> str:
        where = "on disk" if self.on_disk else "in memory"
        return f"{len(self)} photos decoded {where}: {self.bytes / 1e9:.2f} GB of {self.free / 1e9:.1f} GB free"

    def __getitem__(self, row: int) -> np.ndarray:
        h, w = self.shapes[row]
        slot = self.store[self.offsets[row] : self.offsets[row + 1]].reshape(h, w, 3)
        if not self.done[row]:
            slot[:] = self._decode(row, h, w)
            self.done[row] = True  # after the pixels: another thread may look at any moment
        return slot

    def _decode(self, row: int, h: int, w: int) -> np.ndarray | int:
        if not self.readable[row]:
            return augment.GREY  # stands in for a test photo that cannot be read
        try:
            photo = photos.read_photo(self.paths[row], h, w, *self.full[row])
        except inputs.InputError as error:
            # It looked sound in the audit. A grey photo keeps the batch, and a test photo its row.
            print(f"warning: {error}; a grey photo takes its place", flush=True)
            return augment.GREY
        # Reduced decoding leaves less than a factor of two, where INTER_LINEAR does not alias;
        # INTER_AREA would cost more than the decoding (1,791 against 2,806 photos/s).
        return photo if photo.shape[:2] == (h, w) else cv2.resize(photo, (w, h), interpolation=cv2.INTER_LINEAR)


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, or of its control group if that is less."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        rows = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(rows["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        rows = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        cached = int(rows.get("inactive_file", 0))  # pages of files that the system gives back when asked
        free = min(free, int(limit.read_text()) - int(used.read_text()) + cached)
    return max(0, free)


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
    stage: int = 0,
    views: range = range(1),
    static: bool = False,
) -> Batches:
    """Batches of the given cache rows.

    rows (N,) int: rows of the cache. labels (N,) int, −1 where unknown. size: (height, width).
    train: epoch → strength of the policy. With it every epoch is a new permutation, augmented, and
    only whole batches are made, of the given epochs (numbers within the stage). Without it every row comes exactly once per view, in order, the
    last batch padded and masked. views: numbers of test-time views, 0 the photo itself, 1 its mirror image,
    then random ones; a batch may hold the end of one view and the start of the next, so that few photos fill batches too.
    static: fix H and W in the dataset's shapes (XLA wants that; without it one trace serves all sizes).
    """
    cv2.setNumThreads(1)  # tf.data's threads are the parallelism; OpenCV's own would fight them
    maker = _Maker(cfg, cache, rows, labels, size, train, stage, views)
    # TensorFlow keeps a numpy_function's function for as long as the process lives. It holds only a weak reference, so
    # that the photos go with the Batches.
    made_by = weakref.ref(maker)

    def make(i: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        alive = made_by()
        assert alive is not None, "the Batches of this dataset are gone; keep them while it is used"
        return alive(int(i)) if i >= first else alive.blank()

    def tensors(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images, label, weights = tf.numpy_function(make, [i], (tf.uint8, tf.int64, tf.float32), stateful=False)
        images.set_shape((batch, *size, 3) if static else (None, None, None, 3))
        label.set_shape((batch if static else None,))
        weights.set_shape((batch if static else None,))
        return images, tf.one_hot(label, classes), weights

    batch = maker.batch
    first, end = (epochs.start * maker.steps, epochs.stop * maker.steps) if train else (0, maker.steps)
    mixed = train and (cfg.mixup or cfg.cutmix)
    # keras-cv draws from one generator: what earlier epochs have drawn is drawn again, on blank photos, to go on from there.
    dataset = tf.data.Dataset.range(0 if mixed else first, end).map(
        tensors, num_parallel_calls=threads(), deterministic=True
    )
    if mixed:
        dataset = dataset.map(_mixer(cfg), num_parallel_calls=1, deterministic=True).skip(first)
    return Batches(dataset.prefetch(2), maker, maker.steps, len(rows), len(views))


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
        stage: int,
        views: range,
    ):
        self.cfg, self.cache, self.rows, self.labels = cfg, cache, rows, labels.astype(np.int64)
        self.strength, self.stage, self.views = strength, stage, views
        self.batch = min(cfg.batch, len(rows)) if strength else cfg.batch
        self.steps = len(rows) // self.batch if strength else -(-len(rows) * len(views) // self.batch)
        self.policies = _Policies(cfg, size)

    def __call__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._training(i, self.strength) if self.strength else self._evaluation(i)

    def blank(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A batch that nobody will see."""
        shape = (self.batch, *self.policies.size, 3)
        return np.zeros(shape, np.uint8), np.zeros(self.batch, np.int64), np.ones(self.batch, np.float32)

    def _training(self, i: int, strength: Callable[[int], float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, step = divmod(i, self.steps)
        policy = self.policies.get(self.cfg.augment, strength(epoch))
        order = np.random.default_rng((self.cfg.seed, self.stage, epoch)).permutation(len(self.rows))
        chosen = order[step * self.batch : (step + 1) * self.batch]
        images = [policy(self.cache[row], (self.cfg.seed, self.stage, epoch, row)) for row in self.rows[chosen]]
        return np.stack(images), self.labels[chosen], np.ones(self.batch, np.float32)

    def _evaluation(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        looks = len(self.rows) * len(self.views)
        places = np.arange(i * self.batch, (i + 1) * self.batch)
        numbers, chosen = np.divmod(np.minimum(places, looks - 1), len(self.rows))
        images = [
            self.policies.look(self.cache[row], self.views[number], self.cache.keys[row])
            for number, row in zip(numbers, self.rows[chosen], strict=True)
        ]
        # Keras divides a batch's loss by its size, padding included; this makes up for it over the whole pass.
        scale = self.steps * self.batch / looks
        return np.stack(images), self.labels[chosen], (places < looks) * np.float32(scale)


def threads() -> int:
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


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

    def mix(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        mixed = layer({"images": tf.cast(images, tf.float32), "labels": labels}, training=True)
        return mixed["images"], mixed["labels"], weights

    return mix

"""The only place where batches are made: for training, validation, prediction and views.

tf.data schedules; one Python function makes a batch from its number, so that order and augmentation
depend on the seed alone, however many threads there are.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import tensorflow as tf

from carcls.config import Config
from carcls.data import augment
from carcls.data.cache import PhotoCache
from carcls.data.photos import Rows
from carcls.machine import ONE_DEVICE, Machine

_VIEWS = 1_000_003  # in the seed of views: keeps their draws apart from those of training
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # images, labels, weights


@dataclass(frozen=True)
class Epochs:
    """Training: every epoch another permutation of the rows, augmented, in whole batches.

    Rows fewer than the devices fill one batch, padded and masked.
    """

    stage: int
    numbers: range  # of the epochs, within the stage
    strength: Callable[[int], float]  # epoch → strength of the augmentation
    steps: int | None = None  # the first so many of each epoch; None: all there are


@dataclass(frozen=True)
class Looks:
    """Prediction: every row exactly once per view, in order, the last batch padded and masked.

    A batch may hold the end of one view and the start of the next, so that few photos fill batches.
    """

    views: range = range(1)  # 0 the photo as it is, 1 its mirror image, then random ones


@dataclass(frozen=True)
class Batches:
    """Batches of (images, labels, weights) and how many there are.

    images: uint8 (B, H, W, 3) RGB, or float32 0–255 where they are mixed. labels: float32
    (B, classes), all zero where unknown. weights: float32 (B,), 0 for what only fills a batch, else
    the same number, such that Keras's mean over batches is the mean over photos.
    """

    dataset: tf.data.Dataset
    steps: int  # of an epoch of training, or of all looks
    batch: int  # photos a step, of all processes together
    rows: int  # photos
    views: int
    maker: _Maker  # kept alive, as the dataset holds it weakly

    def collect(self, outputs: np.ndarray) -> np.ndarray:
        """(steps × B, C) in the order of the batches → (views, rows, C): every row once a view."""
        return outputs[: self.views * self.rows].reshape(self.views, self.rows, outputs.shape[1])

    def waited(self, first: int, ends: Mapping[int, float]) -> float | None:
        """The share of an epoch of training in which its batches were waited for; None of one step.

        Counted is the time between the end of the epoch's first step, which may trace, and the end
        of its last one: a batch was waited for from the end of the step before it until it was
        made. ends: step → when it was over, by time.monotonic; first: the number of the epoch's
        first batch, whose times are forgotten.
        """
        ready = {step: self.maker.ready.pop(first + step, -math.inf) for step in ends}
        steps = sorted(ends)[1:]
        whole = ends[steps[-1]] - ends[steps[0] - 1] if steps else 0.0
        waits = (max(0.0, ready[step] - ends[step - 1]) for step in steps)
        return sum(waits) / whole if whole else None


def make_batches(
    cache: PhotoCache,
    rows: Rows,
    classes: int,
    how: Epochs | Looks,
    cfg: Config,
    machine: Machine | None = None,
) -> Batches:
    """Batches of these rows for this machine; without one, for one device.

    The devices share a batch evenly, and each of several processes makes its own share of it. With
    XLA the shapes are fixed; without it one trace serves all sizes.
    """
    machine = machine or ONE_DEVICE
    cv2.setNumThreads(1)  # tf.data's threads are the parallelism; OpenCV's own would fight them
    maker: _Maker
    if isinstance(how, Epochs):
        maker = _TrainingMaker(cache, rows, how, cfg, machine)
        numbers = range(how.numbers.start * maker.steps, how.numbers.stop * maker.steps)
        mixed, views = cfg.mix.mixup > 0 or cfg.mix.cutmix > 0, 1
    else:
        maker = _LookMaker(cache, rows, how, cfg, machine)
        numbers, mixed, views = range(maker.steps), False, len(how.views)
    # keras-cv draws from a generator with a state. To go on from a later epoch, the draws of the
    # earlier ones are made again, on blank photos.
    dataset = tf.data.Dataset.range(0 if mixed else numbers.start, numbers.stop)
    tensors = _tensors(maker, numbers.start, classes, machine)
    dataset = dataset.map(tensors, num_parallel_calls=threads(), deterministic=True)
    if mixed:
        mix = _mixer(cfg, maker, numbers.start)
        dataset = dataset.enumerate().map(mix, num_parallel_calls=1, deterministic=True)
        dataset = dataset.skip(numbers.start)
    # An iterator that ends waits for the tuner's sleeping thread, and there is nothing to tune
    # (MEASUREMENTS: tf.data's tuner).
    options = tf.data.Options()
    options.autotune.enabled = False
    # The next batches are made while the network is at work; two hide one that takes longer.
    dataset = dataset.prefetch(2).with_options(options)
    return Batches(dataset, maker.steps, maker.batch, len(rows), views, maker)


def _tensors(maker: _Maker, first: int, classes: int, machine: Machine) -> Callable[..., Any]:
    """A function from a batch's number to its tensors; blank ones for numbers below ``first``."""
    # A strategy splits batches whose size it knows; else batches of all sizes share a trace.
    share = maker.count if machine.xla or machine.strategy else None
    sides = maker.cache.size if machine.xla else (None, None)
    # TensorFlow keeps the function of a numpy_function for ever; held weakly, photos can go.
    weak_maker = weakref.ref(maker)

    def make(i: np.ndarray) -> Arrays:
        alive = weak_maker()
        assert alive is not None, "the Batches of this dataset are gone"
        return alive.make(int(i)) if i >= first else alive.blank()

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking takes long
    def tensors(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        types = (tf.uint8, tf.int64, tf.float32)
        images, labels, weights = tf.numpy_function(make, [i], types, stateful=False)
        images.set_shape((share, *sides, 3))
        labels.set_shape((share,))
        weights.set_shape((share,))
        return images, tf.one_hot(labels, classes), weights

    return tensors


def threads() -> int:
    """Threads that make batches."""
    if hasattr(os, "sched_getaffinity"):
        return min(8, len(os.sched_getaffinity(0)))
    return min(8, os.cpu_count() or 1)


class _Maker:
    """Makes a batch from its number: images uint8 (B, H, W, 3), labels int64, weights float32."""

    def __init__(self, cache: PhotoCache, rows: Rows, cfg: Config, machine: Machine, batch: int):
        self.cache, self.rows, self.cfg, self.batch = cache, rows, cfg, batch
        self.steps = 0
        self.count = batch // machine.processes
        first = machine.process * self.count
        self.share = slice(first, first + self.count)  # of a batch, that this process makes
        # One policy a thread: threads that share an albumentations Compose share its random state.
        self.policies = threading.local()
        self.ready: dict[int, float] = {}  # of training: batch → when it was made; time.monotonic

    def make(self, i: int) -> Arrays:
        """Batch number i: photos to train on and to predict are made in ways of their own."""
        raise NotImplementedError

    def blank(self) -> Arrays:
        """A batch that nobody will see."""
        images = np.zeros((self.count, *self.cache.size, 3), np.uint8)
        return images, np.zeros(self.count, np.int64), np.ones(self.count, np.float32)

    def _policy(self, name: str, strength: float) -> augment.Policy:
        """This thread's policy of that name and strength; the last one is kept."""
        kept = self.policies.__dict__
        if kept.get("key") != (name, strength):
            kept["policy"] = augment.policy(name, *self.cache.size, self.cfg.fit, strength)
            kept["key"] = (name, strength)
        return cast(augment.Policy, kept["policy"])

    def _stack(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """(B, H, W, 3) uint8, written photo by photo: np.stack would hold all of them twice."""
        batch = np.empty((self.count, *self.cache.size, 3), np.uint8)
        for place, image in zip(batch, images, strict=True):
            place[:] = image
        return batch


class _TrainingMaker(_Maker):
    """The batches of all epochs, numbered on."""

    def __init__(self, cache: PhotoCache, rows: Rows, how: Epochs, cfg: Config, machine: Machine):
        super().__init__(cache, rows, cfg, machine, machine.batch_size(cfg.batch, len(rows)))
        self.how = how
        whole = max(1, len(rows) // self.batch)
        self.steps = min(how.steps or whole, whole)
        self.order = (-1, np.empty((2, 0), int))  # an epoch and what _order says of it

    def make(self, i: int) -> Arrays:
        epoch, step = divmod(i, self.steps)
        order = self.order  # it is replaced as a whole, as threads come to it at once
        if order[0] != epoch:
            order = self.order = (epoch, self._order(epoch))
        # Rows fewer than devices come again to fill the only batch, with weight 0.
        places = np.arange(step * self.batch, (step + 1) * self.batch)[self.share]
        chosen, copies = order[1][:, places % len(self.rows)]
        policy = self._policy(self.cfg.augment, self.how.strength(epoch))
        draws = (self.cfg.seed, self.how.stage, epoch)
        images = self._stack(
            # Drawn from the row's number, not its place in the table: other photos do not matter.
            # With its copy's number, too, what comes again is augmented anew.
            policy(self.cache[self.rows.rows[number]], (*draws, number, *([copy] if copy else [])))
            for number, copy in zip(chosen, copies, strict=True)
        )
        scale = max(1.0, self.batch / len(self.rows))
        self.ready[i] = time.monotonic()
        return images, self.rows.labels[chosen], (places < len(self.rows)) * np.float32(scale)

    def _order(self, epoch: int) -> np.ndarray:
        """(2, N) of an epoch's photos: numbers of rows, and which copy each is, 0 the first."""
        rng = np.random.default_rng((self.cfg.seed, self.how.stage, epoch))
        count, labels = len(self.rows), self.rows.labels
        order = rng.permutation(count)
        if not self.cfg.oversample:
            return np.stack([order, np.zeros_like(order)])
        # Each class in turn, its photos in this order and from the front again where they run out.
        by_class = order[np.argsort(labels[order], kind="stable")]
        groups = np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1)
        quotas = rng.permutation([len(part) for part in np.array_split(order, len(groups))])
        drawn = [
            np.stack([np.resize(group, quota), np.arange(quota) // len(group)])
            for group, quota in zip(groups, quotas, strict=True)
        ]
        return np.concatenate(drawn, axis=1)[:, rng.permutation(count)]


class _LookMaker(_Maker):
    """The batches of all views, one after the other."""

    def __init__(self, cache: PhotoCache, rows: Rows, how: Looks, cfg: Config, machine: Machine):
        super().__init__(cache, rows, cfg, machine, machine.batch_size(cfg.batch))
        self.views = how.views
        self.looks = len(rows) * len(how.views)
        self.steps = -(-self.looks // self.batch)

    def make(self, i: int) -> Arrays:
        places = np.arange(i * self.batch, (i + 1) * self.batch)[self.share]
        numbers, chosen = np.divmod(np.minimum(places, self.looks - 1), len(self.rows))
        images = self._stack(
            self._view(row, self.views[number])
            for number, row in zip(numbers, self.rows.rows[chosen], strict=True)
        )
        # Keras divides a batch's loss by its size, padding included; this makes up for it.
        scale = self.steps * self.batch / self.looks
        return images, self.rows.labels[chosen], (places < self.looks) * np.float32(scale)

    def _view(self, row: int, number: int) -> np.ndarray:
        """One view (H, W, 3) of a photo, drawn from seed, view and photo, whatever the batch."""
        photo, cfg = self.cache[row], self.cfg
        if number < 2:
            return augment.view(photo, self.cache.size, cfg.fit, mirror=number == 1)
        policy = self._policy("light", cfg.view_strength)
        return policy(photo, (cfg.seed, _VIEWS, number, self.cache.keys[row]))


def _mixer(cfg: Config, maker: _Maker, first: int) -> Callable[..., Any]:
    """MixUp, CutMix, or by a coin one of them a batch, by keras-cv; labels are mixed alike.

    first: batches of lower numbers are blank.
    """
    from keras_cv import layers  # it imports keras, whose backend is chosen by then

    kinds = ((layers.MixUp, cfg.mix.mixup), (layers.CutMix, cfg.mix.cutmix))
    mixers = [kind(alpha=alpha, seed=cfg.seed) for kind, alpha in kinds if alpha]
    weak_maker = weakref.ref(maker)

    def is_ready(number: np.ndarray) -> np.ndarray:
        alive = weak_maker()
        if alive and number >= first:
            alive.ready[int(number)] = time.monotonic()
        return number

    def mix(number: tf.Tensor, batch: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images, labels, weights = batch
        inputs = {"images": tf.cast(images, tf.float32), "labels": labels}
        branches = [lambda mixer=mixer: mixer(inputs, training=True) for mixer in mixers]
        if len(mixers) == 1:
            mixed = branches[0]()
        else:  # the coin depends on the batch's number alone: a training that goes on has the same
            coin = tf.random.stateless_uniform((), (cfg.seed, number), 0, 2, tf.int32)
            mixed = tf.switch_case(coin, branches)
        with tf.control_dependencies([mixed["images"], mixed["labels"]]):
            tf.numpy_function(is_ready, [number], tf.int64)
        return mixed["images"], mixed["labels"], weights

    return mix

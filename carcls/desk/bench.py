"""``make bench``: how fast the input and a training step are, beside references, in one run.

Three rounds of each comparison or, where the ratio is near 1, nine.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before batches imports TensorFlow

import cv2
import numpy as np
import pandas as pd

from carcls import disk, machine
from carcls.config import Config
from carcls.data import augment, batches, files, photos, pixels
from carcls.data.batches import Epochs, Looks
from carcls.data.cache import PhotoCache
from carcls.data.photos import Rows
from carcls.desk import sample
from carcls.desk.comparing import Child, Measure, compare
from carcls.errors import InputError
from carcls.votes import decide
from carcls.votes.votes import Votes

FED_ROUNDS = 9  # for a ratio near 1 (MEASUREMENTS: fed by the pipeline)
SIZES = (128, 224)  # px, both sides
CLASSES = 10
LIMIT = 2500  # photos; of fewer than an epoch has, a pipeline's start is too large a part


@dataclass(frozen=True)
class Task:
    """What is measured on: photos of a table, at one size, with a folder for what is kept."""

    cfg: Config
    frame: pd.DataFrame
    size: int  # px, both sides
    scratch: Path

    @property
    def rows(self) -> Rows:
        return Rows(np.arange(len(self.frame)), self.frame["label"].to_numpy(np.int64))

    def cache(self) -> PhotoCache:
        """A new one: nothing is decoded yet."""
        return PhotoCache(self.frame, (self.size, self.size), self.cfg.fit, self.scratch)


def main(data: str = "", large: str = "") -> None:
    """Print the ratios for a competition's folder, else the sample; large: a folder for decoding.

    Raises InputError if there are no photos.
    """
    if large and not _photos_in(Path(large)):
        raise InputError(
            f"large={large}: expected a folder with photos ({', '.join(disk.PHOTO_SUFFIXES)})"
        )
    if data:
        files.check(Config(data=data))
    _measure_votes()  # first, as it reports the most memory that the process has had
    data = data or str(sample.draw(disk.cache_home() / "sample"))
    with tempfile.TemporaryDirectory() as out:
        cfg = Config(data=data, out=out, weights="none", batch=32, fit="crop", augment="light")
        place = files.locate(cfg)
        table = photos.load(cfg, place)
        frame = table.frame.iloc[table.rows(photos.TRAIN).rows].head(LIMIT).reset_index(drop=True)
        print(f"{len(frame)} photos of {data}")
        for size in SIZES:
            _measure_input(Task(cfg, frame, size, place.scratch))
        if large:
            large_frame = _large_frame(Path(large))
            for size in SIZES:
                _measure_first_epoch(Task(cfg, large_frame, size, place.scratch), "large photos")
        _measure_step(Task(cfg, frame, SIZES[0], place.scratch))


def _photos_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix.lower() in disk.PHOTO_SUFFIXES)


def _large_frame(folder: Path) -> pd.DataFrame:
    """A table of the photos in a folder, each as often as it takes for 256."""
    paths = _photos_in(folder)
    sizes = [pixels.read_photo(path).shape[:2] for path in paths]
    frame = pd.DataFrame(
        {
            "id": [path.name for path in paths],
            "path": [str(path) for path in paths],
            "height": [height for height, _ in sizes],
            "width": [width for _, width in sizes],
            "readable": True,
            "label": 0,
        }
    )
    return pd.concat([frame] * max(1, 256 // len(frame)), ignore_index=True)


# --- Input ----------------------------------------------------------------------------------------


def _measure_input(task: Task) -> None:
    _measure_first_epoch(task, "input")
    with tempfile.TemporaryDirectory() as folder:
        keras_data, cache = _keras_layers(task, Path(folder)), task.cache()
        _train_on(task, cache, epochs=1)  # decoded now
        compare(
            f"input, {task.size} px, cached epoch, batch {task.cfg.batch}",
            {
                "Keras tutorial layers (flip, rotation, zoom)": lambda: _drain(
                    keras_data, len(task.frame)
                ),
                "ours, flip + crop + affine": lambda: _train_on(task, cache, epochs=3),
            },
        )


def _measure_first_epoch(task: Task, title: str) -> None:
    """What making batches adds to decoding and resizing, and what augmentation adds to that."""
    compare(
        f"{title}, {task.size} px, first epoch",
        {
            "decode + resize alone (cv2, threads)": partial(_decode, task),
            "ours, batches of decoded photos": lambda: _look_at(task, task.cache()),
            "ours, with flip + crop + affine": lambda: _train_on(task, task.cache(), epochs=1),
        },
    )


def _decode(task: Task) -> float:
    """Photos/s of the least that a network needs: reading, decoding at reduced scale, resizing."""
    paths = task.frame["path"].tolist()
    shorter = task.frame[["height", "width"]].min(axis=1).to_numpy()

    def one(i: int) -> None:
        data = np.fromfile(paths[i], np.uint8)
        reduce = next((r for r in (8, 4, 2) if shorter[i] // r >= task.size), 1)
        flag = getattr(cv2, f"IMREAD_REDUCED_COLOR_{reduce}" if reduce > 1 else "IMREAD_COLOR")
        photo = cv2.imdecode(data, flag)
        assert photo is not None, f"{paths[i]} cannot be decoded"
        augment.view(photo, (task.size, task.size), "crop")

    cv2.setNumThreads(1)
    start = time.perf_counter()
    with ThreadPoolExecutor(batches.threads()) as pool:
        list(pool.map(one, range(len(paths))))
    return len(paths) / (time.perf_counter() - start)


def _train_on(task: Task, cache: PhotoCache, epochs: int) -> float:
    """Photos/s of our batches for training."""
    how = Epochs(0, range(epochs), lambda epoch: 1.0)
    made = batches.make_batches(cache, task.rows, CLASSES, how, task.cfg)
    return _drain(made.dataset, made.steps * made.batch * epochs)


def _look_at(task: Task, cache: PhotoCache) -> float:
    """Photos/s of our batches of photos as they are."""
    made = batches.make_batches(cache, task.rows, CLASSES, Looks(), task.cfg)
    return _drain(made.dataset, len(task.frame))


def _drain(dataset: Any, count: int) -> float:
    start = time.perf_counter()
    for _ in dataset:
        pass
    return count / (time.perf_counter() - start)


def _keras_layers(task: Task, folder: Path) -> Any:
    """Keras's tutorial: photos from a directory, cached, then layers that augment."""
    import keras
    import tensorflow as tf

    for n, row in enumerate(task.frame.itertuples()):
        target = folder / str(row.label) / f"{n}.jpg"
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(Path(row.path).resolve())
    turn, zoom = keras.layers.RandomRotation(0.02), keras.layers.RandomZoom(0.1)
    layers = keras.Sequential([keras.layers.RandomFlip("horizontal"), turn, zoom])
    size = (task.size, task.size)
    data = keras.utils.image_dataset_from_directory(
        folder, image_size=size, batch_size=None, seed=1, verbose=False
    ).cache()
    for _ in data:
        pass
    data = data.batch(task.cfg.batch)
    return data.map(lambda x, y: (layers(x, training=True), y), tf.data.AUTOTUNE).prefetch(2)


# --- A training step ------------------------------------------------------------------------------


def _measure_step(task: Task) -> None:
    """Keras as it comes and ours, in two processes: each chooses TensorFlow's kernels once."""
    plain = Child(_prepare_steps, task, True)
    # As in a run. TensorFlow reads it when it is imported; the plain one has started before.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    ours = Child(_prepare_steps, task, False)
    try:
        compare(
            f"training step, {task.cfg.backbone}, {task.size} px, batch {task.cfg.batch}",
            {
                "Keras as it comes (without XLA)": partial(plain.rate, "memory"),
                "ours, one batch in memory": partial(ours.rate, "memory"),
            },
        )
        compare(
            f"training fed by the pipeline, {task.size} px, batch {task.cfg.batch}",
            {
                "ours, one batch in memory": partial(ours.rate, "memory"),
                "ours, fed by the pipeline": partial(ours.rate, "fed"),
            },
            FED_ROUNDS,
        )
    finally:
        for child in (plain, ours):
            child.close()


class _Plain(machine.Machine):
    """Keras as it comes, with its own layers."""

    @property
    def fast_layers(self) -> bool:
        return False


def _prepare_steps(task: Task, is_plain: bool) -> tuple[str, Measure]:
    """A network that trains a few steps when it is asked to, from memory or fed."""
    if is_plain:
        computer: machine.Machine = _Plain("tensorflow", ("cpu",))
    else:
        computer = machine.setup(task.cfg)

    import tensorflow as tf

    from carcls.nets import model  # imports Keras, for which setup has chosen the backend

    how = Epochs(0, range(1000), lambda epoch: 1.0)
    made = batches.make_batches(task.cache(), task.rows, CLASSES, how, task.cfg)
    batch = next(iter(made.dataset))
    sources: dict[str, Iterator[Any]] = {
        "memory": iter(tf.data.Dataset.from_tensors(batch).repeat()),
        "fed": iter(made.dataset),
    }
    net, _ = model.build(task.cfg, computer, CLASSES, made.steps)
    model.open_layers(task.cfg, net, 0)
    rate = model.compile_model(task.cfg, net, computer)
    assert rate is not None  # as with every schedule but plateau
    rate.follow(0, 0.01, 0.0)  # a small rate, always the same
    net.make_train_function()

    def measure(name: str) -> float:
        """images/s of twelve steps; made: kept alive, as its dataset holds the photos weakly."""
        source, batch = sources[name], made.batch
        for step in range(14):
            if step == 2:  # the first ones may trace, or find full buffers
                start = time.perf_counter()
            net.train_function(source)
        return 12 * batch / (time.perf_counter() - start)

    return "", measure


# --- Votes ----------------------------------------------------------------------------------------


class _Voter(NamedTuple):
    """A member of an ensemble, as far as a decision needs one."""

    name: str
    val: Votes
    test: tuple[Votes, ...]


def _measure_votes(
    count: int = 6675, classes: int = CLASSES, views: int = 64, networks: int = 3
) -> None:
    """The decision from votes of the competition's size, as ``carcls votes`` makes it."""
    rng, ids = np.random.default_rng(0), [str(i) for i in range(count)]
    labels, voters = rng.integers(0, classes, count), []
    for number in range(networks):
        scores = rng.normal(size=(count, classes))  # what the views share
        scores[np.arange(count), labels] += 2.5 - 0.3 * number
        probs = np.empty((views, count, classes), np.float32)
        for view in probs:
            seen = np.exp(scores + 0.5 * rng.normal(size=scores.shape))
            view[:] = seen / seen.sum(1, keepdims=True)
        votes = Votes(ids, probs, labels, np.full(count, views))
        voters.append(_Voter(str(number), votes, (votes,)))
    members = tuple({"seed": number} for number in range(networks))
    cfg = Config(members=members).replace(views=f"8-{views}")
    start = time.perf_counter()
    decide.decide(cfg, voters, np.arange(count))
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"\na decision on {count:,} photos × {classes} classes × {views} views × {networks} "
        f"members: {seconds:.1f} s, this process at most {memory:.1f} GB",
        flush=True,
    )

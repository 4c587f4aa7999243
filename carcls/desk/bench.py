"""``make bench``: how fast the input and a training step are, beside references, in one run.

Machines differ and are shared, so what counts are the ratios. Every pair is measured alternately, three times or, where the
ratio is near 1, nine; the median is printed and the ratio's lowest and highest beside it.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from carcls import disk
from carcls import machine as runtime
from carcls import network as members
from carcls.config import Config
from carcls.data import augment, photos
from carcls.data import batches as pipeline
from carcls.data import files as inputs
from carcls.desk import sample
from carcls.errors import InputError
from carcls.votes import decide, votes

ROUNDS = 3
FED_ROUNDS = 9  # make bench, two cores: from 0.93 to 0.99 in one run
SIZES = (128, 224)
LIMIT = 2500  # photos: all of a small competition's, as an epoch has them; a pipeline's start weighs more on fewer


def main(data: str = "", large: str = "") -> None:
    """Print the ratios. data: a competition's folder, else the drawn sample. large: a folder of large photos, for decoding."""
    if large and not _photos_in(Path(large)):
        raise InputError(
            f"large={large}: expected a folder with photos ({', '.join(disk.PHOTO_SUFFIXES)})"
        )
    if data:
        inputs.check(Config(data=data))
    _votes()  # first, as it reports the most memory that the process has had
    data = data or str(sample.draw(disk.cache_home() / "sample"))
    with tempfile.TemporaryDirectory() as out:
        cfg = Config(data=data, out=out, weights="none", batch=32)
        place = inputs.locate(cfg)
        frame = photos.load(cfg, place).train.head(LIMIT)
        print(f"{len(frame)} photos of {data}")
        for size in SIZES:
            _inputs(cfg, place, frame, size)
        if large:
            _large(cfg, place, Path(large))
        _step(cfg, frame)


def _large(cfg: Config, place: inputs.Place, folder: Path) -> None:
    paths = _photos_in(folder)
    sizes = [photos.read_photo(p).shape[:2] for p in paths]
    frame = pd.DataFrame(
        {
            "id": [p.name for p in paths],
            "path": [str(p) for p in paths],
            "height": [s[0] for s in sizes],
            "width": [s[1] for s in sizes],
            "readable": True,
            "label": 0,
        }
    )
    frame = pd.concat([frame] * max(1, 256 // len(frame)), ignore_index=True)
    for size in SIZES:
        _first_epoch(cfg, place, frame, size, "large photos")


def _photos_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix.lower() in disk.PHOTO_SUFFIXES)


def _inputs(cfg: Config, place: inputs.Place, frame: pd.DataFrame, size: int) -> None:
    _first_epoch(cfg, place, frame, size, "input")
    with tempfile.TemporaryDirectory() as folder:
        keras_data = _keras_layers(frame, size, Path(folder))
        cache = pipeline.PhotoCache(frame, size, size, "crop", cfg.cache_share, place.scratch)
        _ours(cfg, place, frame, size, cached=True, cache=cache)
        _compare(
            f"input, {size} px, cached epoch, batch 32",
            {
                "Keras tutorial layers (flip, rotation, zoom)": lambda: _drain(
                    keras_data, len(frame)
                ),
                "ours, flip + crop + affine": lambda: _ours(
                    cfg, place, frame, size, cached=True, cache=cache
                ),
            },
        )


def _votes(photos_: int = 6675, classes: int = 10, views: int = 64, count: int = 3) -> None:
    """All tables and the blend from votes of the competition's size, as ``python -m carcls votes`` makes them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, photos_)
    ids = [str(i) for i in range(photos_)]
    made = []
    for number in range(count):
        scores = rng.normal(size=(photos_, classes))  # what the views share
        scores[np.arange(photos_), labels] += 2.5 - 0.3 * number
        probs = np.empty((views, photos_, classes), np.float32)
        for view in probs:
            seen = np.exp(scores + 0.5 * rng.normal(size=scores.shape))
            view[:] = seen / seen.sum(1, keepdims=True)
        cast = votes.full(ids, probs, labels)
        seconds = {"validation_votes": 1.0, "adaptive_validation_votes": 1.0}
        made.append(
            members.Member(
                str(number),
                Path(),
                cast,
                (cast,),
                {},
                seconds,
                (8, views),
                Config().stages[-1],
                [""],
            )
        )
    start = time.perf_counter()
    cfg = Config(
        tta_views=8, tta_cap=views, members=tuple({"seed": number} for number in range(count))
    )
    decide.decide(cfg, made, np.arange(photos_))
    took, memory = (
        time.perf_counter() - start,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    )
    print(
        f"\nevery table of {photos_:,} photos × {classes} classes × {views} views × {count} members: {took:.1f} s, "
        f"this process at most {memory:.1f} GB",
        flush=True,
    )


def _first_epoch(
    cfg: Config, place: inputs.Place, frame: pd.DataFrame, size: int, title: str
) -> None:
    """Nothing is decoded yet: what making batches adds to decoding and resizing, and what augmentation does."""
    _compare(
        f"{title}, {size} px, first epoch",
        {
            "decode + resize alone (cv2, threads)": partial(_decode_only, frame, size),
            "ours, batches of decoded photos": partial(
                _ours, cfg, place, frame, size, cached=False, train=False
            ),
            "ours, with flip + crop + affine": partial(
                _ours, cfg, place, frame, size, cached=False
            ),
        },
    )


def _decode_only(frame: pd.DataFrame, size: int) -> float:
    """The least that a network needs: photos/s of reading, decoding at reduced scale and resizing to its size, in as many
    threads as cores."""

    def one(i: int) -> None:
        data = np.fromfile(paths[i], np.uint8)
        reduce = next((r for r in (8, 4, 2) if full[i].min() // r >= size), 1)
        flag = {
            1: cv2.IMREAD_COLOR,
            2: cv2.IMREAD_REDUCED_COLOR_2,
            4: cv2.IMREAD_REDUCED_COLOR_4,
            8: cv2.IMREAD_REDUCED_COLOR_8,
        }[reduce]
        photo = cv2.imdecode(data, flag)
        assert photo is not None, f"{paths[i]} cannot be decoded"
        augment.view(photo, (size, size), "crop")

    paths, full = frame["path"].tolist(), frame[["height", "width"]].to_numpy()
    cv2.setNumThreads(1)
    start = time.perf_counter()
    with ThreadPoolExecutor(pipeline.threads()) as pool:
        list(pool.map(one, range(len(frame))))
    return len(frame) / (time.perf_counter() - start)


def _ours(
    cfg: Config,
    place: inputs.Place,
    frame: pd.DataFrame,
    size: int,
    cached: bool,
    cache: Any = None,
    train: bool = True,
) -> float:
    cfg = cfg.replace(fit="crop", augment="light")
    cache = cache or pipeline.PhotoCache(frame, size, size, cfg.fit, cfg.cache_share, place.scratch)
    epochs = 3 if cached else 1
    made = pipeline.make_batches(
        cfg,
        cache,
        np.arange(len(frame)),
        frame["label"].to_numpy(),
        (size, size),
        10,
        train=(lambda epoch: 1.0) if train else None,
        epochs=range(epochs),
    )
    return _drain(made.dataset, made.steps * cfg.batch * epochs if train else len(frame))


def _drain(dataset: Any, count: int) -> float:
    start = time.perf_counter()
    for _ in dataset:
        pass
    return count / (time.perf_counter() - start)


def _keras_layers(frame: pd.DataFrame, size: int, folder: Path) -> Any:
    """Keras's tutorial: image_dataset_from_directory, cached, then flip, rotation and zoom layers on batches."""
    import keras
    import tensorflow as tf

    for n, row in enumerate(frame.itertuples()):
        target = folder / str(row.label) / f"{n}.jpg"
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(Path(row.path).resolve())
    layers = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(0.02),
            keras.layers.RandomZoom(0.1),
        ]
    )
    data = keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), batch_size=None, seed=1, verbose=False
    )
    data = data.cache()
    for _ in data:
        pass
    return (
        data.batch(32).map(lambda x, y: (layers(x, training=True), y), tf.data.AUTOTUNE).prefetch(2)
    )


def _step(cfg: Config, frame: pd.DataFrame, size: int = 128) -> None:
    """A training step of Keras as it comes and of ours, each in a process of its own: TensorFlow's kernels are
    chosen once per process."""
    arms = {plain: _Child(cfg, frame, size, plain) for plain in (True, False)}
    try:
        _compare(
            f"training step, {cfg.backbone}, {size} px, batch {cfg.batch}",
            {
                "Keras as it comes (without XLA)": partial(arms[True].rate, "memory"),
                "ours, one batch in memory": partial(arms[False].rate, "memory"),
            },
        )
        _compare(
            f"training fed by the pipeline, {size} px, batch {cfg.batch}",
            {
                "ours, one batch in memory": partial(arms[False].rate, "memory"),
                "ours, fed by the pipeline": partial(arms[False].rate, "fed"),
            },
            FED_ROUNDS,
        )
    finally:
        for child in arms.values():
            child.close()


class _Child:
    """A process that trains a few steps whenever it is asked to."""

    def __init__(self, cfg: Config, frame: pd.DataFrame, size: int, plain: bool):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(
            target=_serve_steps, args=(other, cfg, frame, size, plain), daemon=True
        )
        if not plain:  # as in a run; TensorFlow reads it when it is imported, here before ``runtime.setup``. Plain ones came first.
            os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        self.process.start()
        other.close()  # so that a child that dies is an end of file here, not a wait for ever

    def rate(self, source: str) -> float:
        """images/s of twelve steps; source: memory or fed."""
        self.pipe.send(source)
        return float(self.pipe.recv())

    def close(self) -> None:
        self.process.terminate()
        self.process.join()


def _serve_steps(
    pipe: Connection, cfg: Config, frame: pd.DataFrame, size: int, plain: bool
) -> None:
    rt = (
        runtime.Runtime("tensorflow", ("cpu",), "float32", False, False)
        if plain
        else runtime.setup(cfg)
    )

    import tensorflow as tf

    from carcls.nets import model, schedule

    cache = pipeline.PhotoCache(frame, size, size, cfg.fit, cfg.cache_share, Path(cfg.out))
    labels = frame["label"].to_numpy()
    made = pipeline.make_batches(
        cfg,
        cache,
        np.arange(len(frame)),
        labels,
        (size, size),
        10,
        train=lambda epoch: 1.0,
        epochs=range(1000),
    )
    batch = next(iter(made.dataset))
    sources = {
        "memory": iter(tf.data.Dataset.from_tensors(batch).repeat()),
        "fed": iter(made.dataset),
    }
    net, _ = model.build(cfg, rt, 10)
    model.open_layers(cfg, net, 0)
    rate = model.compile_model(cfg, net, rt)
    assert rate is not None
    rate.follow(schedule.Course(0, 0.01, 0.0))  # a small rate, always the same
    net.make_train_function()
    while True:
        source: Iterator[Any] = sources[pipe.recv()]
        for step in range(14):
            if step == 2:  # the first ones may trace, or find full buffers
                start = time.perf_counter()
            net.train_function(source)
        pipe.send(12 * cfg.batch / (time.perf_counter() - start))


def _compare(title: str, arms: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> None:
    """Measure the arms alternately, every other round in reverse, and print images/s and each one's ratio to the first."""
    seen: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        for name, measure in list(arms.items())[:: -1 if number % 2 else 1]:
            seen[name].append(measure())
    first, *_others = seen
    print(f"\n{title}")
    for name, values in seen.items():
        ratios = [v / f for v, f in zip(values, seen[first], strict=True)]
        ratio = (
            ""
            if name == first
            else f"   {statistics.median(ratios):5.2f} × ({min(ratios):.2f}–{max(ratios):.2f})"
        )
        print(f"  {name:45} {statistics.median(values):8.0f} images/s{ratio}", flush=True)

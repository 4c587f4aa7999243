"""Seconds of training and predicting, measured on a few real steps.

What a plan under a time budget is made from, and what decides on XLA where only the clock can tell.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from carcls import machine as runtime
from carcls import record as steps
from carcls.config import Config, Stage
from carcls.data import batches as pipeline
from carcls.data import files as inputs
from carcls.data import photos
from carcls.data.batches import Batches
from carcls.machine import Runtime
from carcls.nets import model, schedule

WARM = 3  # steps that are not counted: the first traces or compiles, buffers fill
LEAST, MOST = 5, 40  # steps that are, of each size
XLA_STEPS = 20  # steps with and without XLA, each
XLA_TIME = 900.0  # seconds that must be left to spend some on compiling; not measured
PREDICTED = 8  # steps of prediction, of which the first is not counted
SHARE = 0.01  # of the time left that counting them may take, between these; what they miss, the plan makes good after an epoch


def of_size(
    net: keras.Model, rt: Runtime, train: Batches, val: Batches, look: Batches, left: float
) -> tuple[float, float, float]:
    """Seconds of a training step, of a predicted photo and of one in a view, where ``left`` seconds are left.

    ``look``: batches of such views; ``val`` itself where there are none. The network is another one then.
    """
    warm = _trained(net, train, WARM)
    count = int(np.clip(SHARE * left / max(runtime.agree(rt, warm), 1e-9), LEAST, MOST))
    step = _trained(net, train, count)
    net.evaluate(val.dataset, steps=1, verbose=0)  # traced now, so that no epoch is taken for slow
    photo = predicted(net, val)
    view = photo if look is val else predicted(net, look)
    return runtime.agree(rt, step), runtime.agree(rt, photo), runtime.agree(rt, view)


def _trained(net: keras.Model, batches: Batches, count: int) -> float:
    """Seconds a step, of so many or of an epoch."""
    timed = _Timed()
    net.fit(
        batches.dataset, steps_per_epoch=min(batches.steps, count), callbacks=[timed], verbose=0
    )
    return timed.seconds()


def predicted(net: keras.Model, batches: Batches) -> float:
    """Seconds a photo, of the first steps."""
    timed = _Timed()
    net.predict(batches.dataset, steps=min(batches.steps, PREDICTED), callbacks=[timed], verbose=0)
    return timed.seconds() / batches.batch


def of_state(arrays: list[np.ndarray], folder: Path, rt: Runtime) -> float:
    """Seconds to keep a state of these arrays in that folder."""
    file = folder / ".timed.part.npz"
    began = time.monotonic()
    np.savez(file, *arrays)
    took = time.monotonic() - began
    file.unlink()
    return runtime.agree(rt, took)


def xla(
    cfg: Config,
    rt: Runtime,
    table: photos.Table,
    place: inputs.Place,
    events: Any,
    budget: schedule.Budget | None,
) -> Runtime:
    """The same runtime with XLA where the training ends sooner by it, and without it elsewhere.

    Where the machine alone does not settle it (``rt.xla_open``), a network like the first member's trains a few steps each
    way. The run folder keeps what was timed, so that a later session computes in the same way.
    """
    if not rt.xla_open:
        return rt
    cfg, record = cfg.of_members()[0], steps.Steps(place.out)
    facts = {
        "device": list(rt.devices),
        "precision": rt.precision,
        "tensorflow": tf.__version__,
        **cfg.model_dump(
            mode="json", include={"backbone", "batch", "hidden", "optimizer", "stages", "unfreeze"}
        ),
    }
    known = record.about("XLA", facts) if cfg.resume else None
    if known is None:
        if budget and budget.left() < XLA_TIME:
            on, timed = False, False
            why = f"not timed: less than {XLA_TIME / 60:.0f} minutes are left"
        else:
            print("XLA        timing a few steps with it and without, which takes a compilation")
            on, why, timed = _both_ways(cfg, rt, table, place)
        known = {"on": on, "why": why}
        if timed:
            record.finish("XLA", facts, (), **known)
    rt = runtime.with_xla(rt, known["on"])
    print(
        f"XLA        {'on' if rt.xla else 'off'}: {known['why']}", runtime.batch_norm(rt), sep="\n"
    )
    events.send("xla", **known)
    return rt


def _both_ways(
    cfg: Config, rt: Runtime, table: photos.Table, place: inputs.Place
) -> tuple[bool, str, bool]:
    """Whether to train with XLA, why, and whether that will hold another time too."""
    shape = max(
        cfg.stages, key=lambda stage: stage.epochs * stage.height * stage.width
    )  # where most of the time goes
    start: dict[bool, float] = {}
    step: dict[bool, float] = {}
    failed: dict[bool, str] = {}
    lasting = True
    for on in (True, False):
        try:
            start[on], step[on] = _alone(cfg, runtime.with_xla(rt, on), table, place, shape)
        except (tf.errors.OpError, *runtime.memory_errors()) as error:
            # Training has its own way with too little memory. A compiler that is not whole is a
            # reason, not an end.
            short = runtime.is_out_of_memory(error)
            if not on and not short:
                raise
            lasting &= not short
            # TensorFlow begins with "Graph execution error:" and a traceback, and names the
            # operations last.
            said = [
                line.strip()
                for line in str(error).splitlines()
                if line.strip() and "[[" not in line
            ]
            failed[on] = said[-1] if said else type(error).__name__
        gc.collect()
    if failed:
        why = "; ".join(
            f"a step {'with' if on else 'without'} it fails: {error}"
            for on, error in failed.items()
        )
        return set(failed) == {False}, why, lasting
    # A size is compiled once, or traced; the steps are as many as the heaviest size of the training
    # would make of them.
    pixels = sum(stage.epochs * stage.height * stage.width for stage in cfg.stages) / (
        shape.height * shape.width
    )
    count = pixels * len(table.train) / rt.batch_size(cfg.batch)
    whole = {on: start[on] * len(cfg.stages) + step[on] * count for on in step}
    why = (
        f"a step at {shape.height}x{shape.width} takes {step[True]:.3g} s with it and {step[False]:.3g} s without, to get "
        f"there took {start[True]:.0f} and {start[False]:.0f} s; the whole training would take {whole[True]:.0f} or "
        f"{whole[False]:.0f} s"
    )
    return whole[True] < whole[False], why, True


def _alone(
    cfg: Config, rt: Runtime, table: photos.Table, place: inputs.Place, shape: Stage
) -> tuple[float, float]:
    """Seconds until a new network has trained, validated and predicted a little at that size, and of a training step after it."""
    size = (shape.height, shape.width)
    net, _ = model.build(cfg.replace(weights="none"), rt, len(table.classes))
    model.open_layers(cfg, net, len(cfg.stages) - 1)
    rate = model.compile_model(cfg, net, rt)
    if rate:
        rate.follow(schedule.Course(0, 0.0, 0.0))
    cache = pipeline.PhotoCache(table.train, *size, cfg.fit, cfg.cache_share, place.scratch)
    batches = pipeline.make_batches(
        cfg,
        cache,
        np.arange(len(table.train)),
        table.train["label"].to_numpy(),
        size,
        len(table.classes),
        train=lambda epoch: cfg.strength,
        rt=rt,
    )
    # One batch again and again: decoding photos takes as long either way.
    batch = tf.data.Dataset.from_tensors(next(iter(batches.dataset))).repeat()
    began = time.monotonic()
    net.fit(batch, steps_per_epoch=WARM, verbose=0)
    net.evaluate(batch, steps=1, verbose=0)
    net.predict(batch, steps=1, verbose=0)
    start = time.monotonic() - began
    timed = _Timed()
    net.fit(batch, steps_per_epoch=XLA_STEPS, callbacks=[timed], verbose=0)
    return start, timed.seconds()


class _Timed(keras.callbacks.Callback):
    """Seconds of a step: the mean, as an epoch has it, without the first one where there are more.

    A GPU may be behind the program, but Keras turns the logs into numbers before it calls this: the step has ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ends = [time.monotonic()]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.ends.append(time.monotonic())

    on_predict_batch_end = on_train_batch_end

    def seconds(self) -> float:
        first = 1 if len(self.ends) > 2 else 0
        return (self.ends[-1] - self.ends[first]) / max(1, len(self.ends) - 1 - first)

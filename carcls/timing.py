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

from carcls import inputs, model, photos, pipeline, runtime, schedule, steps
from carcls.config import Config
from carcls.pipeline import Batches
from carcls.runtime import Runtime

WARM = 3  # steps that are not counted: the first traces or compiles, buffers fill
LEAST, MOST = 5, 40  # steps that are, of each size
XLA_STEPS = 20  # steps with and without XLA, each
XLA_TIME = 900.0  # seconds that must be left to spend some on compiling twice; not measured
PREDICTED = 8  # steps of prediction, of which the first is not counted
SHARE = 0.01  # of the time left that counting them may take, between these; what they miss, the plan makes good after an epoch


def of_size(net: keras.Model, rt: Runtime, train: Batches, val: Batches, look: Batches, left: float
            ) -> tuple[float, float, float]:  # fmt: skip
    """Seconds of a training step, of a predicted photo and of one in a view, where ``left`` seconds are left.

    ``look``: batches of such views; ``val`` itself where there are none. The network is another one then.
    """
    warm = _trained(net, train, WARM)
    count = int(np.clip(SHARE * left / max(runtime.agree(rt, warm), 1e-9), LEAST, MOST))
    step = _trained(net, train, count)
    net.evaluate(val.dataset, steps=1, verbose=0)  # traced now, so that no epoch is taken for slow
    photo = _predicted(net, val)
    view = photo if look is val else _predicted(net, look)
    return runtime.agree(rt, step), runtime.agree(rt, photo), runtime.agree(rt, view)


def _trained(net: keras.Model, batches: Batches, steps: int) -> float:
    """Seconds a step, of so many or of an epoch."""
    timed = _Timed()
    net.fit(batches.dataset, steps_per_epoch=min(batches.steps, steps), callbacks=[timed], verbose=0)
    return timed.seconds()


def _predicted(net: keras.Model, batches: Batches) -> float:
    """Seconds a photo."""
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


def xla(cfg: Config, rt: Runtime, table: photos.Table, place: inputs.Place, budget: schedule.Budget | None) -> Runtime:
    """The same runtime with XLA where that trains faster, and without it elsewhere.

    Where the machine alone does not settle it (``rt.xla_open``), the first member's network trains a few steps of its
    first size each way. The run folder keeps the outcome, so that a later session computes in the same way.
    """
    if not rt.xla_open:
        return rt
    cfg = cfg.of_members()[0]
    shape = cfg.stages[0]
    facts = {"device": list(rt.devices), "precision": rt.precision, "backbone": cfg.backbone, "batch": cfg.batch,
             "size": [shape.height, shape.width]}  # fmt: skip
    known = steps.Steps(place.out).about("XLA", facts) if cfg.resume else None
    if known is None:
        known = _both_ways(cfg, rt, table, place, budget)
        steps.Steps(place.out).finish("XLA", facts, (), **known)
    rt = runtime.with_xla(rt, known["on"])
    print(f"XLA        {'on' if rt.xla else 'off'}: {known['why']}", runtime.batch_norm(rt), sep="\n")
    return rt


def _both_ways(cfg: Config, rt: Runtime, table: photos.Table, place: inputs.Place, budget: schedule.Budget | None
               ) -> dict[str, Any]:  # fmt: skip
    """Whether XLA is faster ("on"), and a sentence for it ("why")."""
    import tensorflow as tf

    if budget and budget.left() < XLA_TIME:
        return {"on": False, "why": f"less than {XLA_TIME / 60:.0f} minutes are left, too few to compile for"}
    shape, began = cfg.stages[0], time.monotonic()
    step: dict[bool, float] = {}
    failed: dict[bool, str] = {}
    for on in (True, False):
        try:
            step[on] = _alone(cfg, runtime.with_xla(rt, on), table, place)
        except (tf.errors.OpError, *runtime.memory_errors()) as error:
            # Training has its own way with too little memory. A compiler that is not whole is a reason, not an end.
            if not on and not runtime.is_out_of_memory(error):
                raise
            failed[on] = (str(error).strip() or type(error).__name__).splitlines()[0]
        gc.collect()
    took = f"timed in {time.monotonic() - began:.0f} s, a step at {shape.height}x{shape.width}"
    if failed:
        why = "; ".join(f"fails {'with' if on else 'without'} it: {error}" for on, error in failed.items())
        return {"on": False in failed, "why": f"{took} {why}"}
    return {
        "on": step[True] < step[False],
        "why": f"{took} takes {step[True]:.3g} s with it, {step[False]:.3g} s without",
    }


def _alone(cfg: Config, rt: Runtime, table: photos.Table, place: inputs.Place) -> float:
    """Seconds of a training step at the first size, by a network that is made for it."""
    shape = cfg.stages[0]
    net, _ = model.build(cfg.replace(weights="none"), rt, len(table.classes))
    model.open_layers(cfg, net, len(cfg.stages) - 1)
    rate = model.compile_model(cfg, net, rt)
    if rate:
        rate.follow(schedule.Course(0, 0.0, 0.0))
    cache = pipeline.PhotoCache(table.train, shape.height, shape.width, cfg.fit, cfg.cache_share, place.scratch)
    batches = pipeline.make_batches(cfg, cache, np.arange(len(table.train)), table.train["label"].to_numpy(),
                                    (shape.height, shape.width), len(table.classes), train=lambda epoch: cfg.strength, rt=rt)  # fmt: skip
    _trained(net, batches, WARM)
    return _trained(net, batches, XLA_STEPS)


class _Timed(keras.callbacks.Callback):
    """Seconds of a step: the mean, as an epoch has it, without the first one where there are more."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = [time.monotonic()]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.ends.append(time.monotonic())

    def on_predict_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        for outputs in (logs or {}).values():
            keras.ops.convert_to_numpy(
                outputs
            )  # a GPU may still be at it; Keras itself waits for a training step's loss
        self.ends.append(time.monotonic())

    def seconds(self) -> float:
        first = 1 if len(self.ends) > 2 else 0
        return (self.ends[-1] - self.ends[first]) / max(1, len(self.ends) - 1 - first)

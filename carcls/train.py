"""Training one network: its stages, small photos to large, the best weights carried from each to the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from carcls import callbacks, inputs, model, photos, pipeline, schedule
from carcls.config import Config, Stage
from carcls.runtime import Runtime


@dataclass(frozen=True)
class Trained:
    """A network with its best weights, and how it got there."""

    model: keras.Model
    history: pd.DataFrame  # a row an epoch
    seconds: float  # of training, validation included, without the predictions that ``ready`` makes


# What a network is good for so far: (network, stage that it was trained in, what it is, its validation accuracy).
Ready = Callable[[keras.Model, Stage, str, float], None]


def fit(cfg: Config, rt: Runtime, table: photos.Table, place: inputs.Place, folder: Path, events: callbacks.Events,
        ready: Ready | None = None, start: Path | None = None) -> Trained:  # fmt: skip
    """Train through cfg.stages; writes history.csv, best.weights.h5 and last.weights.h5 to the folder.

    The learning rate follows one schedule over the whole run. ``ready`` is called after the very first epoch and with the
    best weights of each stage but the last. ``start`` is a file of weights to go on from. Raises callbacks.TrainingDiverged when the loss is no number.
    """
    frame = pd.concat([table.train, table.val], ignore_index=True)
    labels = frame["label"].to_numpy()
    train_rows, val_rows = np.split(np.arange(len(frame)), [len(table.train)])
    classes = len(table.classes)
    batch = rt.batch_size(cfg.batch, len(train_rows))
    steps = [max(1, len(train_rows) // batch) * stage.epochs for stage in cfg.stages]
    rates = schedule.table(cfg, sum(steps))
    epochs = sum(stage.epochs for stage in cfg.stages)

    keras.utils.set_random_seed(cfg.seed)  # a member is the same whichever came before it
    net, loaded = _in_scope(rt, partial(model.build, cfg, rt, classes))
    if start:
        net.load_weights(start)
        loaded = f"going on from {start.name}"
    print(f"network    {cfg.backbone}, {net.count_params():,} weights, {loaded}")
    averaged = callbacks.AveragedWeights() if cfg.ema else None
    best_file, last_file = folder / "best.weights.h5", folder / "last.weights.h5"
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    paused = 0.0  # in ready

    def report(*args: Any) -> None:
        nonlocal paused
        start_of_it = time.monotonic()
        assert ready is not None
        ready(*args)
        paused += time.monotonic() - start_of_it

    first_step = first_epoch = 0
    for number, stage in enumerate(cfg.stages):
        size = (stage.height, stage.width)
        cache = pipeline.PhotoCache(frame, *size, cfg.fit, cfg.cache_share, place.scratch)
        print(f"stage {number + 1}/{len(cfg.stages)}  {stage.height}x{stage.width}, {stage.epochs} epochs; {cache}")
        train = pipeline.make_batches(
            cfg, cache, train_rows, labels[train_rows], size, classes, stage=number, epochs=stage.epochs,
            train=partial(_strength, cfg, first_epoch, epochs),
            rt=rt,
        )  # fmt: skip
        val = pipeline.make_batches(cfg, cache, val_rows, labels[val_rows], size, classes, rt=rt)
        # One compilation serves all stages unless the set of training weights changes: tracing a step takes longer
        # than a small epoch, and the optimiser's moments stay valid.
        if number == 0 or cfg.unfreeze == "staged":
            model.open_layers(cfg, net, number)
            lowered = _rate(cfg, net, rates, 0)(0) / rates[0] if number and cfg.schedule == "plateau" else 1.0
            _in_scope(rt, partial(model.compile_model, cfg, net, rt, rates[first_step:] * np.float32(lowered)))
        else:
            net.optimizer.iterations.assign(first_step)  # where the schedule would be, had no stage stopped early
        rate = _rate(cfg, net, rates, first_step)
        best = callbacks.Best(best_file, last_file, averaged)
        watchers = [
            callbacks.StopOnNaN(cfg, number, train.steps, rate),
            callbacks.Progress(cfg, number, train.steps, batch, events, rate, rows,
                               folder / "history.csv"),
            *([model.EqualReplicas(rt.strategy)] if rt.strategy else []),
            best,
            callbacks.EarlyStop(cfg, events),
            *([averaged] if averaged else []),
            *_optional(cfg, folder / "tensorboard" / f"stage{number + 1}"),
            *([_first_epoch(report, stage, averaged)] if ready and number == 0 else []),
        ]  # fmt: skip
        net.fit(train.dataset, epochs=stage.epochs, steps_per_epoch=train.steps, validation_data=val.dataset,
                validation_steps=val.steps, callbacks=watchers, verbose=0)  # fmt: skip
        best.restore()
        if ready and stage is not cfg.stages[-1]:
            report(net, stage, f"best epoch of stage {number + 1}", best.best_accuracy)
        del cache, train, val  # the next stage measures what memory is free
        first_step += steps[number]
        first_epoch += stage.epochs
    return Trained(net, pd.DataFrame(rows), time.monotonic() - began - paused)


def _strength(cfg: Config, done: int, epochs: int, epoch: int) -> float:
    """Of the augmentation in an epoch of this stage, after done epochs of earlier stages, of epochs in all (S20)."""
    return schedule.strength(cfg, (done + epoch) / max(1, epochs - 1))


def _first_epoch(ready: Ready, stage: Stage, averaged: callbacks.AveragedWeights | None) -> keras.callbacks.Callback:
    def on_epoch_end(epoch: int, logs: dict[str, Any]) -> None:
        if epoch == 0:
            with averaged.swapped() if averaged else nullcontext():  # what validation has measured
                ready(callback.model, stage, "first epoch", float(logs["val_accuracy"]))

    callback = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)
    return callback


def _in_scope(rt: Runtime, make: Any) -> Any:
    """With several GPUs, variables must be made inside the strategy's scope."""
    if rt.strategy is None:
        return make()
    with rt.strategy.scope():
        return make()


def _rate(cfg: Config, net: keras.Model, rates: np.ndarray, first: int) -> callbacks.Rate:
    if cfg.schedule == "plateau":
        return lambda step: float(keras.ops.convert_to_numpy(net.optimizer.learning_rate))
    return lambda step: float(rates[min(first + step, len(rates) - 1)])


def _optional(cfg: Config, folder: Path) -> list[keras.callbacks.Callback]:
    """ReduceLROnPlateau and TensorBoard, where asked for."""
    chosen: list[keras.callbacks.Callback] = []
    if cfg.schedule == "plateau":
        chosen.append(
            keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.3, patience=2, min_lr=cfg.lr / 1e3)
        )
    if cfg.tensorboard:
        chosen.append(keras.callbacks.TensorBoard(str(folder), write_graph=False))
    return chosen

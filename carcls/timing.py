"""Seconds of training and predicting, measured on a few real steps: what a plan under a time budget is made from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from carcls import runtime
from carcls.pipeline import Batches
from carcls.runtime import Runtime

WARM = 3  # steps that are not counted: the first traces or compiles, buffers fill
LEAST, MOST = 5, 40  # steps that are, of each size
PREDICTED = 8  # steps of prediction, of which the first is not counted
SHARE = 0.01  # of the time left that counting them may take, between these; what they miss, the plan makes good after an epoch


def of_size(net: keras.Model, rt: Runtime, train: Batches, val: Batches, look: Batches, left: float
            ) -> tuple[float, float, float]:  # fmt: skip
    """Seconds of a training step, of a predicted photo and of one in a view, where ``left`` seconds are left.

    ``look``: batches of such views; ``val`` itself where there are none. The network is another one then.
    """
    warm = _Timed()
    net.fit(train.dataset, steps_per_epoch=min(train.steps, WARM), callbacks=[warm], verbose=0)
    count = int(np.clip(SHARE * left / max(runtime.agree(rt, warm.seconds()), 1e-9), LEAST, MOST))
    timed = _Timed()
    net.fit(train.dataset, steps_per_epoch=min(train.steps, count), callbacks=[timed], verbose=0)
    net.evaluate(val.dataset, steps=1, verbose=0)  # traced now, so that no epoch is taken for slow
    photo = _predicted(net, val)
    view = photo if look is val else _predicted(net, look)
    return runtime.agree(rt, timed.seconds()), runtime.agree(rt, photo), runtime.agree(rt, view)


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


class _Timed(keras.callbacks.Callback):
    """Seconds of a step: the mean, as an epoch has it, without the first one where there are more."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = [time.monotonic()]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.ends.append(time.monotonic())

    on_predict_batch_end = on_train_batch_end

    def seconds(self) -> float:
        first = 1 if len(self.ends) > 2 else 0
        return (self.ends[-1] - self.ends[first]) / max(1, len(self.ends) - 1 - first)

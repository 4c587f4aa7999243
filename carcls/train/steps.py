"""Seconds of training and prediction steps, taken in one place."""

from __future__ import annotations

import time
from typing import Any

import keras

from carcls import stops
from carcls.data.batches import Batches


class StepTimes(keras.callbacks.Callback):
    """Seconds of the steps of an epoch, or of a prediction: the one place where they are taken.

    A GPU may be behind the program, but Keras turns the logs into numbers first: the step is over.
    """

    async_safe = True  # Keras need not wait for each step's numbers where JAX computes ahead

    def __init__(self) -> None:
        super().__init__()
        self.on_epoch_begin(0)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.begin = time.monotonic()
        self.first = self.last = (0, self.begin)  # (steps that are done, when)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        stops.check()
        done = (batch + 1, time.monotonic())
        self.first = self.first if self.first[0] else done
        self.last = max(self.last, done)  # on JAX several threads come here

    on_predict_batch_end = on_train_batch_end

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        stops.check()

    @property
    def step(self) -> float:
        """Seconds a step, without the first one where there are more: it also traces."""
        (first, start), (last, end) = self.first, self.last
        if last > first:
            return (end - start) / (last - first)
        return (end - self.begin) / max(last, 1)

    @property
    def startup(self) -> float:
        """Seconds that the first step took beyond an ordinary one."""
        return max(0.0, self.first[1] - self.begin - self.first[0] * self.step)


def time_training(net: keras.Model, batches: Batches, steps: int) -> float:
    """Seconds a training step, of so many real ones; the network is another one then."""
    times = StepTimes()
    count = min(batches.steps, steps)
    net.fit(batches.dataset, steps_per_epoch=count, callbacks=[times], verbose=0)
    return times.step


def time_looks(net: keras.Model, batches: Batches, steps: int = 8) -> float:
    """Seconds a photo that is predicted once, of the first few batches."""
    times = StepTimes()
    net.predict(batches.dataset, steps=min(batches.steps, steps), callbacks=[times], verbose=0)
    return times.step / batches.batch

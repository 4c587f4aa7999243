"""Seconds of training and prediction steps, taken and told in one place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from carcls import stops
from carcls.data.batches import Batches
from carcls.train.events import Events

QUIET = 60.0  # seconds without any event after which a step is told of

_told: ContextVar[tuple[Events, dict[str, str]] | None] = ContextVar("told", default=None)


@contextmanager
def told(events: Events, network: str, what: str) -> Iterator[None]:
    """Inside, whoever watches is told once a minute how many steps are done, and of what."""
    before = _told.set((events, {"network": network, "what": what}))
    try:
        yield
    finally:
        _told.reset(before)


class StepTimes(keras.callbacks.Callback):
    """Seconds of the steps of an epoch, or of a prediction: the one place where they are taken.

    A GPU may be behind the program, but Keras turns the logs into numbers first: the step is over.
    """

    async_safe = True  # Keras need not wait for each step's numbers where JAX computes ahead

    def __init__(self, steps: int = 0, batch: int = 0) -> None:
        """steps: that there will be, of so many photos each; for who is told of them."""
        super().__init__()
        self.steps, self.batch = steps, batch
        self._told = _told.get()
        self.on_epoch_begin(0)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.begin = time.monotonic()
        self.first = self.last = (0, self.begin)  # (steps that are done, when)
        self.ends: dict[int, float] = {}  # step → when it was over

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        stops.check()
        done = (batch + 1, time.monotonic())
        self.first = self.first if self.first[0] else done
        self.last = max(self.last, done)  # on JAX several threads come here
        self.ends[batch] = done[1]
        # The first step traces and compiles: from it alone the time left would be hours.
        if done[0] > self.first[0] and self._is_quiet(done[1]):
            self._tell(done[0], self.steps, self.speed, **self._about(logs or {}))

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
    def speed(self) -> float:
        """Photos a second."""
        return self.batch / max(self.step, 1e-9)

    @property
    def startup(self) -> float:
        """Seconds that the first step took beyond an ordinary one."""
        return max(0.0, self.first[1] - self.begin - self.first[0] * self.step)

    def _is_quiet(self, now: float) -> bool:
        return self._told is not None and now - self._told[0].sent_at >= QUIET

    def _tell(self, done: int, steps: int, speed: float, **more: Any) -> None:
        assert self._told is not None
        events, about = self._told
        counted = {"done": done, "steps": steps, "images_per_s": round(speed, 1)}
        events.send("step", **(about | counted | more))

    def _about(self, logs: dict[str, Any]) -> dict[str, Any]:
        """What else is told of a step with these logs."""
        return {}


def time_training(net: keras.Model, batches: Batches, steps: int) -> float:
    """Seconds a training step, of so many real ones; the network is another one then."""
    count = min(batches.steps, steps)
    times = StepTimes(count, batches.batch)
    net.fit(batches.dataset, steps_per_epoch=count, callbacks=[times], verbose=0)
    return times.step


def time_looks(net: keras.Model, batches: Batches, steps: int = 8) -> float:
    """Seconds a photo that is predicted once, of the first few batches."""
    count = min(batches.steps, steps)
    times = StepTimes(count, batches.batch)
    net.predict(batches.dataset, steps=count, callbacks=[times], verbose=0)
    return times.step / batches.batch

"""How much of a network's training there is time for, by seconds that were measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np

from carcls import disk
from carcls.data.batches import Batches
from carcls.data.photos import Rows
from carcls.nets import model
from carcls.train import clock, steps
from carcls.train.clock import Ahead, Leg, Pace
from carcls.train.job import Job
from carcls.train.studio import Studio

WARM, LEAST, MOST = 3, 5, 40  # steps of each size: to warm up, at least and at most that count
MEASURING = 0.01  # of the time left, about: what it misses, the first epoch makes good
AMPLE = 0.5  # of the time left: training that takes no more is not looked at after each epoch
SAID = 0.05  # a share that changes by more is printed


class Timed(Protocol):
    """A training, as far as its time depends on it: a trainer.Trainer."""

    s: Studio
    job: Job
    net: keras.Model
    time: Timekeeper
    steps: int  # of a whole epoch
    batch: int
    classes: int
    n_test: int
    announce: Any  # None: nothing is predicted before the end
    was_announced: bool

    def batches(self, leg: Leg) -> Batches: ...

    def looks(self, number: int, rows: Rows, view: int = 0) -> Batches: ...


@dataclass
class Timekeeper:
    """The time of one network, in every process the same."""

    deadline: float  # by time.monotonic, when it must have voted; infinite: no limit
    agree: Callable[[float], float]  # makes several processes see one clock
    whole: float = field(init=False)  # seconds to the deadline, at first
    base: Pace | None = None  # measured before training; None: no limit, or no time to measure
    pace: Pace | None = None  # as the last epoch has shown it
    share: float = 1.0  # of the steps still planned that there is time for
    is_short: bool = False  # the plan may change after any epoch
    was_cut: bool = False  # steps were left out
    said: float = field(default=1.0, repr=False)  # the last share that was printed

    def __post_init__(self) -> None:
        self.whole = self.left()

    @property
    def is_limited(self) -> bool:
        return self.deadline != float("inf")

    def left(self) -> float:
        """Seconds until the deadline; a billion without one."""
        return self.agree(self.deadline - time.monotonic()) if self.is_limited else 1e9

    def plan(self, trainer: Timed, number: int, planned: float) -> float:
        """The share of what is planned that there is time for: stage ``number`` and the later ones.

        planned: epochs of that stage still to come.
        """
        if not self.is_limited:
            return 1.0
        if self.pace is None:
            self.share, self.was_cut = 0.0, True
            return 0.0
        ahead, left = _ahead(trainer, self.pace, number, planned), self.left()
        self.share = ahead.share(left, self.whole)
        self.is_short = self.share < 1 or ahead.training() > AMPLE * left
        if abs(self.share - self.said) > SAID:
            self.said = self.share
            print(
                f"time       {clock.show(left)} left for this network: {self.share:.0%} of the "
                f"{clock.show(ahead.training())} of training that are planned",
                flush=True,
            )
        self.was_cut |= self.share < 1
        return self.share

    def learn(self, leg: Leg, step: float, rest: float) -> None:
        """Seconds that a step, and all else of an epoch, have just taken in that leg."""
        if self.base:
            self.pace = self.base.by(leg.stage, self.agree(step), self.agree(rest))


def _ahead(trainer: Timed, pace: Pace, number: int, planned: float) -> Ahead:
    stages, job = trainer.job.cfg.stages, trainer.job
    n_check, n_test = len(job.check), trainer.n_test
    epochs = [0.0] * number + [planned] + [float(stage.epochs) for stage in stages[number + 1 :]]
    pixels = _of_last(stages)
    announced = sum(pixels[number:-1]) + (0.0 if trainer.was_announced else pixels[number])
    return Ahead(
        pace=pace,
        epochs=epochs,
        steps=trainer.steps,
        early=announced * n_test * pace.look if trainer.announce else 0.0,
        votes=pace.look * clock.passes(trainer.job.cfg.asked_views, n_check, n_test),
        one_view=pace.look * (n_check + n_test),
    )


def _of_last(stages: Any) -> list[float]:
    """Pixels of each stage's photos as a share of the last one's."""
    last = stages[-1].height * stages[-1].width
    return [stage.height * stage.width / last for stage in stages]


def measure(trainer: Timed) -> Pace | None:
    """Time a few real steps of each size; the network has its old state afterwards.

    None if the time has run out meanwhile: tracing a step may take longer than an epoch.
    """
    cfg, net, timekeeper = trainer.job.cfg, trainer.net, trainer.time
    before = model.state(net)
    seconds = []
    for number, stage in enumerate(cfg.stages):
        if timekeeper.left() <= 0:
            return None
        whole = clock.next_leg(number, 0, float(stage.epochs), trainer.steps, 1.0)
        batches = trainer.batches(whole)
        warm = timekeeper.agree(steps.time_training(net, batches, WARM))
        count = min(MOST, int(MEASURING * max(0.0, timekeeper.left()) / max(warm, 1e-9)))
        slow = count < LEAST  # then the first ones have to do
        again = warm if slow else steps.time_training(net, batches, count)
        seconds.append(timekeeper.agree(again))
    rows = trainer.job.check if len(trainer.job.check) else trainer.job.learn
    looks = trainer.looks(len(cfg.stages) - 1, rows, 2 if cfg.asked_views.most > 2 else 0)
    steps.time_looks(net, looks)  # decoded and traced
    look = timekeeper.agree(steps.time_looks(net, looks))
    model.restore(net, before)
    saving = timekeeper.agree(_time_saving(trainer, before))
    check = [saving + part * look * len(trainer.job.check) for part in _of_last(cfg.stages)]
    timed = ", ".join(
        f"{1000 * step:.3g} ms at {stage.height}x{stage.width}"
        for step, stage in zip(seconds, cfg.stages, strict=True)
    )
    print(f"timed      a step of {trainer.batch} photos takes {timed}; {1 / look:.0f} views/s")
    return Pace(seconds, check, look)


def _time_saving(trainer: Timed, arrays: list[np.ndarray]) -> float:
    """Seconds to keep a state."""
    began, file = time.monotonic(), trainer.job.folder / "timed.npz"
    with disk.replacing(file) as part:
        np.savez(part, *arrays)
    file.unlink()
    return time.monotonic() - began

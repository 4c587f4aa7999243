"""Learning rate and augmentation strength as pure functions of progress, 0..1 over the whole run; plans under a time budget."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carcls.config import Config

NAMES = ("cosine", "piecewise", "constant", "exponential", "plateau")
# Share of the decaying part at which each level of "piecewise" begins, and the level.
_STEPS = ((0.85, 0.01), (0.60, 0.1), (0.0, 1.0))
# 0.95 per epoch leaves 0.6 of the rate after ten epochs: too slow (S38). This is what is left after the run.
_FLOOR = 0.01


def factor(name: str, progress: float, warmup: float = 0.0) -> float:
    """Share of the peak learning rate (0..1) at ``progress`` (0..1 of the whole run, all stages together).

    A line from 0 to 1 over the first ``warmup`` share of the run, then the named curve over all the rest.
    ``plateau`` is 1 throughout, without warm-up: a callback lowers it as validation asks. Raises ValueError.
    """
    if name not in NAMES:
        raise ValueError(f"schedule={name!r}: expected one of {', '.join(NAMES)}")
    if not 0 <= progress <= 1 or not 0 <= warmup < 1:
        raise ValueError(f"progress {progress} must be in 0..1 and warmup {warmup} in 0..1, below 1")
    if name == "plateau":
        return 1.0
    if progress < warmup:
        return progress / warmup
    rest = min(1.0, (progress - warmup) / (1 - warmup))
    if name == "cosine":
        return (1 + math.cos(math.pi * rest)) / 2
    if name == "exponential":
        return math.pow(_FLOOR, rest)
    if name == "piecewise":
        return next(level for start, level in _STEPS if rest >= start)
    return 1.0


GRID = 1024  # points of the curve that the optimiser looks up; a warm-up of 10 % has 102 of them


def curve(cfg: Config) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Share of the peak learning rate at progress 0, 1/GRID, … 1: float32 (GRID + 1,)."""
    return np.array([factor(cfg.schedule, i / GRID, cfg.warmup) for i in range(GRID + 1)], np.float32)


@dataclass(frozen=True)
class Course:
    """How progress (0..1 of the run) follows from the optimiser's count of steps: a line from one of them on."""

    step: int
    progress: float  # when that step begins
    per_step: float

    def at(self, step: int) -> float:
        """Progress in the middle of that step, so that the first rate is not 0 and cosine's last is nearly 0."""
        return min(1.0, self.progress + (step - self.step + 0.5) * self.per_step)

    def rate(self, cfg: Config, step: int) -> float:
        """Learning rate of that step; what the optimiser computes from ``curve``."""
        return cfg.lr * float(np.interp(self.at(step) * GRID, np.arange(GRID + 1), curve(cfg)))


@dataclass(frozen=True)
class Plan:
    """How long each stage trains and how many views predict; made anew only where the time left demands it."""

    epochs: tuple[int, ...]  # of each stage; 0: left out
    views: int  # of test-time augmentation, also the cap of the adaptive rule if there is one
    steps: int | None = None  # of the only epoch, where not even one whole epoch fits
    # Where the plan was last changed: that many epochs were done, and the run was so far.
    since: int = 0
    progress: float = 0.0

    def progress_at(self, epoch: int) -> float:
        """Progress when epoch ``epoch`` (from 0, all stages together) begins."""
        return min(1.0, self.progress + (epoch - self.since) * self.per_epoch())

    def per_epoch(self) -> float:
        return (1 - self.progress) / max(1, sum(self.epochs) - self.since)

    def strength_at(self, cfg: Config, epoch: int) -> float:
        """Augmentation strength of that epoch: it reaches its end in the last one (S20)."""
        last = self.progress_at(max(self.since, sum(self.epochs) - 1))
        return strength(cfg, min(1.0, self.progress_at(epoch) / last) if last else 0.0)


@dataclass(frozen=True)
class Costs:
    """Seconds, measured."""

    step: float  # of training, in the first stage
    epoch: tuple[float, ...]  # of each stage, validation and checkpoint included
    view: tuple[float, ...]  # one view of every photo that is predicted after training, at each stage's size
    early: tuple[float, ...]  # the test photos predicted at each stage's size: after the first epoch, between stages
    check: float = 0.0  # of an epoch of the first stage, what is not training steps
    end: float = 0.0  # everything after the votes

    def at_pace(self, pace: float) -> Costs:
        """All of it so many times as slow, but for the end."""
        slower: Any = {name: tuple(s * pace for s in getattr(self, name)) for name in ("epoch", "view", "early")}
        return replace(self, step=self.step * pace, check=self.check * pace, **slower)


@dataclass(frozen=True)
class TimeLeft:
    """What one network may take."""

    deadline: float  # by time.monotonic, its predictions and its share of the report included
    report: float = 0.0  # that share, seconds


# The report's pictures and tables, decisions and the submission: REPORT seconds, and PER_NETWORK more for each, with its
# weights files. `make run DATA=../shared/data/cars10 SET="preset=quick budget_minutes=6"` on two cores: 9 s from the last epoch
# to the end (progress.jsonl), the votes' seconds (member1/member.json) aside.
REPORT, PER_NETWORK = 5.0, 5.0
# Kaggle ends a session after so many hours; this share of it is the margin, for what no plan foresees.
SESSION_HOURS = {"tpu": 9.0}
SESSION_HOURS_ELSE, MARGIN = 12.0, 0.05


@dataclass(frozen=True)
class Budget:
    """The time of this session."""

    end: float  # by time.monotonic
    line: str  # where it comes from

    def left(self) -> float:
        return self.end - time.monotonic()

    def share(self, networks: float) -> TimeLeft:
        """Of the next one of so many networks that are still to be trained."""
        return TimeLeft(time.monotonic() + self.left() / networks, REPORT / networks + PER_NETWORK)


def budget(cfg: Config, on_kaggle: bool, kind: str, start: float) -> Budget | None:
    """From cfg.budget_minutes, else Kaggle's limit for that kind of device (cpu, gpu, tpu); None: no limit."""
    if cfg.budget_minutes is not None:
        return Budget(start + cfg.budget_minutes * 60, f"{cfg.budget_minutes:g} minutes, as set")
    if not on_kaggle:
        return None
    hours = SESSION_HOURS.get(kind, SESSION_HOURS_ELSE)
    return Budget(
        start + hours * (1 - MARGIN) * 3600, f"{hours * (1 - MARGIN):g} of the {hours:g} hours that Kaggle gives"
    )


def make_plan(configured: tuple[int, ...], views: int, costs: Costs, left: float, fewer_views: bool = True) -> Plan:
    """The longest training that ends in ``left`` seconds with its predictions. Pure arithmetic.

    Views are halved (if they may be) while they take more than a quarter of the time and not everything fits. Epochs are taken away one
    by one from the stage that has kept the largest share of its own, so that small and large sizes keep their proportion.
    Where not even one epoch of the first stage fits, some steps of it; ``Plan.steps`` 0: there is no time to train.
    """
    wanted = views
    while fewer_views and views > 1 and views * costs.view[-1] > left / 4 and _spent(configured, views, costs) > left:
        views = views // 2
    epochs = list(configured)
    while sum(epochs) > 1 and _spent(epochs, views, costs) > left:
        fewer = max((k for k in range(len(epochs)) if epochs[k]), key=lambda k: ((epochs[k] - 1) / configured[k], k))
        epochs[fewer] -= 1
    for k in reversed(range(len(epochs))):  # what a large epoch leaves over may hold small ones
        while epochs[k] and epochs[k] < configured[k]:
            epochs[k] += 1
            if _spent(epochs, views, costs) > left:
                epochs[k] -= 1
                break
    while fewer_views and views * 2 <= wanted and _spent(epochs, views * 2, costs) <= left:
        views *= 2  # at a smaller size they cost less
    if _spent(epochs, views, costs) <= left:
        return Plan(tuple(epochs), views)
    first = tuple(int(k == 0) for k in range(len(epochs)))
    views = 1 if fewer_views else views
    room = left - _spent(first, views, costs) + costs.epoch[0] - costs.check
    return Plan(first, views, None if room >= costs.epoch[0] else max(0, int(room / max(costs.step, 1e-9))))


def costs(known: dict[str, Any]) -> Costs:
    """What ``asdict`` and JSON have made of them."""
    fields: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return Costs(**fields)


def _spent(epochs: Sequence[int], views: int, costs: Costs, stage: int = 0, done: int = 0) -> float:
    """Seconds from after ``done`` epochs of a stage to the end of these epochs in all, their predictions and the end."""
    last = max((k for k, n in enumerate(epochs) if n), default=0)
    to_come = sum(max(0, n - (done if k == stage else 0)) * costs.epoch[k] for k, n in enumerate(epochs) if k >= stage)
    # The first epoch's prediction comes after what is measured of it.
    early = costs.early[0] * (stage == 0 and done <= 1) + sum(costs.early[stage:last])
    return to_come + early + views * costs.view[last] + costs.end


def seconds(plan: Plan, costs: Costs, stage: int = 0, done: int = 0) -> float:
    """How long the rest of the plan takes, after so many epochs of a stage."""
    if plan.steps is not None:
        return _spent(plan.epochs, plan.views, costs) - costs.epoch[0] + costs.check + plan.steps * costs.step
    return _spent(plan.epochs, plan.views, costs, stage, done)


def shorten(plan: Plan, stage: int, done: int, costs: Costs, left: float) -> Plan:
    """The plan after ``done`` epochs of a stage, with fewer to come where those planned no longer fit; else the same.

    The learning rate and the augmentation go on from where they are and reach their end in the last epoch that is left.
    Views are kept: networks that vote together must have the same.
    """
    epochs = list(plan.epochs)

    def fits() -> bool:
        return _spent(epochs, plan.views, costs, stage, done) <= left

    open_ = [k for k in range(len(epochs)) if epochs[k] > (done if k == stage else 0) and k >= stage]
    while open_ and not fits():
        fewer = max(open_, key=lambda k: ((epochs[k] - (done if k == stage else 0) - 1) / epochs[k], k))
        epochs[fewer] -= 1
        open_ = [k for k in open_ if epochs[k] > (done if k == stage else 0)]
    if tuple(epochs) == plan.epochs:
        return plan
    since = sum(plan.epochs[:stage]) + done
    return replace(plan, epochs=tuple(epochs), since=since, progress=plan.progress_at(since))


def strength(cfg: Config, progress: float) -> float:
    """Augmentation strength at ``progress`` (0..1 of the run): a line from strength to strength_end (S20)."""
    if not 0 <= progress <= 1:
        raise ValueError(f"progress {progress} must be in 0..1")
    return cfg.strength + (cfg.strength_end - cfg.strength) * progress

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
# 0.95 per epoch leaves 0.6 of the rate after ten epochs: too slow (S38). This is what is left after
# the run.
_FLOOR = 0.01


def factor(name: str, progress: float, warmup: float = 0.0) -> float:
    """Share of the peak learning rate (0..1) at ``progress`` (0..1 of the whole run, all stages together).

    A line from 0 to 1 over the first ``warmup`` share of the run, then the named curve over all the rest.
    ``plateau`` is 1 throughout, without warm-up: a callback lowers it as validation asks. Raises ValueError.
    """
    if name not in NAMES:
        raise ValueError(f"schedule={name!r}: expected one of {', '.join(NAMES)}")
    if not 0 <= progress <= 1 or not 0 <= warmup < 1:
        raise ValueError(
            f"progress {progress} must be in 0..1 and warmup {warmup} in 0..1, below 1"
        )
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
    return np.array(
        [factor(cfg.schedule, i / GRID, cfg.warmup) for i in range(GRID + 1)], np.float32
    )


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
    """How long each stage trains and how many views predict; made anew where the time left makes it too long or too short."""

    epochs: tuple[int, ...]  # of each stage; 0: left out
    views: int  # of test-time augmentation, also the cap of the adaptive rule if there is one
    steps: int | None = (
        None  # of each epoch to come; None: of whole ones, 0: there is no time to train
    )
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

    def __str__(self) -> str:
        return f"{'+'.join(map(str, self.epochs))} epochs" + (
            "" if self.steps is None else f" of {self.steps} steps"
        )


@dataclass(frozen=True)
class Costs:
    """Seconds, measured; a tuple has a number for each stage."""

    train: tuple[float, ...]  # the steps of a whole epoch
    check: tuple[float, ...]  # the rest of an epoch: validation and keeping the state
    view: tuple[float, ...]  # one view of every photo that is predicted after training
    early: tuple[float, ...]  # the test photos predicted: after the first epoch, between stages
    steps: int  # in a whole epoch
    end: float = 0.0  # everything after the votes
    effort: tuple[
        float, ...
    ] = ()  # of 1, 2, … views, in views of every photo (votes.effort); empty: as many

    def epoch(self, stage: int, steps: int | None) -> float:
        """An epoch of that stage with so many steps; None: a whole one."""
        return (
            self.train[stage] * (1.0 if steps is None else steps / self.steps) + self.check[stage]
        )

    def votes(self, stage: int, views: int) -> float:
        """So many views at most, of photos as large as in that stage."""
        return self.view[stage] * (self.effort[views - 1] if self.effort else views)

    def at_pace(self, pace: float, stage: int) -> Costs:
        """As an epoch of that stage took so many times what was measured for it.

        Slower counts for all but the end. Faster counts half, as the next epoch may be slower again, and only for the epochs
        of the stage, as others may have been timed well.
        """
        slower = max(1.0, pace)
        own = (1 + pace) / 2 if pace < 1 else pace

        def epochs(seconds: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(s * (own if k == stage else slower) for k, s in enumerate(seconds))

        return replace(
            self,
            train=epochs(self.train),
            check=epochs(self.check),
            view=tuple(s * slower for s in self.view),
            early=tuple(s * slower for s in self.early),
        )


@dataclass(frozen=True)
class TimeLeft:
    """What one network may take."""

    deadline: float  # by time.monotonic, its predictions and its share of the report included
    report: float = 0.0  # that share, seconds


# The report's pictures and tables, decisions and the submission: REPORT seconds, and PER_NETWORK
# more for each, with its weights files. `make run DATA=../shared/data/cars10 SET="preset=quick
# stages=96x160x5,128x224x6 budget_minutes=3"` on two cores: 12 s from the last epoch to the end of
# the process, the votes' seconds (member1/member.json) aside.
REPORT, PER_NETWORK = 7.0, 5.0
# Kaggle ends a session after so many hours; this share of it is the margin, for what no plan
# foresees.
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
        start + hours * (1 - MARGIN) * 3600,
        f"{hours * (1 - MARGIN):g} of the {hours:g} hours that Kaggle gives",
    )


# A plan leaves that share of the time as a reserve, so that it need not be made anew for every
# second, ...
RESERVE = 0.03
# ... gets longer only by that share and more, ...
GAIN = 0.05
# ... and rather gives up an epoch than train less than that share of each.
LEAST = 0.25


def make_plan(
    configured: tuple[int, ...], views: int, costs: Costs, left: float, fewer_views: bool = True
) -> Plan:
    """The longest training that ends in ``left`` seconds with its predictions. Pure arithmetic.

    Views are halved (if they may be) while they take more than a quarter of the time, or keep the last stage out, and not
    everything fits; where all epochs do, they get what is left over. ``Plan.steps`` 0: there is no time to train.
    """
    left *= 1 - RESERVE
    plans = []
    while True:
        ahead = _Ahead(costs, views, left)
        epochs, steps = ahead.fill(configured)
        plans.append(plan := Plan(epochs, views, steps))
        whole = epochs == configured and steps is None
        last = ahead.last(epochs)
        fair = steps != 0 and costs.votes(last, views) <= left / 4
        if whole:  # what is left over is for views
            room = left - ahead.seconds(epochs, None) + costs.votes(last, views)
            more = (n for n in range(plans[0].views, views, -1) if costs.votes(last, n) <= room)
            return replace(plan, views=next(more, views))
        if (fair and epochs[-1]) or not fewer_views:
            return plan
        if views == 1:  # with no number of views is there time for the last stage
            best = (
                each
                for each in plans
                if each.steps != 0 and costs.votes(ahead.last(each.epochs), each.views) <= left / 4
            )
            return next(best, plan)
        views //= 2


def replan(
    plan: Plan,
    stage: int,
    done: int,
    costs: Costs,
    left: float,
    most: tuple[int, ...] | None = None,
) -> Plan:
    """The plan after ``done`` epochs of a stage: shorter where it no longer fits, longer where there is time; else the same.

    ``most``: epochs of each stage that it may have; None: it gets no longer. The learning rate and the augmentation go on
    from where they are and reach their end in the last epoch that is left. Views are kept: networks that vote together must
    have the same.
    """
    ahead = _Ahead(costs, plan.views, left * (1 - RESERVE), stage, done)
    if not any(ahead.coming(plan.epochs)):
        return plan
    past = plan.epochs[:stage]
    epochs, steps = ahead.fill(plan.epochs, keep=True)
    if most and ahead.share(epochs) > 1 + GAIN:  # whole epochs do not fill the time
        epochs, steps = ahead.fill(
            (*past, *(max(n, done * (k == 0)) for k, n in enumerate(most[stage:])))
        )
    if steps == 0:  # what is trained is enough
        epochs, steps = (*past, *(done * (k == 0) for k in range(len(plan.epochs) - stage))), None
    since = sum(past) + done
    new = replace(plan, epochs=epochs, steps=steps, since=since, progress=plan.progress_at(since))
    before, after = (ahead.seconds(each.epochs, each.steps) for each in (plan, new))
    if before <= left * (1 - RESERVE / 3) and (not most or after < before * (1 + GAIN)):
        return plan
    return new


def views(plan: Plan, most: int, stage: int, done: int, costs: Costs, left: float) -> int:
    """How many views, ``most`` at most, the rest of a plan has time for; halved, as in ``make_plan``, while not everything fits
    and they take more than a quarter of the time."""
    left *= 1 - RESERVE
    count = most
    while count > 1:
        ahead = _Ahead(costs, count, left, stage, done)
        fair = costs.votes(ahead.last(plan.epochs), count) <= left / 4
        if fair or ahead.seconds(plan.epochs, plan.steps) <= left:
            break
        count //= 2
    return count


def seconds(plan: Plan, costs: Costs, stage: int = 0, done: int = 0) -> float:
    """How long the rest of the plan takes, after so many epochs of a stage."""
    return _Ahead(costs, plan.views, 0.0, stage, done).seconds(plan.epochs, plan.steps)


def costs(known: dict[str, Any]) -> Costs:
    """What ``asdict`` and JSON have made of them."""
    fields: Any = {
        name: tuple(value) if isinstance(value, list) else value for name, value in known.items()
    }
    return Costs(**fields)


@dataclass(frozen=True)
class _Ahead:
    """What is to come after ``done`` epochs of a stage. ``epochs`` are always those of every stage, the past ones included."""

    costs: Costs
    views: int
    left: float  # seconds
    stage: int = 0
    done: int = 0

    def coming(self, epochs: Sequence[int]) -> list[int]:
        """Those of each stage that are still to come."""
        return [
            max(0, n - self.done * (k == self.stage)) if k >= self.stage else 0
            for k, n in enumerate(epochs)
        ]

    def last(self, epochs: Sequence[int]) -> int:
        """The last stage that is trained."""
        return max((k for k, n in enumerate(epochs) if n), default=0)

    def seconds(self, epochs: Sequence[int], steps: int | None) -> float:
        """Until the end, with so many steps in each epoch."""
        return sum(
            n * self.costs.epoch(k, steps) for k, n in enumerate(self.coming(epochs))
        ) + self._predictions(epochs)

    def share(self, epochs: Sequence[int]) -> float:
        """How much of the steps of these epochs there is time for."""
        room = self.left - self.seconds(epochs, 0)
        return room / max(
            1e-9, sum(n * self.costs.train[k] for k, n in enumerate(self.coming(epochs)))
        )

    def fill(
        self, planned: tuple[int, ...], keep: bool = False
    ) -> tuple[tuple[int, ...], int | None]:
        """The fewest epochs that fill the time, at most those planned, and how many steps of each; None: all of them.

        Epochs are taken away one by one from the stage that has kept the largest share of its own, so that small and large
        sizes keep their proportion. ``keep``: only where too little would be left of each.
        """
        own, epochs = self.coming(planned), planned
        least = max(LEAST, 1 / self.costs.steps)
        while self.share(epochs) < 1 and sum(coming := self.coming(epochs)) > 1:
            taken = max(
                (k for k, n in enumerate(coming) if n), key=lambda k: ((coming[k] - 1) / own[k], k)
            )
            fewer = _changed(epochs, taken, -1)
            if self.share(epochs) >= least and (keep or self.share(fewer) > 1):
                if self.share(fewer) >= 1 and self.seconds(fewer, None) > self.seconds(
                    epochs, self._steps(epochs)
                ):
                    epochs = fewer  # where an epoch has few steps, rounding them down loses more
                break
            epochs = fewer
        while self.share(epochs) > 1 + GAIN:  # what a large epoch leaves over may hold small ones
            missing = (
                k for k in reversed(range(self.stage, len(epochs))) if epochs[k] < planned[k]
            )
            back = next((k for k in missing if least <= self.share(_changed(epochs, k, 1))), None)
            if back is None:
                break
            more = _changed(epochs, back, 1)
            if self.seconds(more, self._steps(more)) <= self.seconds(epochs, None):
                break
            epochs = more
        return epochs, self._steps(epochs)

    def _steps(self, epochs: Sequence[int]) -> int | None:
        share = self.share(epochs)
        return None if share >= 1 else max(0, int(share * self.costs.steps + 1e-6))

    def _predictions(self, epochs: Sequence[int]) -> float:
        """Seconds of all predictions to come, and of the end."""
        last, early = self.last(epochs), self.costs.early
        # The first epoch's prediction comes after what is measured of it.
        first = early[0] * (self.stage == 0 and self.done <= 1)
        return (
            first
            + sum(early[self.stage : last])
            + self.costs.votes(last, self.views)
            + self.costs.end
        )


def _changed(epochs: tuple[int, ...], stage: int, by: int) -> tuple[int, ...]:
    return tuple(n + by * (k == stage) for k, n in enumerate(epochs))


def strength(cfg: Config, progress: float) -> float:
    """Augmentation strength at ``progress`` (0..1 of the run): a line from strength to strength_end (S20)."""
    if not 0 <= progress <= 1:
        raise ValueError(f"progress {progress} must be in 0..1")
    return cfg.strength + (cfg.strength_end - cfg.strength) * progress

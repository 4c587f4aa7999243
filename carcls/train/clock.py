"""Time as one number: the share of the work still planned that there is time for.

A session may have to end at some moment. A network gets a share of the time left, keeps back what
its predictions will take, and shortens the training steps that are still to come by one factor.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from carcls.config import Config
from carcls.errors import ConfigError
from carcls.values import Views

# Seconds kept for what comes after the votes: the report's pictures, decisions and the submission,
# and more for each network (MEASUREMENTS: what the end of a run takes).
REPORT, PER_NETWORK = 7.0, 5.0
# Kaggle ends a session after so many hours; this share of it is left for what nobody foresees.
HOURS, TPU_HOURS, MARGIN = 12.0, 9.0, 0.05
# Training leaves its predictions what they take, up to this share of the network's time; one view
# in any case.
VOTES_SHARE = 0.25
# Of the views beyond the first ones the adaptive rule asks for about this share
# (MEASUREMENTS: adaptive views).
ADDED = 0.15


@dataclass(frozen=True)
class Clock:
    """The time of this session."""

    start: float  # by time.monotonic
    end: float | None = None  # likewise; None: no limit
    limit: str = "no limit"  # where the end comes from
    reports: int = 1  # that will be written: one after the members and one after each phase

    @property
    def is_limited(self) -> bool:
        return self.end is not None

    def left(self) -> float:
        """Seconds; infinite without a limit."""
        return math.inf if self.end is None else self.end - time.monotonic()

    def deadline(self, share: float) -> float:
        """When a network that gets this share of the time left must have voted."""
        return time.monotonic() + (self.left() - REPORT * self.reports) * share - PER_NETWORK


def start(
    cfg: Config, on_kaggle: bool, kind: str, began: float, proc: Path = Path("/proc")
) -> Clock:
    """From cfg.budget_minutes, else Kaggle's limit for a kind of device (cpu, gpu, tpu).

    Counted from when this run began, on Kaggle's editor from when its session did. Raises
    ConfigError if the budget is over by then.
    """
    reports = 1 + (cfg.pseudo > 0) + (cfg.refits > 0)
    minutes, now = cfg.budget_minutes, time.monotonic()
    if minutes is None and not on_kaggle:
        return Clock(began)
    age = _session_age(proc, now - began) if on_kaggle else None
    counted, since = (began, "this run") if age is None else (now - age, "the session")
    since += f" began, {show(age)} ago" if age is not None else " began"
    if minutes is not None:
        if age is not None and 0 < minutes * 60 <= age:
            raise ConfigError(
                f"budget_minutes={minutes:g}: over, as it counts from when {since}; expected more "
                f"than {age / 60:.0f}, or a new session"
            )
        limit, seconds = f"{minutes:g} minutes, as set", minutes * 60
    else:
        hours = TPU_HOURS if kind == "tpu" else HOURS
        seconds = hours * (1 - MARGIN) * 3600
        limit = f"{seconds / 3600:g} of the {hours:g} hours of a session"
    return Clock(began, counted + seconds, f"{limit} (from when {since})", reports)


def _session_age(proc: Path, least: float) -> float | None:
    """Seconds since a session of Kaggle's editor began, by its first process; None: not sure.

    The editor keeps a session while its cells are run again and again. least: the run's own age.
    """
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") != "Interactive":
        return None
    try:
        started = int((proc / "1" / "stat").read_text().rpartition(")")[2].split()[19])  # ticks
        up = float((proc / "uptime").read_text().split()[0])
        age = up - started / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    return age if least <= age <= HOURS * 3600 else None


def passes(views: Views, check: int, test: int) -> float:
    """Photos to predict, each view counted, for so many validation and test photos.

    With the adaptive rule validation photos get every view, test photos what the rule asks for.
    """
    return check * views.most + test * (views.first + ADDED * (views.most - views.first))


def affordable(views: Views, check: int, test: int, photos: float) -> Views:
    """The most of these views that take at most so many passes (``photos``); at least one."""
    most = views.most
    while most > 1 and passes(_at_most(views, most), check, test) > photos:
        most -= 1
    return _at_most(views, most)


def _at_most(views: Views, most: int) -> Views:
    return Views(first=min(views.first, most), most=most)


# How progress rises with the optimiser's count of steps: a step, the progress when it begins, and
# the progress of each step.
Ramp = tuple[int, float, float]


@dataclass(frozen=True)
class Pace:
    """Measured seconds, by stage where there are several."""

    step: list[float]  # a training step
    check: list[float]  # validating and keeping the state, once
    look: float  # one photo predicted in one view, at the last stage's size

    def by(self, stage: int, step: float, check: float) -> Pace:
        """The same where an epoch of that stage has taken so long; others get slower, not faster.

        This is of what was measured before training: one slow epoch is no slow machine.
        """
        slower = max(1.0, step / max(self.step[stage], 1e-9))
        steps, checks = [s * slower for s in self.step], [c * slower for c in self.check]
        steps[stage], checks[stage] = step, check
        return Pace(steps, checks, self.look * slower)


@dataclass(frozen=True)
class Ahead:
    """What a network still has to do, from the middle of a stage on."""

    pace: Pace
    epochs: list[float]  # still planned, by stage; 0 for those that are done
    steps: int  # of an epoch
    early: float  # seconds of predictions between the stages
    votes: float  # seconds of all predictions after training, as set
    one_view: float  # seconds of the least of them

    def training(self, share: float = 1.0) -> float:
        """Seconds of the epochs that are planned, shortened to that share."""
        seconds = 0.0
        for stage, planned in enumerate(self.epochs):
            if planned:
                leg = next_leg(stage, 0, planned, self.steps, share)
                each = leg.steps * self.pace.step[stage] + self.pace.check[stage]
                seconds += leg.epochs * each
        return seconds

    def share(self, left: float, whole: float) -> float:
        """The share of the training, 0 to 1, that there is time for in ``left`` seconds.

        0 where it is not enough for a single step of each stage. whole: seconds that the network
        had when this session came to it, of which its predictions get their share.
        """
        least = self.training(0.0)
        if left < least + self.early + self.one_view:
            return 0.0
        reserve = min(self.votes, max(VOTES_SHARE * whole, self.one_view))
        room = max(least, left - self.early - reserve)
        if self.training() <= room:
            return 1.0
        # An epoch is validated however short it is, so time is no plain product of the share.
        fits, too_much = 0.0, 1.0
        for _ in range(30):
            middle = (fits + too_much) / 2
            fits, too_much = (middle, too_much) if self.training(middle) <= room else (fits, middle)
        return max(fits, 1e-9)


@dataclass(frozen=True)
class Leg:
    """What one call of fit trains: some epochs of one stage, each of so many steps."""

    stage: int  # from 0
    first: int  # epochs of the stage that are done
    epochs: int  # of this call
    total: int  # epochs of the stage, as it is planned now
    steps: int  # of each epoch
    worth: float  # epochs of the plan that each of them stands for; 1 where time does not press
    later: float = 0.0  # pixels of a photo × epochs that later stages will train
    planned: float = 0.0  # epochs of the plan that the stage still had when the leg began


def next_leg(stage: int, first: int, planned: float, steps: int, share: float) -> Leg:
    """The epochs that are left of a stage, shortened to ``share``.

    planned: epochs of the plan still to come; steps: of a whole epoch. Fewer epochs of about the
    usual length rather than shorter ones: each is validated and kept, which takes time too.
    """
    epochs = max(1, math.ceil(planned * share - 1e-6))
    shortened = max(1, round(planned * share * steps / epochs))
    return Leg(stage, first, epochs, first + epochs, shortened, planned / epochs, 0.0, planned)


def show(seconds: float) -> str:
    """``"2:05"`` or ``"1:02:05"``."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

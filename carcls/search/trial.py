"""A trial: one training on equal terms, and what it measures, photo by photo."""

from __future__ import annotations

import gc
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk, memory, metrics, record
from carcls.config import Config
from carcls.data.photos import Rows
from carcls.errors import TrainingDiverged
from carcls.nets import fast
from carcls.session import Session
from carcls.train import loop, steps
from carcls.train.job import Job
from carcls.train.studio import BEST, LAST
from carcls.values import Views
from carcls.votes import cast

NOTE = "trial.json"


@dataclass(frozen=True)
class Task:
    """A training: its settings, what it leaves, and from which weights it goes on."""

    name: str  # for the log
    cfg: Config  # of the training itself, on equal terms
    folder: Path  # what it leaves
    start: Path | None = None  # the weights that another one has left
    number: int = 0  # of a search's candidate
    rung: int = 1  # of the search


@dataclass(frozen=True)
class Outcome:
    """What a trial has measured, on the photos that choose and on those kept apart from choosing.

    Losses are −log of the true class's probability, a photo each; right: the class was the true
    one.
    """

    losses: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    apart_losses: list[float] = field(default_factory=list)
    apart_right: list[bool] = field(default_factory=list)
    seconds: float = 0.0  # of the whole trial
    epoch_seconds: float = 0.0  # of an epoch, validation included
    rows: list[dict[str, Any]] = field(default_factory=list)  # of its history
    diverged: str = ""  # what ended it, if that did
    note: str = ""  # in what it differs from what was asked
    facts: record.Facts = field(default_factory=dict)  # what it was made from
    machine: list[str] = field(default_factory=list)  # that trained it

    @property
    def loss(self) -> float:
        """Mean log-loss on the photos that choose; infinite where the training diverged."""
        return float(np.mean(self.losses)) if self.losses else float("inf")

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.right)) if self.right else float("nan")


def read(folder: Path, facts: record.Facts | None = None) -> Outcome | None:
    """What the trial of that folder has measured; None if it has not ended, or is not as left.

    facts: what it must have been made from, if that may have changed.
    """
    try:
        outcome = Outcome(**disk.unsealed(disk.read_json(folder / NOTE)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        print(f"{folder / NOTE}: not as a trial has left it ({error}); trained anew")
        return None
    changed = [] if facts is None else record.differences(outcome.facts, facts)
    if changed:
        print(f"{folder}: trained anew: {'; '.join(changed)}")
    return None if changed else outcome


def save(folder: Path, outcome: Outcome, goes_on: bool) -> None:
    """Keep what was measured, and of the network what another trial may go on from."""
    disk.write_json(folder / NOTE, asdict(outcome))
    if goes_on and not outcome.diverged:
        (folder / LAST).unlink(missing_ok=True)
    else:
        drop_weights(folder)


@dataclass(frozen=True)
class Trainer:
    """Trains trials in a session, always on the same photos."""

    s: Session
    learn: Rows
    choose: Rows  # validated on after each epoch; they rank the candidates
    apart: Rows  # looked at in a search's last rung alone

    def measured(self, task: Task) -> Outcome | None:
        """What the task's trial has measured, if it has ended and was made from the same facts."""
        return read(task.folder, self._job(task).facts(self.s.table.frame, self.s.metric))

    def __call__(self, task: Task, is_last: bool = False) -> Outcome:
        """Train, or go on from the last whole epoch of it, and measure. Raises Stopped."""
        began, job, s = time.monotonic(), self._job(task), self.s
        disk.make_folder(task.folder)
        try:
            found = self._train(job, self.apart if is_last else None)
        except TrainingDiverged as error:
            found = Outcome(diverged=str(error))
        except memory.errors() as error:
            if not memory.ran_out(error) or s.machine.processes > 1:
                raise
            found = Outcome(diverged="memory ran out")
        if found.diverged:
            print(f"diverged   {found.diverged}")
        facts = job.facts(s.table.frame, s.metric) | s.spoiled(self.learn, self.choose)
        now = [s.machine.backend, *s.machine.devices, s.machine.precision]
        return replace(found, seconds=time.monotonic() - began, facts=facts, machine=now)

    def _job(self, task: Task) -> Job:
        return Job(task.name, task.folder, task.cfg, self.learn, self.choose, task.start)

    @fast.forgetting_traces()
    def _train(self, job: Job, apart: Rows | None) -> Outcome:
        s = self.s
        trained = loop.read_back(s, job) or loop.train(s, job, float("inf"), None)
        assert trained is not None, "there is no deadline that it could miss"
        net = trained.net or loop.load(job.folder, job.cfg, len(s.table.classes), s.machine)
        cache, one = s.photos(trained.size, job.cfg.fit), Views(first=1, most=1)
        parts = [self.choose] if apart is None else [self.choose, apart]
        with steps.told(s.events, job.name, "validation votes"):
            seen = [cast.cast_votes(net, cache, rows, one, job.cfg, s.machine) for rows in parts]
        history = trained.rows
        # The first epoch of a stage decodes its photos.
        steady = [row["seconds"] for row in history if row["epoch"] > 1] or [history[0]["seconds"]]
        done = record.Steps(job.folder).done(loop.TRAINING)
        smaller = done["about"]["smaller"] if done else 0
        del net, trained
        gc.collect()  # before the next network is made
        losses = [metrics.losses(v.alone(), v.labels).round(6).tolist() for v in seen]
        right = [(v.alone().argmax(1) == v.labels).tolist() for v in seen]
        return Outcome(
            losses[0],
            right[0],
            losses[1] if losses[1:] else [],
            right[1] if right[1:] else [],
            epoch_seconds=sum(steady) / len(steady),
            rows=history,
            note=f"memory ran out: batches of {smaller}, and lr in proportion" if smaller else "",
        )


def weights(folder: Path) -> Path:
    """The best weights that a trial has left."""
    return folder / BEST


def drop_weights(folder: Path) -> None:
    """Remove all but what the trial has measured: forty networks take gigabytes."""
    for path in folder.glob("*.weights.h5"):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "state", ignore_errors=True)

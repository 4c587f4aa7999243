"""A trial: one training on equal terms, and what it measures, photo by photo."""

from __future__ import annotations

import gc
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk, machine
from carcls.config import Config
from carcls.data.photos import Rows
from carcls.errors import TrainingDiverged
from carcls.nets import fast
from carcls.search.plan import Size
from carcls.session import Session
from carcls.train import loop
from carcls.train.job import Job
from carcls.train.studio import BEST, LAST
from carcls.values import Stage, Views
from carcls.votes import cast, evidence

NOTE = "trial.json"
# Photos as they are, all of the epochs that are planned: what else a run does has its own tables.
TERMS: dict[str, Any] = {
    "tta": "never",
    "views": 1,
    "pseudo": 0,
    "refit_epochs": 0,
    "patience": 0,
    "folds": 1,
}


@dataclass(frozen=True)
class Task:
    """A training: which settings, at which size, for how long, from which weights."""

    number: int  # of the candidate
    rung: int  # from 1
    cfg: Config  # the candidate's
    size: Size
    epochs: int
    seed: int
    folder: Path  # what it leaves
    start: Path | None = None  # the weights that the rung before has left

    @property
    def settings(self) -> Config:
        """The settings of the training itself."""
        stages = (Stage(height=self.size[0], width=self.size[1], epochs=self.epochs),)
        return self.cfg.replace(**TERMS, stages=stages, seed=self.seed)


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

    @property
    def loss(self) -> float:
        """Mean log-loss on the photos that choose; infinite where the training diverged."""
        return float(np.mean(self.losses)) if self.losses else float("inf")

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.right)) if self.right else float("nan")


def read(folder: Path) -> Outcome | None:
    """What the trial of that folder has measured; None if it has not ended, or is not as left."""
    try:
        return Outcome(**disk.unsealed(disk.read_json(folder / NOTE)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        print(f"{folder / NOTE}: not as a search has left it ({error}); trained anew")
        return None


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
    apart: Rows  # looked at in the last rung alone

    def __call__(self, task: Task, is_last: bool) -> Outcome:
        """Train, or go on from the last whole epoch of it, and measure. Raises Stopped."""
        began = time.monotonic()
        job = Job(
            f"candidate {task.number}, rung {task.rung}",
            task.folder,
            task.settings,
            self.learn,
            self.choose,
            task.start,
        )
        disk.make_folder(task.folder)
        try:
            return self._train(job, self.apart if is_last else None, began)
        except TrainingDiverged as error:
            ended = str(error)
        except machine.memory_errors() as error:
            if not machine.is_out_of_memory(error) or self.s.machine.processes > 1:
                raise
            ended = "memory ran out"
        print(f"diverged   {ended}")
        return Outcome(seconds=time.monotonic() - began, diverged=ended)

    @fast.forgetting_traces()
    def _train(self, job: Job, apart: Rows | None, began: float) -> Outcome:
        s = self.s
        trained = loop.read_back(s, job) or loop.train(s, job, float("inf"), None)
        assert trained is not None, "there is no deadline that it could miss"
        net = trained.net or loop.load(s, job)
        cache, one = s.photos(trained.size, job.cfg.fit), Views(first=1, most=1)
        seen = [cast.cast_votes(net, cache, self.choose, one, job.cfg, s.machine)]
        if apart is not None:
            seen.append(cast.cast_votes(net, cache, apart, one, job.cfg, s.machine))
        seconds = [row["seconds"] for row in trained.rows]
        steady, history = seconds[1:] or seconds, trained.rows  # the first epoch decodes
        del net, trained
        gc.collect()  # before the next network is made
        losses = [evidence.losses(v.alone(), v.labels).round(6).tolist() for v in seen]
        right = [(v.alone().argmax(1) == v.labels).tolist() for v in seen]
        return Outcome(
            losses[0],
            right[0],
            losses[1] if losses[1:] else [],
            right[1] if right[1:] else [],
            seconds=time.monotonic() - began,
            epoch_seconds=sum(steady) / len(steady),
            rows=history,
        )


def weights(folder: Path) -> Path:
    """The best weights that a trial has left."""
    return folder / BEST


def drop_weights(folder: Path) -> None:
    """Remove all but what the trial has measured: forty networks take gigabytes."""
    for path in folder.glob("*.weights.h5"):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "state", ignore_errors=True)

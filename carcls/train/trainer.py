"""One network on its way through the stages."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any

import keras

from carcls import record
from carcls.config import Config
from carcls.data.batches import Batches, Epochs, Looks, make_batches
from carcls.data.photos import TEST, Rows
from carcls.nets import model, schedule
from carcls.record import Facts
from carcls.train import clock, watchers
from carcls.train.balance import weighted
from carcls.train.clock import Leg, Ramp
from carcls.train.job import Job
from carcls.train.progress import Feeds, Progress
from carcls.train.rebase import rebase
from carcls.train.state import History, Note, States
from carcls.train.studio import HISTORY, Announce, Studio, Trained, in_scope
from carcls.train.timing import Timekeeper, measure


@dataclass
class Trainer:
    """One network on its way through the stages."""

    s: Studio
    job: Job
    states: States
    facts: Facts
    time: Timekeeper
    announce: Announce | None
    earlier_seconds: float = 0.0  # of training, in earlier sessions
    paused: float = 0.0  # seconds of announcing
    saving: float = 0.0  # seconds in which states were kept
    compiled: int = -1  # the stage that the network was compiled for
    was_announced: bool = False
    history: History = field(init=False)

    def run(self, note: Note | None) -> Trained | None:
        """Train to the end, from the beginning or from the state that the note is of."""
        if not note and self.time.left() <= 0:
            return None
        self._build(note)
        if self.time.is_limited:
            self._compile(len(self.cfg.stages) - 1 if self.cfg.unfreeze == "staged" else 0)
            self.time.base = self.time.pace = measure(self)
        if note:
            self._resume(note)
        elif not self.time.plan(self, 0, self.cfg.stages[0].epochs):
            return None
        stage = note["stage"] if note else 0
        for number in range(stage, len(self.cfg.stages)):
            if not self._train_stage(number, note if number == stage else None):
                break
        took = max(1e-9, monotonic() - self.began - self.paused)
        kept = f"{self.saving:.1f} s of it ({self.saving / took:.1%}) to keep every epoch's state"
        print(f"training   {took:.0f} s, {kept}")
        last = self.history.rows[-1]
        size = last["height"], last["width"]
        return Trained(size, self._seconds(), self.history.rows, self.net)

    @property
    def cfg(self) -> Config:
        return self.job.cfg

    def restore(self, which: str) -> None:
        """Put the last or the best state of the last stage into the network, as it was checked."""
        model.restore(self.net, self.states.arrays(which))
        if self.averaged:
            self.averaged.settle()

    def shortened(self) -> str:
        """How often the photos were seen of what is set, where time was too short; else ""."""
        passes = sum(row["photos"] for row in self.history.rows) / len(self.job.learn)
        return f"{passes:.1f} of {self._total} passes over the photos" if self.time.was_cut else ""

    # --- The beginning --------------------------------------------------------------------------

    def _build(self, note: Note | None) -> None:
        cfg, job, rt = self.cfg, self.job, self.s.machine
        self.began = monotonic()
        self.classes = len(self.s.table.classes)
        self.n_test = len(self.s.table.rows(TEST))
        self.asked = rt.batch_size(cfg.batch)  # of a step on this machine
        self.batch = rt.batch_size(cfg.batch, len(job.learn))  # fewer where there are fewer photos
        self.steps = max(1, len(job.learn) // self.batch)  # of a whole epoch
        self.history = History(job.folder / HISTORY, note["rows"] if note else [])
        keras.utils.set_random_seed(cfg.seed)  # the same whichever network came before it
        build = partial(model.build, cfg, rt, self.classes, self.steps)
        self.net, loaded = in_scope(rt, build)
        if job.start:
            self.net.load_weights(job.start)
            loaded = f"going on from {job.start.name}"
        print(f"network    {cfg.backbone}, {self.net.count_params():,} weights, {loaded}")
        self.averaged = watchers.AveragedWeights() if cfg.ema else None
        if self.averaged:
            self.averaged.set_model(self.net)
        # Not a network that goes on, one from scratch, or one whose BN is frozen.
        stays = job.start or cfg.weights == "none" or cfg.freeze_bn or cfg.unfreeze == "head"
        if cfg.bn_photos and not stays and not note:
            rebase(self)

    def _resume(self, note: Note) -> None:
        """Take up the state that the note is of."""
        number, epoch = note["stage"], note["epoch"]
        self.earlier_seconds, self.time.was_cut = note["seconds"], note["was_cut"]
        where = f"{epoch} of them in stage {number + 1}/{len(self.cfg.stages)}"
        print(f"resumed    after {len(self.history.rows)} epochs, {where}")
        self._open(number)
        model.restore(self.net, self.states.arrays("last"))
        if self.rate is None and note["batch"] != self.asked:
            # The state has the plateau's rate, which is of the batch that it was kept with.
            self.net.optimizer.learning_rate = self._rate_now() * self.asked / note["batch"]
        self.was_announced = note["was_announced"]
        if self.announce and not self.was_announced:  # a kill came before there was a submission
            score = watchers.score(self.history.rows[-1])
            self._announce(number, f"epoch {epoch} of stage {number + 1}", score)
            self.states.amend(was_announced=True)

    def _open(self, number: int) -> None:
        """Make the network ready for that stage.

        One compilation serves all stages unless the set of training weights changes: tracing a
        step takes longer than a small epoch, and the optimiser's moments stay valid.
        """
        if self.compiled < 0 or (self.cfg.unfreeze == "staged" and self.compiled != number):
            self._compile(number)

    def _compile(self, number: int) -> None:
        """For that stage. A learning rate that a plateau has lowered stays where it is."""
        is_lowered = self.cfg.schedule == "plateau" and self.compiled >= 0
        lowered_rate = self._rate_now() if is_lowered else 0.0
        model.open_layers(self.cfg, self.net, number)
        to_compile = self.cfg, self.net, self.s.machine, self.s.metric
        self.rate = in_scope(self.s.machine, partial(model.compile_model, *to_compile))
        if is_lowered:
            self.net.optimizer.learning_rate = lowered_rate
        self.compiled = number

    # --- A stage --------------------------------------------------------------------------------

    def _train_stage(self, number: int, note: Note | None) -> bool:
        """Train one stage, from the epoch that the note is of; False if time has run out.

        The network then has the stage's best weights.
        """
        stage, is_last = self.cfg.stages[number], number + 1 == len(self.cfg.stages)
        print(
            f"stage {number + 1}/{len(self.cfg.stages)}  {stage}; "
            f"{self.s.photos(stage.size, self.cfg.fit)}"
        )
        self._open(number)
        has_time = True
        while not (note and note["over"]):  # note: of the stage's last epoch, None before it
            first, planned = (note["epoch"], note["planned"]) if note else (0, float(stage.epochs))
            share = self.time.plan(self, number, planned)
            if not share and self.history.rows:
                has_time = False
                break
            note = self._fit(clock.next_leg(number, first, planned, self.steps, share), note)
        if note:
            self.restore("best")
        if self.announce and has_time and not is_last:
            rows = (row for row in self.history.rows if row["stage"] == number + 1)
            best = watchers.score(max(rows, key=watchers.rank))
            self._announce(number, f"best epoch of stage {number + 1}", best)
        return has_time

    def _fit(self, leg: Leg, note: Note | None) -> Note:
        """Train a leg of a stage; returns the note of its last epoch."""
        epochs = 1 if self.time.is_short else leg.epochs
        leg = replace(leg, epochs=epochs, later=self._later(leg.stage))
        ramp = self._ramp(leg, note)
        if self.rate:
            self.rate.follow(*ramp)
        began, paused = monotonic(), self.paused
        train = self.batches(leg)
        check = self.looks(leg.stage, self.job.check) if len(self.job.check) else None
        watching = self._watchers(leg, ramp, note, (train, check))
        validation: dict[str, Any] = {}
        if check:
            validation = {"validation_data": check.dataset, "validation_steps": check.steps}
        self.net.fit(
            train.dataset,
            initial_epoch=leg.first,
            epochs=leg.first + leg.epochs,
            steps_per_epoch=leg.steps,
            callbacks=list(watching.values()),
            verbose=0,
            **validation,
        )
        checkpoint, progress = watching["checkpoint"], watching["progress"]
        self.saving += checkpoint.seconds
        if not checkpoint.note["over"]:  # the end of fit has put averaged weights into the network
            model.restore(self.net, self.states.arrays("last"))
        if self.time.is_limited:
            tracing = 0.0 if leg.first else progress.startup  # in a stage's first epoch
            took = (monotonic() - began - (self.paused - paused) - tracing) / leg.epochs
            self.time.learn(leg, progress.step, max(0.0, took - leg.steps * progress.step))
        return checkpoint.note

    def batches(self, leg: Leg) -> Batches:
        """To train a leg."""
        last = self._progress(self._total - 1)

        def strength(epoch: int) -> float:
            position = self._position(leg, epoch)
            part = self._progress(position) / last if last else 0.0
            return schedule.strength(self.cfg, min(1.0, part))

        numbers = range(leg.first, leg.first + leg.epochs)
        cache = self.s.photos(self.cfg.stages[leg.stage].size, self.cfg.fit)
        how = Epochs(leg.stage, numbers, strength, leg.steps)
        made = make_batches(cache, self.job.learn, self.classes, how, self.cfg, self.s.machine)
        return weighted(made, self.job, self.classes)

    def looks(self, number: int, rows: Rows, view: int = 0) -> Batches:
        """To predict these photos once, in that view."""
        cache = self.s.photos(self.cfg.stages[number].size, self.cfg.fit)
        how = Looks(range(view, view + 1))
        return make_batches(cache, rows, self.classes, how, self.cfg, self.s.machine)

    def _watchers(self, leg: Leg, ramp: Ramp, note: Note | None, feeds: Feeds) -> dict[str, Any]:
        """The callbacks of ``fit`` by name, in their order, with the fields that the note has."""
        cfg, rate = self.cfg, partial(self._logged_rate, ramp, self._iterations())
        send = partial(self.s.events.send, network=self.job.name)
        found: dict[str, Any] = {"nan": watchers.StopOnNaN(cfg, leg, rate)}
        if self.averaged:
            found["averaged"] = self.averaged
        if self.s.machine.strategy:
            found["replicas"] = model.EqualReplicas(self.s.machine.strategy)
        if cfg.schedule == "plateau":
            options = {"factor": 0.3, "patience": 2, "min_lr": cfg.lr / 1e3}
            found["plateau"] = watchers.Plateau(monitor="val_loss", **options)
        if not self.history.rows:  # what another training left in the folder counts until then
            found["forget_others"] = keras.callbacks.LambdaCallback(
                on_epoch_end=self._forget_others
            )
        found["progress"] = Progress(cfg, leg, rate, feeds, send, self.history)
        found["early_stop"] = watchers.EarlyStop(cfg.patience, send)
        if cfg.tensorboard:
            logs = self.job.folder / "tensorboard" / f"stage{leg.stage + 1}"
            found["tensorboard"] = keras.callbacks.TensorBoard(str(logs), write_graph=False)
        resumable = {n: each for n, each in found.items() if isinstance(each, watchers.Resumable)}
        describe = partial(self._describe, leg, ramp, resumable)
        epochs_before = len(self.history.rows) - leg.first
        found["checkpoint"] = watchers.Checkpoint(self.states, describe, epochs_before)
        resumable["checkpoint"] = found["checkpoint"]
        if self.announce and not self.history.rows:
            found["announce"] = keras.callbacks.LambdaCallback(on_epoch_end=self._announce_first)
        for name, each in resumable.items():
            if note and name in note["watchers"]:
                each.restore(note["watchers"][name])
        return found

    def _describe(
        self, leg: Leg, ramp: Ramp, resumable: dict[str, Any], epoch: int
    ) -> dict[str, Any]:
        """All that is not a number of the network, for JSON, after so many epochs of the stage."""
        left = leg.planned - (epoch - leg.first) * leg.worth
        return {
            "facts": self.facts | self.s.spoiled(self.job.learn, self.job.check),
            "stage": leg.stage,
            "epoch": epoch,
            "planned": left,
            "over": resumable["early_stop"].has_stopped or left < 1e-6,
            "batch": self.asked,
            "next_batch": self.asked,
            "ramp": ramp,
            "rows": self.history.rows,
            "seconds": self._seconds(),
            "was_announced": self.was_announced,
            "was_cut": self.time.was_cut,
            "watchers": {name: each.kept() for name, each in resumable.items()},
        }

    def _forget_others(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Nothing of another training in the folder counts any more, once this one has an epoch."""
        if not self.history.rows:
            record.Steps(self.job.folder).forget()
            self.states.remove()

    # --- Progress of the run, 0 to 1 ------------------------------------------------------------

    @property
    def _total(self) -> int:
        """Epochs of all stages."""
        return sum(stage.epochs for stage in self.cfg.stages)

    def _position(self, leg: Leg, epoch: int) -> float:
        """Epochs of the plan that are done when that epoch of the stage begins."""
        end_of_stage = sum(stage.epochs for stage in self.cfg.stages[: leg.stage + 1])
        return end_of_stage - leg.planned + (epoch - leg.first) * leg.worth

    def _progress(self, position: float) -> float:
        return min(1.0, position * (1 / self._total))

    def _ramp(self, leg: Leg, note: Note | None) -> Ramp:
        """How progress rises in this leg; where a kill cut it, along the same line as before."""
        per_step = leg.worth * (1 / self._total) / leg.steps
        if note and note["ramp"][2] == per_step and not self.time.is_short:
            return tuple(note["ramp"])
        return self._iterations(), self._progress(self._position(leg, leg.first)), per_step

    def _logged_rate(self, ramp: Ramp, begin: int, step: int) -> float:
        """Learning rate of a step of the leg, which began with the optimiser's step ``begin``."""
        if self.rate is None:
            return self._rate_now()
        at, progress, per_step = ramp
        return schedule.rate_at(self.cfg, min(1.0, progress + (begin + step - at + 0.5) * per_step))

    def _rate_now(self) -> float:
        return float(model.numbers(self.net.optimizer.learning_rate))

    def _iterations(self) -> int:
        return int(model.numbers(self.net.optimizer.iterations))

    def _seconds(self) -> float:
        """Of training in all sessions, without what was announced."""
        return self.earlier_seconds + monotonic() - self.began - self.paused

    def _later(self, number: int) -> float:
        """Pixels of a photo × epochs that later stages will train, as it looks now."""
        later = self.cfg.stages[number + 1 :]
        return self.time.share * sum(s.epochs * s.height * s.width for s in later)

    # --- Announcing -----------------------------------------------------------------------------

    def _announce_first(self, epoch: int, logs: dict[str, Any]) -> None:
        if epoch == 0:
            self._announce(0, "first epoch", watchers.score(logs))
            self.states.amend(was_announced=True)

    def _announce(self, number: int, what: str, score: float) -> None:
        """Hand over the network as validation has measured it."""
        began = monotonic()
        assert self.announce is not None
        is_best = what.startswith("best")  # its averaged weights are settled
        with self.averaged.swapped() if self.averaged and not is_best else nullcontext():
            self.announce(self.net, self.cfg.stages[number].size, what, score)
        self.was_announced = True
        self.paused += monotonic() - began

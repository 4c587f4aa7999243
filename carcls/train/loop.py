"""Training one network: its stages, small photos to large, the best weights carried from each to the next.

After every epoch the whole state is kept (S47), so that a training that was killed goes on from there and ends as it
would have; the same way leads on where a plan changes and where memory runs out.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from carcls import disk
from carcls import machine as runtime
from carcls import record as steps
from carcls.config import OF_TRAINING, POLICIES, Config, Stage
from carcls.data import batches as pipeline
from carcls.data import boxes, photos
from carcls.data import files as inputs
from carcls.machine import Runtime
from carcls.nets import model, schedule
from carcls.nets import registry as backbones
from carcls.nets.schedule import TimeLeft
from carcls.train import clock as timing
from carcls.train import watchers as callbacks
from carcls.votes import votes

STEP = "training"  # in the folder's steps.json
FILES = ("best.weights.h5", "last.weights.h5", "history.csv")
# Settings that change the numbers of a training; those that are not here may differ when it goes
# on. Files that settings name are in ``facts`` with their content.
_SETTINGS = sorted(OF_TRAINING - {"weights", "augment", "boxes"})
_REBASED = 8  # photos at a time whose statistics BN starts from: all that a network computes of them is kept meanwhile
_REBASE_SHARE = 0.02  # of the time left that this may take, after the first of them


@dataclass(frozen=True)
class Trained:
    """What a training has come to. Its files are in its folder; ``network`` loads the weights."""

    stages: tuple[
        Stage, ...
    ]  # those that were trained, as long as they were planned; predict at the last one's size
    views: int | None  # where the time does not allow for as many as are set
    seconds: float  # of training in all sessions, validation included, without the predictions that ``ready`` makes
    model: keras.Model | None = None  # where it was trained in this session
    planned: bool = False  # in this session, from its beginning


# What a network is good for so far: (network, stage that it was trained in, what it is, its
# validation accuracy).
Ready = Callable[[keras.Model, Stage, str, float], None]


def facts(cfg: Config, table: photos.Table, start: Path | None = None) -> steps.Facts:
    """What a training is made from: settings, photos, starting weights and the package's code."""
    whole = cfg.model_dump(mode="json")
    train, val = table.train, table.val
    start = start or backbones.find_weights(cfg.backbone, cfg)
    policy = disk.user_path(cfg.augment)
    return {
        **{name: whole[name] for name in _SETTINGS},
        "augment": cfg.augment
        if cfg.augment in POLICIES
        else f"policy {steps.digest_of(policy)[:16]}",
        "the photos": steps.rows(
            train["id"], train["label"], train["digest"], val["id"], val["label"], val["digest"]
        ),
        "boxes": steps.rows(*boxes.of(train).T, *boxes.of(val).T) if cfg.boxes else "",
        "the starting weights": steps.digest_of(start) if start else "",
        "the package's code": steps.source_hash(),
    }


def _asked(cfg: Config) -> tuple[int, int]:
    """The first views and the cap of the adaptive rule, as set."""
    return (1, 0) if cfg.tta == "never" else (cfg.tta_views, cfg.tta_cap)


def done(
    cfg: Config, table: photos.Table, folder: Path, start: Path | None = None, limited: bool = False
) -> Trained | None:
    """What an earlier session has trained to its end from the same facts; None if it has not, or resume=false.

    limited: this session's time is limited too, so fewer views planned then are the plan still, of the same settings.
    """
    about = steps.Steps(folder).about(STEP, facts(cfg, table, start)) if cfg.resume else None
    if about is None:
        return None
    if not all((folder / name).is_file() for name in FILES):
        print(f"{folder.name}: {STEP} is made anew: {', '.join(FILES)} are not all there")
        return None
    steps.States(folder / "state").remove()  # a kill may have come before it
    if about["shortened"]:
        print(
            f"{folder.name}: trained with {about['shortened']}, as an earlier budget planned it; "
            f"resume=false{' with more time' * limited} trains anew"
        )
    views = about["views"] if limited and about["asked"] == list(_asked(cfg)) else None
    return Trained(tuple(Stage(**stage) for stage in about["stages"]), views, about["seconds"])


def network(cfg: Config, rt: Runtime, classes: int, folder: Path) -> keras.Model:
    """The network of a finished training with its best weights."""
    net, _ = _in_scope(rt, partial(model.build, cfg.replace(weights="none"), rt, classes))
    net.load_weights(folder / FILES[0])
    return net


def fit(
    cfg: Config,
    rt: Runtime,
    table: photos.Table,
    place: inputs.Place,
    folder: Path,
    events: callbacks.Events,
    ready: Ready | None = None,
    start: Path | None = None,
    time_left: TimeLeft | None = None,
    fewer_views: bool = True,
) -> Trained | None:
    """Train through cfg.stages; writes history.csv, best.weights.h5 and last.weights.h5 to the folder.

    Goes on from the state in the folder if it is of the same training (cfg.resume). The learning rate follows one
    schedule over the whole run. Where the table has no validation photos, the last epoch is the best. Another training
    that the folder has, finished or not, counts until this one has its first epoch: it may diverge before, or be stopped.
    ``ready`` is called after the very first epoch and with the best weights of each stage but the last. ``start`` is a
    file of weights to go on from. ``time_left``: training is shortened so that it ends with its predictions in that time,
    and gives up views for it if ``fewer_views``; None is returned if there is no time to train at all.

    If memory runs out, the batch is halved and training goes on from the last epoch with the same learning rate per
    photo. Raises TrainingDiverged when the loss is no number.
    """
    made_from = facts(cfg, table, start)
    states = steps.States(folder / "state")
    note = states.load(made_from) if cfg.resume else None
    resumed = note is not None
    whole = rt.batch_size(cfg.batch)  # photos a step, before memory runs out
    batch = note["smaller"] if note else whole
    while True:
        smaller = cfg if batch == whole else cfg.replace(batch=batch, lr=cfg.lr * batch / whole)
        training = _Training(
            smaller,
            rt,
            table,
            place,
            folder,
            events,
            states,
            made_from,
            ready,
            time_left,
            fewer_views,
            resumed,
        )
        try:
            trained = training.go(note, start)
            break
        except runtime.memory_errors() as error:
            # One of several processes alone cannot change the batch.
            if not runtime.is_out_of_memory(error) or batch <= len(rt.devices) or rt.processes > 1:
                raise
        # Out of the except block, whose traceback keeps tensors alive, and without the old network.
        begun = bool(training.rows)
        del training
        gc.collect()
        before, batch = batch, rt.batch_size(batch // 2)
        print(
            f"memory     out of it with batches of {before}: going on with {batch}, learning rate "
            f"{cfg.lr * batch / whole:.2e}"
        )
        note = states.load(made_from) if begun else None
        if note:
            states.amend(smaller=batch)
            note["smaller"] = batch
    if trained is None:
        return None
    for which, name in zip(
        ("last", "best"), reversed(FILES[:2]), strict=True
    ):  # the best one stays in the network
        training.restore(which)
        part = folder / f".{which}.part.weights.h5"
        assert trained.model is not None
        try:
            trained.model.save_weights(part)
            with part.open("rb+") as file:
                disk.flush(file)
            part.replace(folder / name)
        finally:  # a session that is told to end may be told so while the file is written
            part.unlink(missing_ok=True)
    stages = [stage.model_dump() for stage in trained.stages]
    steps.Steps(folder).finish(
        STEP,
        made_from,
        FILES[:1],
        stages=stages,
        shortened=training.shortened(whole),
        views=trained.views,
        asked=_asked(cfg),
        seconds=trained.seconds,
        smaller=batch if batch != whole else 0,
        machine=[rt.backend, *rt.devices, rt.precision],
    )
    states.remove()
    return trained


@dataclass
class _Training:
    """One network on its way through the stages."""

    cfg: Config
    rt: Runtime
    table: photos.Table
    place: inputs.Place
    folder: Path
    events: callbacks.Events
    states: steps.States
    facts: steps.Facts
    ready: Ready | None
    time_left: TimeLeft | None
    fewer_views: bool
    resumed: bool  # from an earlier session, whose plan is kept as long as it fits
    rows: list[dict[str, Any]] = field(default_factory=list)  # a row an epoch
    before: float = 0.0  # seconds of training in earlier sessions
    paused: float = 0.0  # seconds in ready
    saving: float = 0.0  # seconds of this session in which states were kept
    reported: bool = False  # ready has been called
    compiled: int = -1  # the stage that the network was compiled for
    costs: schedule.Costs | None = None  # known where time is limited

    def go(self, note: dict[str, Any] | None, start: Path | None) -> Trained | None:
        """Train to the end, from the beginning or from the state that the note is of; None: there is no time to."""
        cfg = self.cfg
        if self.time_left and not note and self._left() <= self.time_left.report:
            return None
        self.frame = pd.concat([self.table.train, self.table.val], ignore_index=True)
        self.labels = self.frame["label"].to_numpy()
        self.train_rows, self.val_rows = np.split(
            np.arange(len(self.frame)), [len(self.table.train)]
        )
        self.classes = len(self.table.classes)
        self.batch = self.rt.batch_size(cfg.batch, len(self.train_rows))
        self.began = time.monotonic()

        keras.utils.set_random_seed(cfg.seed)  # a member is the same whichever came before it
        self.net, loaded = _in_scope(self.rt, partial(model.build, cfg, self.rt, self.classes))
        if start:
            self.net.load_weights(start)
            loaded = f"going on from {start.name}"
        print(f"network    {cfg.backbone}, {self.net.count_params():,} weights, {loaded}")
        self.averaged = callbacks.AveragedWeights() if cfg.ema else None
        if self.averaged:
            self.averaged.set_model(self.net)
        if note:
            note = self._resume(note)
        else:
            # Not what has learned from these photos, has nothing to lose, or keeps its statistics.
            if (
                cfg.bn_photos
                and not start
                and cfg.weights != "none"
                and not cfg.freeze_bn
                and cfg.unfreeze != "head"
            ):
                self._rebase()
            self.plan = schedule.Plan(self._configured(), self._views())
            if self.time_left:
                self.costs = self._measure()
                self.plan = schedule.make_plan(
                    self.plan.epochs, self.plan.views, self.costs, self._left(), self.fewer_views
                )
                self._say_plan()
            if self.plan.steps == 0:
                return None
        for number in range(note["stage"] if note else 0, len(cfg.stages)):
            if self.plan.epochs[number] or (note and number == note["stage"]):
                self._stage(number, note if note and number == note["stage"] else None)
        stages = [
            stage.model_copy(update={"epochs": n})
            for stage, n in zip(cfg.stages, self.plan.epochs, strict=True)
            if n
        ]
        took = time.monotonic() - self.began - self.paused
        print(
            f"training   {took:.0f} s, {self.saving:.1f} s of it ({self.saving / took:.1%}) to keep the state of every epoch"
        )
        views = self.plan.views if self.plan.views < self._views() else None
        return Trained(tuple(stages), views, self._seconds(), self.net, planned=not self.resumed)

    def restore(self, which: str) -> None:
        """Put the last or the best state of the last stage into the network, as validation has measured it."""
        model.restore(self.net, self.states.arrays(which))
        if self.averaged:
            self.averaged.settle()

    def shortened(self, batch: int) -> str:
        """How often the photos were seen of what is set, where a plan has cut epochs or left some out; else empty.

        ``batch``: photos a step, before memory ran out.
        """
        photos_ = len(self.train_rows)
        cut = self.plan.epochs != self._configured() or any(
            row["photos"] <= photos_ - batch for row in self.rows
        )
        passes = sum(row["photos"] for row in self.rows) / photos_
        return f"{passes:.1f} of {sum(self._configured())} passes over the photos" if cut else ""

    def _configured(self) -> tuple[int, ...]:
        """Epochs of each stage, as set."""
        return tuple(stage.epochs for stage in self.cfg.stages)

    def _views(self) -> int:
        """The most that a photo is asked for, as set."""
        return max(_asked(self.cfg))

    def _effort(self) -> tuple[float, ...]:
        return votes.effort(*_asked(self.cfg), len(self.val_rows), len(self.table.test))

    def _machine(self) -> list[Any]:
        """What measured seconds hold for."""
        return [self.rt.backend, *self.rt.devices, self.rt.precision, self.rt.xla, self.cfg.batch]

    def _resume(self, note: dict[str, Any]) -> dict[str, Any]:
        """Take up the state that the note is of, and its plan unless the time left demands another."""
        number, epoch = note["stage"], note["epoch"]
        self.plan = schedule.Plan(**{**note["plan"], "epochs": tuple(note["plan"]["epochs"])})
        self.rows, self.before = note["rows"], note["seconds"]
        if self.plan.steps and note["batch"] != self.cfg.batch:  # as many photos as before
            steps = round(self.plan.steps * note["batch"] / self.cfg.batch)
            self.plan = replace(self.plan, steps=steps if steps < self._whole() else None)
        at = (number + 1, 0) if note["over"] else (number, epoch)
        print(
            f"resumed    after {len(self.rows)} epochs, {epoch} of them in stage {number + 1}/{len(self.cfg.stages)}"
        )
        if self.time_left:
            # The photo itself takes less than a random view: what was timed must be of the same
            # kind.
            alike = note["machine"] == self._machine() and (max(note["asked"]) <= 2) == (
                self._views() <= 2
            )
            known = note["costs"] if alike else None
            self.costs = (
                replace(schedule.costs(known), effort=self._effort()) if known else self._measure()
            )
            if note["asked"] != list(_asked(self.cfg)):
                views = (
                    schedule.views(self.plan, self._views(), at[0], at[1], self.costs, self._left())
                    if self.fewer_views
                    else self._views()
                )
                self.plan = replace(self.plan, views=views)
        else:
            self.plan = replace(self.plan, views=self._views())
            if self.plan.steps is not None:  # whole epochs from here on
                since = sum(self.plan.epochs[:number]) + epoch
                self.plan = replace(
                    self.plan, steps=None, since=since, progress=self.plan.progress_at(since)
                )
        self._compile(number)
        model.restore(self.net, self.states.arrays("last"))
        if (
            self.rate is None and note["batch"] != self.cfg.batch
        ):  # a plateau's rate is part of the state
            rate = float(keras.ops.convert_to_numpy(self.net.optimizer.learning_rate))
            self.net.optimizer.learning_rate = rate * self.cfg.batch / note["batch"]
        if self.costs:
            new = schedule.replan(self.plan, at[0], at[1], self.costs, self._left())
            if new is not self.plan:
                self.plan = new
                note = {**note, "course": None, "over": note["over"] or epoch >= new.epochs[number]}
            self._say_plan(at[0], at[1])
        self.reported = note["reported"]
        if self.ready and not self.reported:  # a kill came before there was a submission
            last, stage = self.rows[-1], self.cfg.stages[number]
            with (
                self.averaged.swapped() if self.averaged else nullcontext()
            ):  # what validation has measured
                self._report(
                    self.net,
                    stage,
                    f"epoch {last['epoch']} of stage {number + 1}",
                    last["val_accuracy"],
                )
            self.states.amend(reported=True)
        return note

    def _stage(self, number: int, note: dict[str, Any] | None) -> None:
        """Train one stage, from the epoch that the note is of; the network then has its best weights."""
        cfg, shape = self.cfg, self.cfg.stages[number]
        size = (shape.height, shape.width)
        cache = pipeline.PhotoCache(self.frame, *size, cfg.fit, cfg.cache_share, self.place.scratch)
        print(
            f"stage {number + 1}/{len(cfg.stages)}  {shape.height}x{shape.width}, {self.plan.epochs[number]} epochs; {cache}"
        )
        # One compilation serves all stages unless the set of training weights changes: tracing a
        # step takes longer than a small epoch, and the optimiser's moments stay valid.
        if self.compiled < 0 or (cfg.unfreeze == "staged" and self.compiled != number):
            self._compile(number)
        while not (note and note["over"]):
            note = self._fit(number, cache, note)
        self.restore("best")
        if self.ready and any(self.plan.epochs[number + 1 :]):
            best = max(row["val_accuracy"] for row in self.rows if row["stage"] == number + 1)
            self._report(self.net, shape, f"best epoch of stage {number + 1}", best)

    def _rebase(self) -> None:
        """Start BN from the statistics of some photos, augmented as for the first stage and at its size."""
        cfg, shape = self.cfg, self.cfg.stages[0]
        size, rows = (shape.height, shape.width), self.train_rows
        cache = pipeline.PhotoCache(self.frame, *size, cfg.fit, cfg.cache_share, self.place.scratch)
        few = cfg.replace(batch=min(self.batch, _REBASED))
        # Without the runtime: every process looks at the same photos.
        batches = pipeline.make_batches(
            few,
            cache,
            rows,
            self.labels[rows],
            size,
            self.classes,
            steps=-(-cfg.bn_photos // few.batch),
            train=lambda epoch: cfg.strength,
        )
        seen = 0

        def in_time() -> Iterator[np.ndarray]:
            nonlocal seen
            began = time.monotonic()
            for images, _, _ in batches.dataset:
                if seen and self.time_left:
                    spent = runtime.agree(self.rt, time.monotonic() - began)
                    if spent > _REBASE_SHARE * self._left():
                        return
                seen += len(images)
                yield images.numpy()

        count = model.rebase_batch_norms(self.net, in_time())
        if count:
            print(f"batch norm {count} layers start from the statistics of {seen} train photos")

    def _fit(
        self, number: int, cache: pipeline.PhotoCache, note: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Train until the stage ends or its plan changes; returns the note of the last epoch."""
        epoch, epochs = note["epoch"] if note else 0, self.plan.epochs[number]
        train = self._batches(number, cache, range(epoch, epochs), self.plan)
        val = self._looks(number, cache, self.val_rows) if len(self.val_rows) else None
        course, rate = self._course(number, epoch, note)
        watchers = self._watchers(number, epoch, note, course, rate)
        validate = {"validation_data": val.dataset, "validation_steps": val.steps} if val else {}
        self.net.fit(
            train.dataset,
            initial_epoch=epoch,
            epochs=epochs,
            steps_per_epoch=self._steps(),
            callbacks=list(watchers.values()),
            verbose=0,
            **validate,
        )
        if "pace" in watchers:
            self.plan = watchers["pace"].plan
        self.saving += watchers["checkpoint"].total
        made = watchers["checkpoint"].noted
        if not made["over"]:  # with averaged weights the end of fit has put them into the network
            model.restore(self.net, self.states.arrays("last"))
        return made

    def _steps(self) -> int:
        """Of an epoch."""
        return min(self.plan.steps or self._whole(), self._whole())

    def _whole(self) -> int:
        """Steps of a whole epoch."""
        return max(1, len(self.train_rows) // self.batch)

    def _batches(
        self, number: int, cache: pipeline.PhotoCache, epochs: range, plan: schedule.Plan
    ) -> pipeline.Batches:
        """To train these epochs of a stage."""
        cfg, shape = self.cfg, self.cfg.stages[number]
        rows, first = self.train_rows, sum(plan.epochs[:number])

        def strength(epoch: int) -> float:
            return plan.strength_at(cfg, first + epoch)

        return pipeline.make_batches(
            cfg,
            cache,
            rows,
            self.labels[rows],
            (shape.height, shape.width),
            self.classes,
            stage=number,
            train=strength,
            epochs=epochs,
            steps=plan.steps,
            rt=self.rt,
        )

    def _looks(
        self, number: int, cache: pipeline.PhotoCache, rows: np.ndarray, view: int = 0
    ) -> pipeline.Batches:
        """To predict these photos once, in that view."""
        shape = self.cfg.stages[number]
        return pipeline.make_batches(
            self.cfg,
            cache,
            rows,
            self.labels[rows],
            (shape.height, shape.width),
            self.classes,
            views=range(view, view + 1),
            rt=self.rt,
        )

    def _course(
        self, number: int, epoch: int, note: dict[str, Any] | None
    ) -> tuple[schedule.Course, callbacks.Rate]:
        """What the optimiser follows from that epoch on, and the learning rate by steps of the stage."""
        at = int(keras.ops.convert_to_numpy(self.net.optimizer.iterations))
        if note and note["course"] and note["steps"] == self._steps():
            course = schedule.Course(**note["course"])
        else:
            progress = self.plan.progress_at(sum(self.plan.epochs[:number]) + epoch)
            course = schedule.Course(at, progress, self.plan.per_epoch() / self._steps())
        if self.rate is None:
            return course, lambda step: float(
                keras.ops.convert_to_numpy(self.net.optimizer.learning_rate)
            )
        self.rate.follow(course)
        offset = (
            at - epoch * self._steps()
        )  # the optimiser's count when a stage of such epochs would have begun
        return course, lambda step: course.rate(self.cfg, offset + step)

    def _watchers(
        self,
        number: int,
        epoch: int,
        note: dict[str, Any] | None,
        course: schedule.Course,
        rate: callbacks.Rate,
    ) -> dict[str, Any]:
        """The callbacks of ``fit`` by name, in their order; with the fields that the note has of them."""
        cfg, plan, steps_per_epoch = self.cfg, self.plan, self._steps()
        kept = (
            "plateau",
            "progress",
            "early_stop",
            "checkpoint",
        )  # whose fields are part of the state

        def state(done: int) -> dict[str, Any]:
            """All that is not a number of the network, for JSON, after so many epochs of the stage."""
            pace = watchers.get("pace")
            known = pace.plan if pace else plan
            return {
                "stage": number,
                "epoch": done,
                "over": watchers["early_stop"].stopped or done >= known.epochs[number],
                "batch": cfg.batch,
                "smaller": self.rt.batch_size(cfg.batch),
                "steps": steps_per_epoch,
                "machine": self._machine(),
                "asked": _asked(self.cfg),
                "reported": self.reported,
                "plan": asdict(known),
                "course": asdict(course) if known is plan else None,
                "costs": asdict(pace.costs) if pace else None,
                "rows": self.rows,
                "seconds": self._seconds(),
                "watchers": {name: watchers[name].kept() for name in kept if name in watchers},
            }

        watchers: dict[str, Any] = {"nan": callbacks.StopOnNaN(cfg, number, steps_per_epoch, rate)}
        if self.averaged:
            watchers["averaged"] = self.averaged
        if self.rt.strategy:
            watchers["replicas"] = model.EqualReplicas(self.rt.strategy)
        if cfg.schedule == "plateau":
            watchers["plateau"] = callbacks.Plateau(
                monitor="val_loss", factor=0.3, patience=2, min_lr=cfg.lr / 1e3
            )
        if not self.rows:  # before history.csv is another one
            watchers["replace"] = keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: self._replace()
            )
        watchers["progress"] = callbacks.Progress(
            cfg,
            number,
            steps_per_epoch,
            self.batch,
            self.events,
            rate,
            self.rows,
            self.folder / FILES[2],
            plan.epochs,
        )
        watchers["early_stop"] = callbacks.EarlyStop(cfg, self.events)
        if cfg.tensorboard:
            folder = self.folder / "tensorboard" / f"stage{number + 1}"
            watchers["tensorboard"] = keras.callbacks.TensorBoard(str(folder), write_graph=False)
        checkpoint = callbacks.Checkpoint(self.states, self.facts, state, len(self.rows) - epoch)
        if self.costs and self.time_left:
            watchers["pace"] = callbacks.Pace(
                plan,
                number,
                self.costs,
                self.time_left.deadline,
                lambda: checkpoint.seconds,
                partial(runtime.agree, self.rt),
                None if self.resumed else self._configured(),
            )
        watchers["checkpoint"] = checkpoint  # after all whose fields it keeps
        if self.ready and not self.rows:
            watchers["ready"] = self._first_epoch(cfg.stages[number])
        for name in kept:
            if name in watchers and note:
                watchers[name].go_on(note["watchers"].get(name, {}))
        return watchers

    def _replace(self) -> None:
        """Nothing of another training in the folder counts any more."""
        if not self.rows:
            steps.Steps(self.folder).forget()
            self.states.remove()

    def _compile(self, number: int) -> None:
        """For that stage. A learning rate that a plateau has lowered stays where it is."""
        lowered = self.cfg.schedule == "plateau" and self.compiled >= 0
        before = (
            float(keras.ops.convert_to_numpy(self.net.optimizer.learning_rate)) if lowered else 0.0
        )
        model.open_layers(self.cfg, self.net, number)
        self.rate = _in_scope(self.rt, partial(model.compile_model, self.cfg, self.net, self.rt))
        if lowered:
            self.net.optimizer.learning_rate = before
        self.compiled = number

    def _measure(self) -> schedule.Costs:
        """Time a few real steps of each size, on the real network, which has its old state afterwards."""
        cfg, rt = self.cfg, self.rt
        began = time.monotonic()
        self._compile(len(cfg.stages) - 1 if cfg.unfreeze == "staged" else 0)
        if self.rate:
            self.rate.follow(schedule.Course(0, 0.0, 0.0))
        before = model.state(self.net)
        step: list[float] = []
        photo: list[float] = []
        view: list[float] = []
        rows = self.val_rows if len(self.val_rows) else self.train_rows
        for number, shape in enumerate(cfg.stages):
            cache = pipeline.PhotoCache(
                self.frame, shape.height, shape.width, cfg.fit, cfg.cache_share, self.place.scratch
            )
            train = self._batches(number, cache, range(1), schedule.Plan((1,) * len(cfg.stages), 1))
            # Random views, most of what is predicted in the end, take more of the processor than
            # the photo itself.
            val = self._looks(number, cache, rows)
            look = val if self._views() <= 2 else self._looks(number, cache, rows, 2)
            seconds = timing.of_size(self.net, rt, train, val, look, self._left())
            step.append(seconds[0])
            photo.append(seconds[1])
            view.append(seconds[2])
            del cache, train, val, look
        model.restore(self.net, before)

        n_val, n_test = len(self.val_rows), len(self.table.test)
        check = tuple(p * n_val + timing.of_state(before, self.folder, rt) for p in photo)
        early = tuple(p * n_test if self.ready else 0.0 for p in photo)
        print(
            f"timed      in {time.monotonic() - began:.0f} s: a step of {self.batch} photos "
            + ", ".join(
                f"{s:.3g} s at {shape.height}x{shape.width}"
                for s, shape in zip(step, cfg.stages, strict=True)
            )
            + f"; {1 / photo[-1]:.0f} photos/s predicted, {1 / view[-1]:.0f} in random views"
        )
        assert self.time_left
        epoch, views = (
            tuple(s * self._whole() for s in step),
            tuple(v * (n_val + n_test) for v in view),
        )
        return schedule.Costs(
            epoch, check, views, early, self._whole(), self.time_left.report, self._effort()
        )

    def _say_plan(self, number: int = 0, epoch: int = 0) -> None:
        costs, plan = self.costs, self.plan
        assert costs
        if plan.steps == 0:
            print(
                f"plan       no time for a step of training: {callbacks.clock(self._left())} left"
            )
            return
        needed = schedule.seconds(plan, costs, number, epoch)
        whole = schedule.Plan(self._configured(), plan.views)
        instead = "" if str(plan) == str(whole) else f" instead of {whole} of {costs.steps} steps"
        first, cap = _asked(self.cfg)
        views = votes.said(min(first, plan.views), plan.views if cap and plan.views > first else 0)
        fewer = f" instead of {votes.said(first, cap)}" if plan.views < self._views() else ""
        what = f"{plan}{instead}, {views}{fewer}"
        print(
            f"plan       {what}: {callbacks.clock(needed)} from here, {callbacks.clock(self._left())} left"
        )

    def _left(self) -> float:
        assert self.time_left
        return runtime.agree(self.rt, self.time_left.deadline - time.monotonic())

    def _seconds(self) -> float:
        """Of training in all sessions, without ``ready``."""
        return self.before + time.monotonic() - self.began - self.paused

    def _first_epoch(self, stage: Stage) -> keras.callbacks.Callback:
        def on_epoch_end(epoch: int, logs: dict[str, Any]) -> None:
            if epoch == 0:
                with (
                    self.averaged.swapped() if self.averaged else nullcontext()
                ):  # what validation has measured
                    self._report(self.net, stage, "first epoch", float(logs["val_accuracy"]))
                self.states.amend(reported=True)

        return keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)

    def _report(self, *args: Any) -> None:
        began = time.monotonic()
        assert self.ready is not None
        self.ready(*args)
        self.reported = True
        self.paused += time.monotonic() - began


def _in_scope(rt: Runtime, make: Any) -> Any:
    """With several GPUs, variables must be made inside the strategy's scope."""
    if rt.strategy is None:
        return make()
    with rt.strategy.scope():
        return make()

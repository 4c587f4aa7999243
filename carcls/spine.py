"""The spine: from a folder of photos to submission.csv, top to bottom."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk
from carcls import machine as runtime
from carcls import record as steps
from carcls.config import BLENDS, Config
from carcls.data import attached, augment, boxes, photos
from carcls.data import files as inputs
from carcls.errors import ConfigError, InputError, Stopped
from carcls.nets import registry as backbones
from carcls.nets import schedule
from carcls.report import submission
from carcls.votes import blend, pseudo, votes


def run(cfg: Config) -> Path:
    """Train, validate, predict with test-time augmentation; returns the path of submission.csv.

    Everything it makes is in the run folder (see README, "What a run leaves"). What is there already of the same settings
    is gone on from (cfg.resume). Bad input raises InputError or ConfigError before training starts, wherever
    it can be seen that early. SIGTERM ends a run with Stopped.
    """
    start = time.monotonic()
    check(cfg)
    with runtime.alone(inputs.run_folder(cfg)):
        return _run(cfg, runtime.apart(inputs.locate(cfg)), start)


def _run(cfg: Config, place: inputs.Place, start: float) -> Path:
    """The steps of ``run``; start: of the time, in seconds of time.monotonic."""
    for mine in cfg.of_members():  # before the photos are looked at, which takes longer
        backbones.find_weights(mine.backbone, mine)
    attached.box_files(cfg)
    _take_over(cfg, place)
    table = photos.load(cfg, place)
    _say("data", *photos.summary(table, cfg.folds))
    photos.write_audit(table, place.out / "audit.csv")
    shown = photos.with_folds(table, cfg.folds, cfg.seed) if cfg.folds > 1 else table.frame
    disk.write_atomic(place.out / "photos.csv", shown.to_csv(index=False))
    counted = len(table.val) + (len(table.train) if cfg.folds > 1 else 0)
    if len(cfg.members) > 1 and counted < blend.LEAST:
        raise ConfigError(
            f"members: {counted} validation photos; at least {blend.LEAST} are needed to compare members"
        )
    rt = runtime.setup(cfg)
    # Only now: some of these import keras, whose backend setup has just chosen.
    from carcls import network as members
    from carcls.data import batches as pipeline
    from carcls.report import charts as figures
    from carcls.train import clock as timing
    from carcls.train import watchers as callbacks
    from carcls.votes import cast as tta
    from carcls.votes import decide

    plans = [pipeline.plan(mine, table.frame, place.scratch) for mine in cfg.of_members()]
    budget = schedule.budget(cfg, place.on_kaggle, rt.kind, start)
    _say(
        "machine",
        *rt.reasons,
        *dict.fromkeys(str(plan) for each in plans for plan in each),
        *([f"time       {budget.line}"] if budget else []),
    )
    runtime.same_files(rt, place)

    disk.write_atomic(place.out / "config.json", cfg.model_dump_json(indent=2) + "\n")
    monitor = (
        callbacks.SafeRemoteMonitor(cfg.monitor_url) if cfg.monitor_url and not rt.process else None
    )
    events = callbacks.Events(place.out / "progress.jsonl", monitor)
    submit = _Submit(place.out / "submission.csv", table, _identity(cfg, table))
    try:
        with _stoppable():
            events.send(
                "start",
                settings=cfg.model_dump(mode="json"),
                machine=rt.reasons,
                source=steps.source_hash(),
            )
            for mine in cfg.of_members():
                tta.check_views(mine, table.val, place)
            # Before training: to be looked at while it goes on, and nothing is lost if it cannot be
            # drawn.
            figures.augmentation(cfg, table, place.out / "augmentation.png")
            figures.audit(table, place.out / "audit.png")
            if cfg.boxes:
                figures.boxes(table.frame, place.out / "boxes.png")
            rt = timing.xla(cfg, rt, table, place, events, budget)
            (place.out / "pseudo.csv").unlink(missing_ok=True)  # an earlier run's
            made: list[members.Member] = []
            for number in range(len(cfg.members)):
                if made and len(made[0].test) < cfg.folds:
                    print(
                        "skipped    other members: members are compared photo by photo, and of the first there are only "
                        f"{len(made[0].test)} of {cfg.folds} folds"
                    )
                    break
                _say(f"train member {members.name(cfg, number)}")
                member = members.make(
                    cfg, number, rt, table, place, events, None if made else submit.early, budget
                )
                if member is None or (made and len(member.test) < len(made[0].test)):  # out of time
                    break
                made.append(member)
                fewer = members.with_views(cfg, max(member.tta))
                if cfg.pseudo and not fewer.pseudo:
                    said = votes.said(fewer.tta_views, fewer.tta_cap)
                    print(
                        f"skipped    pseudo-labels: with {said}, all that there is time for, agreement means little"
                    )
                cfg = fewer
                groups = members.groups(table.frame, made[0].val.ids)
                decision = decide.decide(cfg, made, groups)
                if len(made) < len(cfg.members):
                    submit.early(
                        decision.ids, decision.test_probs, decision.made_by, decision.accuracy
                    )
            for other in range(len(made), len(cfg.members)):  # an earlier run's notes
                (place.out / f"member{other + 1}" / members.NOTE).unlink(missing_ok=True)
            if not made:
                return _without_training(cfg, table, place, submit, events, budget)
            disk.write_atomic(
                place.out / "config.json", cfg.model_dump_json(indent=2) + "\n"
            )  # with the views it has used
            _say("decide")
            print(*decide.lines(decision), sep="\n")
            chosen, later = None, dict[str, Any]()
            result, pictures = _conclude(cfg, table, place, made, decision, submit, start, later)
            if cfg.pseudo:
                _say("pseudo-labels")
                chosen, later["pseudo"] = _pseudo_labels(
                    cfg, rt, table, place, events, made, decision, budget
                )
                if any(later["pseudo"]["kept"]):
                    made = [members.load(cfg, number, place.out) for number in range(len(made))]
                    decision = decide.decide(cfg, made, groups)
                    print(*decide.lines(decision), sep="\n")
                result, pictures = _conclude(
                    cfg, table, place, made, decision, submit, start, later
                )
            if cfg.refits:
                _say("refit")
                later["refit"] = _refit(cfg, rt, table, place, events, decision, chosen, budget)
                if any(later["refit"]["kept"]):
                    made = [members.load(cfg, number, place.out) for number in range(len(made))]
                    decision = decide.decide(cfg, made, groups)
                result, pictures = _conclude(
                    cfg, table, place, made, decision, submit, start, later
                )
            events.send("end", **result)
    except BaseException as error:  # also a stop by hand: whoever watches should know
        events.send("failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        events.close()
    _say(
        "result",
        *lines(result),
        *(f"pictures   {p}" for p in pictures),
        f"submission {submit.path}, {len(decision.ids)} rows",
    )
    for warning in submit.warnings:
        print(f"\n*** WARNING: {warning} ***")
    return submit.path


def _take_over(cfg: Config, place: inputs.Place) -> None:
    """Copy an earlier run, where one is attached, into the run folder, which is writable; clear away what a kill left."""
    steps.sweep(place.out)
    earlier = steps.find_earlier(cfg) if cfg.resume else None
    if earlier and earlier.resolve() != place.out.resolve():
        taken = steps.take_over(earlier, place.out)
        _say(
            "earlier run",
            f"{earlier}: "
            + (
                f"copied {', '.join(taken)}"
                if taken
                else f"nothing copied, {place.out} has them all"
            ),
        )


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM raises Stopped meanwhile, where it can be received: in a program's main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped: list[Stopped] = []

    def stop(number: int, frame: Any) -> None:
        stopped.append(Stopped("SIGTERM; the same run again goes on from the last whole epoch"))
        raise stopped[0]

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException as error:
        # Inside TensorFlow's C++ it may have become another one: a SystemError was seen.
        if stopped and error is not stopped[0]:
            raise stopped[0] from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


# Settings that say where a run reads and writes, how it is watched and how long it may take, and
# may differ between its sessions. Boxes count by what they are, not by where their file is.
_OF_SESSION = {
    "data",
    "out",
    "competition",
    "earlier",
    "budget_minutes",
    "cache_share",
    "monitor_url",
    "tensorboard",
    "boxes",
}


def _identity(cfg: Config, table: photos.Table) -> str:
    """Of a run: the same in all its sessions, and another one with other photos or labels.

    A run that starts anew (resume=false) takes nothing over, so that another budget, say, makes it another one.
    """
    same = _OF_SESSION if cfg.resume else None
    columns = (table.frame[name] for name in ("id", "label", "fold", "digest"))
    data = steps.rows(table.sample_ids, *columns, *(boxes.of(table.frame).T if cfg.boxes else ()))
    return hashlib.sha256(
        (cfg.model_dump_json(exclude=same) + data + steps.source_hash()).encode()
    ).hexdigest()[:16]


def _without_training(
    cfg: Config,
    table: photos.Table,
    place: inputs.Place,
    submit: _Submit,
    events: Any,
    budget: schedule.Budget | None,
) -> Path:
    """A valid submission where the time is too short to train anything: the most frequent class for every photo."""
    share = np.bincount(table.train["label"], minlength=len(table.classes)) / len(table.train)
    ids = table.test["id"].tolist()
    accuracy = float((table.val["label"] == share.argmax()).mean())
    why = "the most frequent class: no time to train a network"
    submit(ids, np.tile(share, (len(ids), 1)), why, accuracy)
    submit.warnings = [
        f"no network was trained: every row is the most frequent class, {table.classes[share.argmax()]}"
    ]
    low, high = votes.wilson(round(accuracy * len(table.val)), len(table.val))
    result = {
        "validation_accuracy": accuracy,
        "validation_interval_95": [low, high],
        "validation_photos": len(table.val),
        "made_by": why,
        "settings": cfg.model_dump(mode="json"),
        "source": steps.source_hash(),
    }
    disk.write_atomic(place.out / "result.json", json.dumps(result, indent=2) + "\n")
    events.send("end", **result)
    _say(
        "result",
        f"validation {accuracy:.4f} accuracy of {why}",
        f"skipped    training, test-time augmentation and the report: {budget.line if budget else 'the time'}, is too little",
        f"submission {submit.path}, {len(ids)} rows",
    )
    for warning in submit.warnings:
        print(f"\n*** WARNING: {warning} ***")
    return submit.path


def _conclude(
    cfg: Config,
    table: photos.Table,
    place: inputs.Place,
    made: list[Any],
    decision: Any,
    submit: _Submit,
    start: float,
    later: dict[str, Any],
) -> tuple[dict[str, Any], list[Path]]:
    """submission.csv, result.json, report.html and its pictures; later: what became of pseudo-labels and refit, if they are on."""
    from carcls.report import page as report

    pseudo_labels, refit = later.get("pseudo", {}), later.get("refit", {})
    made_by, step = decision.made_by, 0
    if any(pseudo_labels.get("kept", [])):
        made_by, step = f"{made_by}, after pseudo-labels", 1
    if any(refit.get("kept", [])):
        some = f"{sum(refit['kept'])} of {len(made)} " if len(made) > 1 else ""
        made_by, step = (
            f"{made_by}, then {some}refitted on all {refit['photos']:,} labelled photos (measured before)",
            2,
        )
    submit(decision.ids, decision.test_probs, made_by, decision.accuracy, step)
    result = summary(cfg, table, made, decision) | {
        "made_by": submit.made_by,
        "pseudo": pseudo_labels,
        "refit": refit,
    }
    result["seconds"] = round(time.monotonic() - start)
    if place.answers:
        result["true_accuracy"] = submission.accuracy(submit.path, place.answers)
    disk.write_atomic(place.out / "result.json", json.dumps(result, indent=2) + "\n")
    return result, report.write(cfg, table, made, decision, result, place.out)


def _pseudo_labels(
    cfg: Config,
    rt: runtime.Runtime,
    table: photos.Table,
    place: inputs.Place,
    events: Any,
    made: list[Any],
    decision: Any,
    budget: schedule.Budget | None,
) -> tuple[pseudo.Chosen, dict[str, Any]]:
    """Choose photos, write pseudo.csv, go on training with them; says what became of it."""
    from carcls import network as members

    test, val = (
        [member.test[0] for member in made],
        [members.as_test(cfg, member.val) for member in made],
    )
    # tta=always opens a gate for predicting, not for labelling (S64).
    gates = [
        votes.gate("auto", seen, cfg.tta_combine).open and gate.open
        for seen, gate in zip(val, decision.gates, strict=True)
    ]
    chosen = pseudo.select(
        test, val, gates, cfg.pseudo_agreement, len(table.classes), pseudo.usable_photos(table)
    )
    print(chosen.line, *(f"warning: {warning}" for warning in chosen.warnings), sep="\n")
    rows = pseudo.table(chosen, test, [str(name) for name in table.classes])
    disk.write_atomic(place.out / "pseudo.csv", rows.to_csv(index=False))
    kept = []
    for number in range(len(made) if len(chosen.rows) else 0):
        kept.append(members.go_on(cfg, number, rt, table, place, events, chosen, budget, len(made)))
        print(f"member {number + 1}: {kept[-1].reason}")
    return chosen, {
        "chosen": chosen.line,
        "photos": len(chosen.rows),
        "warnings": list(chosen.warnings),
        "kept": [k.kept for k in kept],
        "reasons": [k.reason for k in kept],
    }


def _refit(
    cfg: Config,
    rt: runtime.Runtime,
    table: photos.Table,
    place: inputs.Place,
    events: Any,
    decision: Any,
    chosen: pseudo.Chosen | None,
    budget: schedule.Budget | None,
) -> dict[str, Any]:
    """Go on training with the validation photos too the members that the blend uses; says what became of it."""
    from carcls import network as members

    count = len(table.train) + len(table.val)
    epochs = f"{cfg.refits} epoch{'s' * (cfg.refits > 1)}"
    print(
        f"{epochs} on all {count:,} labelled photos, validation ones too; what they measured before stays"
    )
    kept, reasons = [], []
    weights, made = decision.choice.blend.weights, len(decision.gates)
    for number in range(made):
        if weights is not None and not weights[number]:
            counts, reason = False, "not refitted: the blend does not use it"
        else:
            counts, reason = members.refit(
                cfg, number, rt, table, place, events, chosen, budget, made
            )
        print(f"member {number + 1}: {reason}")
        kept.append(counts)
        reasons.append(reason)
    return {"photos": count, "kept": kept, "reasons": reasons}


class _Submit:
    """Writes submission.csv whenever the run has a better-founded one; what another run left is kept beside it."""

    def __init__(self, path: Path, table: photos.Table, identity: str):
        self.path, self.table, self.identity = path, table, identity
        self.warnings: list[str] = []
        self.made_by = ""  # what is there
        self.wrote = False  # in this session

    def __call__(
        self, ids: list[str], probs: np.ndarray, made_by: str, accuracy: float, step: int = 0
    ) -> None:
        """``step``: 1 after pseudo-labels, 2 refitted. What an earlier session has submitted of a later step stays."""
        there = self._earlier()
        if there and there["step"] > step:
            self.made_by, self.warnings = there["made_by"], there["warnings"]
            print(
                f"submission {self.path.name}: still {self.made_by}; validation {there['validation_accuracy']:.4f}"
            )
            return
        self.warnings = submission.write(
            self.path, self.table, ids, probs, made_by, accuracy, self.identity, step
        )
        self.wrote, self.made_by = True, made_by
        print(f"submission {self.path.name}: {made_by}; validation {accuracy:.4f}")

    def early(self, ids: list[str], probs: np.ndarray, made_by: str, accuracy: float) -> None:
        """While training goes on, which must not end because a submission cannot be written yet.

        A session that goes on does not replace what an earlier one has submitted and found better on validation.
        """
        there = self._earlier()
        if there and there["validation_accuracy"] > accuracy:
            print(
                f"submission {self.path.name}: still {there['made_by']}; validation {there['validation_accuracy']:.4f}, not "
                f"{accuracy:.4f} by {made_by}"
            )
            return
        try:
            self(ids, probs, made_by, accuracy)
        except (InputError, OSError) as error:
            print(f"warning: no submission yet from {made_by}: {error}")

    def _earlier(self) -> dict[str, Any] | None:
        """What an earlier session of this run has submitted, if that is there still."""
        there = None if self.wrote else submission.written(self.path)
        return there if there and there["run"] == self.identity else None


def check(cfg: Config) -> None:
    """What settings alone show to be wrong. Raises ConfigError."""
    if cfg.blend not in BLENDS:
        blend.parse_weights(cfg.blend, len(cfg.members))
    for mine in cfg.of_members():
        backbones.find(mine.backbone)  # raises if there is none of that name
        for stage in mine.stages:
            augment.policy(mine.augment, stage.height, stage.width, mine.fit, mine.strength)


def summary(cfg: Config, table: photos.Table, made: list[Any], decision: Any) -> dict[str, Any]:
    """The numbers of a run and what is needed to make them again (S75)."""
    photos_seen = len(decision.val_probs)
    low, high = votes.wilson(round(decision.accuracy * photos_seen), photos_seen)
    return {
        "validation_accuracy": decision.accuracy,
        "validation_interval_95": [low, high],
        "validation_photos": photos_seen,
        "made_by": decision.made_by,
        "members": decision.alone.to_dict("records"),
        "gates": [{"open": gate.open, "reason": gate.reason} for gate in decision.gates],
        "adaptive": decision.adaptive,
        "blends": decision.choice.table.to_dict("records"),
        "blend_reason": decision.choice.reason,
        "blend_picked_by_fold": decision.choice.picked,
        "train_photos": len(table.train) + (len(table.val) if cfg.folds > 1 else 0),
        "training_seconds": round(sum(member.seconds["training"] for member in made), 1),
        "settings": cfg.model_dump(mode="json"),
        "source": steps.source_hash(),
        "versions": {
            name: metadata.version(name)
            for name in ("keras", "keras-cv", "albumentations", "numpy", "pandas")
        },
    }


def lines(result: dict[str, Any]) -> list[str]:
    low, high = result["validation_interval_95"]
    found = [
        f"validation {result['validation_accuracy']:.4f} accuracy, 95 % interval {low:.4f}–{high:.4f}, "
        f"{result['validation_photos']} photos not trained on; they chose the best epoch",
        f"made by    {result['made_by']}",
        *(
            ["refit      came after that: no labelled photo is left to measure it on"]
            if any(result.get("refit", {}).get("kept", []))
            else []
        ),
        f"time       {result['training_seconds']:.0f} s of training, {result['seconds']} s in this session",
    ]
    if "true_accuracy" in result:
        found.append(
            f"true       {result['true_accuracy']:.4f} accuracy of submission.csv on the drawn test photos"
        )
    return found


def _say(title: str, *rows: str) -> None:
    print(f"\n== {title}", *rows, sep="\n  ")

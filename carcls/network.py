"""One member of the ensemble: its networks, one a fold, trained, and their votes kept as files."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from carcls import disk
from carcls import machine as runtime
from carcls import record as steps
from carcls.config import Config, Stage
from carcls.data import boxes, photos
from carcls.data import files as inputs
from carcls.errors import ConfigError, InputError, TrainingDiverged
from carcls.machine import Runtime
from carcls.nets.schedule import PER_NETWORK, REPORT, Budget, TimeLeft
from carcls.report import submission
from carcls.votes import pseudo, votes
from carcls.votes.votes import Votes

if TYPE_CHECKING:
    from carcls.train.loop import Trained

# A better-founded prediction of the test photos than there was: (ids, probabilities, what made it,
# validation accuracy).
Submit = Callable[[list[str], np.ndarray, str, float], None]


@dataclass(frozen=True)
class Member:
    """What is known of a member once its votes are cast. Everything here is in the files of its folder."""

    name: str
    folder: Path
    val: Votes  # of validation photos; with folds, of all train photos, each by the network that did not see it
    test: tuple[Votes, ...]  # one a network
    histories: dict[
        str, pd.DataFrame
    ]  # epochs by the folder inside that they are from, "" for the only network
    seconds: dict[str, float]  # of training, and of votes by kind
    tta: tuple[
        int, int
    ]  # tta_views and tta_cap: fewer than set where the time did not allow for them
    stage: Stage  # the last one that it was trained in
    counts: list[str]  # the folders inside whose votes these are: [""], of folds, or ["pseudo"]


def make(
    cfg: Config,
    number: int,
    rt: Runtime,
    table: photos.Table,
    place: inputs.Place,
    events: Any,
    submit: Submit | None,
    budget: Budget | None = None,
) -> Member | None:
    """Train member ``number`` (from 0) and let it vote; what an earlier session has done of it is taken as it is.

    ``submit``, if given, gets test predictions as soon as there are some: after the first epoch, each stage, each fold.
    None if the budget leaves no time to train it; with folds, those that there was time for.
    """
    from carcls.train import loop as train
    from carcls.votes import cast as tta  # keras, whose backend runtime.setup has chosen by now

    mine = cfg.of_members()[number]
    folder = place.out / f"member{number + 1}"
    (folder / NOTE).unlink(missing_ok=True)  # written again once there are votes of these settings
    parts = photos.folds(table, cfg.folds, cfg.seed) if cfg.folds > 1 else [table]
    seconds = dict.fromkeys(("training", *VOTES), 0.0)

    def ready(net: Any, stage: Any, what: str, accuracy: float) -> None:
        assert submit is not None
        cast, _ = tta.vote(mine, rt, net, table.test, place, 1, stage=stage)
        submit(cast.ids, cast.probs[0], f"member {number + 1}: {what}, one view", accuracy)

    inside = _folders(cfg)
    for k, (part, sub) in enumerate(zip(parts, inside, strict=True)):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        if len(parts) > 1:
            print(
                f"fold {k + 1}/{len(parts)}  {len(part.train)} photos to train, {len(part.val)} to validate"
            )
        # How many networks still share the time, this one included.
        share = (len(cfg.members) - number) * len(parts) - k + _going_on(cfg)
        fixed = number or k  # networks that vote together have the same number of views
        trained = train.done(mine, part, folder / sub, limited=bool(budget))
        if trained:
            print(f"training   done before in {trained.seconds:.0f} s, taken from {folder / sub}")
        else:
            trained = train.fit(
                mine,
                rt,
                part,
                place,
                folder / sub,
                events,
                ready if submit and not k else None,
                time_left=budget.share(share) if budget else None,
                fewer_views=not fixed,
            )
        if trained is None:
            print(
                f"skipped    {f'folds {k + 1} to {len(parts)}' if k else f'member {number + 1}'}: no time to train"
            )
            if k:
                break
            return None
        if trained.views and not _has_votes(mine, folder / sub):
            mine = with_views(mine, trained.views)
        if budget and not fixed and not trained.planned:
            trained, mine = _in_time(mine, rt, trained, part, place, folder / sub, budget, share)
        seconds["training"] += trained.seconds
        for kind, took in cast_votes(mine, rt, trained, part, place, folder / sub).items():
            seconds[kind] += took
        size = trained.stages[-1].model_dump()
        del trained  # before the next network is made
        gc.collect()
        _note(folder, seconds, inside[: k + 1], mine, size)
        if submit and k + 1 < len(parts):
            so_far = load(cfg, number, place.out)
            gate = votes.gate(cfg.tta, as_test(mine, so_far.val), cfg.tta_combine)
            probs = np.mean([cast.used(gate, cfg.tta_combine) for cast in so_far.test], 0)
            right = (
                as_test(mine, so_far.val).used(gate, cfg.tta_combine).argmax(1) == so_far.val.labels
            )
            submit(
                so_far.test[0].ids,
                probs,
                f"member {number + 1}: {k + 1} of {len(parts)} folds",
                float(right.mean()),
            )
    return load(cfg, number, place.out)


VOTES = ("validation_votes", "adaptive_validation_votes", "test_votes")
VALIDATION = "validation votes"  # in the folder's steps.json
NOTE = "member.json"
REFIT = "refit"  # folder of a member's network that has learned the validation photos too, and its votes on test photos


def _going_on(cfg: Config) -> float:
    """The time of going on with pseudo-labels and of refitting, as a share of that of training one network."""
    whole = sum(stage.epochs * stage.height * stage.width for stage in cfg.stages)
    last = cfg.stages[-1]
    epochs = cfg.pseudo_epochs * cfg.pseudo + _refit_epochs(cfg)
    return len(cfg.members) * epochs * last.height * last.width / whole


def _refit_epochs(cfg: Config) -> float:
    """As epochs of the train photos alone."""
    return cfg.refits / (1 - cfg.val_fraction)


def with_views(cfg: Config, views: int) -> Config:
    """The settings with as many test-time views as a plan leaves time for.

    With the adaptive rule they are its cap, and if they are no more than the first views, there is no rule.
    """
    if views >= max(cfg.tta_views, cfg.tta_cap):
        return cfg
    cap = views if cfg.tta_cap and views > cfg.tta_views else 0
    return cfg.replace(
        tta_views=min(views, cfg.tta_views), tta_cap=cap, pseudo=cfg.pseudo and views >= 4
    )


def cast_votes(
    cfg: Config,
    rt: Runtime,
    trained: Trained,
    table: photos.Table,
    place: inputs.Place,
    folder: Path,
) -> dict[str, float]:
    """A network's votes on validation photos, if there are any, and test photos, as files of the folder.

    Returns the seconds of each of VOTES that were cast. Votes that are there already, of the same weights, photos and
    settings, are not cast again.
    """
    from carcls.train import loop as train
    from carcls.votes import cast as tta

    views, cap = (1, 0) if cfg.tta == "never" else (cfg.tta_views, cfg.tta_cap)
    stage, record = trained.stages[-1], steps.Steps(folder)
    made_from = {
        "size": [stage.height, stage.width],
        "fit": cfg.fit,
        "seed": cfg.seed,
        "tta_views": views,
        "tta_cap": cap,
        "tta_strength": cfg.tta_strength if max(views, cap) > 2 else None,
        "the weights": record.digest(train.STEP, train.FILES[0]),
        "the package's code": steps.source_hash(),
    }
    net = trained.model

    def cast(
        which: str, frame: pd.DataFrame, make: Callable[[Any], tuple[Votes, dict[str, float]]]
    ) -> dict[str, float]:
        nonlocal net
        seen = {
            **made_from,
            "the photos": steps.rows(frame["id"], frame["label"], frame["digest"]),
            "boxes": steps.rows(*boxes.of(frame).T) if cfg.boxes else "",
        }
        step, file = f"{which} votes", f"votes_{which}.npz"
        about = record.about(step, seen) if cfg.resume else None
        if about is not None:
            print(f"votes      on {which} photos cast before, taken from {folder / file}")
            return about
        if net is None:
            net = train.network(cfg, rt, len(table.classes), folder)
        made, took = make(net)
        made.save(folder / file)
        record.finish(step, seen, [file], **took)
        return took

    def validation(net: Any) -> tuple[Votes, dict[str, float]]:
        # Validation gets every view that a test photo may get: the tables and the gate need them.
        cache = tta.photo_cache(cfg, table.val, place, stage)
        adaptive = 0.0
        if cap:  # both rules, to know what the adaptive one saves in seconds, once everything is decoded and traced
            tta.vote(cfg, rt, net, table.val, place, 1, stage=stage, cache=cache)
            _, adaptive = tta.vote(
                cfg, rt, net, table.val, place, views, cap, stage=stage, cache=cache
            )
        made, fixed = tta.vote(
            cfg, rt, net, table.val, place, max(views, cap), stage=stage, cache=cache
        )
        return made, dict(zip(VOTES[:2], (fixed, adaptive), strict=True))

    def test(net: Any) -> tuple[Votes, dict[str, float]]:
        made, took = tta.vote(cfg, rt, net, table.test, place, views, cap, stage=stage)
        return made, {VOTES[2]: took}

    return (cast("validation", table.val, validation) if len(table.val) else {}) | cast(
        "test", table.test, test
    )


def _has_votes(cfg: Config, folder: Path) -> bool:
    """Whether validation votes of as many views as are set have been cast there."""
    cast = steps.Steps(folder).made_from(VALIDATION)
    return cast is not None and [cast["tta_views"], cast["tta_cap"]] == [cfg.tta_views, cfg.tta_cap]


def _in_time(
    cfg: Config,
    rt: Runtime,
    trained: Trained,
    table: photos.Table,
    place: inputs.Place,
    folder: Path,
    budget: Budget,
    networks: float,
) -> tuple[Trained, Config]:
    """The network to vote, and the settings with as many views as there is time for, by the clock: at least one.

    For a training that another session has planned. ``networks``: how many still share the time, this one included.
    """
    from carcls.data import batches as pipeline
    from carcls.train import clock as timing
    from carcls.train import loop as train
    from carcls.votes import cast as tta

    record, views = steps.Steps(folder), max(cfg.tta_views, cfg.tta_cap)
    if cfg.tta == "never" or views == 1 or _has_votes(cfg, folder):
        return trained, cfg
    asked = {"tta_views": cfg.tta_views, "tta_cap": cfg.tta_cap}
    known = record.about("number of views", asked)
    if known is None:
        net, stage = (
            trained.model or train.network(cfg, rt, len(table.classes), folder),
            trained.stages[-1],
        )
        cache, rows = tta.photo_cache(cfg, table.val, place, stage), np.arange(len(table.val))
        looks = pipeline.make_batches(
            cfg,
            cache,
            rows,
            table.val["label"].to_numpy(),
            (stage.height, stage.width),
            len(table.classes),
            views=range(1, 2) if views == 2 else range(2, 3),
            rt=rt,
        )
        trained = replace(trained, model=net)
        try:
            timing.predicted(net, looks)  # decoded and traced
            photo = runtime.agree(rt, timing.predicted(net, looks))
        except runtime.memory_errors() as error:
            if not runtime.is_out_of_memory(error) or rt.processes > 1:
                raise
            print("views      not timed: out of memory")  # which voting has its own way with
            return replace(
                trained, model=None
            ), cfg  # a step that failed may have emptied its variables
        known = {"views": 0, "each": photo * (len(table.val) + len(table.test))}
    # What is trained after this needs most of the time.
    left = runtime.agree(rt, budget.left()) / (4 if networks > 1 else 1) - REPORT - PER_NETWORK
    take = known["each"] * np.array(
        votes.effort(cfg.tta_views, cfg.tta_cap, len(table.val), len(table.test))
    )
    fit = max(1, int((take <= left).sum()))
    if fit > known["views"] and (
        fit == views or fit >= 1.5 * known["views"]
    ):  # votes cast before are worth some views
        known = {**known, "views": fit}
        record.finish("number of views", asked, (), **known)
        if fit < views:
            print(
                f"views      {votes.said(cfg.tta_views, cfg.tta_cap)} take {take[-1]:.0f} s, and there are {max(0.0, left):.0f} s"
            )
    fewer = with_views(cfg, known["views"])
    if fewer is not cfg:
        print(
            f"views      {votes.said(fewer.tta_views, fewer.tta_cap)} instead of {votes.said(cfg.tta_views, cfg.tta_cap)}"
        )
    return trained, fewer


def as_test(cfg: Config, val: Votes) -> Votes:
    """Validation votes as the rule for test photos would have cast them."""
    return (
        votes.adapt(val, cfg.tta_views, cfg.tta_cap) if cfg.tta_cap and cfg.tta != "never" else val
    )


def _note(
    folder: Path,
    seconds: dict[str, float],
    inside: list[str],
    cfg: Config,
    stage: dict[str, int],
    refit: bool = False,
) -> None:
    """Where in the folder the votes that count are, how they were cast and what they cost; written last."""
    note = {
        "votes": inside,
        "seconds": seconds,
        "tta_views": cfg.tta_views,
        "tta_cap": cfg.tta_cap,
        "stage": stage,
        "refit": refit,
    }
    disk.write_atomic(folder / NOTE, json.dumps(note, indent=2) + "\n")


def load(cfg: Config, number: int, out: Path) -> Member:
    """A member from the files that ``make`` left in the run folder. Raises InputError if one is missing."""
    folder = out / f"member{number + 1}"
    try:
        about = json.loads((folder / NOTE).read_text())
        inside = list(map(str, about["votes"]))
        seconds = {key: float(value) for key, value in about["seconds"].items()}
        refit = bool(about.get("refit"))  # not in what an older version has left
        tta, stage = (int(about["tta_views"]), int(about["tta_cap"])), Stage(**about["stage"])
        kept = dict.fromkeys([*(_folders(cfg) if cfg.folds == 1 else []), *inside])
        histories = {
            sub: pd.read_csv(folder / sub / "history.csv") for sub in [*kept, *[REFIT] * refit]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: not what a member of a finished run leaves ({error})"
        ) from None
    val = [votes.load(folder / sub / "votes_validation.npz") for sub in inside]
    test = tuple(
        votes.load(folder / sub / "votes_test.npz") for sub in ([REFIT] if refit else inside)
    )
    return Member(
        name(cfg, number), folder, join(val), test, histories, seconds, tta, stage, inside
    )


def _folders(cfg: Config) -> list[str]:
    """Of a member's networks, inside its own; "" is that itself."""
    return [f"fold{k + 1}" for k in range(cfg.folds)] if cfg.folds > 1 else [""]


def go_on(
    cfg: Config,
    number: int,
    rt: Runtime,
    table: photos.Table,
    place: inputs.Place,
    events: Any,
    chosen: pseudo.Chosen,
    budget: Budget | None = None,
    members: int = 1,
) -> pseudo.Kept:
    """Continue a member's network on train photos and pseudo-labels; its new votes count if validation is not worse.

    members: how many in all share the budget.
    """
    before = load(cfg, number, place.out)
    frame = pd.concat(
        [pseudo.extend(table.train, table.test, chosen), table.val, table.test], ignore_index=True
    )
    later = members * _refit_epochs(cfg) / cfg.pseudo_epochs
    try:
        mine, trained = _train_on(
            cfg,
            number,
            rt,
            replace(table, frame=frame),
            place,
            events,
            before,
            "pseudo",
            cfg.pseudo_epochs,
            cfg.pseudo_lr,
            budget.share(members - number + later) if budget else None,
        )
    except TrainingDiverged as error:
        return pseudo.Kept(
            False,
            f"not kept: training with pseudo-labels diverged ({error.args[0]}); try a smaller pseudo_lr",
        )
    if trained is None:
        return pseudo.Kept(False, "skipped: no time to train with pseudo-labels")
    inside = before.folder / "pseudo"
    took = cast_votes(mine, rt, trained, table, place, inside)
    after = votes.load(inside / "votes_validation.npz")
    kept = pseudo.keep(as_test(cfg, before.val), as_test(cfg, after), cfg.tta_combine)
    if kept.kept:
        took["training"] = before.seconds["training"] + trained.seconds
        _note(before.folder, took, ["pseudo"], mine, before.stage.model_dump())
    return kept


def refit(
    cfg: Config,
    number: int,
    rt: Runtime,
    table: photos.Table,
    place: inputs.Place,
    events: Any,
    chosen: pseudo.Chosen | None = None,
    budget: Budget | None = None,
    members: int = 1,
) -> tuple[bool, str]:
    """Continue a member's network on train and validation photos; its new votes on test photos replace the old ones.

    Votes on validation photos stay those of the network that has not seen them. Pseudo-labels are used again where this member's
    were kept. scikit-learn's searches refit anew, which takes the whole training again. Returns whether the new votes count, and
    why (``judge``). members: how many in all share the budget.
    """
    before = load(cfg, number, place.out)
    labelled = pd.concat([table.train, table.val.assign(fold=photos.TRAIN)], ignore_index=True)
    if chosen and before.counts == ["pseudo"]:
        labelled = pseudo.extend(labelled, table.test, chosen)
    more = replace(table, frame=pd.concat([labelled, table.test], ignore_index=True))
    try:
        mine, trained = _train_on(
            cfg,
            number,
            rt,
            more,
            place,
            events,
            before,
            REFIT,
            cfg.refits,
            cfg.refit_lr,
            budget.share(members - number) if budget else None,
        )
    except TrainingDiverged as error:
        return (
            False,
            f"not kept: training on all photos diverged ({error.args[0]}); try a smaller refit_lr",
        )
    if trained is None:
        return False, "skipped: no time to train on all photos"
    took = cast_votes(mine, rt, trained, more, place, before.folder / REFIT)
    val, how = as_test(cfg, before.val), cfg.tta_combine
    gate = votes.gate(cfg.tta, val, how)
    after = votes.load(before.folder / REFIT / "votes_test.npz")
    right = int((val.used(gate, how).argmax(1) == val.labels).sum())
    kept, reason = judge(
        right, len(val.labels), before.test[0].used(gate, how), after.used(gate, how)
    )
    if kept:
        seconds = {
            **before.seconds,
            **took,
            "training": before.seconds["training"] + trained.seconds,
        }
        _note(before.folder, seconds, before.counts, mine, before.stage.model_dump(), refit=True)
    return kept, reason


def judge(right: int, measured: int, before: np.ndarray, after: np.ndarray) -> tuple[bool, str]:
    """Whether probabilities (photos, classes) of test photos may replace others, of a network with so many right of those measured.

    No photo is left to measure the new network on. But two that are wrong on shares a and b of the photos differ on a + b of them
    at most: if it differs on more than twice the most that the old one's error may be (95 % interval), it is worse. Neither may
    it put nearly all photos into one class where the old one did not.
    """
    low, _ = votes.wilson(right, measured)
    most = int(2 * (1 - low) * len(before))
    was, now = before.argmax(1), after.argmax(1)
    changed = int((was != now).sum())
    what = f"{changed:,} of {len(was):,} test photos change their class"
    if not np.isfinite(after).all():
        return False, "not kept: some probabilities are not finite"
    if changed > most:
        return False, f"not kept: {what}; with an error like the one measured {most:,} could"
    one_class = [np.bincount(each).max() > submission.NEARLY_ALL * len(each) for each in (was, now)]
    if one_class == [False, True]:
        return False, f"not kept: {what}, nearly all of them to one"
    return True, f"kept: {what}"


def _train_on(
    cfg: Config,
    number: int,
    rt: Runtime,
    table: photos.Table,
    place: inputs.Place,
    events: Any,
    before: Member,
    inside: str,
    epochs: int,
    rate: float,
    time_left: TimeLeft | None,
) -> tuple[Config, Trained | None]:
    """Train the network whose votes count for some more epochs on the table's photos, at its last size.

    rate: the peak, as a share of lr. Its files go to the folder ``inside`` that of the member. Returns the settings too that it
    was trained with.
    """
    from carcls.train import loop as train

    mine = cfg.of_members()[number]
    changes: dict[str, Any] = {
        "stages": [before.stage.model_copy(update={"epochs": epochs}).model_dump()],
        "lr": mine.lr * rate,
        "pseudo": False,
        "refit_epochs": 0,
    }
    if mine.unfreeze == "staged":
        changes["unfreeze"] = "all"
    if table.val.empty:  # there is nothing to stop or slow down by
        changes |= {"patience": 0, **({"schedule": "cosine"} if mine.schedule == "plateau" else {})}
    mine = mine.replace(**changes)
    folder, start = before.folder / inside, before.folder / before.counts[-1] / train.FILES[0]
    folder.mkdir(parents=True, exist_ok=True)
    gc.collect()  # the network before
    trained = train.done(mine, table, folder, start, limited=time_left is not None) or train.fit(
        mine, rt, table, place, folder, events, start=start, fewer_views=False, time_left=time_left
    )
    return mine, trained


def groups(frame: pd.DataFrame, ids: list[str]) -> np.ndarray:
    """(photos,) int: the group of identical files of each of these train photos; frame as in photos.Table or photos.csv."""
    train = frame[frame["fold"] != photos.TEST]
    return train.set_index("id")["group"].loc[ids].to_numpy()


def name(cfg: Config, number: int) -> str:
    """``1 efficientnet_lite_b0 seed=2``: its number, network, and what sets it apart."""
    rest = [f"{k}={v}" for k, v in cfg.members[number].items() if k != "backbone"]
    return " ".join([str(number + 1), cfg.of_members()[number].backbone, *rest])


def join(parts: list[Votes]) -> Votes:
    """Votes of different photos as one."""
    views = {len(part.probs) for part in parts}
    if len(views) > 1:
        raise ConfigError(f"votes with {views} views cannot be joined")
    return Votes(
        [i for part in parts for i in part.ids],
        np.concatenate([part.probs for part in parts], 1),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.cast for part in parts]),
    )

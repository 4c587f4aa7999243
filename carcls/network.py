"""One job → a trained network and its votes, or both read back from the run folder."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from carcls import disk, memory, metrics, record, stops
from carcls.config import Config
from carcls.data.batches import Looks, make_batches
from carcls.data.photos import TEST, VALIDATION, Rows
from carcls.errors import InputError, TrainingDiverged
from carcls.jobs import Phase
from carcls.member import NOTE, Member, Network, SavedMember
from carcls.nets import fast
from carcls.session import Session
from carcls.train import clock, loop, steps
from carcls.train.job import Job, member_name
from carcls.train.studio import BEST, Announce, Trained
from carcls.values import Views
from carcls.votes import cast, decide, evidence, votes
from carcls.votes.votes import Votes

# --- Making networks ------------------------------------------------------------------------------


def make_all(s: Session, jobs: Sequence[Job], announces: bool) -> Member | None:
    """The member that these jobs make, with as many folds as there is time for; None: no time.

    announces: offer submissions while it is being made, as there is nothing better yet.
    """
    folder = jobs[0].folder if len(jobs) == 1 else jobs[0].folder.parent
    name = jobs[0].name.removeprefix("member ").partition(", fold")[0]
    disk.remove(folder / NOTE)  # written again once there are votes
    member = None
    for number, job in enumerate(jobs):
        s.say(f"train {job.name}", f"{len(job.learn)} photos to train, {len(job.check)} to check")
        is_first = announces and not number
        network = make(s, job, is_first)
        if network is None and is_first and job.share < 1:  # one network rather than none
            network = make(s, replace(job, share=1.0), is_first)
        if network is None:
            break
        member = Member(name, folder, [*(member.networks if member else []), network])
        member.save(s.metric)
        if announces and number + 1 < len(jobs):
            _offer(s, member, f"{number + 1} of {len(jobs)} folds")
    return member


@fast.forgetting_traces()
def make(s: Session, job: Job, announces: bool = False) -> Network | None:
    """Train a network and let it vote; what is there of the same facts is read back.

    None, with a line that says so, if there is no time to train it. Raises TrainingDiverged.
    """
    stops.check()
    disk.make_folder(job.folder)
    deadline = s.clock.deadline(job.share)
    trained = loop.read_back(s, job)
    if trained is None:
        announce = _announcer(s, job) if announces else None
        trained = loop.train(s, job, deadline, announce)
    if trained is None:
        print(f"skipped    {job.name}: no time to train it")
        return None
    check_votes, test_votes = _vote(s, job, trained, deadline)
    network = Network(
        job, pd.DataFrame(trained.rows), trained.size, trained.seconds, check_votes, test_votes
    )
    del trained
    gc.collect()  # before the next network is made
    return network


def remake(s: Session, members: list[Member], phase: Phase) -> list[Member]:
    """The members after a phase: each goes on as its job says, kept only on evidence.

    What became of each goes to ``phase.about``.
    """
    kept, reasons, after = [], [], []
    for member, job in zip(members, phase.jobs, strict=True) if phase.jobs else ():
        replaced, reason = _try_to_go_on(s, member, job)
        print(f"member {member.name}: {reason}")
        s.verdict(phase.name, replaced is not member, reason, f"member {member.name}")
        kept.append(replaced is not member)
        reasons.append(reason)
        after.append(replaced)
        replaced.save(s.metric)
    phase.about |= {"kept": kept, "reasons": reasons} if phase.is_on else {}
    return after or members


def _try_to_go_on(s: Session, member: Member, job: Job | None) -> tuple[Member, str]:
    """The member with the network of that job if it may count, else as it is; and why."""
    if job is None:
        return member, "stays: the blend does not use it"
    try:
        network = make(s, job)
    except TrainingDiverged as error:
        return member, f"stays: going on diverged ({error.args[0]})"
    if network is None:
        return member, "stays: no time to go on"
    asked = s.cfg.asked_views
    before = member.val.as_asked(asked)
    if network.check_votes is None:  # it has learned the validation photos
        gate = decide.gate(s.cfg.tta, before, s.metric)
        accuracy = metrics.accuracy(before.used(gate), before.labels)
        was, now = member.test[0].used(gate), network.test_votes.used(gate)
        why = evidence.moved_too_far(accuracy, len(before.ids), was, now)
        changed = int((was.argmax(1) != now.argmax(1)).sum())
        if why:
            return member, f"stays: {why}"
        return replace(member, refit=network), f"replaced: {changed:,} test photos change class"
    change = network.check_votes.as_asked(asked).change_from(before, s.metric)
    if not change.helps:
        return member, f"stays: {change}"
    earlier = (*member.earlier, *member.networks)
    return replace(member, networks=[network], earlier=earlier), f"replaced: {change}"


# --- Announcing -----------------------------------------------------------------------------------


def _announcer(s: Session, job: Job) -> Announce:
    def announce(net: keras.Model, size: tuple[int, int], what: str, score: float) -> None:
        """Offer what a network in training predicts by one view."""
        rows, one = s.table.rows(TEST), Views(first=1, most=1)
        try:
            with steps.told(s.events, job.name, "an early submission"):
                cache = s.photos(size, job.cfg.fit)
                test = cast.cast_votes(net, cache, rows, one, job.cfg, s.machine)
        except TrainingDiverged as error:  # training may find its way back
            print(f"warning: no submission yet: {error}")
            return
        what = f"{job.name.partition(',')[0]}: {what}, one view"
        s.submission.offer(test.ids, test.alone(), what, score, early=True)

    return announce


def _offer(s: Session, member: Member, what: str) -> None:
    """Offer what the networks of a member predict so far."""
    val = member.val.as_asked(s.cfg.asked_views)
    gate = decide.gate(s.cfg.tta, val, s.metric)
    probs = np.mean([test.used(gate) for test in member.test], 0)
    score = metrics.value(s.metric, val.used(gate), val.labels)
    name = f"member {member.name.partition(' ')[0]}: {what}"
    s.submission.offer(member.test[0].ids, probs, name, score, early=True)


# --- Voting ---------------------------------------------------------------------------------------


def _vote(s: Session, job: Job, trained: Trained, deadline: float) -> tuple[Votes | None, Votes]:
    """Votes on the photos to check, if any, and on the test photos; read back where they fit."""
    net, views, found = trained.net, None, {}
    done, asked = record.Steps(job.folder), job.cfg.asked_views
    for which, rows in (("validation", job.check), ("test", s.table.rows(TEST))):
        if not len(rows):
            continue
        facts, file = _facts(s, job, trained, rows), f"votes_{which}.npz"
        about = done.about(f"{which} votes", facts) if job.cfg.resume else None
        if about and about["views"] != str(views or asked):
            # They were cut short for want of time; where there is time now, they are cast anew.
            if not views and s.machine.agree(deadline - time.monotonic()) > 0:
                net = net or loop.load(job.folder, job.cfg, len(s.table.classes), s.machine)
                views = _affordable(s, job, trained.size, net, deadline)
            if views and views.most > Views.model_validate(about["views"]).most:
                about = None
        read = _read_votes(s, job.folder / file, rows) if about else None
        if about and read:
            print(f"votes      on {which} photos cast before, taken from {job.folder / file}")
            views = Views.model_validate(about["views"])
            found[which] = replace(read, combine=job.cfg.tta_combine)
            continue
        net = net or loop.load(job.folder, job.cfg, len(s.table.classes), s.machine)
        views = views or _affordable(s, job, trained.size, net, deadline)
        # Validation photos get every view that a test photo may get: tables and gate need them.
        cast_views = Views(first=views.most, most=views.most) if which == "validation" else views
        cache = s.photos(trained.size, job.cfg.fit)
        began = time.monotonic()
        with steps.told(s.events, job.name, f"{which} votes"):
            found[which] = cast.cast_votes(net, cache, rows, cast_views, job.cfg, s.machine)
        found[which].save(job.folder / file)
        seconds = round(time.monotonic() - began, 3)
        facts |= s.spoiled(rows)
        done.finish(f"{which} votes", facts, [file], views=str(views), seconds=seconds)
    return found.get("validation"), found["test"]


def _read_votes(s: Session, path: Path, rows: Rows) -> Votes | None:
    """Votes that were cast before; None, with a line that says why, if they are damaged."""
    try:
        read = votes.load(path)
        if read.ids != s.table.frame["id"].iloc[rows.rows].astype(str).tolist():
            raise InputError(f"{path}: of other photos")
    except InputError as error:
        print(f"{error}; cast anew")
        return None
    return read


def _facts(s: Session, job: Job, trained: Trained, rows: Rows) -> record.Facts:
    """What votes are made from."""
    cfg = job.cfg
    return {
        "size": trained.size,
        "fit": cfg.fit,
        "seed": cfg.seed,
        "views": str(cfg.asked_views),
        "strength of views": cfg.view_strength if cfg.asked_views.most > 2 else None,
        "the photos": record.rows(*job.photos(s.table.frame, rows)),
        "the weights": record.Steps(job.folder).digest(loop.TRAINING, BEST),
        "OpenCV": record.opencv(),
        "the package's code": record.source_hash(),
    }


def _affordable(
    s: Session, job: Job, size: tuple[int, int], net: keras.Model, deadline: float
) -> Views:
    """As many of the views that are set as there is time for, at least one, by a short trial."""
    asked = job.cfg.asked_views
    if not s.clock.is_limited or asked.most == 1:
        return asked
    test = s.table.rows(TEST)
    rows, number = (job.check if len(job.check) else test), min(2, asked.most - 1)
    cache, looks = s.photos(size, job.cfg.fit), Looks(range(number, number + 1))
    batches = make_batches(cache, rows, len(s.table.classes), looks, job.cfg, s.machine)
    try:
        steps.time_looks(net, batches)  # decoded and traced
        seconds = s.machine.agree(steps.time_looks(net, batches))
    except memory.errors() as error:
        if not memory.ran_out(error) or s.machine.processes > 1:
            raise
        return asked  # voting has its own way with too little memory
    left = s.machine.agree(deadline - time.monotonic())
    views = clock.affordable(asked, len(job.check), len(test), left / max(seconds, 1e-9))
    if views != asked:
        print(f"views      {views} instead of {asked}: {clock.show(left)} left for them")
    return views


def check_views(s: Session) -> None:
    """Raise ConfigError if two test-time views of a member show the same pixels."""
    for cfg in s.cfg.member_cfgs():
        cache = s.photos(cfg.stages[-1].size, cfg.fit)
        cast.check_views_differ(cache, s.table.rows(VALIDATION), cfg)


# --- Reading a run folder -------------------------------------------------------------------------


def load_members(cfg: Config, out: Path) -> list[SavedMember]:
    """The members that a run has left in its folder, the first ones that have all their folds.

    Raises InputError if there is none, or one's files are damaged.
    """
    members: list[SavedMember] = []
    for number in range(len(cfg.members)):
        folder = out / f"member{number + 1}"
        if members and not (folder / NOTE).is_file():
            break
        member = _load_member(folder, member_name(cfg, number), cfg.tta_combine)
        if members and len(member.test) != len(members[0].test):
            break
        members.append(member)
    return members


def _load_member(folder: Path, name: str, combine: Any) -> SavedMember:
    try:
        note = disk.unsealed(disk.read_json(folder / NOTE))
        inside, is_refitted = list(map(str, note["networks"])), bool(note["refit"])
        metric = str(note.get("metric", "accuracy"))  # it always was
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: not what a member of a run leaves ({error})") from None

    def load(sub: str, which: str) -> Votes:
        return replace(votes.load(folder / sub / f"votes_{which}.npz"), combine=combine)

    val = votes.join([load(sub, "validation") for sub in inside])
    predict = ["refit"] if is_refitted else inside
    test = [load(sub, "test") for sub in predict]
    return SavedMember(name, folder, val, test, metric, [folder / sub for sub in predict])


def groups(frame: pd.DataFrame, ids: list[str]) -> np.ndarray:
    """(photos,) int: the group of identical files of each of these labelled photos."""
    labelled = frame[frame["fold"] != TEST]
    return labelled.set_index("id")["group"].loc[ids].to_numpy()

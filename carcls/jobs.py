"""Which networks are to be made: members, their folds, and those that go on with more photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk
from carcls.config import Config
from carcls.data import photos
from carcls.data.labels import spreadsheet_safe
from carcls.data.photos import TEST, TRAIN, VALIDATION, Rows
from carcls.member import Member
from carcls.session import Session
from carcls.train import clock
from carcls.train.job import Job, network_name
from carcls.train.studio import BEST
from carcls.votes import pseudo
from carcls.votes.decide import Decision

# Peak rates of networks that go on, as shares of lr (MEASUREMENTS: refit).
PSEUDO_RATE, REFIT_RATE = 0.1, 0.3
TRAINING_COST = 3  # passes of a photo through a network that a training step takes, about


@dataclass
class Phase:
    """Networks that go on with more photos, one a member, and what became of them."""

    name: str  # of the folder inside a member's: "pseudo" or "refit"; "tuned" has none
    jobs: list[Job | None] = field(default_factory=list)  # None: this member stays as it is
    about: dict[str, Any] = field(default_factory=dict)  # for result.json and the report

    @property
    def is_on(self) -> bool:
        return bool(self.about)


def phases(tuned: dict[str, Any]) -> dict[str, Phase]:
    """Each phase by name, before there is one; tuned: what a search says, for the report, too."""
    later = {name: Phase(name) for name in ("pseudo", "refit")}
    return {"tuned": Phase("tuned", about=tuned), **later}


def members(s: Session) -> Iterator[list[Job]]:
    """The jobs of each member: one, or one a fold."""
    splits = photos.splits(s.table, s.cfg.folds, s.cfg.seed)
    for number, cfg in enumerate(s.cfg.member_cfgs()):
        folder, jobs = _folder(s, number), []
        for k, (learn, check) in enumerate(splits):
            inside = folder / f"fold{k + 1}" if len(splits) > 1 else folder
            name, share = network_name(s.cfg, number, k), _share(s, "member", number, k)
            jobs.append(Job(name, inside, cfg, learn, check, share=share))
        yield jobs


def pseudo_labels(s: Session, members: Sequence[Member], decision: Decision) -> Phase:
    """Each member goes on with test photos that all members and nearly all views agree on."""
    phase = Phase("pseudo")
    (s.place.out / "pseudo.csv").unlink(missing_ok=True)  # an earlier run's
    if not s.cfg.pseudo:
        return phase
    s.say("pseudo-labels")
    chosen = pseudo.choose(members, decision.gates, s.table, s.cfg.views, s.metric)
    print(chosen.line, *(f"warning: {text}" for text in chosen.warnings), sep="\n")
    rows = pseudo.table(chosen, members, s.table.classes)
    disk.write_atomic(s.place.out / "pseudo.csv", spreadsheet_safe(rows).to_csv(index=False))
    phase.about = {
        "chosen": chosen.line,
        "photos": len(chosen.rows),
        "warnings": list(chosen.warnings),
    }
    s.verdict("pseudo", len(chosen.rows) > 0, chosen.line)
    if len(chosen.rows):
        learn, check = s.table.rows(TRAIN) + chosen.rows, s.table.rows(VALIDATION)
        for number, member in enumerate(members):
            cfg = _settings_to_go_on(s, number, member, s.cfg.pseudo, PSEUDO_RATE)
            phase.jobs.append(_job_to_go_on(s, "pseudo", number, member, cfg, (learn, check)))
    return phase


def refit(s: Session, members: Sequence[Member], decision: Decision) -> Phase:
    """Each member that the blend uses goes on with the validation photos too.

    What validation has measured before stays. Pseudo-labels are used again where they were kept.
    """
    phase = Phase("refit")
    if not s.cfg.refits:
        return phase
    s.say("refit")
    labelled = s.table.rows(TRAIN) + s.table.rows(VALIDATION)
    epochs = f"{s.cfg.refits} epoch{'s' * (s.cfg.refits > 1)}"
    print(f"{epochs} on all {len(labelled):,} labelled photos; what validation measured stays")
    phase.about = {"photos": len(labelled)}
    weights = decision.choice.blend.weights
    for number, member in enumerate(members):
        if weights is not None and not weights[number]:
            phase.jobs.append(None)
            continue
        learn = labelled + _pseudo_labelled(s, member)
        cfg = _settings_to_go_on(s, number, member, s.cfg.refits, REFIT_RATE)
        nothing = Rows(np.empty(0, int), np.empty(0, np.int64))
        phase.jobs.append(_job_to_go_on(s, "refit", number, member, cfg, (learn, nothing)))
    return phase


def _folder(s: Session, number: int) -> Path:
    return s.place.out / f"member{number + 1}"


def _pseudo_labelled(s: Session, member: Member) -> Rows:
    """The pseudo-labelled photos that the member's network learned, behind the train photos."""
    learn, count = member.networks[-1].job.learn, len(s.table.rows(TRAIN))
    return learn.take(np.arange(count, len(learn)))


def _settings_to_go_on(s: Session, number: int, member: Member, epochs: int, rate: float) -> Config:
    """The member's settings for some more epochs at its last size and a share of its rate."""
    cfg = s.cfg.member_cfgs()[number]
    height, width = member.size
    unfreeze = "all" if cfg.unfreeze == "staged" else cfg.unfreeze
    stages = f"{height}x{width}x{epochs}"
    return cfg.replace(stages=stages, lr=cfg.lr * rate, unfreeze=unfreeze, pseudo=0, refit_epochs=0)


def _job_to_go_on(
    s: Session, name: str, number: int, member: Member, cfg: Config, rows: tuple[Rows, Rows]
) -> Job:
    learn, check = rows
    if not len(check):  # there is nothing to stop or slow down by
        plateau = cfg.schedule == "plateau"
        cfg = cfg.replace(patience=0, schedule="cosine" if plateau else cfg.schedule)
    start = member.networks[-1].job.folder / BEST
    folder, share = _folder(s, number) / name, _share(s, name, number)
    return Job(f"member {member.name}, {name}", folder, cfg, learn, check, start, share)


# --- Shares of the time ---------------------------------------------------------------------------


def _share(s: Session, name: str, number: int, fold: int = 0) -> float:
    """A network's work as a share of its own and all that is planned after it."""
    works = _works(s)
    keys = list(works)
    ahead = keys[keys.index((name, number, fold)) :]
    return works[name, number, fold] / sum(works[key] for key in ahead)


def _works(s: Session) -> dict[tuple[str, int, int], float]:
    """Work of each network that is planned, in order: pixels through it, predictions too."""
    cfg, n_test = s.cfg, len(s.table.rows(TEST))
    n_learn, n_check = len(s.table.rows(TRAIN)), len(s.table.rows(VALIDATION))
    works: dict[tuple[str, int, int], float] = {}

    def add(key: tuple[str, int, int], member: Config, learned: float, checked: int) -> None:
        """learned: pixels × photos that are trained on, each time that they are."""
        last = member.stages[-1].height * member.stages[-1].width
        voting = clock.passes(member.asked_views, checked, n_test) * last
        works[key] = TRAINING_COST * learned + voting

    for number, member in enumerate(cfg.member_cfgs()):
        pixels = sum(stage.epochs * stage.height * stage.width for stage in member.stages)
        for k, (learn, check) in enumerate(photos.splits(s.table, cfg.folds, cfg.seed)):
            add(("member", number, k), member, pixels * len(learn), len(check))
    for name, epochs, n_learned, n_checked in (
        ("pseudo", cfg.pseudo, n_learn + n_test, n_check),
        ("refit", cfg.refits, n_learn + n_check, 0),
    ):
        for number, member in enumerate(cfg.member_cfgs()) if epochs else ():
            pixels = epochs * member.stages[-1].height * member.stages[-1].width
            add((name, number, 0), member, pixels * n_learned, n_checked)
    return works

"""``carcls study``: arms that differ from a base in what is asked and in nothing else, over seeds.

On the desk, not in kernel.py: a session on Kaggle ends in mid-study, and its budget would shorten
some trainings and not others.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carcls import config, disk, hosts, record, session
from carcls.config import EQUAL_TERMS, TRAINING_SETTINGS, Config
from carcls.data import attached, boxes, files
from carcls.data.photos import TRAIN, VALIDATION
from carcls.desk import study_page
from carcls.desk.study_page import BASE, Arm, Findings
from carcls.errors import ConfigError, InputError
from carcls.nets import weights
from carcls.search import space
from carcls.train.events import Events

STATE = "study.json"  # the base, and the names of the arms and seeds that have joined
TRAINED = "member1"  # in the folder of its session
_OF_ARMS = TRAINING_SETTINGS - {"seed", "patience"}
# What a study cannot do with: setting → the only value, and why.
_ONLY = {
    "members": (({},), "arms are single networks"),
    "folds": (1, "arms are single networks"),
    "budget_minutes": (None, "arms that are cut short are not on equal terms"),
    "patience": (0, "arms that stop after different epochs are not on equal terms"),
    "tune_minutes": (0, "each arm would be searched for others"),
    "earlier": ("", "every arm would begin with it"),
    "resume": (True, "a study goes on from what there is"),
}


def study(base: Config, given: Sequence[str], seeds: int = 3, differ: Collection[str] = ()) -> Path:
    """Train the base and each arm with the seeds base.seed, base.seed + 1, …; returns study.html.

    Each training is a trial in a session of its own below OUT/study. study.csv (a row a training)
    and study.html (a row an arm) are written after each, so that a study that is stopped leaves
    what it has; the same call goes on from there, and further arms or seeds join. A seed also draws
    which photos are validated on: an arm is compared with the base of the same seed. Raises
    ConfigError and InputError before anything is trained.
    """
    arms = arms_of(base, given, differ)
    _check(arms, seeds)
    out = files.run_folder(base) / "study"
    out.mkdir(exist_ok=True)
    planned = [(seed, arm) for seed in range(base.seed, base.seed + seeds) for arm in arms]
    with session.locked(out), _told(base, f"study of {len(planned)} trainings", out):
        record.sweep(out)
        known = _join(arms, sorted({seed for seed, _ in planned}), out)
        print(
            f"\n== study of {len(planned)} trainings",
            f"base       {' '.join(space.words(arms[0].cfg))}",
            *(f"arm        {arm.name}" for arm in arms[1:]),
            sep="\n  ",
        )
        for number, (seed, arm) in enumerate(planned, 1):
            print(f"\n== study {number} of {len(planned)}: {arm.name}, seed {seed}", flush=True)
            _train(arm, seed, out)
            found = _read(arms[0].cfg, known, out)
            page = study_page.write(found, out)
    end = (f"table      {out / 'study.csv'}", f"page       {page}")
    print("\n== study", *study_page.lines(study_page.summary(found)), *end, sep="\n  ")
    return page


# --- Arms, and what is checked before anything is trained -----------------------------------------


def arms_of(base: Config, given: Sequence[str], differ: Collection[str] = ()) -> list[Arm]:
    """The base and an arm for each text of ``key=value`` words, checked as far as settings show.

    differ: those of EQUAL_TERMS that arms may differ in. Raises ConfigError on any other that
    differs, on settings that are not of training, and on arms that are alike.
    """
    unknown = sorted(set(differ) - EQUAL_TERMS)
    if unknown:
        raise ConfigError(
            f"--differ {', '.join(unknown)}: expected some of {', '.join(sorted(EQUAL_TERMS))}"
        )
    for key, (only, why) in _ONLY.items():
        if getattr(base, key) != only:
            raise ConfigError(f"{key}={getattr(base, key)} in a study: {why}; leave it out")
    arms = [Arm(BASE, base.replace(**space.TERMS))]
    for text in given:
        name = " ".join(text.split())
        try:
            arm = Arm(name, _arm_cfg(arms[0].cfg, name.split()))
        except ConfigError as error:
            raise ConfigError(f"arm {name!r}: {error}") from None
        _expect_equal_terms(arm, arms[0].cfg, differ)
        alike = next((other.name for other in arms if other.cfg == arm.cfg), None)
        if alike is not None:
            raise ConfigError(f"arm {name!r} has the same settings as {alike!r}")
        arms.append(arm)
    return arms


def _arm_cfg(base: Config, words: list[str]) -> Config:
    changes = config.settings_of(words)
    wrong = sorted(set(changes) - _OF_ARMS)
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: expected some of {', '.join(sorted(_OF_ARMS))}")
    return base.replace(**changes)


def _expect_equal_terms(arm: Arm, base: Config, differ: Collection[str]) -> None:
    """Raise ConfigError if the arm learns longer or faster than the base without being asked to."""
    found = [
        f"{key} {space.written(arm.cfg, key)} against the base's {space.written(base, key)}"
        for key in sorted(EQUAL_TERMS - set(differ))
        if getattr(arm.cfg, key) != getattr(base, key)
    ]
    if found:
        keys = ",".join(text.partition(" ")[0] for text in found)
        raise ConfigError(
            f"arm {arm.name!r} is not on equal terms: {', '.join(found)}; if that is the question, "
            f"allow it with --differ {keys}"
        )


def _check(arms: Sequence[Arm], seeds: int) -> None:
    """What can be wrong before photos are looked at. Raises ConfigError and InputError."""
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: expected at least 1")
    if disk.on_kaggle() or hosts.process_of()[1] > 1:
        raise ConfigError(
            "a study is for the desk and one host; found Kaggle, or JAX_NUM_PROCESSES above 1"
        )
    for arm in arms:
        session.check(arm.cfg)
        weights.find_weights(arm.cfg.backbone, arm.cfg)
        for path in attached.box_files(arm.cfg):
            boxes.read(path)


def _join(arms: Sequence[Arm], seeds: Sequence[int], out: Path) -> dict[str, Any]:
    """The names of all arms and seeds that the study has now.

    Raises ConfigError if it is a study of another base, InputError if it is not as it was left.
    """
    names = sorted(TRAINING_SETTINGS - {"seed"} | {"val_fraction"})
    settings = {name: space.written(arms[0].cfg, name) for name in names}
    try:
        was = disk.unsealed(disk.read_json(out / STATE))
        changed = record.differences(was["base"], settings)
    except FileNotFoundError:
        was, changed = {"arms": [], "seeds": []}, []
    except (ValueError, KeyError) as error:
        raise InputError(f"{out / STATE}: not as a study has left it ({error})") from None
    if changed:
        raise ConfigError(
            f"{out} has a study that differs in {'; '.join(changed)}; choose another --out for "
            "another base"
        )
    names = list(dict.fromkeys([*was["arms"], *(arm.name for arm in arms)]))
    known = {"base": settings, "arms": names, "seeds": sorted({*was["seeds"], *seeds})}
    disk.write_json(out / STATE, known)
    return known


# --- Trainings ------------------------------------------------------------------------------------


def folder_of(out: Path, arm: str, seed: int) -> Path:
    """Where an arm is trained: a name of its own, the same in every session."""
    plain = re.sub(r"[^\w.=,-]+", "_", arm)[:60]
    if plain != arm:
        plain += f"-{hashlib.sha256(arm.encode()).hexdigest()[:6]}"
    return out / plain / f"seed{seed}"


@contextmanager
def _told(base: Config, name: str, out: Path) -> Iterator[None]:
    """A phone or a chat is told of the study as a whole, not of each training.

    Raises ConfigError if ``notify_url`` lacks what its service needs.
    """
    from carcls.train.notify import Notifier  # imports requests

    began, url = time.monotonic(), base.notify_url
    events = Events(
        out / "progress.jsonl", listeners=[Notifier(url.get_secret_value())] if url else []
    )
    with session.told_how_it_ends(events):
        events.send("start", name=name, settings=base.model_dump(mode="json"))
        yield
        events.send("end", seconds=round(time.monotonic() - began))


def _train(arm: Arm, seed: int, out: Path) -> None:
    """Train, unless that was done before from the same facts; what was measured is in a folder."""
    folder, name = folder_of(out, arm.name, seed), f"{arm.name}, seed {seed}"
    _share_scratch(out, folder)
    with session.start(arm.cfg.replace(seed=seed, out=str(folder), notify_url=""), name) as s:
        from carcls.search import trial  # imports Keras, whose backend is chosen only now

        trainer = trial.Trainer(s, s.table.rows(TRAIN), s.table.rows(VALIDATION), s.table.rows())
        task = trial.Task(name, s.cfg, folder / TRAINED)
        if trainer.measured(task) is None:
            trial.save(task.folder, trainer(task), goes_on=False)


def _share_scratch(out: Path, folder: Path) -> None:
    """Photos are unpacked once for all trainings."""
    shared, own = out / ".scratch", folder / ".scratch"
    shared.mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if own.is_symlink() and not own.exists():  # the study has moved
        own.unlink()
    if not own.exists():
        try:
            own.symlink_to(os.path.relpath(shared.resolve(), folder.resolve()))
        except OSError as error:  # a disk that knows no links
            print(f"photos     unpacked for this training alone: {error}")


def _read(base: Config, known: dict[str, Any], out: Path) -> Findings:
    """What the study has found so far, in all its sessions."""
    from carcls.search import trial

    arms = [Arm(n, base if n == BASE else _arm_cfg(base, n.split())) for n in known["arms"]]
    pairs = [(name, seed) for name in known["arms"] for seed in known["seeds"]]
    trials = {pair: trial.read(folder_of(out, *pair) / TRAINED) for pair in pairs}
    return Findings(arms, {pair: outcome for pair, outcome in trials.items() if outcome})

"""``carcls study``: arms that differ from a base in what is asked and in nothing else, over seeds.

On the desk, not in kernel.py: a session on Kaggle ends in mid-study, and its budget would shorten
some trainings and not others.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from carcls import config, disk, hosts, record, session, spine
from carcls.config import EQUAL_TERMS, TRAINING_SETTINGS, Config
from carcls.data import attached, boxes, files
from carcls.desk import study_page
from carcls.desk.study_page import BASE
from carcls.errors import ConfigError, InputError, TrainingDiverged
from carcls.nets import weights

_OF_ARMS = TRAINING_SETTINGS - {"seed", "patience"}
# What a study cannot do with: setting → the only value, and why.
_ONLY = {
    "members": (({},), "arms are single networks"),
    "folds": (1, "arms are single networks"),
    "budget_minutes": (None, "arms that are cut short are not on equal terms"),
    "patience": (0, "arms that stop after different epochs are not on equal terms"),
    "earlier": ("", "every arm would begin with it"),
    "resume": (True, "a study goes on from what there is"),
}
# Validation is of the photos as they are: views, pseudo-labels and refits have a run's own tables,
# or nothing to be measured on.
_OFF = {"tta": "never", "views": 1, "pseudo": 0, "refit_epochs": 0}


@dataclass(frozen=True)
class Arm:
    """A variant to train: the base, or the base with some settings changed."""

    name: str  # the changes as they were given
    cfg: Config

    @property
    def rate(self) -> str:
        """The optimiser and how its learning rate goes."""
        cfg = self.cfg
        rise = f", rising over {cfg.warmup:.0%}" if cfg.warmup and cfg.schedule != "plateau" else ""
        return f"{cfg.optimizer}, {cfg.schedule} {cfg.lr:g}{rise}"


def study(base: Config, given: Sequence[str], seeds: int = 3, differ: Collection[str] = ()) -> Path:
    """Train the base and each arm with the seeds base.seed, base.seed + 1, …; returns study.html.

    Each training is a run of its own below OUT/study. study.csv (a row a training) and study.html
    (a row an arm) are written after each, so that a study that is stopped leaves what it has; the
    same call goes on from there, and further arms or seeds join. A seed also draws which photos are
    validated on: an arm is compared with the base of the same seed. Raises ConfigError and
    InputError before anything is trained.
    """
    arms = arms_of(base, given, differ)
    _check(arms, seeds)
    out = files.run_folder(base) / "study"
    out.mkdir(exist_ok=True)
    with session.locked(out):
        record.sweep(out)
        planned = [(seed, arm) for seed in range(base.seed, base.seed + seeds) for arm in arms]
        _check_base(arms[0].cfg, out)
        changed = [f"{key}={_show(arms[0].cfg, key)}" for key in _changed(Config(), arms[0].cfg)]
        print(
            f"\n== study of {len(planned)} trainings",
            f"base       {' '.join(changed) or 'the defaults'}",
            *(f"arm        {arm.name}" for arm in arms[1:]),
            sep="\n  ",
        )
        table = _read(out / "study.csv")
        for number, (seed, arm) in enumerate(planned, 1):
            print(f"\n== study {number} of {len(planned)}: {arm.name}, seed {seed}", flush=True)
            row = _train(arm, seed, out)
            others = table[(table["arm"] != arm.name) | (table["seed"] != seed)]
            table = pd.DataFrame([*others.to_dict("records"), row])
            disk.write_atomic(out / "study.csv", table.to_csv(index=False))
            rows = study_page.summary(table, unequal(table, out))
            folders = [folder_of(out, row.arm, row.seed) for row in table.itertuples()]
            page = study_page.write(rows, table, folders, arms[0].cfg, out)
    end = (f"table      {out / 'study.csv'}", f"page       {page}")
    print("\n== study", *study_page.lines(rows), *end, sep="\n  ")
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
    arms = [Arm(BASE, base.replace(**_OFF))]
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
        f"{key} {_show(arm.cfg, key)} against the base's {_show(base, key)}"
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


def _check_base(base: Config, out: Path) -> None:
    """Raise ConfigError if the folder has a study of another base, which would be replaced."""
    for path in sorted((out / BASE).glob("seed*/config.json"))[:1]:
        was = config.load(path)
        found = [f"{key} {_show(was, key)}, not {_show(base, key)}" for key in _changed(was, base)]
        if found:
            raise ConfigError(
                f"{out} has a study of {', '.join(found)}; choose another --out for another base"
            )


def _changed(was: Config, now: Config) -> list[str]:
    """The settings of training that differ, by name."""
    names = sorted(TRAINING_SETTINGS - {"seed"} | {"val_fraction"})
    return [name for name in names if getattr(was, name) != getattr(now, name)]


def _show(cfg: Config, key: str) -> str:
    return ",".join(map(str, cfg.stages)) if key == "stages" else str(getattr(cfg, key))


# --- One training, and its row of the table -------------------------------------------------------


def folder_of(out: Path, arm: str, seed: int) -> Path:
    """Where an arm is trained: a name of its own, the same in every session."""
    plain = re.sub(r"[^\w.=,-]+", "_", arm)[:60]
    if plain != arm:
        plain += f"-{hashlib.sha256(arm.encode()).hexdigest()[:6]}"
    return out / plain / f"seed{seed}"


def _train(arm: Arm, seed: int, out: Path) -> dict[str, Any]:
    """The row of a training, which may have been done before; one that diverges says so in it."""
    folder = folder_of(out, arm.name, seed)
    _share_scratch(out, folder)
    try:
        spine.run(arm.cfg.replace(seed=seed, out=str(folder)))
        return _row(arm, seed, folder)
    except TrainingDiverged as error:
        print(f"diverged   {error}")
        return _settings(arm, seed) | {"note": f"diverged: {error}"}


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


def _settings(arm: Arm, seed: int) -> dict[str, Any]:
    """A row with what was set, and nothing measured yet."""
    return {
        "arm": arm.name,
        "seed": seed,
        "learning_rate": arm.rate,
        "batch": arm.cfg.batch,
        "stages": _show(arm.cfg, "stages"),
        "epochs": sum(stage.epochs for stage in arm.cfg.stages),
        "accuracy": math.nan,
        "log_loss": math.nan,
        "photos": 0,
        "train_accuracy": math.nan,
        "seconds_per_epoch": math.nan,
        "made_from": "",
        "note": "",
    }


def _row(arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    """A row with what the finished run in that folder has measured."""
    result = json.loads((folder / "result.json").read_text())
    history = pd.read_csv(folder / "member1" / "history.csv")
    measured, trained = result["members"][0], record.Steps(folder / "member1").done("training")
    about = trained["about"] if trained else {}
    notes = [about.get("shortened", "")]
    if about.get("smaller"):
        notes.append(f"memory ran out: batches of {about['smaller']}, and lr in proportion")
    steady = history[history["epoch"] > 1]  # the first one of a stage decodes its photos
    return _settings(arm, seed) | {
        "accuracy": measured["accuracy"],
        "log_loss": measured["log_loss"],
        "photos": result["validation_photos"],
        "train_accuracy": history["accuracy"].iloc[-1],
        "seconds_per_epoch": (history if steady.empty else steady)["seconds"].mean(),
        "made_from": _digest(trained),
        "note": "; ".join(filter(None, notes)),
    }


def _read(path: Path) -> pd.DataFrame:
    """The rows of earlier calls. Raises InputError if the file is none of a study's."""
    columns = list(_settings(Arm(BASE, Config()), 0))
    if not path.exists():
        return pd.DataFrame(columns=columns)
    numbers = ("accuracy", "log_loss", "train_accuracy", "seconds_per_epoch")
    try:
        table = pd.read_csv(
            path,
            dtype={"note": str, "made_from": str},
            keep_default_na=False,
            na_values=dict.fromkeys(numbers, ""),
        )
    except ValueError as error:
        raise InputError(f"{path}: not as a study has left it ({error})") from None
    if list(table.columns) != columns:
        raise InputError(
            f"{path}: columns {', '.join(table.columns)}; expected {', '.join(columns)}"
        )
    if not (table["arm"] == BASE).any():
        raise InputError(
            f"{path}: no row of the base; expected one in the file that a study has left"
        )
    return table


def _digest(trained: dict[str, Any] | None) -> str:
    """Of what a training was made from."""
    return hashlib.sha256(json.dumps(trained["facts"]).encode()).hexdigest()[:16] if trained else ""


def unequal(table: pd.DataFrame, out: Path) -> dict[tuple[str, int], list[str]]:
    """(arm, seed) → in what its training differs from the base's, besides what the arm asks.

    So it is where a study went on with other photos, on another machine or by other code.
    """
    measured = table[table["photos"] > 0].set_index(["arm", "seed"])["made_from"].to_dict()
    return {
        (arm, seed): _differences(arm, seed, measured, out)
        for arm, seed in measured
        if (BASE, seed) in measured
    }


def _differences(arm: str, seed: int, measured: dict[tuple[str, int], str], out: Path) -> list[str]:
    was, now = (
        record.Steps(folder_of(out, name, seed) / "member1").done("training")
        for name in (BASE, arm)
    )
    made_from = (measured[BASE, seed], measured[arm, seed])
    if not was or not now or (_digest(was), _digest(now)) != made_from:
        return ["what was trained is there no more"]
    asked = set(config.settings_of(arm.split())) if arm != BASE else set()
    if asked & {"backbone", "weights"}:
        asked.add("the starting weights")
    facts = ({k: v for k, v in done["facts"].items() if k not in asked} for done in (was, now))
    found = record.differences(*facts)
    if was["about"].get("machine") != now["about"].get("machine") and "precision" not in asked:
        found.append("another machine")
    return found

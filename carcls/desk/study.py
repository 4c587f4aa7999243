"""Ablations: arms that differ from a base in what is asked about and in nothing else, over several seeds (S70-S73).

On the desk, not in kernel.py: a session on Kaggle ends in mid-study, and its budget would shorten some trainings and not others.
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

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from carcls import config, disk
from carcls import machine as runtime
from carcls import record as steps
from carcls.config import EQUAL_TERMS, OF_TRAINING, Config
from carcls.data import attached, boxes
from carcls.data import files as inputs
from carcls.errors import ConfigError, InputError, TrainingDiverged
from carcls.nets import registry as backbones
from carcls.report import charts as figures
from carcls.report import page as report
from carcls.spine import check, run

BASE = "base"
_OF_ARMS = OF_TRAINING - {"seed", "patience", "min_epochs"}
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
_OFF = {
    "tta": "never",
    "tta_views": 1,
    "tta_cap": 0,
    "tta_strength": 0.0,
    "pseudo": False,
    "refit_epochs": 0,
}


@dataclass(frozen=True)
class Arm:
    """A variant to train: the base, or the base with some settings changed."""

    name: str  # the changes as they were given
    cfg: Config

    @property
    def rate(self) -> str:
        """The optimiser and how its learning rate goes (S73)."""
        cfg = self.cfg
        rise = f", rising over {cfg.warmup:.0%}" if cfg.warmup and cfg.schedule != "plateau" else ""
        return f"{cfg.optimizer}, {cfg.schedule} {cfg.lr:g}{rise}"


def folder_of(name: str) -> str:
    """Of an arm: a name of its own in the study's folder, the same in every session."""
    plain = re.sub(r"[^\w.=,-]+", "_", name)[:60]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def arms_of(base: Config, given: Sequence[str], differ: Collection[str] = ()) -> list[Arm]:
    """The base and an arm for each text of ``key=value`` words, checked as far as settings show.

    ``differ``: those of EQUAL_TERMS that arms may differ in. Raises ConfigError on any other that differs (S71), on settings
    that are not of training, and on arms that are alike.
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
            changes = config.settings_of(name.split())
            wrong = sorted(set(changes) - _OF_ARMS)
            if wrong:
                raise ConfigError(
                    f"{', '.join(wrong)}: expected some of {', '.join(sorted(_OF_ARMS))}"
                )
            arm = Arm(name, arms[0].cfg.replace(**changes))
        except ConfigError as error:
            raise ConfigError(f"arm {name!r}: {error}") from None
        unequal = [
            key
            for key in sorted(EQUAL_TERMS - set(differ))
            if getattr(arm.cfg, key) != getattr(base, key)
        ]
        if unequal:
            found = ", ".join(
                f"{key} {_said(arm.cfg, key)} against the base's {_said(base, key)}"
                for key in unequal
            )
            raise ConfigError(
                f"arm {name!r} is not on equal terms: {found}; if that is the question, allow "
                f"it with --differ {','.join(unequal)}"
            )
        alike = next((other.name for other in arms if other.cfg == arm.cfg), None)
        if alike is not None:
            raise ConfigError(f"arm {name!r} has the same settings as {alike!r}")
        arms.append(arm)
    return arms


def study(base: Config, given: Sequence[str], seeds: int = 3, differ: Collection[str] = ()) -> Path:
    """Train the base and each arm with the seeds base.seed, base.seed + 1, …; returns the path of study.html.

    Each training is a run of its own below OUT/study, without test-time views, pseudo-labels or refit. study.csv (a row a
    training) and study.html (a row an arm, its curves beside it) are written after each, so that a study that is stopped
    leaves what it has; the same call goes on from there, and further arms or seeds join those of earlier calls. A
    seed also draws which photos are validated on: an arm is compared with the base of the same seed. A training that
    diverges is said in its row. Raises ConfigError and InputError before anything is trained, as ``run`` does.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: expected at least 1")
    if disk.on_kaggle() or runtime.process_of()[1] > 1:
        raise ConfigError(
            "a study is for the desk and one host; found Kaggle, or JAX_NUM_PROCESSES above 1"
        )
    arms = arms_of(base, given, differ)
    for arm in arms:
        check(arm.cfg)
        backbones.find_weights(arm.cfg.backbone, arm.cfg)
        for path in attached.box_files(arm.cfg):
            boxes.read(path)
    out = inputs.run_folder(base) / "study"
    out.mkdir(exist_ok=True)
    with runtime.alone(out):
        steps.sweep(out)
        planned = [
            (seed, arm, arm.cfg.replace(seed=seed, out=str(_folder(out, arm.name, seed))))
            for seed in range(base.seed, base.seed + seeds)
            for arm in arms
        ]
        _check_base(arms[0].cfg, out)
        changed = [f"{key}={_said(arms[0].cfg, key)}" for key in _changed(Config(), arms[0].cfg)]
        print(
            f"\n== study of {len(planned)} trainings",
            f"base       {' '.join(changed) or 'the defaults'}",
            *(f"arm        {arm.name}" for arm in arms[1:]),
            sep="\n  ",
        )
        table = _read(out / "study.csv")
        for number, (seed, arm, cfg) in enumerate(planned):
            print(f"\n== study {number + 1} of {len(planned)}: {arm.name}, seed {seed}", flush=True)
            folder = _folder(out, arm.name, seed)
            _share_scratch(out, folder)
            try:
                run(cfg)
                row = _row(arm, seed, folder)
            except TrainingDiverged as error:
                print(f"diverged   {error}")
                row = _about(arm, seed) | {"note": f"diverged: {error}"}
            table = table[(table["arm"] != arm.name) | (table["seed"] != seed)]
            table = pd.DataFrame([*table.to_dict("records"), row])
            disk.write_atomic(out / "study.csv", table.to_csv(index=False))
            page = _page(table, arms[0], out)
    found = summary(table, unequal(table, out))
    print(
        "\n== study",
        *lines(found),
        f"table      {out / 'study.csv'}",
        f"page       {page}",
        sep="\n  ",
    )
    return page


def _folder(out: Path, arm: str, seed: int) -> Path:
    return out / folder_of(arm) / f"seed{seed}"


def _changed(was: Config, now: Config) -> list[str]:
    """The settings of training that differ, by name."""
    return [
        key
        for key in sorted(OF_TRAINING - {"seed"} | {"val_fraction"})
        if getattr(was, key) != getattr(now, key)
    ]


def _check_base(base: Config, out: Path) -> None:
    """Raise ConfigError if the folder has a study of another base, whose trainings would be replaced."""
    for path in sorted((out / BASE).glob("seed*/config.json"))[:1]:
        was = config.load(path)
        found = ", ".join(
            f"{key} {_said(was, key)}, not {_said(base, key)}" for key in _changed(was, base)
        )
        if found:
            raise ConfigError(
                f"{out} has a study of {found}; choose another --out for another base"
            )


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


# --- The table: a row a training ------------------------------------------------------------------


def _about(arm: Arm, seed: int) -> dict[str, Any]:
    """A row of what was set."""
    return {
        "arm": arm.name,
        "seed": seed,
        "learning_rate": arm.rate,
        "batch": arm.cfg.batch,
        "stages": _said(arm.cfg, "stages"),
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
    """And what a finished run in that folder has measured (S70)."""
    result, history = json.loads((folder / "result.json").read_text()), _history(folder)
    measured, trained = result["members"][0], steps.Steps(folder / "member1").done("training")
    about = trained["about"] if trained else {}
    notes = [about.get("shortened", "")]
    if about.get("smaller"):
        notes.append(f"memory ran out: batches of {about['smaller']}, and lr in proportion")
    steady = history[history["epoch"] > 1]  # the first one of a stage decodes its photos
    return _about(arm, seed) | {
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
    columns = list(_about(Arm(BASE, Config()), 0))
    if not path.exists():
        return pd.DataFrame(columns=columns)
    try:
        table = pd.read_csv(
            path,
            dtype={"note": str, "made_from": str},
            keep_default_na=False,
            na_values={
                "accuracy": "",
                "log_loss": "",
                "train_accuracy": "",
                "seconds_per_epoch": "",
            },
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


def _history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "member1" / "history.csv")


def _digest(trained: dict[str, Any] | None) -> str:
    """Of what a training was made from."""
    return hashlib.sha256(json.dumps(trained["facts"]).encode()).hexdigest()[:16] if trained else ""


def unequal(table: pd.DataFrame, out: Path) -> dict[tuple[str, int], list[str]]:
    """(arm, seed) → what it was trained from that the base of that seed was not, besides what the arm's name says (S71).

    Where a study went on with other photos, on another machine or with another version of the package.
    """
    measured = table[table["photos"] > 0].set_index(["arm", "seed"])["made_from"].to_dict()
    found: dict[tuple[str, int], list[str]] = {}
    for arm, seed in measured:
        if (BASE, seed) not in measured:
            continue
        was, now = (
            steps.Steps(_folder(out, name, seed) / "member1").done("training")
            for name in (BASE, arm)
        )
        if (
            not was
            or not now
            or (_digest(was), _digest(now)) != (measured[BASE, seed], measured[arm, seed])
        ):
            found[arm, seed] = ["what was trained is there no more"]
            continue
        asked = set(config.settings_of(arm.split())) if arm != BASE else set()
        if asked & {"backbone", "weights"}:
            asked.add("the starting weights")
        found[arm, seed] = steps.differences(
            *({k: v for k, v in done["facts"].items() if k not in asked} for done in (was, now))
        )
        if was["about"].get("machine") != now["about"].get("machine") and "precision" not in asked:
            found[arm, seed].append("another machine")
    return found


# --- The summary: a row an arm --------------------------------------------------------------------


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean of (n,) values and half of its 95 % interval, by Student's t; NaN where there are too few."""
    from scipy.special import stdtrit

    n = len(values)
    half = float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return (float(values.mean()), half) if n else (math.nan, math.nan)


def summary(table: pd.DataFrame, unequal: dict[tuple[str, int], list[str]]) -> pd.DataFrame:
    """A row an arm: means over seeds with 95 % intervals, and the differences to the base of the same seeds (S72).

    An arm gets no verdict if one of its trainings, or the base's of the same seed, was cut short, diverged, or differs in more
    than what is asked (``unequal``).
    """
    base = table[table["arm"] == BASE].set_index("seed")
    found = []
    for name in dict.fromkeys([BASE, *table["arm"]]):
        mine = table[table["arm"] == name].set_index("seed")
        both = mine.index.intersection(base.index)
        row: dict[str, Any] = {
            "arm": name,
            "learning rate": mine["learning_rate"].iloc[-1],
            "epochs": mine["epochs"].iloc[-1],
            "seeds": int(mine["accuracy"].notna().sum()),
        }
        notes = [f"seed {seed}: {note}" for seed, note in mine["note"].items() if note]
        if name != BASE:
            notes += [
                f"base, seed {seed}: {note}"
                for seed, note in base.loc[both, "note"].items()
                if note
            ]
            notes += [
                f"seed {seed}: {change}"
                for seed in both
                for change in unequal.get((name, seed), [])
            ]
        resolved = []
        for what, sign, least in (
            ("accuracy", 1, 1 / max(1, mine["photos"].max())),
            ("log_loss", -1, 0.0),
        ):
            row[what], row[f"{what}_half"] = interval(mine[what].dropna().to_numpy())
            pairs = (mine.loc[both, what] - base.loc[both, what]).dropna().to_numpy()
            mean, half = interval(pairs) if not notes else (math.nan, math.nan)
            row |= {f"{what}_change": mean, f"{what}_change_half": half}
            if abs(mean) > max(half, least) + 1e-9:  # no difference is surer than one photo
                resolved.append(
                    f"{what.replace('_', '-')} {'better' if sign * mean > 0 else 'worse'}"
                )
        sure = ", ".join(resolved) or ("unresolved" if len(both) > 1 else "unresolved: one seed")
        row["verdict"] = (
            "; ".join(notes)
            if name == BASE
            else f"not compared: {'; '.join(notes)}"
            if notes
            else sure
        )
        row["seconds_per_epoch"] = mine["seconds_per_epoch"].mean()
        found.append(row)
    return pd.DataFrame(found)


def lines(found: pd.DataFrame) -> list[str]:
    """The summary as text."""
    shown: Any = pd.DataFrame(map(_cells, found.to_dict("records"))).to_string(index=False)
    return shown.splitlines()


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """A row of the summary to be read, by head."""
    return {
        "arm": row["arm"],
        "learning rate": row["learning rate"],
        "epochs": str(row["epochs"]),
        "seeds": str(row["seeds"]),
        "accuracy": _with_half(row, "accuracy"),
        "log-loss": _with_half(row, "log_loss"),
        "accuracy against base": ""
        if row["arm"] == BASE
        else _with_half(row, "accuracy_change", "+"),
        "log-loss against base": ""
        if row["arm"] == BASE
        else _with_half(row, "log_loss_change", "+"),
        "s an epoch": ""
        if math.isnan(row["seconds_per_epoch"])
        else f"{row['seconds_per_epoch']:.1f}",
        "verdict": row["verdict"],
    }


def _with_half(row: dict[str, Any], name: str, sign: str = "") -> str:
    if math.isnan(row[name]):
        return ""
    half = row[f"{name}_half"]
    return f"{row[name]:{sign}.3f}" + ("" if math.isnan(half) else f" ± {half:.3f}")


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>carcls study</title>
<style>{{ style }} body{max-width:none} td{white-space:nowrap} td,th{font-size:13px;padding:.15em .5em}
 td.long{white-space:normal;overflow-wrap:anywhere;min-width:11em;max-width:16em} td img{width:560px;max-width:none}</style>
<h1>carcls study</h1>
<p>{{ done }} trainings. Accuracy and log-loss are the best epoch's, of {{ photos }} validation photos as they are, which each seed
draws anew. ±: 95 % interval of the mean over seeds, by Student's t. Against base: mean difference to the base of the same seed.
Better or worse is an interval without 0, and for accuracy more than one photo. Each arm has two chances of one in twenty to be so by chance alone, and somewhat
more, as seeds share most of their photos. Seconds an epoch are without the first epoch of a stage, which decodes.</p>
<table><tr>{% for name in rows[0][0] %}<th>{{ name }}</th>{% endfor %}<th>curves</th></tr>
{% for cells, picture in rows %}<tr>{% for name, cell in cells.items() %}<td{% if name in ("arm", "learning rate", "verdict") %} class="long"{% endif %}>{{ cell }}</td>
{% endfor %}<td>{{ picture }}</td></tr>{% endfor %}</table><p>{{ caption }}</p>
<h2>Settings of the base</h2><pre>{{ settings }}</pre><p>Source {{ result.source }}; {{ result.versions }}</p></html>"""


def _page(table: pd.DataFrame, base: Arm, out: Path) -> Path:
    """study.html: the table, with each arm's curves beside its row (S73)."""
    histories: dict[str, list[pd.DataFrame]] = {name: [] for name in (BASE, *table["arm"])}
    folders = [_folder(out, row.arm, row.seed) for row in table[table["photos"] > 0].itertuples()]
    for name, folder in zip(table.loc[table["photos"] > 0, "arm"], folders, strict=True):
        if (folder / "member1" / "history.csv").is_file():
            histories[name].append(_history(folder))
    rows = []
    for row in summary(table, unequal(table, out)).to_dict("records"):
        name = row["arm"]
        path = out / folder_of(name) / "arm.png"
        path.parent.mkdir(exist_ok=True)
        figures.arm(histories[name], [] if name == BASE else histories[BASE], path)
        rows.append((_cells(row), report.image(path)))
    page = (
        jinja2.Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            style=Markup(report.STYLE),
            rows=rows,
            done=len(table),
            caption=figures.CAPTIONS["arm.png"],
            photos=table["photos"].max(),
            settings=base.cfg.model_dump_json(indent=2),
            result=next(
                (
                    json.loads(path.read_text())
                    for folder in reversed(folders)
                    if (path := folder / "result.json").is_file()
                ),
                {},
            ),
        )
    )
    disk.write_atomic(out / "study.html", page)
    return out / "study.html"


def _said(cfg: Config, key: str) -> str:
    return ",".join(map(str, cfg.stages)) if key == "stages" else str(getattr(cfg, key))

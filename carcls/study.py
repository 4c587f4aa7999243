"""Ablations: arms that differ from a base in what is asked about and in nothing else, over several seeds (S70-S73)."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from carcls import backbones, config, figures, inputs, report, runtime
from carcls.config import OF_MEMBER, Config, ConfigError, TrainingDiverged
from carcls.run import check, run

BASE = "base"
# How long and how fast a training learns: arms that differ in these too are not compared on equal terms (S71).
CONDITIONS = frozenset({"lr", "schedule", "warmup", "stages", "batch", "patience", "min_epochs"})
_OF_ARMS = OF_MEMBER - {"seed"} | {"strength", "strength_end", "precision"}  # what training depends on
# Validation is of the photos as they are: views, pseudo-labels and refits are measured by a run's own tables, or not at all.
_OFF = {"tta": "never", "tta_views": 1, "tta_cap": 0, "tta_strength": 0.0, "pseudo": False, "refit_epochs": 0}


@dataclass(frozen=True)
class Arm:
    """A variant to train: the base, or the base with some settings changed."""

    name: str  # the changes as they were given
    cfg: Config

    @property
    def folder(self) -> str:
        """A name of its own in the study's folder, the same in every session."""
        plain = re.sub(r"[^\w.=,-]+", "_", self.name)[:60]
        return plain if plain == self.name else f"{plain}-{hashlib.sha256(self.name.encode()).hexdigest()[:6]}"

    @property
    def rate(self) -> str:
        """The optimiser and how its learning rate goes (S73)."""
        cfg = self.cfg
        rise = f", rising over {cfg.warmup:.0%}" if cfg.warmup and cfg.schedule != "plateau" else ""
        return f"{cfg.optimizer}, {cfg.schedule} {cfg.lr:g}{rise}"


def arms_of(base: Config, given: Sequence[str], differ: Collection[str] = ()) -> list[Arm]:
    """The base and an arm for each text of ``key=value`` words, checked as far as settings show.

    ``differ``: the CONDITIONS that arms may differ in. Raises ConfigError on any other that differs, on settings that are
    not of training, and on arms that are alike.
    """
    unknown = sorted(set(differ) - CONDITIONS)
    if unknown:
        raise ConfigError(f"--differ {', '.join(unknown)}: expected some of {', '.join(sorted(CONDITIONS))}")
    if len(base.members) > 1 or base.folds > 1:
        raise ConfigError(f"a study compares single networks: found {len(base.members)} members and {base.folds} folds; "
                          "expected members= and folds=1")  # fmt: skip
    if base.budget_minutes is not None:
        raise ConfigError(
            f"budget_minutes={base.budget_minutes:g}: arms cut short are not compared on equal terms; leave it out"
        )
    base = base.replace(**_OFF)
    arms, before = [Arm(BASE, base)], base.model_dump()
    for text in given:
        name = " ".join(text.split())
        try:
            arm = Arm(name, base.replace(**config.settings_of(text.split())))
        except ConfigError as error:
            raise ConfigError(f"arm {name!r}: {error}") from None
        after = arm.cfg.model_dump()
        changed = {key for key in after if after[key] != before[key]}
        wrong = sorted(changed - _OF_ARMS)
        if wrong:
            raise ConfigError(
                f"arm {name!r}: {', '.join(wrong)} is not of training; expected some of {', '.join(sorted(_OF_ARMS))}"
            )
        unequal = sorted(changed & CONDITIONS - set(differ))
        if unequal:
            found = ", ".join(f"{key} {_said(arm.cfg, key)} against the base's {_said(base, key)}" for key in unequal)
            raise ConfigError(f"arm {name!r} is not on equal terms: {found}; if that is the question, allow "
                              f"it with --differ {','.join(unequal)}")  # fmt: skip
        arms.append(arm)
    for number, arm in enumerate(arms):
        alike = next((other.name for other in arms[:number] if other.cfg == arm.cfg), None)
        if alike is not None:
            raise ConfigError(f"arm {arm.name!r} has the same settings as {alike!r}")
    return arms


def study(base: Config, given: Sequence[str], seeds: int = 3, differ: Collection[str] = ()) -> Path:
    """Train the base and each arm with the seeds base.seed, base.seed + 1, …; returns the path of study.html.

    Each training is a run in a folder of its own below OUT/study, without test-time views, pseudo-labels or refit. study.csv
    (a row a training) and study.html (a row an arm, its curves beside it) are written after each, so that a study that is
    stopped leaves what it has; the same call goes on from there. A seed also draws which photos are validated on: an arm
    is compared with the base of the same seed, photo set by photo set. A training that diverges is said in its row.
    Raises ConfigError and inputs.InputError before anything is trained, as ``run`` does.
    """
    if seeds < 1:
        raise ConfigError(f"seeds={seeds}: expected at least 1")
    arms = arms_of(base, given, differ)
    for arm in arms:
        check(arm.cfg)
        backbones.find_weights(arm.cfg.backbone, arm.cfg)
    out = inputs.run_folder(base) / "study"
    out.mkdir(exist_ok=True)
    with runtime.alone(out):
        planned = [(seed, arm) for seed in range(base.seed, base.seed + seeds) for arm in arms]
        rows: list[dict[str, Any]] = []
        began = time.monotonic()
        for number, (seed, arm) in enumerate(planned):
            spent = time.monotonic() - began
            left = f", about {_minutes(spent / number * (len(planned) - number))} left" if number else ""
            print(f"\n== study {number + 1} of {len(planned)}: {arm.name}, seed {seed}{left}", flush=True)
            folder = out / arm.folder / f"seed{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            cfg = arm.cfg.replace(seed=seed, out=str(folder))
            try:
                run(cfg)
                rows.append(_row(arm, seed, folder))
            except TrainingDiverged as error:
                print(f"diverged   {error}")
                rows.append(_about(arm, seed) | {"note": f"diverged: {error}"})
            table = pd.DataFrame(rows)
            inputs.write_atomic(out / "study.csv", table.to_csv(index=False))
            page = _page(base, arms, table, out)
    print(
        "\n== study", *lines(summary(arms, table)), f"table      {out / 'study.csv'}", f"page       {page}", sep="\n  "
    )
    return page


def _about(arm: Arm, seed: int) -> dict[str, Any]:
    """A row of what was set."""
    return {"arm": arm.name, "seed": seed, "learning_rate": arm.rate, "batch": arm.cfg.batch,
            "stages": ",".join(map(str, arm.cfg.stages)), "epochs": sum(stage.epochs for stage in arm.cfg.stages),
            "accuracy": math.nan, "log_loss": math.nan, "photos": 0, "train_accuracy": math.nan,
            "seconds_per_epoch": math.nan, "note": ""}  # fmt: skip


def _row(arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    """And what a finished run in that folder has measured (S70)."""
    about = _about(arm, seed)
    result = json.loads((folder / "result.json").read_text())
    if not result.get("members"):
        return about | {"note": "not trained: no time"}
    measured, history = result["members"][0], _history(folder)
    seen = about["epochs"]
    return about | {
        "accuracy": measured["accuracy"],
        "log_loss": measured["log_loss"],
        "photos": result["validation_photos"],
        "train_accuracy": history["accuracy"].iloc[-1],
        "seconds_per_epoch": history["seconds"].mean(),
        "epochs": len(history),
        "note": "" if len(history) == seen else f"{len(history)} of {seen} epochs",
    }


def _history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "member1" / "history.csv")


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean of (n,) values and half of its 95 % interval, by Student's t; that is NaN for fewer than two."""
    from scipy.special import stdtrit

    n = len(values)
    half = float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return (float(values.mean()), half) if n else (math.nan, math.nan)


def summary(arms: Sequence[Arm], table: pd.DataFrame) -> pd.DataFrame:
    """A row an arm: means over seeds with 95 % intervals, and the differences to the base of the same seeds (S72)."""
    of = {name: rows.set_index("seed") for name, rows in table.groupby("arm")}
    found = []
    for arm in arms:
        if arm.name not in of:
            continue
        mine, base = of[arm.name], of[BASE]
        row: dict[str, Any] = {
            "arm": arm.name,
            "learning rate": arm.rate,
            "epochs": mine["epochs"].max(),
            "seeds": len(mine),
        }
        both = mine.index.intersection(base.index)
        resolved, change = [], dict[str, float]()
        for name, sign in (("accuracy", 1), ("log_loss", -1)):
            row[name], row[f"{name}_half"] = interval(mine[name].dropna().to_numpy())
            difference = (mine.loc[both, name] - base.loc[both, name]).dropna().to_numpy()
            mean, half = interval(difference)
            change |= {f"{name}_change": mean, f"{name}_change_half": half}
            if abs(mean) > half:
                resolved.append(f"{name.replace('_', '-')} {'better' if sign * mean > 0 else 'worse'}")
        row |= change | {"seconds_per_epoch": mine["seconds_per_epoch"].mean()}
        notes = {*mine["note"], *base.loc[both, "note"]} - {""}
        if arm.name == BASE:
            row["verdict"] = "; ".join(sorted(notes))
        elif notes:
            row["verdict"] = f"not compared: {'; '.join(sorted(notes))}"
        else:
            row["verdict"] = ", ".join(resolved) or ("unresolved" if len(both) > 1 else "unresolved: one seed")
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
        "accuracy": _with_half(row, "accuracy"),
        "log-loss": _with_half(row, "log_loss"),
        "accuracy against base": "" if row["arm"] == BASE else _with_half(row, "accuracy_change", "+"),
        "log-loss against base": "" if row["arm"] == BASE else _with_half(row, "log_loss_change", "+"),
        "s an epoch": f"{row['seconds_per_epoch']:.1f}",
        "verdict": row["verdict"],
    }


def _with_half(row: dict[str, Any], name: str, sign: str = "") -> str:
    half = row[f"{name}_half"]
    return f"{row[name]:{sign}.3f}" + ("" if math.isnan(half) else f" ± {half:.3f}")


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>carcls study</title>
<style>{{ style }} body{max-width:none} td{white-space:nowrap} td img{width:560px;max-width:none}</style>
<h1>carcls study</h1>
<p>{{ done }} trainings, seeds {{ seeds }}. Accuracy and log-loss are the best epoch's, of {{ photos }} validation photos as they are,
which each seed draws anew. ±: 95 % interval of the mean over seeds, by Student's t. Against base: mean difference to the
base of the same seed. Better or worse is an interval without 0; of many arms one in twenty is so by chance.</p>
<table><tr>{% for name in rows[0][0] %}<th>{{ name }}</th>{% endfor %}<th>curves</th></tr>
{% for cells, picture in rows %}<tr>{% for cell in cells.values() %}<td>{{ cell }}</td>{% endfor %}<td>{{ picture }}</td></tr>
{% endfor %}</table><p>{{ caption }}</p><h2>Settings of the base</h2><pre>{{ settings }}</pre></html>"""


def _page(base: Config, arms: Sequence[Arm], table: pd.DataFrame, out: Path) -> Path:
    """study.html: the table, with each arm's curves beside its row (S73)."""
    of = {arm.name: arm for arm in arms}
    histories: dict[str, list[pd.DataFrame]] = {name: [] for name in of}
    for row in table[table["photos"] > 0].itertuples():
        histories[row.arm].append(_history(out / of[row.arm].folder / f"seed{row.seed}"))
    rows = []
    for row in summary(arms, table).to_dict("records"):
        name = row["arm"]
        path = out / of[name].folder / "arm.png"
        figures.arm(histories[name], [] if name == BASE else histories[BASE], path)
        rows.append((_cells(row), report.image(path)))
    page = jinja2.Environment(autoescape=True).from_string(_PAGE).render(
        style=Markup(report.STYLE), rows=rows, done=len(table), caption=figures.CAPTIONS["arm.png"],
        seeds=", ".join(map(str, sorted(set(table["seed"])))), photos=table["photos"].max(),
        settings=base.replace(**_OFF).model_dump_json(indent=2),
    )  # fmt: skip
    inputs.write_atomic(out / "study.html", page)
    return out / "study.html"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _said(cfg: Config, key: str) -> str:
    return ",".join(map(str, cfg.stages)) if key == "stages" else str(getattr(cfg, key))

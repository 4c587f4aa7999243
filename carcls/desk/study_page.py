"""A study's summary, a row an arm: as a table of numbers, as text and as study.html."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from scipy.special import stdtrit

from carcls import disk
from carcls.config import Config
from carcls.report import charts, page

BASE = "base"
CAPTION = (
    "Beside each row, one line a seed: blue on validation photos, dotted green on augmented "
    "training photos, grey the base on validation photos. The loss includes label smoothing. Look "
    "for accuracy that still rises at the end: that arm was compared too early."
)
_LONG = ("arm", "learning rate", "verdict")  # columns whose cells are wrapped


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean of (n,) values and half of its 95 % interval, by Student's t; NaN of too few."""
    n = len(values)
    half = float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return (float(values.mean()), half) if n else (math.nan, math.nan)


def summary(table: pd.DataFrame, unequal: dict[tuple[str, int], list[str]]) -> pd.DataFrame:
    """Means over seeds with 95 % intervals, and differences to the base of the same seeds.

    An arm gets no verdict if one of its trainings, or the base's of the same seed, was cut short or
    diverged, or differs in more than what is asked (``unequal``).
    """
    base = table[table["arm"] == BASE].set_index("seed")
    arms = {name: table[table["arm"] == name].set_index("seed") for name in [BASE, *table["arm"]]}
    return pd.DataFrame([_compare(name, arm, base, unequal) for name, arm in arms.items()])


def _compare(
    name: str, arm: pd.DataFrame, base: pd.DataFrame, unequal: dict[tuple[str, int], list[str]]
) -> dict[str, Any]:
    """An arm's row; arm and base: their trainings by seed."""
    both = arm.index.intersection(base.index)
    notes = [f"seed {seed}: {note}" for seed, note in arm["note"].items() if note]
    if name != BASE:
        lost = base.loc[both, "note"].items()
        notes += [f"base, seed {seed}: {note}" for seed, note in lost if note]
        notes += [f"seed {seed}: {what}" for seed in both for what in unequal.get((name, seed), [])]
    row: dict[str, Any] = {
        "arm": name,
        "learning rate": arm["learning_rate"].iloc[-1],
        "epochs": arm["epochs"].iloc[-1],
        "seeds": int(arm["accuracy"].notna().sum()),
        "seconds_per_epoch": arm["seconds_per_epoch"].mean(),
    }
    resolved = []
    # No difference in accuracy is surer than one photo.
    one_photo = 1 / max(1, arm["photos"].max())
    for what, better, least in (("accuracy", 1, one_photo), ("log_loss", -1, 0.0)):
        row[what], row[f"{what}_half"] = interval(arm[what].dropna().to_numpy())
        pairs = (arm.loc[both, what] - base.loc[both, what]).dropna().to_numpy()
        mean, half = interval(pairs) if not notes else (math.nan, math.nan)
        row |= {f"{what}_change": mean, f"{what}_change_half": half}
        if abs(mean) > max(half, least) + 1e-9:
            word = "better" if better * mean > 0 else "worse"
            resolved.append(f"{what.replace('_', '-')} {word}")
    if name == BASE:
        row["verdict"] = "; ".join(notes)
    elif notes:
        row["verdict"] = f"not compared: {'; '.join(notes)}"
    else:
        unresolved = "unresolved" if len(both) > 1 else "unresolved: one seed"
        row["verdict"] = ", ".join(resolved) or unresolved
    return row


def lines(rows: pd.DataFrame) -> list[str]:
    """The summary as text."""
    text: str = pd.DataFrame(map(_cells, rows.to_dict("records"))).to_string(index=False)
    return text.splitlines()


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """A row of the summary to be read, by head."""
    is_base, seconds = row["arm"] == BASE, row["seconds_per_epoch"]
    return {
        "arm": row["arm"],
        "learning rate": row["learning rate"],
        "epochs": str(row["epochs"]),
        "seeds": str(row["seeds"]),
        "accuracy": _with_half(row, "accuracy"),
        "log-loss": _with_half(row, "log_loss"),
        "accuracy against base": "" if is_base else _with_half(row, "accuracy_change", "+"),
        "log-loss against base": "" if is_base else _with_half(row, "log_loss_change", "+"),
        "s an epoch": "" if math.isnan(seconds) else f"{seconds:.1f}",
        "verdict": row["verdict"],
    }


def _with_half(row: dict[str, Any], name: str, sign: str = "") -> str:
    if math.isnan(row[name]):
        return ""
    half = row[f"{name}_half"]
    return f"{row[name]:{sign}.3f}" + ("" if math.isnan(half) else f" ± {half:.3f}")


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>carcls study</title>
<style>{{ style }} body{max-width:none} td{white-space:nowrap}
td,th{font-size:13px;padding:.15em .5em}
td.long{white-space:normal;overflow-wrap:anywhere;min-width:11em;max-width:16em}
td img{width:560px;max-width:none}</style>
<h1>carcls study</h1>
<p>{{ done }} trainings. Accuracy and log-loss are the best epoch's, of {{ photos }} validation
photos as they are, which each seed draws anew. ±: 95 % interval of the mean over seeds, by
Student's t. Against base: mean difference to the base of the same seed. Better or worse means an
interval without 0, and for accuracy more than one photo. By chance alone each arm is called so
about one time in ten, and somewhat more often, as seeds share most of their photos. Seconds an
epoch leave out the first epoch of a stage, which decodes.</p>
<table><tr>{% for name in rows[0][0] %}<th>{{ name }}</th>{% endfor %}<th>curves</th></tr>
{% for cells, picture in rows %}<tr>{% for name, cell in cells.items() -%}
<td{% if name in long %} class="long"{% endif %}>{{ cell }}</td>
{% endfor %}<td>{{ picture }}</td></tr>{% endfor %}</table><p>{{ caption }}</p>
<h2>Settings of the base</h2><pre>{{ settings }}</pre>
<p>Source {{ result.source }}; {{ result.versions }}</p></html>"""


def draw_arm(histories: Sequence[pd.DataFrame], base: Sequence[pd.DataFrame], path: Path) -> Path:
    """Accuracy, loss and learning rate of an arm, a line a seed, in front of its base's."""
    with charts.drawing(path, 9, 2.6) as figure:
        axes = figure.subplots(1, 3)
        for all_seeds, colour in ((base, charts.GREY), (histories, "tab:blue")):
            for history in all_seeds:
                epoch = np.arange(1, len(history) + 1)
                for axis, name in zip(axes[:2], ("accuracy", "loss"), strict=True):
                    if all_seeds is histories:
                        axis.plot(epoch, history[name], ":", lw=1, color=charts.GREEN)
                    axis.plot(epoch, history[f"val_{name}"], "o-", ms=2, lw=1, color=colour)
                axes[2].plot(epoch, history["lr"], "o-", ms=2, lw=1, color=colour)
        charts.label_epochs(axes, "accuracy", "cross-entropy", "learning rate")
    return path


def write(
    rows: pd.DataFrame, table: pd.DataFrame, folders: Sequence[Path], base: Config, out: Path
) -> Path:
    """Write OUT/study.html: the summary with each arm's curves beside its row; returns its path.

    folders: of the run of each row of the table.
    """
    histories: dict[str, list[pd.DataFrame]] = {name: [] for name in rows["arm"]}
    results = []
    for name, photos, folder in zip(table["arm"], table["photos"], folders, strict=True):
        if photos > 0:  # else it diverged
            results.append(json.loads((folder / "result.json").read_text()))
            histories[name].append(pd.read_csv(folder / "member1" / "history.csv"))
    places = dict(zip(table["arm"], [folder.parent for folder in folders], strict=True))
    shown = []
    for row in rows.to_dict("records"):
        name = row["arm"]
        picture = places[name] / "arm.png"
        draw_arm(histories[name], [] if name == BASE else histories[BASE], picture)
        shown.append((_cells(row), page.image(picture)))
    template = jinja2.Environment(autoescape=True).from_string(_PAGE)
    text = template.render(
        style=Markup(page.STYLE),
        rows=shown,
        long=_LONG,
        done=len(table),
        caption=CAPTION,
        photos=table["photos"].max(),
        settings=base.model_dump_json(indent=2),
        result=results[-1] if results else {},
    )
    disk.write_atomic(out / "study.html", text)
    return out / "study.html"

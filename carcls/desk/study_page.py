"""What a study has found, a row an arm: compared with the base, as text, study.csv, study.html."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from carcls import config, disk, record
from carcls.config import Config
from carcls.data.labels import spreadsheet_safe
from carcls.report import charts, parts
from carcls.search import space
from carcls.votes import evidence

if TYPE_CHECKING:
    from carcls.search.trial import Outcome  # whose module imports Keras

BASE = "base"
CAPTION = (
    "Beside each row, one line a seed: blue on validation photos, dotted green on augmented "
    "training photos, grey the base on validation photos. The loss includes label smoothing. Look "
    "for accuracy that still rises at the end: that arm was compared too early."
)
_LONG = ("arm", "learning rate", "verdict")  # columns whose cells are wrapped


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

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.cfg.stages)


@dataclass(frozen=True)
class Findings:
    """All that a study has found so far."""

    arms: Sequence[Arm]  # the base first
    outcomes: dict[tuple[str, int], Outcome]  # by arm and seed

    def of(self, name: str) -> dict[int, Outcome]:
        """An arm's outcomes by seed."""
        return {seed: outcome for (arm, seed), outcome in self.outcomes.items() if arm == name}

    def table(self) -> pd.DataFrame:
        """A row a training."""
        arms = {arm.name: arm for arm in self.arms}
        return pd.DataFrame(
            {
                "arm": name,
                "seed": seed,
                "learning_rate": arms[name].rate,
                "batch": arms[name].cfg.batch,
                "stages": space.written(arms[name].cfg, "stages"),
                "epochs": arms[name].epochs,
                "accuracy": outcome.accuracy,
                "log_loss": math.nan if outcome.diverged else outcome.loss,
                "photos": len(outcome.losses),
                "train_accuracy": outcome.rows[-1]["accuracy"] if outcome.rows else math.nan,
                "seconds_per_epoch": outcome.epoch_seconds or math.nan,
                "note": _fault(outcome),
            }
            for (name, seed), outcome in self.outcomes.items()
        )


def summary(f: Findings) -> pd.DataFrame:
    """A row an arm, as it is read: means over seeds, and differences to the base of the same seeds.

    An arm gets no verdict if one of its trainings, or the base's of the same seed, diverged or ran
    out of memory, or differs in more than what is asked.
    """
    return pd.DataFrame([_row(arm, f) for arm in f.arms if f.of(arm.name)])


def _row(arm: Arm, f: Findings) -> dict[str, str]:
    own, base = f.of(arm.name), f.of(BASE)
    both = [seed for seed in own if seed in base and arm.name != BASE]
    notes = [f"seed {seed}: {_fault(own[seed])}" for seed in own if _fault(own[seed])]
    notes += [f"base, seed {seed}: {_fault(base[seed])}" for seed in both if _fault(base[seed])]
    for seed in both:
        notes += [f"seed {seed}: {what}" for what in unequal(arm.name, base[seed], own[seed])]
    ended = [outcome for outcome in own.values() if not outcome.diverged]
    steady = [outcome.epoch_seconds for outcome in ended]
    row = {
        "arm": arm.name,
        "learning rate": arm.rate,
        "epochs": str(arm.epochs),
        "seeds": str(len(ended)),
        "accuracy": _show(*interval([outcome.accuracy for outcome in ended])),
        "log-loss": _show(*interval([outcome.loss for outcome in ended])),
    }
    words = []
    for what, measure in (("accuracy", "right"), ("log-loss", "losses")):
        pairs = [(getattr(base[seed], measure), getattr(own[seed], measure)) for seed in both]
        changes = [] if notes else [evidence.difference(*pair) for pair in pairs]
        mean, half = interval([mean for mean, _ in changes], [error for _, error in changes])
        row[f"{what} against base"] = _show(mean, half, "+")
        if abs(mean) > half + 1e-9:
            words.append(f"{what} {'better' if (mean > 0) == (what == 'accuracy') else 'worse'}")
    row["s an epoch"] = f"{np.mean(steady):.1f}" if steady else ""
    verdict = ", ".join(words) or ("unresolved" if len(both) > 1 else "unresolved: one seed")
    if arm.name == BASE or notes:
        verdict = ("not compared: " if arm.name != BASE else "") + "; ".join(notes)
    return row | {"verdict": verdict}


def _fault(outcome: Outcome) -> str:
    """Why a training cannot be compared."""
    return f"diverged: {outcome.diverged}" if outcome.diverged else outcome.note


def unequal(arm: str, was: Outcome, now: Outcome) -> list[str]:
    """In what an arm's training differs from the base's of the same seed, besides what it asks.

    So it is where a study went on with other photos, on another machine or by other code.
    """
    asked = set(config.settings_of(arm.split()))
    if asked & {"backbone", "weights"}:
        asked.add("the first weights")
    facts = ({k: v for k, v in of.facts.items() if k not in asked} for of in (was, now))
    found = record.differences(*facts)
    if was.machine != now.machine and "precision" not in asked:
        found.append("another machine")
    return found


def interval(values: Sequence[float], errors: Sequence[float] = ()) -> tuple[float, float]:
    """Mean of one value a seed, and half of its 95 % interval by Student's t; NaN of too few.

    errors: standard errors of the values, by their photos; seeds that happen to agree make the
    interval no narrower than the photos do.
    """
    n = len(values)
    if n < 2:
        return (values[0] if n else math.nan), math.nan
    half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(n))
    return float(np.mean(values)), max(half, 1.959964 * math.hypot(*errors) / n)


def _show(mean: float, half: float, sign: str = "") -> str:
    if math.isnan(mean):
        return ""
    return f"{mean:{sign}.3f}" + ("" if math.isnan(half) else f" ± {half:.3f}")


def lines(rows: pd.DataFrame) -> list[str]:
    """The summary as text."""
    text: str = rows.to_string(index=False)
    return text.splitlines()


_PAGE = """{% extends "base" %}
{% block title %}carcls study{% endblock %}
{% block style %}
main { max-width: none }
.wide td.long { white-space: normal; overflow-wrap: anywhere; min-width: 11em; max-width: 16em }
.wide { max-height: none } .wide th { white-space: normal }
td img { width: 560px; max-width: none }
{% endblock %}
{% block main %}
<h1>carcls study</h1>
<p>{{ f.outcomes|length }} trainings. Accuracy and log-loss are the best epoch's, of {{ photos }}
validation photos as they are, which each seed draws anew. ±: 95 % interval of the mean over seeds,
by Student's t. Against base: mean difference to the base of the same seed, photo by photo; its
interval is never narrower than the photos alone make it. Better or worse means an interval without
0. By chance alone each arm is called so about one time in ten at most, and somewhat more often
where seeds share many photos. Seconds an epoch leave out the first epoch of a stage, which decodes.
</p>
<div class="wide" tabindex="0" role="group" aria-label="Arms"><table class="sorts"><thead>
<tr>{% for name in rows[0] %}<th scope="col">{{ name }}</th>{% endfor %}
<th scope="col">curves</th></tr></thead><tbody>
{% for cells in rows %}
<tr>{% for name, cell in cells.items() -%}
<td{% if name in long %} class="long"{% endif %}>{{ cell }}</td>
{% endfor %}<td>{{ picture(cells.arm) }}</td></tr>
{% endfor %}</tbody></table></div>
<p>{{ caption }}</p>
<h2>Settings of the base</h2>
<pre tabindex="0">{{ f.arms[0].cfg.model_dump_json(indent=2) }}</pre>
<p>{% if last.facts %}Source {{ last.facts["the package's code"] }}, OpenCV {{
last.facts.OpenCV }}; {% endif %}{{ versions }}; {{ last.machine|join(", ") }}</p>
{% endblock %}
"""


def draw_arm(histories: Sequence[Any], base: Sequence[Any], path: Path) -> Path:
    """Accuracy, loss and learning rate of an arm, a line a seed, in front of its base's.

    histories, base: the rows of each training's history.
    """
    with charts.drawing(path, 9, 2.6) as figure:
        axes = figure.subplots(1, 3)
        for all_seeds, colour in ((base, charts.GREY), (histories, "tab:blue")):
            for history in map(pd.DataFrame, all_seeds):
                epoch = np.arange(1, len(history) + 1)
                for axis, name in zip(axes[:2], ("accuracy", "loss"), strict=True):
                    if all_seeds is histories:
                        axis.plot(epoch, history[name], ":", lw=1, color=charts.GREEN)
                    axis.plot(epoch, history[f"val_{name}"], "o-", ms=2, lw=1, color=colour)
                axes[2].plot(epoch, history["lr"], "o-", ms=2, lw=1, color=colour)
        charts.label_epochs(axes, "accuracy", "cross-entropy", "learning rate")
    return path


def write(f: Findings, out: Path) -> Path:
    """Write OUT/study.csv, a row a training, and OUT/study.html, with each arm's curves."""
    from carcls.conclusion import VERSIONS  # imports Keras, whose backend is chosen only now

    table, of_base = f.table(), f.of(BASE).values()
    disk.write_atomic(out / "study.csv", spreadsheet_safe(table).to_csv(index=False))
    with tempfile.TemporaryDirectory() as folder:

        def picture(name: str) -> str:
            base = [outcome.rows for outcome in of_base if outcome.rows]
            own = [outcome.rows for outcome in f.of(name).values() if outcome.rows]
            drawn = draw_arm(own, base if name != BASE else [], Path(folder) / "arm.png")
            return parts.image(drawn, f"Curves of {name}")

        text = parts.render(
            _PAGE,
            f=f,
            rows=summary(f).to_dict("records"),
            long=_LONG,
            caption=CAPTION,
            photos=table["photos"].max(),
            picture=picture,
            last=list(f.outcomes.values())[-1],
            versions={name: metadata.version(name) for name in VERSIONS},
        )
    disk.write_atomic(out / "study.html", text)
    return out / "study.html"

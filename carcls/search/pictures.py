"""Pictures of a search. Each is drawn to a path, or a sentence says why there is nothing to see."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from carcls.report.charts import GREY, drawing
from carcls.report.names import names, width
from carcls.search.book import BASE, show
from carcls.search.findings import Findings
from carcls.search.space import Choices, Range

_BLUES = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(1, 0.25, 256)))
Places = dict[str, float]  # by value, 0 to 1

_AWAY = -0.13  # where a value is drawn that its axis cannot have


def verdict(f: Findings, path: Path) -> str:
    """The winner less the base: the mean with its interval, and each seed."""
    change, half = f.verdict.change, f.verdict.half
    if not math.isfinite(change + half):
        return "There is no interval to draw."
    with drawing(path, 5.2, 1.9) as figure:
        axis = figure.subplots()
        axis.axvline(0, color="black", lw=1)
        axis.errorbar(change, 1, xerr=half, fmt="D", color="tab:orange", capsize=5, lw=2)
        axis.plot(f.verdict.by_seed, [0] * len(f.verdict.by_seed), "ok")
        far = 1.15 * max(abs(change) + half, *map(abs, f.verdict.by_seed))
        axis.set_xlim(-far or -1, far or 1)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_ylim(-0.6, 1.6)
        axis.set_yticks([0, 1], ["each seed", "mean"])
        axis.set_xlabel(f"log-loss: candidate {f.verdict.winner} less as they are")
        axis.set_title("← candidate better", loc="left", fontsize=9)
        axis.set_title("worse →", loc="right", fontsize=9)
    return ""


def candidates(f: Findings, path: Path) -> str:
    """Parallel coordinates: an axis a setting, a line a candidate."""
    losses = f.climbs[0].loss
    if len(losses) < 2:
        return "Fewer than two candidates ended their training: nothing to compare."
    axes = {
        name: _axis(part, [point[name] for point in f.points.values()])
        for name, part in f.book.space.items()
    }
    marks = {name: names((mark or "not set" for mark in axes[name][1]), 18) for name in axes}
    wide = [
        0.3 + max(0.09 * len(name), 0.075 * max(map(width, marks[name].shown))) for name in axes
    ]
    left = np.cumsum([0, *wide[:-1]])  # of each axis, in inches
    top = _top(losses.values())
    scale = Normalize(min(losses.values()), top)
    with drawing(path, max(5.2, sum(wide) + 1.9), 4.4, *marks.values()) as figure:
        axis = figure.subplots()
        axis.set_axis_off()
        axis.set_xlim(-0.6, sum(wide))
        axis.set_ylim(-0.2, 1.2)
        for name, x in zip(axes, left, strict=True):
            axis.plot([x, x], [0, 1], color="0.5", lw=1, zorder=1)
            axis.text(x - 0.08, 1.13, name, fontweight="bold", fontsize=9)
            for text, y in zip(marks[name].shown, axes[name][1].values(), strict=True):
                box = {"fc": "white", "ec": "none", "alpha": 0.75, "pad": 1}
                axis.text(x + 0.06, y, text, va="center", fontsize=8, bbox=box, zorder=9)
        for number in sorted(f.points, key=lambda n: -losses.get(n, math.inf)):  # best in front
            aside = number / len(f.points) - 0.5  # of the same choice: side by side
            ys = [at[f.points[number][name]] + aside * room for name, (at, _, room) in axes.items()]
            look: dict[str, Any] = {"color": "0.5", "ls": ":", "lw": 1}
            if number in losses:
                look = {"color": _BLUES(scale(losses[number])), "lw": 1}
            axis.plot(left, ys, **look | _look(f, number))
        more = [Line2D([], [], color="0.5", ls=":", label="diverged, or not trained")]
        _legend(figure, axis, more if len(losses) < len(f.points) else [])
        over = "max" if max(losses.values()) > top else "neither"
        bar = ScalarMappable(scale, _BLUES)
        figure.colorbar(bar, ax=axis, label="log-loss at the first rung", extend=over, pad=0.02)
    return ""


def _axis(part: Range | Choices, values: list[str]) -> tuple[Places, Places, float]:
    """Where values lie, 0 to 1; where marks lie; how far apart lines of one value may lie."""
    if isinstance(part, Choices):
        every = list(dict.fromkeys([*part.values, *values]))
        places = {value: i / max(1, len(every) - 1) for i, value in enumerate(every)}
        return places, places, 0.4 / len(every)
    to: Any = math.log if part.is_log else float
    back: Any = math.exp if part.is_log else float
    inside = {v: to(float(v)) for v in values if v and (float(v) > 0 or not part.is_log)}
    low, high = min(to(part.low), *inside.values()), max(to(part.high), *inside.values())
    places = {v: (x - low) / (high - low) for v, x in inside.items()}
    marks = {f"{back(low + share * (high - low)):.3g}": share for share in (0, 0.5, 1)}
    away = {v: _AWAY for v in values if v not in inside}  # the base's alone
    return places | away, marks | away, 0.0


def importance(f: Findings, path: Path) -> str:
    """A bar a setting."""
    if not f.importance:
        why = "too few trials differ" if "TPE" in f.proposer else "Optuna is not installed"
        return f"It is not known: {why}."
    shares = dict(sorted(f.importance.items(), key=lambda item: item[1]))
    with drawing(path, 5.2, 0.9 + 0.3 * len(shares)) as figure:
        axis = figure.subplots()
        bars = axis.barh(list(shares), list(shares.values()), color="tab:blue")
        axis.bar_label(bars, [f"{share:.0%}" for share in shares.values()], padding=3)
        axis.set_xlim(0, 1.12 * max(*shares.values(), 1e-9))
        axis.set_xlabel("share in what the log-losses differ by")
    return ""


def losses(f: Findings, path: Path) -> str:
    """A line a candidate through its rungs; those that came far are darker."""
    found = [climb.loss for climb in f.climbs]
    if len(found) < 2:
        return "There was one rung only: no line from one to the next."
    with drawing(path, 5.6, 4.2) as figure:
        axis = figure.subplots()
        for number in f.points:
            where = [i for i, loss in enumerate(found) if number in loss]
            ys = [found[i][number] for i in where]
            grey = 0.85 - 0.55 * (where[-1] if where else 0) / (len(found) - 1)
            look: dict[str, Any] = {"color": str(grey), "ls": "-", "zorder": 2 - grey}
            axis.plot(where, ys, marker="o", ms=4, **look | _look(f, number))
        rungs = [climb.rung for climb in f.climbs]
        epochs = [f"{r.epochs} epoch{'s' * (r.epochs > 1)}" for r in rungs]
        shown = [
            f"{show(r.size)}\n{text}" + "\nanew" * r.is_last
            for r, text in zip(rungs, epochs, strict=True)
        ]
        axis.set_xticks(range(len(found)), shown)
        going_on = [loss for some in found[1:] for loss in some.values()]
        top = max([_top(found[0].values()), *going_on, found[0].get(BASE, 0)])
        if max(found[0].values()) > top:
            axis.set_ylim(top=top)
            axis.set_title("candidates with higher log-loss are above the picture", fontsize=9)
        axis.set_ylabel("log-loss, photos that choose")
        _legend(figure, axis, [])
    return ""


def agreements(f: Findings, path: Path) -> str:
    """Places of the candidates at a size against those at the next one."""
    pairs = [
        (a, b)
        for a, b in zip(f.climbs, f.climbs[1:], strict=False)
        if len(a.loss.keys() & b.loss) > 1
    ]
    if not pairs:
        return "It cannot be told: no two candidates were trained at two sizes."
    with drawing(path, 0.4 + 2.6 * len(pairs), 3.0) as figure:
        for axis, (small, large) in zip(
            figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True
        ):
            both = sorted(small.loss.keys() & large.loss)
            at = [sorted(both, key=climb.loss.__getitem__) for climb in (small, large)]
            axis.plot([0.5, len(both) + 0.5], [0.5, len(both) + 0.5], color=GREY, lw=1)
            for number in both:
                x, y = (places.index(number) + 1 for places in at)
                colour = _look(f, number).get("color", "tab:blue")
                axis.text(x, y, number, ha="center", va="center", fontweight="bold", color=colour)
            for way in (axis.xaxis, axis.yaxis):
                way.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axis.set_xlim(0.3, len(both) + 0.7)
            axis.set_ylim(0.3, len(both) + 0.7)
            axis.set_xlabel(f"place at {show(small.rung.size)}")
            axis.set_ylabel(f"place at {show(large.rung.size)}")
    return ""


def _look(f: Findings, number: int) -> dict[str, Any]:
    """How the base and the winner stand out."""
    if number == BASE:
        return {"color": "black", "ls": "--", "lw": 2, "zorder": 5, "label": "as they are"}
    if number == f.verdict.winner:
        name = f"candidate {number}, " + ("taken" if f.taken else "the best of the others")
        return {"color": "tab:orange", "lw": 2.5, "zorder": 4, "label": name}
    return {}


def _legend(figure: Any, axis: Any, more: list[Any]) -> None:
    shown = [*axis.get_legend_handles_labels()[0], *more]
    figure.legend(handles=shown, loc="outside lower left", ncols=3, fontsize=9, frameon=False)


def _top(losses: Iterable[float]) -> float:
    """Up to where losses are shown: a candidate that learned nothing would make the others one."""
    found = np.array(list(losses))
    return float(min(found.max(), 4 * np.median(found) - 3 * found.min()))


DRAWN = {
    "verdict": (
        verdict,
        "Log-loss of the winner less that of the settings as they are, on photos kept apart from "
        "the search: mean and 95 % interval, by photos and by seeds, and each seed as a point. "
        "Look for an interval that lies left of zero as a whole: then the winner is taken.",
    ),
    "candidates": (
        candidates,
        "An axis a setting, a line a candidate; the darker, the lower its log-loss. Rates are on "
        "logarithmic axes; candidates of the same choice lie side by side. Look for an axis on "
        "which the dark lines meet: that value is good whatever the others are.",
    ),
    "importance": (
        importance,
        "How much of the differences in log-loss at the first rung each setting explains (fANOVA, "
        "by Optuna). Look for settings near 0: they need not be searched again.",
    ),
    "losses": (
        losses,
        "A line a candidate; grey ends where it stayed behind, darker lines went on. The last rung "
        "trains anew, with other seeds. Look for lines that cross: there a smaller size had "
        "ranked otherwise.",
    ),
    "agreements": (
        agreements,
        "Candidates by number, of those that were at both sizes; place 1 has the lowest log-loss, "
        "0 is the settings as they are. Look for numbers on the grey line: both sizes rank alike.",
    ),
}

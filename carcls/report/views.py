"""Charts of test-time augmentation: what the views of a photo say, and how many are worth it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from carcls.report.charts import GREEN, RED, Classes, count_photos, drawing, spread_ticks
from carcls.report.names import names, width
from carcls.votes.votes import Votes

CAPTIONS = {
    "matrix.png": "The class that each view votes for, a row a photo, the most disputed at the "
    "top; left: the true class; white: not given. Look for a column unlike its neighbours: a view "
    "that harms; and for two colours that share many rows: classes that are confused.",
    "agreement.png": "Photos by how many of their views agree with the prediction. Look for "
    "accuracy that falls to the left: there, agreement tells which predictions to trust.",
    "tta_curve.png": "Validation accuracy and log-loss by number of views, a line a member. Look "
    "for where the lines become flat: more views only cost time. Differences smaller than the "
    "band, the 95 % interval, may be chance.",
    "trade_off.png": "Validation log-loss (lower is better) and accuracy by the mean number of "
    "passes per photo. On the grey line every photo has the same number of views; at the points "
    "only disputed photos get more. Look for points left of the line at the same height: the same "
    "for fewer passes.",
}

# The room above 100 % has no tick.
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g}%" if share < 1 + 1e-9 else "")


def sort_by_dispute(votes: Votes) -> np.ndarray:
    """(photos,) indices: the photos whose views agree least first, equal ones by class."""
    return np.lexsort((votes.together().argmax(1), votes.agreement()))


def matrix(votes: Votes, classes: Classes, path: Path, most: int = 400) -> Path:
    """Predicted class by photo and view, of the most disputed photos."""
    chosen = sort_by_dispute(votes)[:most]
    rows, views = len(chosen), int(votes.n_views.max())
    shown = names(classes, 28)
    ids = names((votes.ids[i] for i in chosen) if rows <= 40 else (), 24, "photo ")
    # Rows of 17 px with their ids up to 40 photos, else of 7 px or fewer: 2.7 with 400 photos.
    height = max(3.5, 1.5 + (0.17 * rows if rows <= 40 else min(11.0, 0.07 * rows)))
    wide = 5.5 + 0.11 * views + 0.07 * max(map(width, shown.shown))
    with drawing(path, wide, height, shown, ids) as figure:
        axis = figure.subplots()
        tops = votes.tops()[:views, chosen].T
        image = _colour_classes(axis, tops, (-0.5, views - 0.5), len(classes))
        wide = max(0.5, views / 24)
        left = -0.5 - 1.3 * wide
        _colour_classes(axis, votes.labels[chosen, None], (left, left + wide), len(classes))
        ticks = spread_ticks(views, 16)
        axis.set_xlim(left, views - 0.5)
        axis.set_xticks([left + wide / 2, *ticks], ["true", *map(str, ticks)])
        axis.set_xlabel("view (0: the photo itself, 1: its mirror image)")
        axis.set_ylabel("photo, the most disputed first")
        if rows <= 40:
            axis.set_yticks(range(rows), ids.shown, fontsize=8)
        else:
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        bar = figure.colorbar(image, label="predicted class", pad=0.02, aspect=5 * height)
        marked = spread_ticks(len(classes), min(40, int((height - 1.2) / 0.17)))
        bar.set_ticks(marked, labels=[shown.shown[i] for i in marked], fontsize=8)
        bar.ax.minorticks_off()
        bar.ax.invert_yaxis()  # like the rows, which go down by class
        disputed = (votes.agreement() < 1).sum()
        title = f"views disagree on {disputed:,} of {len(votes.ids):,} photos"
        part = f"\nshown: the {rows:,} most disputed" if rows < len(votes.ids) else ""
        figure.suptitle(title + part, fontsize=11)
    return path


def _colour_classes(axis: Any, image: np.ndarray, extent: tuple[float, float], classes: int) -> Any:
    """Show (rows, columns) class indices between those two x, a colour a class, −1 white."""
    # The last tenth of nipy_spectral is dark reds that look alike and a grey that looks like white.
    spectrum = matplotlib.colormaps["nipy_spectral"](np.linspace(0, 0.9, classes))
    return axis.imshow(
        np.ma.masked_less(image, 0),
        extent=(*extent, len(image) - 0.5, -0.5),
        cmap=ListedColormap(spectrum).with_extremes(bad="white"),
        norm=BoundaryNorm(np.arange(classes + 1) - 0.5, classes),
        interpolation="nearest",
        aspect="auto",
    )


def agreement(votes: Votes, path: Path) -> Path:
    """How many photos, and how many of them right, by the share of views that agree."""
    share, is_right = votes.agreement(), votes.together().argmax(1) == votes.labels
    bins, names = group_agreement(share, votes.n_views)
    total = np.bincount(bins, minlength=len(names))
    right = np.bincount(bins[is_right], minlength=len(names))
    with drawing(path, min(11.0, max(6.0, 2 + 0.8 * len(names))), 4.2) as figure:
        axis = figure.subplots()
        axis.bar(range(len(names)), right, color=GREEN, label="right")
        axis.bar(range(len(names)), total - right, bottom=right, color=RED, label="wrong")
        for i in np.flatnonzero(total):
            text = f"{right[i] / total[i]:.1%}\n{count_photos(total[i])}"
            axis.text(i, total[i], text, ha="center", va="bottom", fontsize=8)
        axis.set_xlim(min(-0.6, len(names) / 2 - 2), max(len(names) - 0.4, len(names) / 2 + 1))
        axis.set_ylim(0, 1.2 * total.max())
        axis.set_xticks(range(len(names)), names)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("views that agree with the combined prediction")
        axis.set_ylabel("photos")
        title = f"all views agree on {(share == 1).mean():.1%} of {count_photos(len(bins))}"
        axis.set_title(f"{title}; above the bars: accuracy", fontsize=11)
        axis.legend(loc="upper left")
    return path


def group_agreement(agreement: np.ndarray, n_views: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(photos,) index of each photo's bin, and the bins' names, from the lowest that has a photo.

    A bin is a number of views where all photos were given the same few, else a tenth; the last one
    is of unanimous photos.
    """
    if n_views.min() == n_views.max() <= 12:
        views = int(n_views[0])
        bins = np.rint(agreement * views).astype(int)
        names = [f"{n} of {views}" for n in range(views + 1)]
    else:
        tenth = np.minimum(9, np.floor(agreement * 10 + 1e-9))  # 0.3 × 10 may be 2.999…
        bins = np.where(agreement == 1, 10, tenth).astype(int)
        names = [f"{10 * n}–{10 * n + 10}%" for n in range(9)] + ["90–99%", "all"]
    lowest = int(bins.min())
    return bins - lowest, names[lowest:]


def tta_curve(tables: dict[str, pd.DataFrame], used: int | None, path: Path) -> Path:
    """Accuracy and log-loss by number of views, from ``votes.curve`` of each member.

    used: views that the submission uses; None where photos differ in it.
    """
    members = names(tables, 40)
    with drawing(path, 11, 4.4, members) as figure:
        axes = left, right = figure.subplots(1, 2)
        for n, (name, rows) in enumerate(zip(members.shown, tables.values(), strict=True)):
            views, colour = rows["views"], f"C{n % 10}"
            left.plot(views, rows["accuracy"], "o-", ms=3, color=colour, label=name)
            right.plot(views, rows["log_loss"], "o-", ms=3, color=colour)
            left.fill_between(views, rows["low"], rows["high"], color=colour, alpha=0.15, lw=0)
        if used is not None:
            left.axvline(used, color="0.3", ls=":", zorder=0, label=f"used: {used} views")
            right.axvline(used, color="0.3", ls=":", zorder=0)
        _label_views(axes, "views per photo", max(rows["views"].max() for rows in tables.values()))
        left.set_ylabel("validation accuracy, 95 % interval")
        left.yaxis.set_major_formatter(PERCENT)
        right.set_ylabel("validation log-loss")
        figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return path


def trade_off(table: pd.DataFrame, path: Path) -> Path:
    """Log-loss and accuracy by passes per photo, fixed and adaptive, from ``votes.trade_off``."""
    is_fixed = table["rule"].str.startswith("fixed")
    fixed, adaptive = table[is_fixed], table[~is_fixed]
    first = adaptive["rule"].str.extract(r"(\d+)", expand=False).astype(int)  # "from 4 up to 32"
    colour = {n: f"C{i + 1}" for i, n in enumerate(sorted(set(first)))}
    marker = {most: "osD^vP*X"[i % 8] for i, most in enumerate(sorted(set(adaptive["cap"])))}
    hollow: Any = {"ls": "", "mew": 1.5, "mfc": "none"}
    with drawing(path, 11, 5.0 if len(adaptive) else 4.2) as figure:
        axes = figure.subplots(1, 2)
        for axis, name in zip(axes, ("log_loss", "accuracy"), strict=True):
            axis.plot(fixed["passes"], fixed[name], ".-", color="0.5", zorder=1)
            for n, rows in adaptive.groupby(first):
                axis.plot(rows["passes"], rows[name], color=colour[n], lw=0.8, alpha=0.6)
                for x, y, most in zip(rows["passes"], rows[name], rows["cap"], strict=True):
                    axis.plot(x, y, marker[most], ms=7, mec=colour[n], zorder=3, **hollow)
            axis.set_ylabel(f"validation {name.replace('_', '-')}")
        _label_views(axes, "passes per photo, mean", table["passes"].max())
        axes[1].yaxis.set_major_formatter(PERCENT)
        keys = [Line2D([], [], color="0.5", marker=".", label="fixed: the same for every photo")]
        keys += [Line2D([], [], color=c, label=f"first {n} views") for n, c in colour.items()]
        keys += [
            Line2D([], [], marker=m, mec="0.3", label=f"disputed: up to {most} views", **hollow)
            for most, m in marker.items()
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=4, fontsize=9)
    return path


def _label_views(axes: Any, label: str, last: float) -> None:
    """Views from 1 to ``last`` on the x axis, each power of two as a plain number."""
    powers = [2**k for k in range(int(np.ceil(last)).bit_length())]
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xlim(2**-0.3, 2**0.3 * last)
        axis.set_xticks(powers, [str(p) for p in powers])
        axis.minorticks_off()
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)

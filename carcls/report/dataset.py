"""Pictures of a data set: its classes, the photos' sizes and light, examples, look-alikes.

Each function returns the picture's path and caption, or None and a sentence where there is nothing
to draw.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter

from carcls.data.photos import TEST, TRAIN, VALIDATION
from carcls.report import sheets
from carcls.report.charts import GREEN, GREY, RED, Classes, drawing
from carcls.report.names import Names, names

Drawn = tuple[Path | None, str]
MOST_BARS = 40  # classes; of more, the curve of all and the names of some
ENDS = 12  # of more classes: so many of the most and of the least frequent
SHEET = 48  # photos on a sheet
_SHAPES = ((1, 4), (2, 5), (9, 16), (3, 4), (1, 1), (4, 3), (16, 9), (5, 2), (4, 1))
_TRAIN, _HELD, _TEST = "tab:blue", "#a6cbe8", "tab:orange"


def classes(frame: pd.DataFrame, labels: Classes, path: Path) -> Drawn:
    """How many photos each class has; a stack of those to train and to validate."""
    label, fold = frame["label"].to_numpy(), frame["fold"].to_numpy()
    train, held = (
        np.bincount(label[fold == f], minlength=len(labels)) for f in (TRAIN, VALIDATION)
    )
    order = np.argsort(-(train + held), kind="stable")
    few = len(labels) <= MOST_BARS
    shown = _only(names(labels, 28), order if few else [*order[:ENDS], *order[-ENDS:]])
    with drawing(path, 8, 1.2 + 0.24 * len(labels) if few else 6.4, shown) as figure:
        if few:
            bars = figure.subplots()
            _bars(bars, order, train, held, shown)
        else:
            whole, bars, last = figure.subplot_mosaic([["all", "all"], ["most", "least"]]).values()
            rank = np.arange(1, len(labels) + 1)
            whole.fill_between(rank, (train + held)[order], step="mid", color=_TRAIN)
            whole.set_xlim(0.5, len(labels) + 0.5)
            whole.set_ylim(0)
            whole.set_xlabel("classes, the most frequent first")
            whole.set_ylabel("labelled photos")
            _bars(bars, order[:ENDS], train, held, shown)
            _bars(last, order[-ENDS:], train, held, shown)
            bars.set_title("most frequent", fontsize=10)
            last.set_title("least frequent", fontsize=10)
        handles = bars.get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper right", ncols=2, fontsize=8)
    ends_only = "" if few else f" Named are the {ENDS} most and the {ENDS} least frequent."
    return path, (
        f"Labelled photos of each of {len(labels):,} classes.{ends_only} Look for classes with few "
        "photos: they are learned badly and measured worse (oversample=true shows them more often)."
    )


def _only(shown: Names, rows: Iterable[int]) -> Names:
    """The names, with what numbers stand for of those rows alone."""
    numbers = {shown.shown[row] for row in rows}
    legend = [line for line in shown.legend if line.partition(":")[0] in numbers]
    return Names(shown.shown, legend, shown.fonts)


def _bars(axis: Any, rows: np.ndarray, train: np.ndarray, held: np.ndarray, shown: Names) -> None:
    at = np.arange(len(rows))[::-1]
    axis.barh(at, train[rows], color=_TRAIN, label="to train")
    bars = axis.barh(at, held[rows], left=train[rows], color=_HELD, label="to validate")
    axis.bar_label(bars, [f"{n:,}" for n in (train + held)[rows]], padding=3, fontsize=8)
    axis.set_yticks(at, [shown.shown[row] for row in rows], fontsize=9)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlim(0, 1.15 * (train + held)[rows].max())
    axis.set_xlabel("labelled photos")


def sizes(frame: pd.DataFrame, path: Path) -> Drawn:
    """Widths against heights, and shapes; frame: of photos that can be read."""
    of = frame.groupby([frame["fold"] == TEST, "width", "height"]).size()
    counts = of.rename("n").reset_index().rename(columns={"fold": "test"})
    if len(counts[["width", "height"]].drop_duplicates()) == 1:
        return None, f"All photos are {counts['width'][0]}×{counts['height'][0]} px."
    with drawing(path, 10, 4.4) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for is_test, name, colour in ((False, "train", _TRAIN), (True, "test", _TEST)):
            some = counts[counts["test"] == is_test]
            area = 6 + 600 * some["n"] / len(frame)
            look: Any = {"alpha": 0.4, "color": colour, "linewidths": 0, "label": name}
            left.scatter(some["width"], some["height"], s=area, **look)
            shape = np.log2(some["width"] / some["height"])
            _shares(right, shape, np.linspace(-2.2, 2.2, 45), name, colour, some["n"])
        shapes = np.log2(frame["width"] / frame["height"])
        low, high = max(-2.2, shapes.min() - 0.4), min(2.2, shapes.max() + 0.4)
        marked = {f"{w}:{h}": w / h for w, h in _SHAPES if low <= np.log2(w / h) <= high}
        wide, high_most = 1.06 * frame["width"].max(), 1.06 * frame["height"].max()
        left.set(xlim=(0, wide), ylim=(0, high_most), xlabel="width, px", ylabel="height, px")
        for ratio in marked.values():
            left.plot([0, ratio * high_most], [0, high_most], color="0.8", lw=0.8, zorder=0)
        for handle in left.legend(loc="lower right", fontsize=9).legend_handles:
            handle.set_sizes([40])
        right.set_xlim(low, high)
        right.set_xticks(np.log2([*marked.values()]), [*marked], fontsize=8)
        right.set_xlabel("shape, width : height")
    return path, (
        "Left: width and height of photos; the more photos have a size, the larger its mark; "
        f"lines: {', '.join(marked)}. Right: shapes. Look for test photos that differ from train "
        "photos, and for sizes below those of stages=, which are enlarged."
    )


def light(frame: pd.DataFrame, path: Path) -> Drawn:
    """Brightness and contrast; frame: of photos that were seen, with these columns."""
    with drawing(path, 10, 3.4) as figure:
        for axis, column, end in zip(
            figure.subplots(1, 2), ("brightness", "contrast"), (255, 128), strict=True
        ):
            for is_test, name, colour in ((False, "train", _TRAIN), (True, "test", _TEST)):
                some = frame.loc[(frame["fold"] == TEST) == is_test, column]
                _shares(axis, some, np.linspace(0, end, 33), name, colour)
            axis.set_xlim(0, end)
            axis.legend(fontsize=9)
            axis.set_xlabel(f"{column} of a photo, 0–{end}")
    return path, (
        "Mean (brightness) and standard deviation (contrast) of the grey of each photo. Look for "
        "test photos that are darker or paler than train photos, and for photos at the edges, "
        "which may be empty."
    )


def _shares(
    axis: Any, values: Any, edges: np.ndarray, name: str, colour: str, n: Any = None
) -> None:
    """A histogram, in shares of all; what lies outside counts at the edge."""
    weights = np.ones(len(values)) if n is None else np.asarray(n, float)
    look: Any = {"label": name, "color": colour}
    look |= {"histtype": "step", "lw": 1.6} if name == "test" else {"alpha": 0.5}
    inside = np.clip(np.asarray(values, float), edges[0], edges[-1])
    axis.hist(inside, edges, weights=weights / max(1.0, weights.sum()), **look)
    axis.set_ylabel("share of photos")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def examples(frame: pd.DataFrame, labels: Classes, seed: int, path: Path) -> Drawn:
    """Photos of each class, or of some of many classes, at random."""
    each = next((n for n in (6, 3) if n * len(labels) <= SHEET), 2)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(labels))[: SHEET // each])
    shuffled = frame[frame["label"].isin(chosen)].sample(frac=1, random_state=rng)
    some = shuffled.groupby("label", sort=False).head(each).sort_values("label", kind="stable")
    shown = _only(names(labels, sheets.NAME), chosen)
    titles = [[shown.shown[label]] for label in some["label"]]
    sheets.sheet(some, titles, path, "there is no labelled photo", shown=shown)
    which = (
        "each class" if len(chosen) == len(labels) else f"{len(chosen)} of {len(labels):,} classes"
    )
    return path, f"Up to {each} photos of {which}, at random. Look for what a class has in common."


def similar(frame: pd.DataFrame, pairs: pd.DataFrame, labels: Classes, path: Path) -> Drawn:
    """Photos of one picture side by side, those with different labels first; pairs: of a look."""
    if pairs.empty:
        return None, "No two photos show the same picture in files that differ."
    some = pairs.head(SHEET // 2)
    rows = some[["a", "b"]].to_numpy().ravel()
    shown, ids = names(labels, sheets.NAME), names(frame["id"].iloc[rows], 22, "photo ")
    titles = []
    for n, (label, fold) in enumerate(frame[["label", "fold"]].iloc[rows].to_numpy(int)):
        pair = some.iloc[n // 2]
        apart = f"{pair['distance']} bits" + (", mirrored" if pair["mirrored"] else "")
        what = "test photo" if fold == TEST else f"label {shown.shown[label]}"
        titles.append([ids.shown[n], what, apart])
    colours = {"different labels": RED, "same label": GREEN}
    borders = [colours.get(finding, GREY) for finding in some["finding"].repeat(2)]
    labelled = frame["label"].iloc[rows]
    shown = _only(shown, labelled[labelled >= 0])
    both = Names([], shown.legend + ids.legend, sorted({*shown.fonts, *ids.fonts}))
    sheets.sheet(frame.iloc[rows], titles, path, "", borders, both)
    count = f"{len(some):,} of {len(pairs):,} pairs" if len(some) < len(pairs) else "Pairs"
    return path, (
        f"{count} of photos that show the same picture, and in how many of 63 bits their hashes "
        "differ. Red: different labels, one of which is wrong; green: the same label; grey: with a "
        "test photo. Not found are photos that were cut or lost their colours. similar.csv lists "
        "all pairs."
    )

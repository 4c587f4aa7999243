"""Charts of a run's epochs and classes, and what all pictures are drawn with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure  # without pyplot: there is no screen on Kaggle
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from carcls import disk
from carcls.report.names import FONT, Names, names, width

CAPTIONS = {
    "curves.png": "Loss, accuracy and learning rate after every epoch; grey lines mark a new "
    "photo size. Training photos are augmented, and the loss includes label smoothing. Look for "
    "validation loss that rises again: training went on too long.",
    "confusion.png": "Validation photos by true class (rows) and predicted class (columns); the "
    "darker a cell, the larger its share of the true class. Photos off the diagonal are errors. "
    "Red: the two classes that are most often taken for each other.",
    "calibration.png": "Validation photos in groups of as many each by how sure their prediction "
    "is: how sure on average, and which share is right, with its 95 % interval. Below the "
    "diagonal the network is surer than it is right.",
}

Classes = Sequence[int | str]  # class index → label as in train.csv
GREEN, RED, GREY, BLUE = "tab:green", "tab:red", "0.7", "tab:blue"


LEGEND = "Legend"  # where a PNG file has what its numbers stand for


@contextmanager
def drawing(path: Path, wide: float, high: float, *shown: Names) -> Iterator[Figure]:
    """A figure of that size in inches, saved to the path at the end; shown: the names in it."""
    fonts = [FONT, *(font for some in shown for font in some.fonts)]
    legend = "; ".join(line for some in shown for line in some.legend)
    with matplotlib.rc_context({"font.family": fonts, "text.usetex": False}):
        figure = Figure(figsize=(wide, high), layout="constrained")
        yield figure
        with disk.replacing(path) as part:
            figure.savefig(part, dpi=100, metadata={LEGEND: legend} if legend else {})


def curves(history: pd.DataFrame, path: Path, title: str = "") -> Path:
    """Loss, accuracy and learning rate of one network by epoch."""
    epoch = np.arange(1, len(history) + 1)
    new_size = epoch[(history["stage"].diff() > 0).to_numpy()]
    heading = names([title], 100)
    with drawing(path, 12, 3.6 + 0.3 * bool(title), heading) as figure:
        if title:
            figure.suptitle(heading.shown[0])
        axes = figure.subplots(1, 3)
        for axis, name in zip(axes[:2], ("loss", "accuracy"), strict=True):
            axis.plot(epoch, history[name], "o-", ms=3, label="training, augmented")
            if history[f"val_{name}"].notna().any():  # a refit has none
                axis.plot(epoch, history[f"val_{name}"], "o-", ms=3, label="validation")
            axis.legend()
        axes[2].plot(epoch, history["lr"], "o-", ms=3, color=GREEN)
        axes[2].set_yscale("log")
        label_epochs(axes, "cross-entropy", "accuracy", "learning rate")
        for axis in axes:
            axis.set_xlim(0.5, len(history) + 0.5)
            for first in new_size:
                axis.axvline(first - 0.5, color="0.8", zorder=0)
    return path


def calibration(before: pd.DataFrame, after: pd.DataFrame, path: Path) -> Path:
    """How sure predictions are against how often they are right: two ``calibrate.reliability``.

    after: with the temperature; the same table as before where there is none.
    """
    with drawing(path, 5.6, 5.2) as figure:
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], "--", color=GREY, zorder=0)
        pairs = [("as they are", before, BLUE), ("with the temperature", after, GREEN)]
        for label, table, colour in pairs[:1] if after is before else pairs:
            shown, error = table["accuracy"], (table["confidence"] - table["accuracy"]).abs()
            off = f"{label}, {np.average(error, weights=table['photos']):.3f} off on average"
            bars = np.maximum(0, [shown - table["low"], table["high"] - shown])  # but for rounding
            look: Any = {"fmt": "o-", "ms": 4, "lw": 1.2, "elinewidth": 0.8, "color": colour}
            axis.errorbar(table["confidence"], shown, yerr=bars, label=off, **look)
        least = min(before["confidence"].min(), after["confidence"].min())
        axis.set_xlim(max(0.0, least - 0.05), 1.01)
        axis.set_ylim(0, 1.02)
        axis.set_xlabel("mean probability of the predicted class")
        axis.set_ylabel("share that is right")
        axis.legend()
    return path


def label_epochs(axes: Any, *labels: str) -> None:
    """Name the axes of charts by epoch; a label for each y axis."""
    for axis, label in zip(axes, labels, strict=True):
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def confusion(classes: Classes, truth: np.ndarray, predicted: np.ndarray, path: Path) -> Path:
    """Photos by true and predicted class (photos,); the pair that is confused most is outlined."""
    n = len(classes)
    counts = np.zeros((n, n), int)
    np.add.at(counts, (truth, predicted), 1)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    shown = names(classes, 28)
    longest = max(map(width, shown.shown))
    side = min(11.0, max(3.2, 0.45 * n) + 1.3 + 0.07 * longest)
    with drawing(path, side + 1, side, shown) as figure:
        axis = figure.subplots()
        scale = PowerNorm(0.5, 0, 1)  # on a linear one, one photo of thirty looks like none
        image = axis.imshow(shares, cmap="Blues", norm=scale, interpolation="nearest")
        for row, column in np.argwhere(counts) if n <= 30 else ():
            colour = "white" if scale(shares[row, column]) > 0.6 else "black"
            look: Any = {"ha": "center", "va": "center", "fontsize": 8, "color": colour}
            axis.text(column, row, counts[row, column], **look)
        ticks = spread_ticks(n, 40)
        labels = [shown.shown[t] for t in ticks]
        axis.set_xticks(ticks, labels, rotation=90 if longest > 3 else 0, fontsize=9)
        axis.set_yticks(ticks, labels, fontsize=9)
        axis.set_xlabel("predicted class")
        axis.set_ylabel("true class")
        marks = [0, 0.02, 0.1, 0.25, 0.5, 1]
        figure.colorbar(image, label="share of the true class", ticks=marks, shrink=0.8)
        axis.set_title(_outline_most_confused(axis, counts, shown.shown), fontsize=11)
    return path


def _outline_most_confused(axis: Any, counts: np.ndarray, names: list[str]) -> str:
    """Draw red squares around the cells of the pair that is confused most; returns a title."""
    both = np.triu(counts + counts.T, 1)
    i, j = divmod(int(both.argmax()), len(counts))
    half = max(0.5, len(counts) / 80)  # small cells: easier to find
    look: Any = {"fill": False, "ec": RED, "lw": 2, "zorder": 3, "clip_on": False}
    for row, column in ((i, j), (j, i)):
        axis.add_patch(Rectangle((column - half, row - half), 2 * half, 2 * half, **look))
    gap = "\n" if width(names[i] + names[j]) > 16 else " "
    return f"most confused: {names[i]}{gap}↔ {names[j]}, {count_photos(both[i, j])}"


def count_photos(n: int) -> str:
    return f"{n:,} photo{'' if n == 1 else 's'}"


def spread_ticks(n: int, most: int) -> list[int]:
    """0, k, 2k, … below n, at most ``most``; k is 1, 2, 4, 5 or 8 times a power of ten."""
    steps = (k * 10**e for e in range(9) for k in (1, 2, 4, 5, 8))
    step = next(k for k in steps if -(-n // k) <= max(1, most))
    return list(range(0, n, step))

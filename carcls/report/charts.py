"""Pictures of what a run has measured, from plain arrays and tables: each is a PNG, and CAPTIONS says what it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pandas as pd

from carcls.config import Config
from carcls.data import augment, photos
from carcls.data.boxes import SIDES
from carcls.data.boxes import of as boxes_of
from carcls.errors import InputError
from carcls.votes.votes import Votes

matplotlib.use("agg")  # files only: there is no screen on Kaggle
import matplotlib.pyplot as plt
from matplotlib.colors import BoundaryNorm, ListedColormap, PowerNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

Classes = Sequence[int | str]  # class index → label as in train.csv

CAPTIONS = {
    "augmentation.png": "Left: photos as validation sees them. Right of each: what training makes of it, five draws of the "
    "augmentation policy at its full strength. Look for cars that a person could not recognise.",
    "audit.png": "Photos that the audit found something about, dropped ones first (red): above each its id, what was found, and "
    "what was done with it. audit.csv has all of them, and what there is no file of. Look for photos that were dropped although you could use them.",
    "boxes.png": "Photos with the box (yellow) that training, validation and prediction cut them to: first those of which the least is "
    "left, then others at random; above each its id and how much of it is left. Look for boxes that cut off parts of the car, or "
    "show another one.",
    "curves.png": "Loss (mean cross-entropy per photo, with label_smoothing against the smoothed labels, so not the log-loss of the "
    "tables) and accuracy after every epoch, on the training photos as they are "
    "augmented and, except in a refit, which has none left, on the validation photos as they are; the learning rate at the "
    "end of each epoch; grey lines are changes of photo size.",
    "arm.png": "Beside each row: accuracy (left) and loss (middle) after every epoch, on the validation photos as they are (blue; the "
    "base's grey) and on the training photos as they are augmented (green, dotted), a line a seed; right, the learning rate at the "
    "end of each epoch. With label_smoothing the loss is against smoothed labels. Look for accuracy that still rises at the end: that "
    "arm was compared too early.",
    "matrix.png": "Predicted class (colour) by photo (rows) and view (columns): view 0 is the photo itself, 1 its mirror image. "
    "The photos on which the views disagree most are at the top, below each other by class; white are views that a photo "
    "was not given; the narrow column on the left is the true class where it is known. Look for a column that is "
    "unlike its neighbours (a view that harms) and for two colours that often share a row (classes that are confused).",
    "agreement.png": "How many photos there are by the share of their views that agree with the combined prediction; above each "
    "bar the accuracy of its photos, where labels are known, and their number. Look for accuracy that falls to the "
    "left: there the agreement says which predictions to trust. Wrong photos in the bar on the right are errors that "
    "more views cannot mend.",
    "tta_curve.png": "Validation accuracy with its 95 % interval (band) and log-loss against the number of views per photo, one "
    "line a member. Look for where the lines become flat: views beyond that only cost time. A difference smaller than "
    "the band may be chance.",
    "trade_off.png": "Validation log-loss (lower is better) and accuracy against the mean number of passes per photo. Line: every "
    "photo gets the same number of views. Points: every photo gets the first round, and only disputed photos get "
    "more, up to the cap. Look for points left of the line at the same height: the same quality for fewer passes.",
    "confusion.png": "Validation photos by true class (rows) and predicted class (columns); the colour is the "
    "share of the true class, on a scale that shows small shares. Off the diagonal are errors; the pair of classes that "
    "is confused most, both ways together, is outlined.",
    "disputed.png": "The photos on which the views disagree most: above each, how many views say which class, and its true class "
    "where it is known. Border: green if the combined prediction is right, red if it is wrong, grey if nobody knows. Look for "
    "what the photos have in common: small or cut-off cars, odd angles, several cars. Yellow: the box that a photo is cut to, where there is one.",
    "errors.png": "Validation photos that are predicted wrongly, the most confident error first: true class → predicted class "
    "and its probability. Look for wrong labels among the first ones. Yellow: the box that a photo is cut to, where there is one.",
    "suspicious.png": "Labelled photos whose label the votes contradict, the most confident first: the class in train.csv, the class "
    "that the votes say, and its probability. Look for labels that are wrong; photos that are rightly labelled and only "
    "hard should stay as they are. Yellow: the box that a photo is cut to, where there is one.",
}

# A sheet of photos: tiles of that height and width in px, so many beside each other, with a gap in
# inches.
TILE = (138, 184)
COLUMNS = 6
GAP = 0.16
NAME = 18  # characters of a class's name above a tile
GREEN, RED, GREY, BLUE = "tab:green", "tab:red", "0.7", "tab:blue"


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of that size in inches, saved atomically and closed."""
    figure = plt.figure(figsize=(width, height), layout="constrained")
    try:
        yield figure
        part = path.with_name(f".{path.stem}.part.png")
        figure.savefig(part, dpi=100)
        part.replace(path)
    finally:
        plt.close(figure)


# --- Before and during training -------------------------------------------------------------------


def augmentation(
    cfg: Config, table: photos.Table, path: Path, count: int = 6, draws: int = 5
) -> Path:
    """A grid of training photos, one a row, beside draws of the policy (S23, S24)."""
    stage = cfg.stages[-1]
    size = (stage.height, stage.width)
    policy = augment.policy(cfg.augment, *size, cfg.fit, cfg.strength)
    chosen = table.train.sample(min(count, len(table.train)), random_state=cfg.seed)
    rows = []
    for n, (item, box) in enumerate(zip(chosen.itertuples(), boxes_of(chosen), strict=True)):
        try:
            photo = photos.read_box(
                item.path, box, 2 * size[0], 2 * size[1], item.height, item.width
            )
        except InputError:  # grey, as it is in training
            photo = np.full((*size, 3), augment.GREY, np.uint8)
        made = [policy(photo, (cfg.seed, n, draw)) for draw in range(draws)]
        rows.append([augment.view(photo, size, cfg.fit), *made])
    with _figure(path, 2.2 * (draws + 1), 2.2 * size[0] / size[1] * len(rows) + 0.5) as figure:
        axes = figure.subplots(len(rows), draws + 1, squeeze=False)
        for line, images in zip(axes, rows, strict=True):
            for n, (axis, image) in enumerate(zip(line, images, strict=True)):
                axis.imshow(image)
                axis.set_axis_off()
                if axis in axes[0]:
                    axis.set_title("as it is" if n == 0 else f"{cfg.augment}, draw {n}", fontsize=9)
    return path


def audit(table: photos.Table, path: Path, most: int = 48) -> Path:
    """Photos that were dropped, then others that the audit has findings about, some of each kind, with all their findings (S11)."""
    found = table.audit.assign(
        dropped=table.audit["action"] == "dropped", kind=table.audit.groupby("finding").cumcount()
    )
    found["line"] = [
        _lines(f"{finding} → {action}".split(), " ", 28)
        for finding, action in zip(found["finding"], found["action"], strict=True)
    ]
    found = (
        found.groupby(["source", "id"], sort=False)
        .agg({"line": "sum", "dropped": "any", "kind": "min"})
        .reset_index()
    )
    found = found.merge(table.looked[table.looked["path"] != ""].drop_duplicates(["source", "id"]))
    used = table.frame.loc[table.frame["source"] != "test", "id"]
    found["dropped"] &= ~found["id"].isin(used)  # of two rows one may have been kept
    shown = found.sort_values(["dropped", "kind"], ascending=[False, True], kind="stable").head(
        most
    )
    titles = [
        "\n".join([_text(f"{source} {name}", 28), *lines])
        for source, name, lines in zip(shown["source"], shown["id"], shown["line"], strict=True)
    ]
    borders = [RED if dropped else GREY for dropped in shown["dropped"]]
    empty = (
        "the audit found nothing"
        if table.audit.empty
        else "what the audit found is about no photo that has a file"
    )
    return _sheet(shown, list(range(len(shown))), titles, borders, path, empty)


def boxes(frame: pd.DataFrame, path: Path, count: int = 48) -> Path:
    """Photos with the box that they are cut to: the smallest shares of a photo, then others at random (S12)."""
    cut, (height, width) = boxes_of(frame), (frame["height"].to_numpy(), frame["width"].to_numpy())
    share = (cut[:, 2:] - cut[:, :2]).prod(axis=1) / np.maximum(1, height * width)
    cropped = frame.assign(share=share)[frame["readable"] & (share < 1)].sort_values(
        "share", kind="stable"
    )
    smallest = cropped.head(count // 3)
    rest = cropped.iloc[len(smallest) :]
    shown = pd.concat(
        [smallest, rest.sample(min(count - len(smallest), len(rest)), random_state=1)]
    )
    titles = [
        f"{_text(f'{source} {name}', 28)}\n{share:.0%} of the photo"
        for source, name, share in zip(shown["source"], shown["id"], shown["share"], strict=True)
    ]
    return _sheet(
        shown,
        list(range(len(shown))),
        titles,
        [GREY] * len(shown),
        path,
        "no photo has a box smaller than itself",
    )


def curves(history: pd.DataFrame, path: Path, title: str = "") -> Path:
    """Loss, accuracy and learning rate by epoch (S44)."""
    epoch = np.arange(1, len(history) + 1)
    starts = epoch[(history["stage"].diff() > 0).to_numpy()]
    with _figure(path, 12, 3.6 + 0.3 * bool(title)) as figure:
        if title:
            figure.suptitle(_text(title, 100))
        axes = figure.subplots(1, 3)
        for axis, name, label in zip(
            axes, ("loss", "accuracy"), ("cross-entropy", "accuracy"), strict=False
        ):
            axis.plot(epoch, history[name], "o-", ms=3, label="training, augmented")
            if history[f"val_{name}"].notna().any():  # not of a refit
                axis.plot(epoch, history[f"val_{name}"], "o-", ms=3, label="validation")
            axis.set_ylabel(label)
            axis.legend()
        axes[2].plot(epoch, history["lr"], "o-", ms=3, color="tab:green")
        axes[2].set_ylabel("learning rate")
        axes[2].set_yscale("log")
        for axis in axes:
            axis.set_xlabel("epoch")
            axis.set_xlim(0.5, len(history) + 0.5)
            axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            for start in starts:
                axis.axvline(start - 0.5, color="0.8", zorder=0)
    return path


def arm(histories: Sequence[pd.DataFrame], base: Sequence[pd.DataFrame], path: Path) -> Path:
    """Accuracy, loss and learning rate by epoch of an arm of a study, a line a seed, before those of its base (S73)."""
    with _figure(path, 9, 2.6) as figure:
        axes = figure.subplots(1, 3)
        for all_, validation, training in ((base, GREY, None), (histories, BLUE, GREEN)):
            for history in all_:
                epoch = np.arange(1, len(history) + 1)
                for axis, name in zip(axes, ("accuracy", "loss"), strict=False):
                    if training:
                        axis.plot(epoch, history[name], ":", lw=1, color=training)
                    axis.plot(epoch, history[f"val_{name}"], "o-", ms=2, lw=1, color=validation)
                axes[2].plot(epoch, history["lr"], "o-", ms=2, lw=1, color=validation)
        for axis, label in zip(axes, ("accuracy", "cross-entropy", "learning rate"), strict=True):
            axis.set_ylabel(label)
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    return path


# --- Votes ----------------------------------------------------------------------------------------


def said(votes: Votes) -> np.ndarray:
    """(views, photos) int64: the class that each view puts first; −1 where a photo was not given that view."""
    views = int(votes.cast.max())
    tops = votes.probs[:views].argmax(2)
    return np.where(np.arange(views)[:, None] < votes.cast, tops, -1)


def share(tops: np.ndarray, combined: np.ndarray) -> np.ndarray:
    """(photos,) float64: of the views that a photo was given, how many say what all together do.

    tops (views, photos) from ``said``, combined (photos,) class indices.
    """
    return (tops == combined).sum(0) / (tops >= 0).sum(0)


def order(shares: np.ndarray, combined: np.ndarray) -> np.ndarray:
    """(photos,) indices, the most disputed photo first, equally disputed ones by class."""
    return np.lexsort((combined, shares))


def matrix(votes: Votes, classes: Classes, path: Path, how: str = "mean", most: int = 400) -> Path:
    """Predicted class by photo and view, of the most disputed photos (S53)."""
    tops, combined = said(votes), votes.combined(how).argmax(1)
    shares = share(tops, combined)
    chosen = order(shares, combined)[:most]
    rows, views = len(chosen), len(tops)
    # Rows of 17 px with their ids up to 40 photos, else of 7 px or fewer: 2.7 with 400 photos.
    height = max(3.5, 1.5 + (0.17 * rows if rows <= 40 else min(11.0, 0.07 * rows)))
    names = [_text(c, 28) for c in classes]
    with _figure(path, 5.5 + 0.11 * views + 0.07 * max(map(len, names)), height) as figure:
        axis = figure.subplots()
        # The last tenth of nipy_spectral is dark reds that look alike and a grey that looks like
        # white.
        spectrum = matplotlib.colormaps["nipy_spectral"](np.linspace(0, 0.9, len(names)))
        colours = {
            "cmap": ListedColormap(spectrum).with_extremes(bad="white"),
            "norm": BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names)),
            "interpolation": "nearest",
            "aspect": "auto",
        }

        def show(image: np.ndarray, left: float, right: float) -> Any:
            return axis.imshow(
                np.ma.masked_less(image, 0), extent=(left, right, rows - 0.5, -0.5), **colours
            )

        shown = show(tops[:, chosen].T, -0.5, views - 0.5)
        left, ticks = -0.5, [float(view) for view in _every(views, 16)]
        labels = [f"{view:.0f}" for view in ticks]
        if (votes.labels[chosen] >= 0).any():
            wide = max(0.5, views / 24)
            show(votes.labels[chosen, None], -0.5 - 1.3 * wide, -0.5 - 0.3 * wide)
            left, ticks, labels = -0.5 - 1.3 * wide, [-0.5 - 0.8 * wide, *ticks], ["true", *labels]
        axis.set_xlim(left, views - 0.5)
        axis.set_xticks(ticks, labels)
        axis.set_xlabel(
            "view (0: the photo itself, 1: its mirror image)"
            if views > 1
            else "view (0: the photo itself)"
        )
        axis.set_ylabel("photo, the most disputed first")
        if rows <= 40:
            axis.set_yticks(range(rows), [_text(votes.ids[i], 24) for i in chosen], fontsize=8)
        else:
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        bar = figure.colorbar(
            shown, ax=axis, label="predicted class", pad=0.02, aspect=30 * height / 6
        )
        marked = _every(len(names), min(40, int((height - 1.2) / 0.17)))
        bar.set_ticks(marked, labels=[names[i] for i in marked], fontsize=8)
        bar.ax.minorticks_off()
        bar.ax.invert_yaxis()  # like the rows, which go down by class
        figure.suptitle(_count_rows(shares, rows), fontsize=11)
    return path


def _count_rows(shares: np.ndarray, shown: int) -> str:
    """What of the photos with these shares of agreeing views is shown, the ``shown`` lowest ones, and what is not."""
    n, unanimous = len(shares), int((shares == 1).sum())
    if shown == n:
        return f"views disagree on {n - unanimous:,} of {n:,} photos"
    disputed_out = max(0, n - unanimous - shown)
    out = f"left out: {n - shown - disputed_out:,} unanimous" + (
        f", {disputed_out:,} disputed" if disputed_out else ""
    )
    return f"the {shown:,} most disputed of {n:,} photos\n{out}"


def agreement(votes: Votes, path: Path, how: str = "mean") -> Path:
    """How many photos, and how many of them right, by the share of views that agree with the combined prediction."""
    tops, combined = said(votes), votes.combined(how).argmax(1)
    shares = share(tops, combined)
    where, names = bins(shares, votes.cast)
    known = votes.labels >= 0
    right = combined == votes.labels
    parts = (
        [
            ("right", known & right, GREEN),
            ("wrong", known & ~right, RED),
            ("label unknown", ~known, GREY),
        ]
        if known.any()
        else [("photos", ~known, BLUE)]
    )
    at, total = np.arange(len(names)), np.bincount(where, minlength=len(names))
    with _figure(path, min(11.0, max(6.0, 2 + 0.8 * len(names))), 4.2) as figure:
        axis = figure.subplots()
        below = np.zeros(len(names), int)
        for name, which, colour in parts:
            if which.any():
                count = np.bincount(where[which], minlength=len(names))
                axis.bar(at, count, 0.8, bottom=below, color=colour, label=name)
                below += count
        for i in at[total > 0]:
            judged = known & (where == i)
            accuracy = f"{right[judged].mean():.1%}\n" if judged.any() else ""
            axis.text(
                i, total[i], f"{accuracy}{_counted(total[i])}", ha="center", va="bottom", fontsize=8
            )
        axis.set_xlim(min(-0.6, len(names) / 2 - 2), max(len(names) - 0.4, len(names) / 2 + 1))
        axis.set_ylim(0, 1.2 * total.max())
        axis.set_xticks(at, names)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("views that agree with the combined prediction")
        axis.set_ylabel("photos")
        title = f"all views agree on {(shares == 1).mean():.1%} of {len(shares):,} photos"
        axis.set_title(title + ("; above the bars: accuracy" if known.any() else ""), fontsize=11)
        if known.any():
            axis.legend(loc="upper left")
    return path


def bins(shares: np.ndarray, cast: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(photos,) index of each photo's bin, and the bins' names, from the lowest that has a photo to unanimous.

    Where all photos were given the same few views, a bin is a number of views, else it is a tenth;
    unanimous photos have a bin of their own.
    """
    if cast.min() == cast.max() <= 12:
        views = int(cast[0])
        where = np.rint(shares * views).astype(int)
        names = [f"{n} of {views}" for n in range(views + 1)]
    else:
        # Shares are ratios of small integers; the little that is added keeps 0.3 × 10 from being
        # 2.999….
        where = np.where(shares == 1, 10, np.minimum(9, np.floor(shares * 10 + 1e-9))).astype(int)
        names = [f"{10 * n}–{10 * n + 10}%" for n in range(9)] + ["90–99%", "all"]
    lowest = int(where.min())
    return where - lowest, names[lowest:]


def tta_curve(curves: dict[str, pd.DataFrame], chosen: int | None, path: Path) -> Path:
    """Validation accuracy and log-loss against the number of views, one line a member, from ``votes.curve`` (S55, S58)."""
    last = max(int(rows["views"].max()) for rows in curves.values())
    with _figure(path, 11, 4.4) as figure:
        left, right = figure.subplots(1, 2)
        for n, (name, rows) in enumerate(curves.items()):
            look: dict[str, Any] = {"color": f"C{n % 10}", "ls": ("-", "--", ":")[n // 10 % 3]}
            left.plot(
                rows["views"], rows["accuracy"], marker="o", ms=3, label=_text(name, 40), **look
            )
            if len(rows) > 1:
                left.fill_between(
                    rows["views"], rows["low"], rows["high"], color=look["color"], alpha=0.15, lw=0
                )
            else:  # a band of one view would have no width
                left.vlines(
                    rows["views"], rows["low"], rows["high"], color=look["color"], alpha=0.4, lw=4
                )
            right.plot(rows["views"], rows["log_loss"], marker="o", ms=3, **look)
        for axis in (left, right):
            if chosen is not None:
                axis.axvline(
                    chosen,
                    color="0.3",
                    ls=":",
                    zorder=0,
                    label=f"used: {chosen} views" if axis is left else None,
                )
            _log2(axis, last)
            axis.set_xlabel("views per photo")
            axis.grid(alpha=0.3)
        left.set_ylabel("validation accuracy, 95 % interval")
        _percent(left)
        right.set_ylabel("validation log-loss")
        figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return path


def trade_off(table: pd.DataFrame, path: Path) -> Path:
    """Log-loss and accuracy against passes per photo, of fixed and adaptive rules, from ``votes.trade_off``."""
    fixed = table["rule"].str.startswith("fixed")
    rows = table[~fixed]
    first = rows["rule"].map(lambda rule: int(re.findall(r"\d+", rule)[0]))  # "from 4 up to 32"
    colour = {n: f"C{i + 1}" for i, n in enumerate(sorted(set(first)))}
    marker = {cap: "osD^vP*X"[i % 8] for i, cap in enumerate(sorted(set(rows["cap"])))}
    with _figure(path, 11, 5.0 if len(rows) else 4.2) as figure:
        axes = figure.subplots(1, 2)
        for axis, name, label in zip(
            axes, ("log_loss", "accuracy"), ("log-loss", "accuracy"), strict=True
        ):
            axis.plot(table[fixed]["passes"], table[fixed][name], ".-", color="0.5", zorder=1)
            for n, group in rows.groupby(first):
                axis.plot(
                    group["passes"], group[name], "-", color=colour[n], lw=0.8, alpha=0.6, zorder=2
                )
            for n, row in zip(first, rows.itertuples(), strict=True):
                axis.plot(
                    row.passes,
                    getattr(row, name),
                    marker[row.cap],
                    ms=7,
                    mew=1.5,
                    mfc="none",
                    mec=colour[n],
                    zorder=3,
                )
            _log2(axis, int(np.ceil(table["passes"].max())))
            axis.set_xlabel("passes per photo, mean")
            axis.set_ylabel(f"validation {label}")
            axis.grid(alpha=0.3)
        _percent(axes[1])
        line = [Line2D([], [], color="0.5", marker=".", label="fixed: the same for every photo")]
        hues = [Line2D([], [], color=c, label=f"first round: {n} views") for n, c in colour.items()]
        shapes = [
            Line2D(
                [],
                [],
                ls="",
                marker=m,
                mfc="none",
                mec="0.3",
                mew=1.5,
                label=f"disputed photos: up to {cap}",
            )
            for cap, m in marker.items()
        ]
        figure.legend(
            handles=[*line, *hues, *shapes], loc="outside lower center", ncols=4, fontsize=9
        )
    return path


# --- Classes and photos ---------------------------------------------------------------------------


def most_confused(truth: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[int, int, int]:
    """The two classes i < j that are taken for each other most often, and how often, both ways together.

    truth and predicted (photos,) class indices; unknown ones (−1) do not count. (0, 0, 0) if nothing is confused.
    """
    counts = _counts(truth, predicted, classes)
    both = np.triu(counts + counts.T, 1)
    i, j = divmod(int(both.argmax()), classes)
    return i, j, int(both[i, j])


def _counts(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) int: photos by true class (rows) and predicted class (columns)."""
    counts = np.zeros((classes, classes), int)
    known = truth >= 0
    np.add.at(counts, (truth[known], predicted[known]), 1)
    return counts


def confusion(classes: Classes, truth: np.ndarray, predicted: np.ndarray, path: Path) -> Path:
    """Photos by true and predicted class (photos,); the pair that is confused most is outlined and named."""
    n = len(classes)
    counts = _counts(truth, predicted, n)
    share_of_true = counts / np.maximum(1, counts.sum(1, keepdims=True))
    i, j, count = most_confused(truth, predicted, n)
    names = [_text(c, 28) for c in classes]
    side = min(11.0, max(3.2, 0.45 * n) + 1.3 + 0.07 * max(map(len, names)))
    with _figure(path, side + 1, side) as figure:
        axis = figure.subplots()
        scale = PowerNorm(0.5, 0, 1)  # on a linear one, one photo of thirty looks like none
        image = axis.imshow(share_of_true, cmap="Blues", norm=scale, interpolation="nearest")
        if n <= 30:
            for a, b in np.argwhere(counts):
                axis.text(
                    b,
                    a,
                    counts[a, b],
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if scale(share_of_true[a, b]) > 0.6 else "black",
                )
        ticks = _every(n, 40)
        axis.set_xticks(
            ticks,
            [names[t] for t in ticks],
            rotation=90 if max(map(len, names)) > 3 else 0,
            fontsize=9,
        )
        axis.set_yticks(ticks, [names[t] for t in ticks], fontsize=9)
        axis.set_xlabel("predicted class")
        axis.set_ylabel("true class")
        figure.colorbar(
            image, label="share of the true class", ticks=[0, 0.02, 0.1, 0.25, 0.5, 1], shrink=0.8
        )
        if count:
            half = max(0.5, n / 80)  # so that the outline of a cell of few pixels can be found
            for row, column in ((i, j), (j, i)):
                corner = (column - half, row - half)
                axis.add_patch(
                    Rectangle(
                        corner,
                        2 * half,
                        2 * half,
                        fill=False,
                        ec=RED,
                        lw=2,
                        zorder=3,
                        clip_on=False,
                    )
                )
            gap = "\n" if len(names[i]) + len(names[j]) > 16 else " "
            title = f"most confused: {names[i]}{gap}↔ {names[j]}, {_counted(count)}"
        else:
            title = "no photo is predicted wrongly"
        axis.set_title(title, fontsize=11)
    return path


def disputed(
    frame: pd.DataFrame,
    votes: Votes,
    classes: Classes,
    path: Path,
    how: str = "mean",
    most: int = 24,
) -> Path:
    """The photos whose views disagree most, with how many views say what; frame's rows are votes' photos."""
    tops, combined = said(votes), votes.combined(how).argmax(1)
    shares = share(tops, combined)
    chosen = [i for i in order(shares, combined)[:most] if shares[i] < 1]
    titles, borders = [], []
    for i in chosen:
        truth = int(votes.labels[i])
        true = [f"true {_text(classes[truth], NAME)}"] if truth >= 0 else []
        titles.append("\n".join([*_lines(tally(tops[:, i], classes)), *true]))
        borders.append(GREY if truth < 0 else GREEN if truth == combined[i] else RED)
    return _sheet(frame, chosen, titles, borders, path, "on no photo do the views disagree")


def tally(tops: np.ndarray, classes: Classes, most: int = 3) -> list[str]:
    """How many views say which class, the biggest first, as in ``["7: 5", "9: 3"]``; what is beyond ``most`` as one.

    tops (views,): class indices, −1 for a view that was not given.
    """
    counts = np.bincount(tops[tops >= 0], minlength=len(classes))
    first = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c]]
    rest = int(counts[first[most:]].sum())
    return [f"{_text(classes[c], NAME)}: {counts[c]}" for c in first[:most]] + (
        [f"rest: {rest}"] if rest else []
    )


def errors(
    frame: pd.DataFrame,
    classes: Classes,
    truth: np.ndarray,
    probs: np.ndarray,
    path: Path,
    most: int = 24,
) -> Path:
    """The wrongly predicted photos, most confident first; frame's rows are those of truth (P,) and probs (P, classes)."""
    predicted = probs.argmax(1)
    wrong = np.flatnonzero((predicted != truth) & (truth >= 0))
    wrong = wrong[np.argsort(-probs[wrong, predicted[wrong]], kind="stable")][:most]
    titles = []
    for i in wrong:
        what = [
            _text(classes[truth[i]], NAME),
            f"→ {_text(classes[predicted[i]], NAME)}",
            f"({probs[i, predicted[i]]:.2f})",
        ]
        titles.append("\n".join(_lines(what, " ")))
    return _sheet(
        frame, wrong.tolist(), titles, [GREY] * len(wrong), path, "no photo is predicted wrongly"
    )


def suspicious(
    frame: pd.DataFrame, found: pd.DataFrame, classes: Classes, path: Path, most: int = 24
) -> Path:
    """Photos whose label the votes contradict, most confident first.

    found: columns row (position in frame), given and predicted (class indices), probability (of predicted).
    """
    found = found.sort_values("probability", ascending=False, kind="stable").head(most)
    titles = []
    for item in found.itertuples():
        given, predicted = _text(classes[item.given], NAME), _text(classes[item.predicted], NAME)
        titles.append(
            "\n".join(
                _lines(
                    [f"given {given},", f"votes say {predicted}", f"({item.probability:.2f})"], " "
                )
            )
        )
    rows = found["row"].tolist()
    return _sheet(frame, rows, titles, [GREY] * len(rows), path, "the votes contradict no label")


def _sheet(
    frame: pd.DataFrame,
    rows: list[int],
    titles: list[str],
    borders: list[str],
    path: Path,
    empty: str,
) -> Path:
    """Photos of those rows (positions in frame) with titles and coloured borders; the sentence ``empty`` if there are none."""
    if not rows:
        with _figure(path, 12, 1.2) as figure:
            figure.text(0.5, 0.5, empty, ha="center", va="center", fontsize=12)
        return path
    # Inches, counted by hand: constrained layout cuts titles of several lines off, and so each
    # pixel of a tile is one here.
    high, wide = TILE[0] / 100, TILE[1] / 100
    above = [
        0.1 + 0.145 * max(text.count("\n") + 1 for text in titles[n : n + COLUMNS])
        for n in range(0, len(rows), COLUMNS)
    ]
    total = sum(above) + len(above) * (high + GAP)
    with _figure(path, COLUMNS * (wide + GAP), total) as figure:
        figure.set_layout_engine("none")
        for n, (row, text, border) in enumerate(zip(rows, titles, borders, strict=True)):
            line, column = divmod(n, COLUMNS)
            left, bottom = (
                GAP / 2 + column * (wide + GAP),
                total - sum(above[: line + 1]) - line * GAP - (line + 1) * high,
            )
            width = COLUMNS * (wide + GAP)
            axis = figure.add_axes((left / width, bottom / total, wide / width, high / total))
            photo = _tile(frame.iloc[row])
            axis.imshow(
                np.full((*TILE, 3), augment.GREY, np.uint8) if photo is None else photo,
                aspect="auto",
            )
            if photo is None:
                axis.text(
                    0.5,
                    0.5,
                    "unreadable",
                    ha="center",
                    va="center",
                    color="white",
                    transform=axis.transAxes,
                )
            axis.set_title(text, fontsize=8.5, pad=5)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set(color=border, linewidth=3)
    return path


def _tile(item: pd.Series) -> np.ndarray | None:
    """The photo of a row of the table as uint8 (*TILE, 3), all of it, grey around; None if it cannot be read."""
    if not item.get("readable", True):
        return None
    try:
        photo = photos.read_photo(item["path"], *TILE, item["height"], item["width"])
    except InputError:
        return None
    whole = [0, 0, item["width"], item["height"]]
    if set(SIDES) <= set(item.index) and item[SIDES].tolist() != whole:
        scale = np.tile(np.array(photo.shape[1::-1]) / (item["width"], item["height"]), 2)
        left, top, right, bottom = (
            np.round(item[SIDES].to_numpy(float) * scale).astype(int).tolist()
        )
        thick = max(1, max(photo.shape) // 90)
        cv2.rectangle(photo, (left, top), (right - 1, bottom - 1), (255, 220, 0), thick)
    return augment.view(photo, TILE, "pad")


# --- Small parts ----------------------------------------------------------------------------------


def _text(what: object, most: int) -> str:
    """A name for a picture, cut in the middle to ``most`` characters; a dollar sign is one and starts no formula."""
    text = str(what)
    if (
        len(text) > most
    ):  # of "Aston Martin V8 Vantage Coupe 2012" the year says more than the middle
        text = f"{text[: most - 1 - most // 3]}…{text[-(most // 3) :]}"
    return text.replace("$", r"\$")


def _counted(n: int) -> str:
    return f"{n:,} photo{'' if n == 1 else 's'}"


def _lines(words: list[str], gap: str = "  ", width: int = 30) -> list[str]:
    """Words in order, as many in a line as fit into ``width`` characters, one at least."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1] + gap + word) <= width:
            lines[-1] += gap + word
        else:
            lines.append(word)
    return lines


def _every(n: int, most: int) -> list[int]:
    """0, k, 2k, … below n with the smallest step k of 1, 2, 4, 5 or 8 times a power of ten that gives ``most`` at most."""
    steps = (k * 10**e for e in range(9) for k in (1, 2, 4, 5, 8))
    step = next(k for k in steps if -(-n // k) <= max(1, most))
    return list(range(0, n, step))


def _percent(axis: Any) -> None:
    """Shares as percentages; the room above 100 % has no tick."""
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    limits = axis.get_ylim()
    axis.set_yticks([tick for tick in axis.get_yticks() if tick <= 1], minor=False)
    axis.set_ylim(limits)


def _log2(axis: Any, last: int) -> None:
    """Views from 1 to ``last`` on the x axis, each power of two as a plain number."""
    powers = [2**k for k in range(last.bit_length())]
    axis.set_xscale("log", base=2)
    axis.set_xlim(2**-0.3, 2**0.3 * last)
    axis.set_xticks(powers, [str(p) for p in powers])
    axis.minorticks_off()

"""Sheets of photos to look at: augmentation, audit, boxes, errors, disputed photos and labels.

Of all but the first there may be nothing to see: then no file is left, and what is said instead is
returned; "" of a sheet that was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from carcls import disk
from carcls.config import Config
from carcls.data import augment, boxes, photos, pixels
from carcls.errors import InputError
from carcls.report.charts import GREEN, GREY, RED, Classes, drawing
from carcls.report.names import Names, names, width
from carcls.report.views import sort_by_dispute
from carcls.votes.votes import Votes

CAPTIONS = {
    "augmentation.png": "Left: training photos as they are; right: random augmentations of each, "
    "as strong as at the start of training. Look for cars that you could not recognise.",
    "audit.png": "Photos about which the audit found something, dropped ones first (red), and "
    "what was done. Look for dropped photos that you could use. audit.csv lists all findings.",
    "boxes.png": "Photos with the box (yellow) that they are cut to, and its share of the photo: "
    "the smallest first, then others at random. Look for boxes that cut off parts of the car or "
    "show another one.",
    "disputed.png": "The photos on which the views disagree most: how many vote for which class, "
    "and the true class. Green: predicted rightly; red: wrongly. Look for what they have in "
    "common: small cars, odd angles, several cars.",
    "errors.png": "Validation photos that are predicted wrongly, the most confident errors "
    "first: true class → predicted class (its probability). Look for labels that are wrong.",
    "suspicious.png": "Photos whose label the votes contradict, the most confident first: the "
    "label in train.csv, the class that the votes say, and its probability. Look for labels "
    "that are wrong; leave those that are right, however hard the photo.",
}

TILE = (138, 184)  # height and width of a photo on a sheet, px
COLUMNS = 6
GAP = 0.16  # between photos, inches
NAME = 18  # characters of a class's name above a photo


# --- Before training ------------------------------------------------------------------------------


def augmentation(cfg: Config, table: photos.Table, path: Path) -> Path:
    """Training photos, one a row, beside random augmentations of them at the starting strength."""
    count, draws = 6, 5
    size = height, width = cfg.stages[-1].size
    policy = augment.policy(cfg.augment, *size, cfg.fit, cfg.strength.start)
    train = table.frame[table.frame["fold"] == photos.TRAIN]
    train = train.sample(min(count, len(train)), random_state=cfg.seed)
    gap = width // 16
    across, down = width + gap, height + gap  # from one image to the next, px
    grid = np.full((len(train) * down - gap, (draws + 1) * across - gap, 3), 255, np.uint8)
    for n, (item, box) in enumerate(zip(train.itertuples(), boxes.of(train), strict=True)):
        try:
            whole = (item.height, item.width)
            photo = pixels.read_box(item.path, box, (2 * height, 2 * width), whole)
        except InputError:  # grey, as it is in training
            photo = np.full((*size, 3), augment.GREY, np.uint8)
        drawn = (policy(photo, (cfg.seed, n, draw)) for draw in range(draws))
        for column, image in enumerate((augment.view(photo, size, cfg.fit), *drawn)):
            top, left = n * down, column * across
            grid[top : top + height, left : left + width] = image
    shown = names([cfg.augment], 24)
    with drawing(path, 2.2 * (draws + 1), 2.2 * height / width * len(train) + 0.5, shown) as figure:
        axis = figure.subplots()
        axis.imshow(grid)  # as one image: a run waits for it, and 36 axes took a second
        axis.set_axis_off()
        for column in range(draws + 1):
            title = f"{shown.shown[0]}, draw {column}" if column else "as it is"
            middle = column * across + width / 2
            axis.text(middle, -gap / 2, title, ha="center", va="bottom", fontsize=9)
    return path


def audit(table: photos.Table, path: Path, most: int = 48) -> str:
    """Photos with all that the audit found about them: dropped ones first, some of each kind."""
    findings = zip(table.audit["finding"], table.audit["action"], strict=True)
    found = table.audit.assign(
        dropped=table.audit["action"] == "dropped",
        kind=table.audit.groupby("finding").cumcount(),
        lines=[wrap(f"{finding} → {action}".split(), most=28) for finding, action in findings],
    )
    found = found.groupby(["source", "id"], sort=False, as_index=False).agg(
        {"lines": "sum", "dropped": "any", "kind": "min"}
    )
    with_file = table.looked[table.looked["path"] != ""]
    found = found.merge(with_file.drop_duplicates(["source", "id"]))
    kept = table.frame.loc[table.frame["source"] != "test", "id"]
    found["dropped"] &= ~found["id"].isin(kept)  # of two rows one may have been kept
    found = found.sort_values(["dropped", "kind"], ascending=[False, True], kind="stable")
    found = found.head(most)
    ids = _ids(found)
    titles = [[name, *lines] for name, lines in zip(ids.shown, found["lines"], strict=True)]
    borders = [RED if dropped else GREY for dropped in found["dropped"]]
    nothing = "The audit found nothing."
    if len(table.audit):
        nothing = "What the audit found is about no photo that has a file."
    return sheet(found, titles, path, nothing, borders, ids)


def boxed(frame: pd.DataFrame, path: Path, count: int = 48) -> str:
    """Photos with the box that they are cut to: the smallest shares, then others at random."""
    sides, area = boxes.of(frame), np.maximum(1, frame["height"] * frame["width"])
    frame = frame.assign(share=(sides[:, 2:] - sides[:, :2]).prod(axis=1) / area)
    frame = frame[frame["readable"] & (frame["share"] < 1)].sort_values("share", kind="stable")
    smallest, others = frame.iloc[: count // 3], frame.iloc[count // 3 :]
    others = others.sample(min(count - len(smallest), len(others)), random_state=1)
    frame = pd.concat([smallest, others])
    ids = _ids(frame)
    shares = [f"{share:.0%} of the photo" for share in frame["share"]]
    titles = list(zip(ids.shown, shares, strict=True))
    return sheet(frame, titles, path, "No photo has a box smaller than itself.", shown=ids)


def _ids(frame: pd.DataFrame) -> Names:
    return names(frame["source"] + " " + frame["id"].astype(str), 28, "photo ")


# --- After it -------------------------------------------------------------------------------------


def disputed(frame: pd.DataFrame, votes: Votes, classes: Classes, path: Path) -> str:
    """The 24 photos whose views disagree most, with how many views say what; frame: of votes."""
    predicted, counts = votes.together().argmax(1), votes.first_places()
    agreement = votes.agreement()
    chosen = [i for i in sort_by_dispute(votes)[:24] if agreement[i] < 1]
    shown = names(classes, NAME)
    titles, borders = [], []
    for i in chosen:
        truth = votes.labels[i]
        titles.append(
            [*wrap(tally(counts[i], shown.shown), gap="  "), f"true {shown.shown[truth]}"]
        )
        borders.append(GREEN if truth == predicted[i] else RED)
    nothing = "On no photo do the views disagree."
    return sheet(frame.iloc[chosen], titles, path, nothing, borders, shown)


def tally(counts: np.ndarray, shown: Sequence[object], most: int = 3) -> list[str]:
    """Of views by class (classes,), the biggest first, as in ``["7: 5", "9: 3", "rest: 1"]``."""
    order = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c]]
    parts = [f"{shown[c]}: {counts[c]}" for c in order[:most]]
    rest = int(counts[order[most:]].sum())
    return [*parts, f"rest: {rest}"] if rest else parts


def errors(
    frame: pd.DataFrame, truth: np.ndarray, probs: np.ndarray, classes: Classes, path: Path
) -> str:
    """The 24 wrong predictions that are most confident; frame: of truth and probs."""
    predicted, sure = probs.argmax(1), probs.max(1)
    wrong = np.flatnonzero(predicted != truth)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:24]
    shown = names(classes, NAME)
    titles = [
        wrap([shown.shown[truth[i]], f"→ {shown.shown[predicted[i]]}", f"({sure[i]:.2f})"])
        for i in wrong
    ]
    return sheet(frame.iloc[wrong], titles, path, "No photo is predicted wrongly.", shown=shown)


def suspicious(frame: pd.DataFrame, labels: pd.DataFrame, classes: Classes, path: Path) -> str:
    """The first 24 photos of ``pseudo.suspicious``, whose rows are positions in the frame."""
    shown = names(classes, NAME)
    labels = labels.head(24).astype({"row": int, "given": int, "predicted": int})
    titles = [
        wrap(
            [f"given {shown.shown[given]},", f"votes say {shown.shown[predicted]}", f"({sure:.2f})"]
        )
        for given, predicted, sure in labels[["given", "predicted", "probability"]].to_numpy(object)
    ]
    nothing = "The votes contradict no label."
    return sheet(frame.iloc[labels["row"]], titles, path, nothing, shown=shown)


# --- A sheet --------------------------------------------------------------------------------------


def sheet(
    frame: pd.DataFrame,
    titles: Sequence[Sequence[str]],
    path: Path,
    nothing: str,
    borders: Sequence[str] = (),
    shown: Names | None = None,
) -> str:
    """The photos of a frame, each under its title's lines and in a border, grey by default.

    nothing: what is returned of an empty frame; shown: the names in the titles.
    """
    if frame.empty:
        disk.remove(path)
        return nothing
    # In inches, counted by hand, as constrained layout cuts off titles of several lines.
    high, wide = TILE[0] / 100, TILE[1] / 100
    lines = [len(title) for title in titles]
    above = [0.1 + 0.145 * max(lines[n : n + COLUMNS]) for n in range(0, len(lines), COLUMNS)]
    tops = np.cumsum(above) + np.arange(len(above)) * (high + GAP)  # of each row, from the top
    total, across = tops[-1] + high + GAP, COLUMNS * (wide + GAP)
    with drawing(path, across, total, *([shown] if shown else ())) as figure:
        figure.set_layout_engine("none")
        for n, title in enumerate(titles):
            left, bottom = GAP / 2 + n % COLUMNS * (wide + GAP), total - tops[n // COLUMNS] - high
            axis = figure.add_axes((left / across, bottom / total, wide / across, high / total))
            photo = tile(frame.iloc[n])
            if photo is None:
                photo = np.full((*TILE, 3), augment.GREY, np.uint8)
                middle: Any = {"ha": "center", "va": "center", "transform": axis.transAxes}
                axis.text(0.5, 0.5, "unreadable", color="white", **middle)
            axis.imshow(photo, aspect="auto")
            axis.set_title("\n".join(title), fontsize=8.5, pad=5)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set(color=borders[n] if borders else GREY, linewidth=3)
    return ""


def tile(item: pd.Series) -> np.ndarray | None:
    """The whole photo of a row, uint8 (*TILE, 3), its box in yellow; None if it is unreadable."""
    if not item.get("readable", True):
        return None
    size = height, width = item["height"], item["width"]
    try:
        photo = pixels.read_photo(item["path"], *TILE, *size)
    except InputError:
        return None
    if set(boxes.SIDES) <= set(item.index):
        box = item[boxes.SIDES].to_numpy(float)
        if box.tolist() != [0, 0, width, height]:
            scale = np.tile([photo.shape[1] / width, photo.shape[0] / height], 2)
            left, top, right, bottom = np.round(box * scale).astype(int).tolist()
            thick = max(1, max(photo.shape) // 90)
            cv2.rectangle(photo, (left, top), (right - 1, bottom - 1), (255, 220, 0), thick)
    return augment.view(photo, TILE, "pad")


def wrap(words: Sequence[str], gap: str = " ", most: int = 30) -> list[str]:
    """Lines of words in order, as many in a line as fit into that many characters, one at least."""
    lines: list[str] = []
    for word in words:
        if lines and width(lines[-1] + gap + word) <= most:
            lines[-1] += gap + word
        else:
            lines.append(word)
    return lines

"""A look at the data: facts of a table's photos, as lines, as pictures, and as similar.csv."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from carcls import disk
from carcls.config import Config
from carcls.data import photos, similar
from carcls.data.labels import spreadsheet_safe
from carcls.data.photos import TEST, TRAIN, VALIDATION, Table
from carcls.data.similar import Small
from carcls.report import dataset
from carcls.report.charts import count_photos

SIDES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
# What two photos of one picture are to each other, the most telling first.
FINDINGS = {
    "different labels": "with different labels",
    "train and test": "of a labelled photo and a test photo",
    "same label": "with the same label",
    "both test": "of two test photos",
}
OTHER_LABEL, ACROSS, SAME_LABEL, BOTH_TEST = FINDINGS
MANY = 0.05  # share of validation photos: more would change the accuracy by more than its interval
NOTE = "look.json"


@dataclass(frozen=True, eq=False)
class Look:
    """What was seen of a table's photos."""

    table: Table
    small: Small
    # Of photos that show the same picture: a, b positions in the frame, distance in bits,
    # mirrored, finding; by finding and distance.
    pairs: pd.DataFrame
    known: int  # test photos that show what a labelled one shows, in another file
    leaked: int  # validation photos that show what a photo shows that is trained on
    validated: int  # validation photos


def look(cfg: Config, table: Table) -> Look:
    """Decode all photos, much reduced, and compare them."""
    small = similar.shrink(table.frame)
    group, label = (table.frame[name].to_numpy(np.int64) for name in ("group", "label"))
    fold = table.frame["fold"]
    if cfg.folds > 1:
        fold = photos.with_folds(table, cfg.folds, cfg.seed)["fold"]
    is_test = (fold == TEST).to_numpy()

    pairs = similar.pairs(small, group)
    a, b = pairs["a"].to_numpy(), pairs["b"].to_numpy()
    found = [is_test[a] & is_test[b], is_test[a] | is_test[b], label[a] != label[b]]
    pairs["finding"] = np.select(found, [BOTH_TEST, ACROSS, OTHER_LABEL], SAME_LABEL)
    rank = pairs["finding"].map([*FINDINGS].index)
    pairs = pairs.assign(rank=rank).sort_values(["rank", "distance", "a", "b"], ignore_index=True)

    # Same files are the audit's, and on one side of the split; so only what pairs join counts.
    whole = pd.Series(similar.grouped(pairs, group))
    rows = pd.DataFrame({"fold": fold.to_numpy(), "whole": whole, "group": group})
    labelled = rows[~is_test]
    has_same_file = rows["group"].isin(labelled["group"])
    known = is_test & whole.isin(labelled["whole"]) & ~has_same_file
    folds = labelled.groupby("whole")["fold"].nunique()
    spread = labelled[labelled["whole"].isin(folds.index[folds > 1])]
    validated = labelled if cfg.folds > 1 else labelled[labelled["fold"] == VALIDATION]
    leaked = spread.index.intersection(validated.index)
    pairs = pairs.drop(columns="rank")
    return Look(table, small, pairs, int(known.sum()), len(leaked), len(validated))


def write(cfg: Config, table: Table, out: Path) -> list[str]:
    """Look, write similar.csv and the pictures into the run folder; returns lines for the log."""
    seen = look(cfg, table)
    disk.write_atomic(out / "similar.csv", spreadsheet_safe(listed(seen)).to_csv(index=False))
    said = lines(seen)
    drawn = draw(seen, out, cfg.seed)
    shown = [[path.name if path else "", text] for path, text in drawn]
    disk.write_json(out / NOTE, {"lines": said, "pictures": shown})
    return said


def read(out: Path) -> tuple[list[str], list[tuple[Path | None, str]]]:
    """The lines and pictures that ``write`` has left; none if it has not, or they are changed."""
    try:
        note = disk.unsealed(disk.read_json(out / NOTE))
    except (FileNotFoundError, ValueError):
        return [], []
    return note["lines"], [(out / name if name else None, text) for name, text in note["pictures"]]


def pictures(out: Path) -> dict[Path, str]:
    """The pictures that ``write`` has left, and their captions."""
    return {path: text for path, text in read(out)[1] if path}


def draw(seen: Look, out: Path, seed: int) -> list[tuple[Path | None, str]]:
    """Each picture with its caption; no path where there is nothing to draw, which is said."""
    frame, classes = seen.table.frame, [str(name) for name in seen.table.classes]
    small = seen.small
    light = frame.assign(brightness=small.brightness, contrast=small.contrast)[small.seen]
    parts = [
        dataset.classes(frame, classes, out / "classes.png"),
        dataset.sizes(frame[frame["readable"]], out / "sizes.png"),
        dataset.light(light, out / "light.png"),
        dataset.examples(frame, classes, seed, out / "examples.png"),
        dataset.similar(frame, seen.pairs, classes, out / "similar.png"),
    ]
    return [(path, text) for path, text in parts]


def listed(seen: Look) -> pd.DataFrame:
    """similar.csv: a row a pair, those with different labels first."""
    frame, pairs = seen.table.frame, seen.pairs
    names = np.array([*map(str, seen.table.classes), ""], object)  # -1, of a test photo, is ""
    columns: dict[str, Iterable[object]] = {}
    for name, of in (
        ("photo", frame["id"].to_numpy()),
        ("label", names[frame["label"]]),
        ("side", frame["fold"].map(SIDES).to_numpy()),
    ):
        columns |= {f"{name}_{k}": of[pairs[k]] for k in ("a", "b")}
    return pd.DataFrame({**columns, **pairs[["distance", "mirrored", "finding"]].to_dict("list")})


# --- Sentences ------------------------------------------------------------------------------------


def lines(seen: Look) -> list[str]:
    """What was seen, for the log; warnings last."""
    return [*_of_classes(seen.table), *_of_sizes(seen.table), *_of_light(seen), *_of_pairs(seen)]


def _of_classes(table: Table) -> list[str]:
    counts = Counter(table.rows(TRAIN, VALIDATION).labels.tolist())
    (most, many), *_, (least, few) = counts.most_common()
    line = f"classes: each has {many:,} photos"
    if few < many:
        line = (
            f"classes: {table.classes[most]} has the most photos, {many:,}, {table.classes[least]} "
            f"the fewest, {few:,}: {many / few:.1f} times as many"
        )
    rare = sum(count < 10 for count in counts.values())
    return [line + (f"; {rare:,} of {len(counts):,} classes have fewer than 10" if rare else "")]


def _of_sizes(table: Table) -> list[str]:
    sizes = table.frame.loc[table.frame["readable"], ["width", "height"]]
    area = sizes["width"] * sizes["height"]
    order = area.argsort(kind="stable").to_numpy()
    at = {"smallest": 0, "middle": len(order) // 2, "largest": -1}
    found = [f"{what} {'×'.join(map(str, sizes.iloc[order[n]]))}" for what, n in at.items()]
    if len(sizes.drop_duplicates()) == 1:
        return []  # the summary has said it
    upright = (sizes["width"] < sizes["height"]).mean()
    return [f"sizes: {', '.join(found)} px; {upright:.0%} taller than wide"]


def _of_light(seen: Look) -> list[str]:
    small, is_test = seen.small, (seen.table.frame["fold"] == TEST).to_numpy()
    if not ((small.seen & is_test).any() and (small.seen & ~is_test).any()):
        return ["light: no train photo, or no test photo, can be decoded"]
    medians = [
        f"{name} {np.median(values[small.seen & ~is_test]):.0f} in train and "
        f"{np.median(values[small.seen & is_test]):.0f} in test photos"
        for name, values in (("brightness", small.brightness), ("contrast", small.contrast))
    ]
    found = [f"light: {', '.join(medians)} (medians; 0–255)"]
    if small.flat.any():
        ids = seen.table.frame.loc[small.flat, "id"].astype(str).tolist()
        found.append(
            f"light: {count_photos(len(ids))} of one colour, not compared with others: "
            f"{photos.first(ids, 3)}"
        )
    return found


def _of_pairs(seen: Look) -> list[str]:
    pairs = seen.pairs
    if pairs.empty:
        return ["similar: no two photos show the same picture in files that differ"]
    counts = Counter(pairs["finding"])
    kinds = ", ".join(
        f"{counts[kind]:,} {words}" for kind, words in FINDINGS.items() if counts[kind]
    )
    mirrored = int(pairs["mirrored"].sum())
    found = [
        f"similar: {len(pairs):,} pairs of photos show the same picture in files that differ "
        f"({mirrored:,} mirrored): {kinds}; similar.csv"
    ]
    if seen.known:
        tests = len(seen.table.rows(TEST))
        found.append(
            f"similar: {seen.known:,} of {tests:,} test photos show what a train photo does"
        )
    if seen.leaked:
        share = seen.leaked / seen.validated
        found.append(
            f"{'WARNING' if share >= MANY else 'similar'}: {seen.leaked:,} of {seen.validated:,} "
            f"validation photos ({share:.1%}) show what a photo does that is trained on, which "
            "flatters the accuracy"
        )
    rows = listed(seen)[pairs["finding"] == OTHER_LABEL]
    if len(rows):
        named = [
            f"{r.photo_a} ({r.label_a}) and {r.photo_b} ({r.label_b})" for r in rows.itertuples()
        ]
        count = f"{len(rows):,} pairs of photos" if len(rows) > 1 else "1 pair of photos"
        found.append(
            f"WARNING: {count} show the same picture under different labels, of which one is "
            f"wrong: {photos.first(named, 3)}"
        )
    return found

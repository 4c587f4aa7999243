"""Boxes around the cars, from CSV files: photos are cut to them, so that nobody learns backgrounds.

A file has the columns id, left, top, right, bottom (px of the upright photo; all four empty:
nothing was found in it) and, where an id is of a train and of a test photo, source (train or test).
With a column score, the row with the highest counts. ``carcls boxes`` makes such files, and any
other detector may. The boxes of several files are averaged, which beats tuning one detector.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carcls.data import tables
from carcls.disk import is_photo_name
from carcls.errors import InputError

SIDES = ["left", "top", "right", "bottom"]
SMALL = 32  # px: a shorter side below this is reported
_SOURCES = ("train", "test")
_COLUMNS = ("id", *SIDES, "source", "score")  # the last two need not be there
_EMPTY = ("", "nan", "none", "null", "na")  # how tables write nothing
_BEYOND = 0.1  # of a box's area outside of its photo is reported


@dataclass(frozen=True)
class File:
    """A file of boxes."""

    path: Path
    rows: pd.DataFrame  # id; source or ""; SIDES float, px, NaN: nothing found; score float or NaN


def of(frame: pd.DataFrame) -> np.ndarray:
    """(N, 4) int, px: the box of each row of a table of photos; without boxes, the whole photo."""
    if set(SIDES) <= set(frame.columns):
        return frame[SIDES].to_numpy(int)
    height, width = frame["height"].to_numpy(int), frame["width"].to_numpy(int)
    return np.stack([0 * width, 0 * height, width, height], axis=1)


# --- A file by itself ---------------------------------------------------------------------------


def read(path: Path, empty: bool = False) -> File:
    """The boxes of a file; empty: also if it has none. Raises InputError."""
    table = tables.read_csv(path)
    columns = [str(name).strip().lower() for name in table.columns]
    named = [name for name in columns if name in _COLUMNS]
    if len(set(named)) < len(named) or not {"id", *SIDES} <= set(named):
        raise InputError(
            f"{path}: columns {', '.join(map(str, table.columns))}; expected id, left, top, right, "
            "bottom, each once, and source where an id is of a train and a test photo"
        )
    table = table.set_axis(columns, axis=1).apply(lambda column: column.str.strip())
    numbers = _numbers(path, table)
    nothing = pd.Series("", table.index)
    source = table.get("source", nothing).str.lower()
    score = pd.to_numeric(table.get("score", nothing), errors="coerce")
    odd = sorted(set(source) - {"", *_SOURCES})
    if odd:
        raise InputError(f"{path}: source {odd[0]!r}; expected train or test")
    if numbers.isna().all(axis=None) and not empty:
        raise InputError(f"{path}: no box in any of its {len(table)} rows")
    if (numbers.max() <= 1).all() and (numbers.min() >= 0).all():
        raise InputError(f"{path}: no box reaches beyond 1; expected px, not shares of the photo")
    return File(path, numbers.assign(id=table["id"], source=source, score=score))


def _numbers(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """SIDES as float, all four NaN where nothing was found. Raises InputError on any others."""
    texts = table[SIDES]
    numbers = texts.apply(lambda side: pd.to_numeric(side, errors="coerce")).astype(float)
    none = texts.apply(lambda side: side.str.lower().isin(_EMPTY)).all(axis=1)
    ordered = (numbers["left"] < numbers["right"]) & (numbers["top"] < numbers["bottom"])
    wrong = ~(none | ordered & np.isfinite(numbers).all(axis=1))
    if wrong.any():
        first = int(wrong.argmax())
        found = ", ".join(f"{name} {texts[name][first]!r}" for name in SIDES)
        raise InputError(
            f"{path}: row {first + 2}, id {table['id'][first]!r}: {found}; expected numbers with "
            "left < right and top < bottom, or all four empty"
        )
    return numbers


# --- Files and photos ---------------------------------------------------------------------------


def cut(frame: pd.DataFrame, files: Sequence[File]) -> tuple[pd.DataFrame, list[str]]:
    """The table of photos with SIDES (int, px), and lines for the log.

    frame has the columns id, source, height, width and readable. A photo's box is the mean of the
    files' that have one, inside the photo; without any it is the whole photo. Raises InputError
    where a box cannot be of a photo, or may be of several.
    """
    whole, beyond, notes = of(frame), np.zeros(len(frame), bool), []
    boxes = np.full((len(files), len(frame), 4), np.nan)
    for number, file in enumerate(files):
        boxes[number], outside, unused = _place(frame, file)
        beyond |= outside
        if unused:
            notes.append(f"boxes of {file.path.name} of photos that are not used: {unused:,}")

    given = ~np.isnan(boxes[..., 0])  # (files, N)
    has = given.any(axis=0)
    count = np.maximum(given.sum(axis=0), 1)[:, None]
    mean = np.where(given[..., None], boxes, 0).sum(axis=0) / count  # (N, 4)
    outer = np.concatenate([np.floor(mean[:, :2]), np.ceil(mean[:, 2:])], axis=1).astype(int)
    sides = np.where(has[:, None], outer, whole)

    apart = np.zeros(len(frame), bool)
    for box, there in zip(boxes, given, strict=True):
        apart[there] |= _overlap(box[there], mean[there]) < 0.5
    small = has & (sides[:, 2:] - sides[:, :2] < SMALL).any(axis=1)
    warnings = (
        (f"box reaches beyond it by more than {_BEYOND:.0%} (expected upright photos' px)", beyond),
        ("boxes in the files are less than half alike: their mean may show neither car", apart),
        (f"box has a side below {SMALL} px", small),
    )
    for what, which in warnings:
        if which.any():
            ids = frame["id"][which].astype(str).tolist()
            names = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
            notes.append(f"WARNING: photos whose {what}: {len(ids):,} ({names})")
    lines = [_counts(frame, sides, has, len(files)), *notes]
    return frame.assign(**dict(zip(SIDES, sides.T, strict=True))), lines


def _place(frame: pd.DataFrame, file: File) -> tuple[np.ndarray, np.ndarray, int]:
    """A file's boxes inside their photos, (N, 4) float, NaN where a photo has none.

    Also which reached far beyond their photo, (N,) bool, and how many are of no photo here.
    """
    match, unused = _match(frame, file)
    if not match:
        ids = file.rows.loc[file.rows["left"].notna(), "id"][:3].tolist()
        raise InputError(
            f"{file.path}: none of its {unused} boxes is of a photo here, such as {ids}; expected "
            f"ids as {frame['id'][:3].tolist()}"
        )
    readable = frame["readable"].to_numpy(bool)
    rows = np.array([row for row in match if readable[row]], int)
    given = np.array([match[row] for row in rows]).reshape(-1, 4)
    size = frame[["width", "height"]].to_numpy(int)[rows]
    inside = np.clip(given, 0, np.tile(size, 2))
    outside = (inside[:, :2] >= inside[:, 2:]).any(axis=1)
    if outside.any():
        first = int(outside.argmax())
        width, height = size[first]
        raise InputError(
            f"{file.path}: id {frame['id'].iloc[rows[first]]!r}: box {given[first].tolist()} lies "
            f"outside of its photo, which is {width}×{height} px; expected px of the upright photo"
        )
    boxes, beyond = np.full((len(frame), 4), np.nan), np.zeros(len(frame), bool)
    boxes[rows] = inside
    beyond[rows] = _area(inside) < (1 - _BEYOND) * _area(given)
    return boxes, beyond, unused


def _counts(frame: pd.DataFrame, sides: np.ndarray, has: np.ndarray, files: int) -> str:
    """How many photos are cut, and how far."""
    counts = []
    for source in _SOURCES:
        part = (frame["source"] == source).to_numpy()
        counts.append(f"{int(has[part].sum()):,} of {int(part.sum()):,} {source}")
    mean = f", the mean of {files} files" if files > 1 else ""
    half = ""
    if has.any():
        share = np.median(_area(sides[has]) / (frame["width"] * frame["height"])[has])
        half = f", half of them to {share:.0%} of the photo or less"
    return f"boxes: {' and '.join(counts)} photos are cut to one{mean}{half}; the others stay whole"


# --- Which photo a row is of --------------------------------------------------------------------


def _match(frame: pd.DataFrame, file: File) -> tuple[dict[int, np.ndarray], int]:
    """Row of the table → its box (4,), and how many boxes are of no photo here.

    A photo whose own id is in the file, be it that nothing was found, takes no box of an id that
    may only mean it. Raises InputError where a box may be of several photos.
    """
    ids, sources = frame["id"].astype(str).str.strip().tolist(), frame["source"].tolist()
    by_id, by_stem = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for row, ident in enumerate(ids):
        by_id[ident].append(row)
        by_stem[_parts(ident)[0][-1]].append(row)

    def own(entry: Any) -> list[int]:
        return [row for row in by_id.get(entry.id, []) if entry.source in ("", sources[row])]

    entries = list(file.rows.itertuples(index=False))
    taken = {row for entry in entries for row in own(entry)}
    of_row, unused = defaultdict[int, list[Any]](list), 0
    for entry in entries:
        if np.isnan(entry.left):
            continue
        rows = own(entry) or [
            row
            for row in by_stem.get(_parts(entry.id)[0][-1], [])
            if row not in taken
            and entry.source in ("", sources[row])
            and _alike(entry.id, ids[row])
        ]
        if len(rows) > 1:
            given = sorted({sources[row] for row in rows})
            more = "; expected a column source, train or test" if len(given) > 1 else ""
            raise InputError(
                f"{file.path}: id {entry.id!r} may be of {len(rows)} photos, "
                f"{' and '.join(given)}{more}"
            )
        if rows:
            of_row[rows[0]].append(entry)
        else:
            unused += 1
    return {row: _surest(several, file.path) for row, several in of_row.items()}, unused


def _surest(entries: list[Any], path: Path) -> np.ndarray:
    """The box (4,) with the highest score. Raises InputError if one cannot tell."""
    scores, ids = [entry.score for entry in entries], sorted({entry.id for entry in entries})
    if len(ids) > 1:
        raise InputError(f"{path}: ids {' and '.join(map(repr, ids))} may be of one photo")
    if len(entries) > 1 and not np.isfinite(scores).all():
        raise InputError(
            f"{path}: id {ids[0]!r} comes more than once; expected one box a photo, or numbers in "
            "a column score"
        )
    surest = entries[int(np.argmax(scores))]
    return np.array([getattr(surest, side) for side in SIDES])


def _alike(one: str, other: str) -> bool:
    """Whether two ids may mean one photo: detectors write folders and extensions that ids lack."""
    (path, suffix), (path2, suffix2) = _parts(one), _parts(other)
    deep = min(len(path), len(path2))
    return path[-deep:] == path2[-deep:] and (suffix == suffix2 or not suffix or not suffix2)


def _parts(ident: str) -> tuple[list[str], str]:
    """An id's path, without the extension of a photo, and that extension."""
    *folders, name = ident.replace("\\", "/").removeprefix("./").split("/")
    stem, _, suffix = name.rpartition(".") if is_photo_name(name) else (name, "", "")
    return [*folders, stem], suffix.lower()


def _area(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) → (N,) px²."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def _overlap(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, 4), (N, 4) → (N,) intersection over union."""
    start, end = np.maximum(some[:, :2], others[:, :2]), np.minimum(some[:, 2:], others[:, 2:])
    common = np.maximum(end - start, 0).prod(axis=1)
    return np.asarray(common / (_area(some) + _area(others) - common))

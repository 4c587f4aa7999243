"""Boxes around the cars, from CSV files: photos are cut to them, so that no network can learn the background (S12).

A file has the columns id, left, top, right, bottom (px of the upright photo; all four empty: nothing was found in it) and,
where an id is of a train and of a test photo, source (train or test). With a column score, the row that has the highest of a
photo's counts.
``python -m carcls boxes`` makes such files; any other detector's boxes can be written as one. The boxes of several files are
averaged, which beats tuning one detector (S13).
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
_MORE = ("source", "score")  # columns that a file may have
_EMPTY = ("", "nan", "none", "null", "na")  # how tables write nothing
_BEYOND = 0.1  # of a box's area outside of its photo is reported


@dataclass(frozen=True)
class File:
    """What a file says: ``rows`` has id, source ("" if it does not say), SIDES (float, px; NaN: nothing found) and score
    (float; NaN if it does not say).
    """

    path: Path
    rows: pd.DataFrame


def of(frame: pd.DataFrame) -> np.ndarray:
    """(N, 4) int: the box of each row of a table of photos, px; where the table has none, the whole photo."""
    if set(SIDES) <= set(frame.columns):
        return frame[SIDES].to_numpy(int)
    height, width = frame["height"].to_numpy(int), frame["width"].to_numpy(int)
    return np.stack([0 * width, 0 * height, width, height], axis=1)


def read(path: Path, empty: bool = False) -> File:
    """The boxes of a file, as far as it shows by itself that they are right; empty: also if it has none. Raises InputError."""
    table = tables.read_csv(path)
    columns = [str(name).strip().lower() for name in table.columns]
    if any(columns.count(name) != 1 for name in ("id", *SIDES)) or any(
        columns.count(name) > 1 for name in _MORE
    ):
        raise InputError(
            f"{path}: columns {', '.join(map(str, table.columns))}; expected id, left, top, right, bottom, each once, "
            "and source where an id is of a train and a test photo"
        )
    table = table.set_axis(columns, axis=1).apply(lambda column: column.str.strip())
    texts = table[SIDES]
    numbers = texts.apply(lambda side: pd.to_numeric(side, errors="coerce")).astype(float)
    none = texts.apply(lambda side: side.str.lower().isin(_EMPTY)).all(axis=1)
    wrong = (
        ~np.isfinite(numbers).all(axis=1)
        | (numbers["left"] >= numbers["right"])
        | (numbers["top"] >= numbers["bottom"])
    )
    wrong &= ~none
    if wrong.any():
        first = int(wrong.argmax())
        found = ", ".join(f"{name} {texts[name][first]!r}" for name in SIDES)
        raise InputError(
            f"{path}: row {first + 2}, id {table['id'][first]!r}: {found}; expected numbers with left < right and "
            "top < bottom, or all four empty"
        )
    source = table["source"].str.lower() if "source" in columns else pd.Series("", table.index)
    odd = sorted(set(source) - {"", *_SOURCES})
    if odd:
        raise InputError(f"{path}: source {odd[0]!r}; expected train or test")
    if none.all() and not empty:
        raise InputError(f"{path}: no box in any of its {len(table)} rows")
    if not none.all() and (numbers.max() <= 1).all() and (numbers.min() >= 0).all():
        raise InputError(
            f"{path}: no box reaches beyond 1; expected px of the upright photo, not shares of it"
        )
    score = pd.to_numeric(table["score"], errors="coerce") if "score" in columns else np.nan
    return File(
        path, pd.concat([table[["id"]].assign(source=source), numbers], axis=1).assign(score=score)
    )


def cut(frame: pd.DataFrame, files: Sequence[File]) -> tuple[pd.DataFrame, list[str]]:
    """The table of photos (id, source, height, width, readable) with SIDES (int, px), and lines for the log.

    A photo's box is the mean of the files' that have one, inside the photo; without any it is the whole photo. Raises InputError
    where no box of a file is of a photo here, on ones that may be of several photos, on several of one photo without a score that
    tells which, and on ones outside of their photo.
    """
    whole, size = of(frame), frame[["width", "height"]].to_numpy(int)
    found = np.full((len(files), len(frame), 4), np.nan)
    beyond, notes = np.zeros(len(frame), bool), []
    for number, file in enumerate(files):
        match, others = _match(frame, file)
        if not match:
            raise InputError(
                f"{file.path}: none of its {others} boxes is of a photo here, such as "
                f"{file.rows.loc[file.rows['left'].notna(), 'id'][:3].tolist()}; expected ids as {frame['id'][:3].tolist()}"
            )
        if others:
            notes.append(
                f"boxes of {file.path.name} that are of photos which are not used: {others:,}"
            )
        rows = np.array([row for row in match if frame["readable"].iloc[row]], int)
        values = np.array([match[row] for row in rows]).reshape(-1, 4)
        clipped = np.clip(values, 0, np.tile(size[rows], 2))
        outside = (clipped[:, :2] >= clipped[:, 2:]).any(axis=1)
        if outside.any():
            first = int(outside.argmax())
            width, height = size[rows[first]]
            raise InputError(
                f"{file.path}: id {frame['id'].iloc[rows[first]]!r}: box {values[first].tolist()} lies outside of its photo, "
                f"which is {width}×{height} px; expected px of the upright photo"
            )
        found[number, rows] = clipped
        beyond[rows] |= _area(clipped) < (1 - _BEYOND) * _area(values)
    given = ~np.isnan(found[..., 0])  # (files, N)
    has = given.any(axis=0)
    mean = (
        np.where(given[..., None], found, 0).sum(axis=0) / np.maximum(given.sum(axis=0), 1)[:, None]
    )  # (N, 4)
    outer = np.concatenate([np.floor(mean[:, :2]), np.ceil(mean[:, 2:])], axis=1).astype(int)
    boxes = np.where(has[:, None], outer, whole)
    apart = np.zeros(len(frame), bool)
    for box, there in zip(found, given, strict=True):
        apart[there] |= _overlap(box[there], mean[there]) < 0.5
    small = has & (boxes[:, 2:] - boxes[:, :2] < SMALL).any(axis=1)
    counts = [
        f"{int(has[part].sum()):,} of {int(part.sum()):,} {source}"
        for source in _SOURCES
        for part in [(frame["source"] == source).to_numpy()]
    ]
    of_files = f", the mean of {len(files)} files" if len(files) > 1 else ""
    half = (
        f", half of them to {np.median(_area(boxes[has]) / _area(whole[has])):.0%} of the photo or less"
        if has.any()
        else ""
    )
    return frame.assign(**dict(zip(SIDES, boxes.T, strict=True))), [
        f"boxes: {' and '.join(counts)} photos are cut to one{of_files}{half}; the others stay whole",
        *notes,
        *_named(
            f"box reaches beyond it by more than {_BEYOND:.0%} (expected px of the upright photo)",
            frame["id"][beyond],
        ),
        *_named(
            "boxes are less than half alike in the files, so that their mean may show neither car",
            frame["id"][apart],
        ),
        *_named(f"box has a side below {SMALL} px", frame["id"][small]),
    ]


def _match(frame: pd.DataFrame, file: File) -> tuple[dict[int, np.ndarray], int]:
    """Row of the table → its box (4,), of the photos that have one, and the number of boxes that are of no photo here.

    A file's rows of the same id, also where they say that nothing was found, come before those of an id that may be written so.
    """
    ids, sources = frame["id"].astype(str).str.strip().tolist(), frame["source"].tolist()
    exact, stems = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for row, ident in enumerate(ids):
        exact[ident].append(row)
        stems[_parts(ident)[1]].append(row)
    found: dict[int, list[Any]] = defaultdict(list)
    others = []
    for entry in file.rows.itertuples(index=False):
        rows = [row for row in exact.get(entry.id, []) if entry.source in ("", sources[row])]
        if rows and np.isnan(entry.left):
            for row in rows:
                found[row].append(entry)
        elif rows:
            found[_one(rows, entry, sources, file.path)].append(entry)
        elif not np.isnan(entry.left):
            others.append(entry)
    same, unused = set(found), 0
    for entry in others:
        rows = [
            row
            for row in stems.get(_parts(entry.id)[1], [])
            if row not in same and entry.source in ("", sources[row]) and _alike(entry.id, ids[row])
        ]
        if rows:
            found[_one(rows, entry, sources, file.path)].append(entry)
        else:
            unused += 1
    surest = {row: _surest(entries, file.path) for row, entries in found.items()}
    return {row: box for row, box in surest.items() if box is not None}, unused


def _one(rows: list[int], entry: Any, sources: list[str], path: Path) -> int:
    """The photo that a row of the file is of. Raises InputError if it may be of several."""
    if len(rows) > 1:
        of = sorted({sources[row] for row in rows})
        more = "; expected a column source, train or test" if len(of) > 1 else ""
        raise InputError(
            f"{path}: id {entry.id!r} may be of {len(rows)} photos, {' and '.join(of)}{more}"
        )
    return rows[0]


def _surest(entries: list[Any], path: Path) -> np.ndarray | None:
    """The box (4,) of a photo's rows; None if they have none. Raises InputError where nothing tells which of several."""
    entries = [entry for entry in entries if not np.isnan(entry.left)]
    if not entries:
        return None
    scores, ids = [entry.score for entry in entries], sorted({entry.id for entry in entries})
    if len(ids) > 1:
        raise InputError(
            f"{path}: ids {' and '.join(map(repr, ids))} may be of one photo; expected one box a photo"
        )
    if len(entries) > 1 and not np.isfinite(scores).all():
        raise InputError(
            f"{path}: id {entries[-1].id!r} comes more than once; expected one box a photo, or a column score with "
            "numbers, whose highest is taken"
        )
    return np.array([getattr(entries[int(np.argmax(scores))], side) for side in SIDES])


def _alike(one: str, other: str) -> bool:
    """Whether two ids may mean one photo: detectors name files, with a folder and an extension that ids may lack."""
    (folder, stem, suffix), (folder2, stem2, suffix2) = _parts(one), _parts(other)
    deep = min(len(folder), len(folder2))
    return (
        stem == stem2
        and folder[len(folder) - deep :] == folder2[len(folder2) - deep :]
        and (suffix == suffix2 or not (suffix and suffix2))
    )


def _parts(ident: str) -> tuple[list[str], str, str]:
    """Folders, name and extension, if it is one of a photo, of an id."""
    *folder, name = ident.replace("\\", "/").removeprefix("./").split("/")
    stem, _, suffix = name.rpartition(".") if is_photo_name(name) else (name, "", "")
    return folder, stem, suffix.lower()


def _area(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) → (N,) px."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def _overlap(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, 4), (N, 4) → (N,) intersection over union."""
    inner = np.concatenate(
        [np.maximum(some[:, :2], others[:, :2]), np.minimum(some[:, 2:], others[:, 2:])], axis=1
    )
    common = _area(np.concatenate([inner[:, :2], np.maximum(inner[:, :2], inner[:, 2:])], axis=1))
    return np.asarray(common / (_area(some) + _area(others) - common))


def _named(what: str, ids: pd.Series) -> list[str]:
    names = ", ".join(map(str, ids[:5])) + (", …" if len(ids) > 5 else "")
    return [f"WARNING: photos whose {what}: {len(ids):,} ({names})"] if len(ids) else []

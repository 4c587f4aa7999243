"""One table of all photos: where each is, its label, and which side of the split it is on."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from carcls.config import Config
from carcls.data import asks, attached, audit, boxes, ids, labelled
from carcls.data.asks import Asks
from carcls.data.audit import Audit, Facts
from carcls.data.files import Place
from carcls.disk import tree
from carcls.errors import InputError

VALIDATION, TRAIN, TEST = 0, 1, -1  # values of the column fold
_FRAME = ["id", "path", "label", "fold", "source"]
_FRAME += ["height", "width", "readable", "group", "digest"]
_LOOKED = ("source", "id", "path", "height", "width", "readable")


@dataclass(frozen=True, eq=False)
class Rows:
    """Some photos of a table, with the labels that a training takes for theirs."""

    rows: np.ndarray  # (N,) int, positions in the table's frame
    labels: np.ndarray  # (N,) int64, -1 where unknown

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, more: Rows) -> Rows:
        return Rows(
            np.concatenate([self.rows, more.rows]), np.concatenate([self.labels, more.labels])
        )

    def take(self, which: np.ndarray) -> Rows:
        """Some of them: a mask (N,) bool, or numbers within these rows."""
        return Rows(self.rows[which], self.labels[which])


@dataclass(frozen=True)
class Table:
    """All photos that a run can use: train rows in the order of train.csv, then the sample's.

    The columns of ``frame``:
    id, path    str, "" without a file
    label       int, index of the class; -1 for test photos
    fold        TRAIN, VALIDATION or TEST
    source      train or test
    height, width   px, upright; 0 if unreadable
    readable    bool; False only for test photos, which are predicted from a grey photo
    group       int, the same for files with the same bytes
    digest      str, SHA-1 of the file's bytes in hex, "" without a file
    left, top, right, bottom    int, px, what the photo is cut to; only with cfg.boxes
    """

    frame: pd.DataFrame
    classes: (
        list[int] | list[str]
    )  # index of a class → label as the sample writes it, else train.csv
    id_column: str  # of train.csv, as is the next, where there is one
    label_column: str
    sample_ids: list[str]  # as written in the sample submission
    audit: pd.DataFrame  # AUDIT_COLUMNS, all str
    # _LOOKED of all that have a file, dropped ones too: 0 high and wide if the CSV dropped them.
    looked: pd.DataFrame = field(default_factory=partial(pd.DataFrame, columns=list(_LOOKED)))
    notes: list[str] = field(default_factory=list)  # for the log
    asks: Asks = field(default=Asks("labels", ("id", "label")))  # of the submission

    def rows(self, *folds: int) -> Rows:
        """The photos of these folds (TRAIN, VALIDATION, TEST), in the order of the frame."""
        rows = np.flatnonzero(self.frame["fold"].isin(folds))
        return Rows(rows, self.frame["label"].to_numpy(np.int64)[rows])


def load(cfg: Config, place: Place) -> Table:
    """Read the CSV files, look at every photo, split. Raises InputError and ConfigError."""
    findings, box_files = Audit(), [boxes.read(path) for path in attached.box_files(cfg)]
    notes = list(place.notes)
    said = _read_tables(cfg, place, findings, notes)
    train, test, aside = said.train, said.test, said.aside
    paths = [path for path in [*train["path"], *test["path"]] if path]
    for path in paths:
        # Python's stand-ins for bytes that are no text, which photos.csv could not hold
        if not path.isascii() and re.search("[\ud800-\udfff]", path):
            raise InputError(f"{path!a}: this name is not text in UTF-8; rename the file")
    facts = audit.look(paths)
    train = _with_facts(train, facts).assign(source="train")
    test = _with_facts(test, facts).assign(source="test")
    # As far as anybody knows, those can be read.
    aside = aside.assign(height=0, width=0, readable=True, source="train")
    looked = pd.concat([train, aside, test], ignore_index=True)[list(_LOOKED)]

    train = _drop(train, audit.add_findings(findings, "train", train, facts))
    audit.add_findings(findings, "test", test, facts)
    train = _drop(train, audit.add_duplicates(findings, train, test))
    classes = sorted(set(train["label"]))
    for label in sorted(set(said.named) - set(classes)):
        detail = f"class {label}: none of its photos can be used"
        findings.add("train", "", "class without photos", "left out", detail)
    _refuse_too_little(place, train, test, findings)

    train["label"] = train["label"].map({label: index for index, label in enumerate(classes)})
    train["fold"] = _split(train, cfg, classes, findings)
    if not (train["fold"] == VALIDATION).any():
        raise InputError(
            f"{place.train_csv or place.train_photos}: no class has two different photos, "
            "so none can be kept for validation"
        )
    test["label"], test["fold"] = -1, TEST

    frame = pd.concat([train, test], ignore_index=True)
    frame = frame.assign(group=pd.factorize(frame["digest"])[0])[_FRAME]
    if box_files:
        frame, of_boxes = boxes.cut(frame, box_files)
        notes += of_boxes
    wanted, of_test = said.asks.of(said.named, classes), test["id"].tolist()
    return Table(frame, classes, *said.columns, of_test, findings.frame(), looked, notes, wanted)


class _Said(NamedTuple):
    """What the CSV files and the folders say, before a photo is looked at."""

    train: pd.DataFrame  # id, label (int or str), path
    test: pd.DataFrame  # id, path
    aside: pd.DataFrame  # id and path of train photos that are dropped but have a file
    named: list[Any]  # the labels, sorted
    columns: tuple[str, str]  # names of the id's and the label's
    asks: Asks  # by the index in named


def _read_tables(cfg: Config, place: Place, findings: Audit, notes: list[str]) -> _Said:
    """Raises InputError, and ConfigError where what is asked for and a setting do not agree."""
    given = asks.read_sample(place)
    rows = labelled.read(place, given, notes)
    columns = ("id", "label")
    if rows:
        columns = rows.columns
    elif given:
        columns = (given.columns[0], given.columns[1] if len(given.columns) == 2 else "label")
    known = rows.ids.tolist() if rows else []
    sample = given or asks.of_photos(place, known, columns, findings, notes)
    test = ids.test_rows(place, sample, notes)
    train, aside = ids.train_rows(place, sample, rows, findings, notes)
    named = sorted(set(train["label"]))
    wanted, of_columns = asks.decide(cfg, sample, named)
    notes += of_columns
    return _Said(train, test, aside, named, columns, wanted)


def _with_facts(frame: pd.DataFrame, facts: dict[str, Facts]) -> pd.DataFrame:
    looks = [facts[path] if path else Facts() for path in frame["path"]]
    columns = ("digest", "height", "width", "readable")
    return frame.assign(**{name: [getattr(look, name) for look in looks] for name in columns})


def _drop(frame: pd.DataFrame, dropped: set[str]) -> pd.DataFrame:
    return frame[~frame["id"].isin(dropped)].reset_index(drop=True)


def _refuse_too_little(
    place: Place, train: pd.DataFrame, test: pd.DataFrame, findings: Audit
) -> None:
    """Raise InputError without a train photo, a test photo, or two classes."""
    folder, classes, what = place.train_photos, sorted(set(train["label"])), ""
    if train.empty:
        what = "no train photo can be used"
    elif not test["readable"].any():
        folder, what = place.test_photos, "no test photo can be used"
    elif len(classes) == 1:
        what = f"every usable photo is of class {classes[0]!r}; expected two classes or more"
    if what:
        whys = Counter(f"{row[2]}: {row[4]}" for row in findings.rows if row[1] and row[4])
        most = "".join(f"\n  {n:,} {why}" for why, n in whys.most_common(3))
        raise InputError(f"{folder}: {what}; found: {findings}.{most}\nThere is:\n{tree(folder)}")


def _split(train: pd.DataFrame, cfg: Config, classes: list[Any], findings: Audit) -> list[int]:
    """The fold of each row: of every class a share is kept for validation, same files together.

    Photos are taken in the order of a hash of seed and id: it depends neither on the order of rows
    nor on a library's version, and a photo more leaves the others where they are.
    """
    groups: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (label, digest) in enumerate(zip(train["label"], train["digest"], strict=True)):
        groups[label][digest].append(row)
    names = train["id"].tolist()
    fold = [TRAIN] * len(train)

    def key(rows: list[int]) -> bytes:
        return _hash(f"{cfg.seed}/{min(names[row] for row in rows)}")

    for label, by_digest in groups.items():
        ordered = sorted(by_digest.values(), key=key)
        if len(ordered) == 1:
            ident, name = names[ordered[0][0]], f"class {classes[label]}"
            action, detail = "kept for training", f"{name} is not validated"
            if cfg.folds > 1:
                action, detail = "kept", f"{name} is unknown to the network that validates it"
            findings.add("train", ident, "only photo of its class", action, detail)
            continue
        count = sum(map(len, ordered))
        wanted = min(max(round(count * cfg.val_fraction), 1), count - 1)
        taken: list[int] = []
        for rows in ordered:
            if len(taken) + len(rows) <= wanted:
                taken += rows
        for row in taken or min(ordered, key=len):
            fold[row] = VALIDATION
    return fold


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def splits(table: Table, folds: int, seed: int) -> list[tuple[Rows, Rows]]:
    """The photos to learn from and those to check on, of each fold; of one, the table's own split.

    Of several, each labelled photo is checked on once: stratified, the same files together, class
    by class in the order of a hash of seed and id. Raises InputError for too few photos.
    """
    if folds == 1:
        return [(table.rows(TRAIN), table.rows(VALIDATION))]
    labelled = table.rows(TRAIN, VALIDATION)
    return deal(table, labelled, folds, f"{seed}/folds", f"folds={folds}")


def deal(table: Table, rows: Rows, parts: int, key: str, what: str) -> list[tuple[Rows, Rows]]:
    """The others and the part, of each of so many equal parts of these labelled photos.

    Stratified, the same files together, class by class in the order of a hash of key and id. Raises
    InputError for too few photos, which names the setting (``what``).
    """
    photos = table.frame.iloc[rows.rows]
    groups = photos.groupby("group").agg(label=("label", "first"), id=("id", "min"))
    if len(groups) < 2 * parts:
        raise InputError(
            f"{what}: {len(groups)} different train photos; expected at least {2 * parts}"
        )
    groups["order"] = [_hash(f"{key}/{ident}") for ident in groups["id"]]
    dealt = groups.sort_values(["label", "order"]).index
    number = dict(zip(dealt, np.arange(len(dealt)) % parts, strict=True))
    held = photos["group"].map(number).to_numpy()
    return [(rows.take(held != k), rows.take(held == k)) for k in range(parts)]


def with_folds(table: Table, folds: int, seed: int) -> pd.DataFrame:
    """The frame, with the number from 1 of the fold that checks on a photo in the column fold."""
    assert folds > 1, "one split is no fold"
    fold = table.frame["fold"].to_numpy(copy=True)
    for number, (_, check) in enumerate(splits(table, folds, seed), 1):
        fold[check.rows] = number
    return table.frame.assign(fold=fold)


def summary(table: Table, folds: int = 1) -> list[str]:
    """A few lines for the log: counts, classes, sizes, findings; warnings last."""
    train, val, test = (len(table.rows(fold)) for fold in (TRAIN, VALIDATION, TEST))
    split = f"{train:,} to train, {val:,} to validate ({100 * val / (train + val):.1f} %)"
    if folds > 1:
        split = f"{train + val:,} to train, each validated once in {folds} folds"
    per_class = Counter(table.rows(TRAIN, VALIDATION).labels.tolist())
    classes = [f"{label}: {per_class[index]:,}" for index, label in enumerate(table.classes)]
    readable = table.frame[table.frame["readable"]]
    sizes = Counter(zip(readable["width"].tolist(), readable["height"].tolist(), strict=True))
    common = [f"{w}×{h} {100 * n / len(readable):.0f} %" for (w, h), n in sizes.most_common()]
    found = table.audit[["source", "finding", "action"]].value_counts()
    lines = [
        f"photos: {split}, {test:,} to predict",
        f"{len(classes)} classes ({table.label_column}: photos): {first(classes, 20)}",
        f"sizes: {first(common, 3)}",
        *(f"audit: {n:,} {source} {what} → {done}" for (source, what, done), n in found.items()),
        *([] if len(found) else ["audit: nothing found"]),
        *sorted(table.notes, key=lambda note: note.startswith("WARNING")),
    ]
    lines += _many_dropped(table.audit, train + val)
    gone = table.audit.loc[table.audit["finding"] == "class without photos", "detail"].tolist()
    if gone:
        count = f"{len(gone):,} {'classes' if gone[1:] else 'class'}"
        lines.append(f"WARNING: {count} without a usable photo, never predicted: {first(gone, 5)}")
    frame = table.frame[~table.frame["readable"]]
    for why, rows in (
        ("have no file", frame[frame["path"] == ""]),
        ("cannot be read", frame[frame["path"] != ""]),
    ):
        if len(rows):
            count = f"{len(rows):,} test photos {why}, their rows are guesses"
            if len(rows) == 1:
                count = f"1 test photo {why.replace('have', 'has')}, its row is a guess"
            lines.append(f"WARNING: {count}: {first(rows['id'].tolist(), 5)}")
    return lines


def _many_dropped(found: pd.DataFrame, kept: int) -> list[str]:
    """A warning if more than 5 % of the labelled photos are dropped."""
    of_train = (found["source"] == "train") & (found["action"] == "dropped")
    rows = found[of_train & (found["finding"] != "no label")].drop_duplicates("id")
    if len(rows) <= 0.05 * (kept + len(rows)):
        return []
    why, n = Counter(rows["finding"]).most_common(1)[0]
    ids = rows.loc[rows["finding"] == why, "id"].tolist()
    count = f"{len(rows):,} of {kept + len(rows):,} labelled photos"
    return [f"WARNING: {count} dropped, {n:,} of them for: {why} ({first(ids, 3)})"]


def first(names: list[str], count: int) -> str:
    more = f" … {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more

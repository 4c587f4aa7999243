"""Which file and which label an id of the competition's CSV files means."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from carcls.data import tables
from carcls.data.audit import Audit
from carcls.data.files import Place
from carcls.disk import is_photo_name, photo_files, tree
from carcls.errors import InputError


class _Files:
    """The files below a folder, found by what an id may say of their paths."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder = folder
        top = place.root if folder.is_relative_to(place.root) else place.scratch
        self.wrappers = folder.relative_to(top).parts  # train, or train and images
        self.paths: list[str] = []  # relative
        # By path, path without extension, name, and name without extension: the order of a search.
        self.indexes = [defaultdict[str, list[str]](list) for _ in range(4)]
        for subfolder, name in photo_files(folder):
            start, stem = f"{subfolder}/" if subfolder else "", name.rpartition(".")[0] or name
            self.paths.append(start + name)
            keys = start + name, start + stem, name, stem
            for index, key in zip(self.indexes, keys, strict=True):
                index[key].append(start + name)

    def find(self, ident: str) -> list[str]:
        """Relative paths that an id may mean; an id is looked up, never joined to a path."""
        for index in self.indexes:
            if ident in index:
                return index[ident]
        top, _, below = ident.partition("/")
        if below and top in self.wrappers:  # train/1.jpg in the CSV
            return self.find(below)
        # 1.jpg in the CSV, 1.png on disk
        stem = ident.rpartition(".")[0] if is_photo_name(ident) else ""
        return self.indexes[1].get(stem) or self.indexes[3].get(stem, [])

    def full(self, path: str) -> str:
        return f"{self.folder}/{path}"


def sample_columns(place: Place) -> tuple[str, str]:
    """The names of the id and the label in the sample submission. Raises InputError."""
    columns = list(map(str, tables.read_csv(place.sample_csv).columns))
    if len(columns) != 2:
        raise InputError(
            f"{place.sample_csv}: columns {', '.join(columns)}; expected two, id and label"
        )
    return columns[0], columns[1]


def test_rows(place: Place) -> pd.DataFrame:
    """Columns id and path ("" without a file), in the sample's order. Raises InputError."""
    ids = tables.read_csv(place.sample_csv).iloc[:, 0].tolist()
    twice = [ident for ident, n in Counter(ids).items() if n > 1]
    if twice:
        raise InputError(
            f"{place.sample_csv}: {len(twice)} ids come more than once, such as {twice[0]!r}"
        )
    files, paths = _Files(place.test_photos, place), []
    for line, ident in enumerate(ids, 2):
        if not ident.strip():
            raise InputError(f"{place.sample_csv}: row {line} has no id")
        found = files.find(ident.strip())
        if len(found) > 1:
            raise InputError(
                f"{place.sample_csv}: id {ident!r} may mean {' or '.join(found)} in {files.folder}"
            )
        paths.append(files.full(found[0]) if found else "")
    return pd.DataFrame({"id": ids, "path": paths}, dtype=object)


def train_rows(
    place: Place, columns: tuple[str, str], audit: Audit
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Photos with one label and one file: columns id, label (int or str), path.

    They come from train.csv, whose columns of id and label are given, or from the folders of the
    classes. Also returns id and path of those that are dropped but have a file. Raises InputError.
    """
    files = _Files(place.train_photos, place)
    if place.train_csv is None:
        return _rows_of_folders(place, files), pd.DataFrame(columns=["id", "path"])
    frame = _labelled_rows(place, columns, audit)
    frame["path"] = _paths(frame, files, audit)
    dropped = dict.fromkeys(row[1] for row in audit.rows if row[3] == "dropped")
    aside = [(ident, files.full(found[0])) for ident in dropped if (found := files.find(ident))]
    frame = frame[frame["path"] != ""].reset_index(drop=True)
    return frame, pd.DataFrame(aside, columns=["id", "path"], dtype=object)


def _rows_of_folders(place: Place, files: _Files) -> pd.DataFrame:
    paths = [path for path in files.paths if is_photo_name(path) and "/" in path]
    if not paths:
        raise InputError(
            f"{place.root}: missing train.csv, and {files.folder} has no folder per class. There "
            f"is:\n{tree(files.folder)}"
        )
    names = [path.partition("/")[0] for path in paths]
    values, full = _label_values(names), [files.full(path) for path in paths]
    labels = [values[name] for name in names]
    return pd.DataFrame({"id": paths, "label": labels, "path": full}, dtype=object)


def _labelled_rows(place: Place, columns: tuple[str, str], audit: Audit) -> pd.DataFrame:
    """Columns id and label of the rows of train.csv that have a label, each id once."""
    assert place.train_csv
    csv = tables.read_csv(place.train_csv)
    if not set(columns) <= set(csv.columns):
        raise InputError(
            f"{place.train_csv}: columns {', '.join(map(str, csv.columns))}; expected "
            f"{columns[0]} and {columns[1]}, as in {place.sample_csv.name}"
        )
    ids, labels = (csv[column].str.strip() for column in columns)
    blank = labels.str.lower().isin(["", "nan"])
    for ident in ids[blank]:
        audit.add("train", ident, "no label", "dropped", f"{columns[1]} is empty")
    frame = pd.DataFrame({"id": ids[~blank], "label": labels[~blank]}, dtype=object)
    frame["label"] = frame["label"].map(_label_values(frame["label"]))
    return _each_id_once(frame.reset_index(drop=True), audit)


def _paths(frame: pd.DataFrame, files: _Files, audit: Audit) -> list[str]:
    """The file of each row, "" where there is none or one cannot tell."""
    folders = {str(label) for label in frame["label"]}
    paths = []
    for ident, label in zip(frame["id"], frame["label"], strict=True):
        found = files.find(ident)
        if len(found) > 1:  # 1.jpg in two folders: the one of its class
            found = [path for path in found if str(label) in path.split("/")[:-1]] or found
        if len(found) != 1:
            finding = "several files" if found else "missing file"
            detail = " or ".join(found) or f"not in {files.folder.name}"
            audit.add("train", ident, finding, "dropped", detail)
            paths.append("")
            continue
        folder = found[0].split("/")[-2] if "/" in found[0] else ""
        if folder in folders and folder != str(label):
            detail = f"label {label}, folder {folder}"
            audit.add("train", ident, "in another class's folder", "kept", detail)
        paths.append(files.full(found[0]))
    return paths


def _label_values(labels: Iterable[str]) -> dict[str, int | str]:
    """Text → label: integers if all are (3.0 too, as pandas writes it beside a gap), else text."""
    texts = sorted(set(labels))
    if all(re.fullmatch(r"(0|-?[1-9]\d*)(\.0+)?", text) for text in texts):
        return {text: int(text.partition(".")[0]) for text in texts}
    return {text: text for text in texts}


def _each_id_once(frame: pd.DataFrame, audit: Audit) -> pd.DataFrame:
    """Ids that come twice: once if the labels agree, else not at all."""
    twice = frame[frame.duplicated("id", keep=False)]
    clash = {ident for ident, labels in twice.groupby("id")["label"] if labels.nunique() > 1}
    for ident, label in twice[["id", "label"]].drop_duplicates().itertuples(index=False):
        finding, action, detail = "id more than once", "first row kept", f"label {label} in each"
        if ident in clash:
            finding, action, detail = "id with several labels", "dropped", f"label {label}"
        audit.add("train", ident, finding, action, detail)
    return frame[~frame["id"].isin(clash)].drop_duplicates("id").reset_index(drop=True)

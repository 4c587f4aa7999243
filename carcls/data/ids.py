"""Which photos the competition's CSV files and class folders name, and with which labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from unicodedata import normalize

import pandas as pd

from carcls.data import labels
from carcls.data.asks import Sample
from carcls.data.audit import Audit
from carcls.data.files import Place
from carcls.data.labelled import Labelled
from carcls.data.labels import Label, LabelOf
from carcls.data.names import Files
from carcls.disk import is_junk, is_photo_name, may_be_photo, tree
from carcls.errors import InputError


def test_rows(place: Place, sample: Sample, notes: list[str]) -> pd.DataFrame:
    """Columns id and path ("" without a file), in the sample's order. Raises InputError."""
    if sample.csv is None:
        return pd.DataFrame({"id": sample.ids, "path": sample.paths}, dtype=object)
    ids, csv, files = sample.ids, sample.csv, Files(place.test_photos, place)
    for line, ident in enumerate(ids, 2):
        if not ident.strip():
            raise InputError(f"{csv}: row {line} has no id")
    found, how = files.match(ids, csv)
    twice = [ident for ident, n in Counter(ids).items() if n > 1]
    why = _swapped(files, csv, sample.columns, sample.values.iloc[:, 0], found)
    if twice:
        count = f"{len(twice):,} ids come" if twice[1:] else "1 id comes"
        raise InputError(f"{csv}: {count} more than once, such as {twice[0]!r}.{why}")
    files.refuse_lost(csv, found, why)
    for ident, paths in found.items():
        if len(paths) > 1:
            raise InputError(f"{csv}: id {ident!r} may mean {' or '.join(paths)} in {files.folder}")
    notes += how
    paths = [files.full(found[ident][0]) if found[ident] else "" for ident in ids]
    return pd.DataFrame({"id": ids, "path": paths}, dtype=object)


def _swapped(
    files: Files,
    csv: Path,
    columns: Sequence[str],
    texts: Iterable[str],
    found: dict[str, list[str]],
) -> str:
    """What to say if no id has a file, but most texts of the column of labels have."""
    second = [text for text in dict.fromkeys(texts) if text.strip()]
    if any(found.values()) or not second:
        return ""
    fits, _ = files.match(second, csv)
    if 2 * sum(map(bool, fits.values())) <= max(len(second), len(found)):
        return ""
    return (
        f" The column {columns[0]} is taken for ids, and the column {columns[1]} looks like them "
        f"({second[0]!r}): are the two swapped?"
    )


def train_rows(
    place: Place, sample: Sample, said: Labelled | None, audit: Audit, notes: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Photos with one label and one file: columns id, label (int or str), path.

    They come from train.csv, or from the folders of the classes. Also returns id and path of those
    that are dropped but have a file. Raises InputError.
    """
    files = Files(place.train_photos, place)
    if said is None:
        rows = _rows_of_folders(place, files, sample, audit, notes)
        return rows, pd.DataFrame(columns=["id", "path"])
    assert place.train_csv
    found, how = files.match(said.ids.unique().tolist(), place.train_csv)
    why = _swapped(files, place.train_csv, said.columns, said.texts, found)
    files.refuse_lost(place.train_csv, found, why)
    notes += how
    frame = _labelled_rows(place.train_csv, said, sample, audit, notes)
    folder_of = labels.by_name(frame["label"].unique())
    frame["id"] = _tell_apart(frame, found, folder_of, notes)
    frame = _each_id_once(frame, audit)
    frame["path"] = _paths(frame, files, found, folder_of, audit, notes)
    dropped = dict.fromkeys(row[1] for row in audit.rows if row[3] == "dropped")
    aside = [(ident, files.full(paths[0])) for ident in dropped if (paths := found.get(ident))]
    frame = frame[frame["path"] != ""].reset_index(drop=True)
    return frame, pd.DataFrame(aside, columns=["id", "path"], dtype=object)


def _rows_of_folders(
    place: Place, files: Files, sample: Sample, audit: Audit, notes: list[str]
) -> pd.DataFrame:
    other: dict[str, Counter[str]] = defaultdict(Counter)  # class folder → kinds of files
    paths, level = [], place.class_level
    for path in files.paths:
        *folders, name = path.split("/")
        folder = folders[level] if len(folders) > level else ""
        if not may_be_photo(name):
            other[folder][Path(name).suffix.lower() or name] += 1
        elif folder:
            paths.append(path)
        elif is_photo_name(path):
            audit.add("train", path, "in no class's folder", "left out", f"in {files.folder.name}")
    if not paths:
        raise InputError(
            f"{place.root}: missing train.csv, and {files.folder} has no folder per class. There "
            f"is:\n{tree(files.folder)}"
        )
    if other:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sum(other.values(), Counter()).items())
        audit.add("train", "", "files that are no photos", "left out", kinds)
    names = [normalize("NFC", path.split("/")[level]) for path in paths]  # a Mac's are not
    values, alike = labels.values(names, sample.asked.unique(), files.folder)
    notes += alike
    found = [values[name] for name in names]
    entries = [*files.folder.glob("*/" * level + "*")]
    folders = sorted({e.name for e in entries if e.is_dir() and not is_junk(e.name)})
    used = {path.split("/")[level] for path in paths}
    for folder in folders:
        if folder not in used:
            holds = ", ".join(other[folder]) if folder in other else "nothing"
            detail = f"class {folder}: its folder holds {holds}"
            audit.add("train", "", "class without photos", "left out", detail)
    full = [files.full(path) for path in paths]
    return pd.DataFrame({"id": paths, "label": found, "path": full}, dtype=object)


def _labelled_rows(
    csv: Path, said: Labelled, sample: Sample, audit: Audit, notes: list[str]
) -> pd.DataFrame:
    """Columns id and label of the rows of train.csv that have a label."""
    ids, texts, asked = said.ids, said.texts, sample.asked
    blank, words = labels.missing(texts, asked.unique(), csv)
    for row, ident in ids[blank].items():
        finding, detail = said.broken.get(row, ("no label", f"{texts.name} is empty"))
        audit.add("train", ident, finding, "dropped", detail)
    quantities = labels.refuse_quantities(texts[~blank], csv)
    values, alike = labels.values(texts[~blank].tolist(), asked.unique(), csv)
    notes += [*words, *quantities, *alike]
    frame = pd.DataFrame({"id": ids[~blank], "label": texts[~blank].map(values)}, dtype=object)
    return frame.reset_index(drop=True)


def _of_class(paths: list[str], label: Label, label_of: LabelOf) -> list[str]:
    """Of several files, 1.jpg in two folders: those in a folder of that class, else all."""
    own = [p for p in paths if label in map(label_of, p.split("/")[:-1])] if paths[1:] else []
    return own or paths


def _tell_apart(
    frame: pd.DataFrame, found: dict[str, list[str]], label_of: LabelOf, notes: list[str]
) -> list[str]:
    """The ids; of one with several labels, whose files lie in their folders, the paths instead."""
    twice = frame[frame.duplicated("id", keep=False)].groupby("id")["label"].nunique()
    shared, apart = set(twice.index[twice > 1]), 0
    ids: list[str] = []
    for ident, label in zip(frame["id"], frame["label"], strict=True):
        own = _of_class(found[ident], label, label_of) if ident in shared else []
        own = own if len(own) == 1 < len(found[ident]) else []
        apart += len(own)
        found |= dict.fromkeys(own, own)
        ids += own or [ident]
    if apart:
        notes.append(f"{apart:,} ids come in several classes: the label's folder tells the file")
    return ids


def _paths(
    frame: pd.DataFrame,
    files: Files,
    found: dict[str, list[str]],
    label_of: LabelOf,
    audit: Audit,
    notes: list[str],
) -> list[str]:
    """The file of each row, "" where there is none or one cannot tell."""
    paths, in_folders, wrong = [], 0, ""
    tops = {folder for own in found.values() for path in own for folder in path.split("/")[:-1]}
    if 2 * len({label_of(top) for top in tops} - {None}) <= frame["label"].nunique():
        tops = set()  # folders 0 … 9 of classes 0 … 395 only part the photos
    for ident, label in zip(frame["id"], frame["label"], strict=True):
        own = _of_class(found[ident], label, label_of)
        if len(own) != 1:
            finding = "several files" if own else "missing file"
            detail = " or ".join(own) or f"not in {files.folder.name}"
            audit.add("train", ident, finding, "dropped", detail)
            paths.append("")
            continue
        paths.append(files.full(own[0]))
        above = tops.intersection(own[0].split("/")[:-1])
        folders = [folder for folder in above if label_of(folder) is not None]
        in_folders += bool(folders)
        if folders and label not in map(label_of, folders):
            detail = f"label {label}, folder {folders[-1]}"
            audit.add("train", ident, "in another class's folder", "kept", detail)
            wrong = wrong or f"{ident} ({detail})"
    count = sum(row[2] == "in another class's folder" for row in audit.rows)
    if 2 * count > in_folders:
        notes.append(
            f"WARNING: {count:,} of {in_folders:,} photos in class folders are in the folder of a "
            f"class that is not their label, such as {wrong}; the labels of the CSV are taken: "
            "are they right?"
        )
    return paths


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

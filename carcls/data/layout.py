"""How photos are laid out: in a folder or its zip file, in folders of folders, by class."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from carcls.data.tables import clean, read_csv
from carcls.data.unzip import names_in
from carcls.disk import is_junk, is_photo_name, may_be_photo, photo_files
from carcls.errors import InputError

# Parts of a data set that have the folders of the classes in them: train, val_images, seg_test.
_SPLIT = re.compile(
    r"(?:.*[_ -])?(train|val|test|dev|eval)(?:ing|id|idation|uation)?"
    r"(?:[_ -]?(?:set|data|images|photos|split|upload))?",
    re.IGNORECASE,
)


def best(sources: list[Path], csv: Path | None, sample: Path | None) -> tuple[Path, list[str]]:
    """Of folders and zip files, the first with most of the photos of a CSV file, and why."""
    if len(sources) == 1:
        return sources[0], []
    wanted, notes = _ids(csv, sample), list[str]()
    hits, photos = dict[Path, int](), dict[Path, int]()
    for source in sources:
        try:
            names = _names(source, partial(texts, csv, sample))
        except InputError as error:
            notes.append(f"WARNING: not used: {error}")
            continue
        hits[source] = len(_stems(names) & wanted)
        photos[source] = sum(map(may_be_photo, names))
        if wanted and hits[source] == len(wanted):
            break  # what a zip file beside a whole folder holds does not matter
    counts, of = (hits, f" of {len(wanted):,}") if any(hits.values()) else (photos, "")
    chosen = max(counts, key=counts.__getitem__, default=sources[0])
    others = [path for path in sources if path != chosen]
    if notes or len(counts) > 1 or any(path.stem != chosen.stem for path in others):
        rest = ", ".join(f"{path.name} ({counts.get(path, 'not counted')})" for path in others)
        found = f"{counts.get(chosen, 0):,}{of} photos"
        notes.append(f"{chosen}: has {found} and is used, not {rest}")
    return chosen, notes


def _names(source: Path, known: partial[set[str]]) -> list[str]:
    if source.is_file():
        return names_in(source, known)
    files = photo_files(source)  # an empty file is what a copy that broke off leaves
    return [name for at, name in files if (source / at / name).lstat().st_size]


def _ids(csv: Path | None, sample: Path | None) -> set[str]:
    """What a CSV file says of the names of its photos, in the column of the sample's ids."""
    if csv is None:
        return set()
    frame = read_csv(csv)
    column = read_csv(sample).columns[0] if sample else ""
    return _stems(frame[column if column in frame else frame.columns[0]])


def _stems(paths: Iterable[str]) -> set[str]:
    names = _alike(re.split(r"[/\\]", path.strip())[-1] for path in paths)
    return {name.rpartition(".")[0] if is_photo_name(name) else name for name in names} - {""}


def _alike(names: Iterable[str]) -> set[str]:
    return {clean(name).casefold() for name in names}


def texts(*csv_files: Path | None) -> set[str]:
    """All that CSV files say. Raises InputError."""
    return {text for csv in csv_files if csv for text in read_csv(csv).to_numpy().ravel()}


def has_photos(folder: Path) -> bool:
    return any(may_be_photo(name) for _, name in photo_files(folder))


def unwrapped(folder: Path) -> Path:
    """The folder with the photos, below folders that only wrap another."""
    while True:
        entries = _entries(folder)
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]


def _entries(folder: Path) -> list[Path]:
    """Files that may be photos, and folders of such; a README beside them does not count."""
    entries = [entry for entry in folder.iterdir() if not is_junk(entry.name)]
    return [e for e in entries if (has_photos(e) if e.is_dir() else may_be_photo(e.name))]


def class_level(folder: Path, sample: Path | None) -> tuple[int, list[str]]:
    """How many folders are above those of the classes, and lines for the log.

    As many as are above those that the sample's labels name; if they name none, one if the classes
    are in folders such as train and valid, else none.
    """
    photos = [at.split("/") for at, name in photo_files(folder) if at and may_be_photo(name)]
    names = [sorted({parts[k] for parts in photos if parts[k:]}) for k in range(3)]
    tops, deep = names[0], sorted({parts[0] for parts in photos if parts[1:]})
    level = 0
    if len({_split(top) for top in tops} - {""}) > 1 and deep and all(map(_split, deep)):
        level = 1  # a class may be called train
    asked = _asked(sample) if sample else set()
    named = [k for k, some in enumerate(names) if asked and asked <= _alike(some)]
    level = named[0] if named else level
    inside = [parts for parts in photos if parts[level + 1 :]]
    notes = []
    if level:
        tops = sorted({"/".join(parts[:level]) for parts in photos if parts[level:]})
        count = sum(len(parts) > level for parts in photos)
        notes.append(
            f"{folder}: the classes are the folders in {_few(tops)}; all {count:,} photos there "
            "are labelled photos, split anew"
        )
    elif inside and not named:
        notes.append(
            f"{folder}: the classes are the outer folders ({_few(tops)}); the folders in them "
            f"({_few(names[1])}) are not told apart"
        )
    return level, notes


def _asked(sample: Path) -> set[str]:
    """The classes that a sample submission names: its labels, or its columns."""
    frame = read_csv(sample)
    return _alike(frame.iloc[:, -1] if frame.shape[1] == 2 else frame.columns[1:]) - {""}


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + " …" * (len(names) > 5)


def unused(root: Path) -> list[str]:
    """Lines for the log on folders of classes that people may expect to be used, too."""
    folders = [entry for entry in root.iterdir() if _split(entry.name) in ("val", "dev", "eval")]
    return [
        f"WARNING: {folder}: not used; to learn from its photos, too, move it into the folder of "
        "the train photos, beside a folder train with the classes"
        for folder in sorted(folders)
        if folder.is_dir() and any(e.is_dir() and has_photos(e) for e in folder.iterdir())
    ]


def _split(name: str) -> str:
    match = _SPLIT.fullmatch(name)
    return match[1].lower() if match else ""

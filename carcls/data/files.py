"""Where things are, on Kaggle and on a desk: the competition's files and the run folder."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from carcls.config import Config
from carcls.data import layout
from carcls.data.unzip import unpack
from carcls.disk import folders_below, kaggle_root, on_kaggle, tree, user_path
from carcls.errors import InputError

SAMPLE_NAMES = ("sample-submission.csv", "sample-submissions.csv", "submission-sample.csv")
TRAIN_NAMES = ("train.csv",)
TRAIN_FOLDERS = ("train", "train_images")
TEST_FOLDERS = ("test_upload", "test", "test_images")  # the competition's is test_upload


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes. Folders exist, zipped photos are unpacked."""

    root: Path  # the competition's folder
    train_csv: Path | None  # None: one folder per class says the labels
    sample_csv: Path | None  # None: all test photos are predicted
    train_photos: Path
    test_photos: Path
    answers: Path | None  # the true test labels, which the drawn sample has
    on_kaggle: bool
    out: Path = Path()  # what the run leaves
    scratch: Path = Path()  # what may vanish after the run
    class_level: int = 0  # folders of train_photos above those of the classes
    notes: tuple[str, ...] = ()  # for the log: which files were taken, and how they were read


def check(cfg: Config) -> Path:
    """The competition's folder, if a run finds all in it; writes nothing. Raises InputError."""
    return _find(cfg).root


def run_folder(cfg: Config) -> Path:
    """The run folder, made if need be, once the data is there. Raises InputError."""
    place = _find(cfg)
    usual = kaggle_root() / "working" if place.on_kaggle else Path("out")
    out = user_path(cfg.out) if cfg.out else usual
    if out.resolve() == place.root.resolve():
        raise InputError(
            f"out={out}: is the data folder, whose files a run could replace; choose another one"
        )
    for photos in (place.train_photos, place.test_photos):
        if photos.is_dir() and out.resolve().is_relative_to(photos.resolve()):
            raise InputError(
                f"out={out}: lies in {photos}; its pictures would be taken for photos; choose a "
                "folder elsewhere"
            )
    return _writable(out)


def locate(cfg: Config) -> Place:
    """Find the competition's files, make the run folder, unpack the photos. Raises InputError."""
    out, place = run_folder(cfg), _find(cfg)
    scratch = _scratch(out, place.on_kaggle)
    folders = {"train": place.train_photos, "test": place.test_photos}
    zips = {scratch / name: path for name, path in folders.items() if path.is_file()}
    notes = [*place.notes, *unpack(zips, partial(layout.texts, place.train_csv, place.sample_csv))]
    train, test = (
        layout.unwrapped(scratch / name if path.is_file() else path)
        for name, path in folders.items()
    )
    level = 0
    if place.train_csv is None:
        level, found = layout.class_level(train, place.sample_csv)
        notes += found
    return replace(
        place,
        out=out,
        scratch=scratch,
        train_photos=train,
        test_photos=test,
        class_level=level,
        notes=tuple(notes),
    )


def _find(cfg: Config) -> Place:
    """The files as they are there: photos may be zip files. Raises InputError."""
    root = _root(cfg)
    train_csv, sample_csv = _file(root, TRAIN_NAMES), _file(root, SAMPLE_NAMES)
    trains, tests = _sources(root, TRAIN_FOLDERS), _sources(root, TEST_FOLDERS)
    if trains and tests:
        answers = root / "answers" / "answers.csv"
        is_sample = (root / "sample.json").is_file() and answers.is_file()
        train, notes = layout.best(trains, train_csv, sample_csv)
        test, more = layout.best(tests, sample_csv, sample_csv)
        if sample_csv is None:
            more += _other_tables(root, train_csv)
        return Place(
            root,
            train_csv,
            sample_csv,
            train,
            test,
            answers if is_sample else None,
            on_kaggle(),
            notes=(*notes, *more, *(() if train_csv else layout.unused(root))),
        )
    lacks = [] if trains else ["train photos (train.zip, or a folder train with photos)"]
    lacks += (
        [] if tests else ["test photos (test.zip, or a folder test_upload or test with photos)"]
    )
    lacks += [] if sample_csv or train_csv else [f"{SAMPLE_NAMES[0]} or train.csv"]
    raise InputError(f"{root}: missing {'; missing '.join(lacks)}. There is:\n{tree(root)}")


def _other_tables(root: Path, train_csv: Path | None) -> list[str]:
    """A warning of CSV files that may be the sample submission under another name."""
    others = [path.name for path in sorted(root.glob("*.csv")) if path != train_csv]
    if not others:
        return []
    return [
        f"WARNING: {root}: no {SAMPLE_NAMES[0]}; if one of {', '.join(others)} is it, rename it"
    ]


def _root(cfg: Config) -> Path:
    """The competition's folder: cfg.data or below it, else a kernel's input. Raises InputError."""
    if cfg.data:
        top = user_path(cfg.data)
        usual = [top]
        if not top.is_dir():
            raise InputError(
                f"data={cfg.data}: {'is a file' if top.is_file() else 'does not exist'}; expected "
                f"a folder with train.csv, {SAMPLE_NAMES[0]} and photos"
            )
    elif on_kaggle():
        top = kaggle_root() / "input"
        # Kaggle has used both layouts and promises neither, hence the search below.
        usual = [top / "competitions" / cfg.competition, top / cfg.competition]
    else:
        raise InputError("data: empty, and this is not Kaggle; set data=FOLDER, the competition's")
    below = [folder for folder in usual if _tables(folder, SAMPLE_NAMES)][:1]
    if not below:
        whole = [folder for folder in folders_below(top) if _is_competition(folder)]
        below = [f for f in whole if cfg.data or cfg.competition in f.parts]
    if not below:  # on Kaggle, any data set may have photos and no sample submission
        some = [f for f in folders_below(top) if cfg.data or cfg.competition in f.parts]
        some = [folder for folder in some if _has_all_photos(folder)]
        below = [folder for folder in usual if folder in some][:1] or some or whole
    if len(below) > 1:
        names = "".join(f"\n  {folder}" for folder in below)
        raise InputError(f"{top}: several competitions in it; set data to one of{names}")
    if below:
        return below[0]
    if cfg.data:
        return top  # the caller says what it lacks
    raise InputError(
        f"{top}: the competition {cfg.competition} is not there; attach it (in the kernel's "
        f"editor: Add Input → Competitions → {cfg.competition}; in kernel-metadata.json: "
        f'"competition_sources": ["{cfg.competition}"]), or set data=FOLDER. There is:\n'
        f"{tree(top, depth=4)}"
    )


def _is_competition(folder: Path) -> bool:
    if not _tables(folder, SAMPLE_NAMES):
        return False
    return bool(_tables(folder, TRAIN_NAMES) or _sources(folder, TRAIN_FOLDERS))


def _has_all_photos(folder: Path) -> bool:
    return bool(_sources(folder, TRAIN_FOLDERS) and _sources(folder, TEST_FOLDERS))


def _key(name: str) -> str:
    """Names that people write in several ways: sampleSubmission.csv is sample_submission.csv."""
    return re.sub(r"[-_ ]", "", name.casefold())


def _named(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """What has one of these names, in their order; as it is written here before other ways."""
    if not folder.is_dir():
        return []
    keys = {_key(name): number for number, name in reversed([*enumerate(names)])}
    found = [entry for entry in folder.iterdir() if _key(entry.name) in keys]
    return sorted(found, key=lambda e: (keys[_key(e.name)], e.name not in names, e.name))


def _tables(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """The CSV files of these names, else those that are zipped."""
    found = _named(folder, names) or _named(folder, tuple(f"{name}.zip" for name in names))
    # Kaggle has made folders of zipped files: train.csv/train.csv
    return [path / path.name if (path / path.name).is_file() else path for path in found]


def _file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The CSV file of one of these names. Raises InputError if one cannot tell which."""
    found = _tables(folder, names)
    for path in found:
        if not path.is_file():
            raise InputError(f"{path}: {_kind(path)}; expected a CSV file")
    if len(found) > 1 and len({path.read_bytes() for path in found}) > 1:
        names_found = ", ".join(path.name for path in found)
        raise InputError(f"{folder}: {names_found} differ; keep the one that is to be used")
    return found[0] if found else None


def _kind(path: Path) -> str:
    if not path.exists():
        return "a link to nothing"
    return "a folder" if path.is_dir() else "a FIFO, a device or a socket"


def _sources(root: Path, names: tuple[str, ...]) -> list[Path]:
    """The folders with photos of these names, then the zip files. Raises InputError for others."""
    folders = [path for path in _named(root, names) if path.is_dir()]
    zips = _named(root, tuple(f"{name}.zip" for name in names))
    for path in zips:
        if not path.is_dir() and not path.is_file():
            raise InputError(f"{path}: {_kind(path)}; expected a zip file")
    found = [path for path in folders + zips if path.is_file() or layout.has_photos(path)]
    return sorted(found, key=Path.is_file)  # Kaggle has made folders of zip files, too


def _writable(folder: Path) -> Path:
    """The folder, made if need be, after a file was written to it. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".try-"):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); set out to another folder"
        ) from None
    return folder


def _scratch(out: Path, kaggle: bool) -> Path:
    if not kaggle:
        return _writable(out / ".scratch")
    try:  # not in the run folder, which Kaggle keeps as the kernel's output
        return _writable(kaggle_root() / "temp" / "carcls")
    except InputError:
        return _writable(Path(tempfile.gettempdir()) / "carcls")

"""Where things are, on Kaggle and on a desk: the competition's files and the run folder."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from carcls.config import Config
from carcls.data.unzip import unpack
from carcls.disk import (
    folders_below,
    is_junk,
    is_photo_name,
    kaggle_root,
    on_kaggle,
    photo_files,
    tree,
    user_path,
)
from carcls.errors import InputError

SAMPLE_NAMES = ("sample-submission.csv", "sample_submission.csv")
TRAIN_NAMES = ("train.csv",)
TRAIN_FOLDERS = ("train",)
TEST_FOLDERS = ("test_upload", "test")  # the competition's test.zip unpacks to test_upload


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes. Folders exist, zipped photos are unpacked."""

    root: Path  # the competition's folder
    train_csv: Path | None  # None: one folder per class says the labels
    sample_csv: Path
    train_photos: Path
    test_photos: Path
    answers: Path | None  # the true test labels, which the drawn sample has
    on_kaggle: bool
    out: Path = Path()  # what the run leaves
    scratch: Path = Path()  # what may vanish after the run


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
    return replace(
        place,
        out=out,
        scratch=scratch,
        train_photos=_photo_folder(place.train_photos, scratch / "train"),
        test_photos=_photo_folder(place.test_photos, scratch / "test"),
    )


def _find(cfg: Config) -> Place:
    """The files as they are there: photos may be zip files. Raises InputError."""
    root = _root(cfg)
    train_csv, sample_csv = _file(root, TRAIN_NAMES), _file(root, SAMPLE_NAMES)
    train, test = _photos(root, TRAIN_FOLDERS), _photos(root, TEST_FOLDERS)
    if sample_csv and train and test:
        answers = root / "answers" / "answers.csv"
        is_sample = (root / "sample.json").is_file() and answers.is_file()
        return Place(
            root, train_csv, sample_csv, train, test, answers if is_sample else None, on_kaggle()
        )
    lacks = [] if sample_csv else [" or ".join(SAMPLE_NAMES)]
    lacks += [] if train else ["train photos (train.zip, or a folder train with photos)"]
    lacks += [] if test else ["test photos (test.zip, or a folder test_upload or test with photos)"]
    raise InputError(f"{root}: missing {'; missing '.join(lacks)}. There is:\n{tree(root)}")


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
    below = [folder for folder in usual if _file(folder, SAMPLE_NAMES)][:1]
    below = below or [folder for folder in folders_below(top) if _is_competition(folder)]
    if not cfg.data:
        below = [folder for folder in below if cfg.competition in folder.parts] or below
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
    if not _file(folder, SAMPLE_NAMES):
        return False
    return bool(_file(folder, TRAIN_NAMES) or _photos(folder, TRAIN_FOLDERS))


def _file(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _photos(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder of photos if it holds one, else the zip file of that name."""
    for name in names:
        folder = root / name
        if folder.is_dir() and any(is_photo_name(file) for _, file in photo_files(folder)):
            return folder
    return _file(root, tuple(f"{name}.zip" for name in names))


def _photo_folder(source: Path, target: Path) -> Path:
    """The folder with the photos of a folder or zip file, below folders that only wrap another."""
    folder = source if source.is_dir() else unpack(source, target)
    while True:
        entries = [entry for entry in folder.iterdir() if not is_junk(entry.name)]
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]


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

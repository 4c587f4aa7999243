"""Where things are, on Kaggle and on a desk: the competition's files, weights, the run folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from lzma import LZMAError
except (
    ImportError
):  # a Python built without it cannot open such a zip file either, and zipfile says so
    LZMAError = zlib.error  # type: ignore[assignment,misc]  # one name for both cases

from carcls.disk import (
    PHOTO_SUFFIXES,
    _junk,
    is_photo_name,
    kaggle_root,
    on_kaggle,
    photo_files,
    tree,
    user_path,
    write_atomic,
)
from carcls.errors import InputError

if TYPE_CHECKING:
    from carcls.config import Config

SAMPLE_NAMES = ("sample-submission.csv", "sample_submission.csv")
TRAIN_FOLDERS = ("train",)
TEST_FOLDERS = ("test_upload", "test")  # the competition's test.zip unpacks to test_upload
_DONE = ".unpacked.json"  # says which zip a folder of scratch was unpacked from
_SEARCH_DEPTH = 5  # of the search by marker file: input/competitions/<slug>/… and some room


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes. Folders exist, zipped photos are unpacked."""

    root: Path  # the competition's folder
    out: Path  # what the run leaves
    scratch: Path  # what may vanish after the run
    train_csv: Path | None  # None: one folder per class says the labels
    sample_csv: Path
    train_photos: Path
    test_photos: Path
    on_kaggle: bool
    answers: Path | None  # the true test labels, which the drawn sample has


def check(cfg: Config) -> Path:
    """The competition's folder, if all that a run needs is in it; reads and writes nothing. Raises InputError."""
    return _found(cfg)[0]


def _found(cfg: Config) -> tuple[Path, Path | None, Path, Path, Path]:
    """Folder, train.csv, sample submission, train photos, test photos (each a folder or a zip)."""
    root = _root(cfg)
    train_csv, sample_csv = _csv(root, ("train.csv",)), _csv(root, SAMPLE_NAMES)
    train, test = _photos(root, TRAIN_FOLDERS), _photos(root, TEST_FOLDERS)
    lacks = [] if sample_csv else [" or ".join(SAMPLE_NAMES)]
    lacks += [] if train else ["train photos (train.zip, or a folder train with photos)"]
    lacks += [] if test else ["test photos (test.zip, or a folder test_upload or test with photos)"]
    if not (sample_csv and train and test):
        raise InputError(f"{root}: missing {'; missing '.join(lacks)}. There is:\n{tree(root)}")
    return root, train_csv, sample_csv, train, test


def run_folder(cfg: Config) -> Path:
    """The run folder, made if need be, where the competition's files are there. Raises InputError."""
    kaggle = on_kaggle()
    root, _, _, train, test = _found(cfg)
    out = user_path(cfg.out) if cfg.out else kaggle_root() / "working" if kaggle else Path("out")
    if out.resolve() == root.resolve():
        raise InputError(
            f"out={out}: is the data folder, whose files a run's own (photos.csv, config.json, …) could replace; choose "
            "a folder for runs"
        )
    for photos in (train, test):
        if photos.is_dir() and photos.resolve() in (out.resolve(), *out.resolve().parents):
            raise InputError(
                f"out={out}: lies in {photos}, where its pictures would be taken for photos; choose a folder elsewhere"
            )
    return _writable(out)


def locate(cfg: Config) -> Place:
    """Find the competition's files, make the run folder, unpack the photos into its scratch. Raises InputError."""
    kaggle, out = on_kaggle(), run_folder(cfg)
    root, train_csv, sample_csv, train, test = _found(cfg)
    scratch = _scratch(out, kaggle)
    answers = root / "answers" / "answers.csv" if (root / "sample.json").is_file() else None
    return Place(
        root=root,
        out=out,
        scratch=scratch,
        train_csv=train_csv,
        sample_csv=sample_csv,
        train_photos=_top(_unpacked(train, scratch / "train")),
        test_photos=_top(_unpacked(test, scratch / "test")),
        on_kaggle=kaggle,
        answers=answers if answers and answers.is_file() else None,
    )


def _root(cfg: Config) -> Path:
    """The competition's folder."""
    if cfg.data:
        root = user_path(cfg.data)
        if not root.is_dir():
            found = "is a file" if root.is_file() else "does not exist"
            raise InputError(
                f"data={cfg.data}: {found}; expected a folder with train.csv, {SAMPLE_NAMES[0]} and photos"
            )
        if _csv(root, SAMPLE_NAMES):
            return root
        found_in = _search(root)
        if len(found_in) > 1:
            names = "\n  ".join(map(str, found_in))
            raise InputError(
                f"data={cfg.data}: several competitions in it; set data to one of\n  {names}"
            )
        return found_in[0] if found_in else root  # locate says what root lacks
    if not on_kaggle():
        raise InputError(
            "data: empty, and this is not Kaggle; set data=FOLDER, the folder with the competition's files"
        )
    attached = kaggle_root() / "input"
    # Both layouts are in use (the first is today's); neither is promised, hence the search by
    # marker file.
    for folder in (attached / "competitions" / cfg.competition, attached / cfg.competition):
        if _csv(folder, SAMPLE_NAMES):
            return folder
    found_in = _search(attached)
    named = [folder for folder in found_in if cfg.competition in folder.parts] or found_in
    if len(named) == 1:
        return named[0]
    how = (
        f"in the kernel's editor: Add Input → Competitions → {cfg.competition}; "
        f'in kernel-metadata.json: "competition_sources": ["{cfg.competition}"]'
    )
    if named:
        names = "\n  ".join(map(str, named))
        raise InputError(
            f"{attached}: no {cfg.competition}, but several others; set data to one of\n  {names}"
        )
    raise InputError(
        f"{attached}: the competition {cfg.competition} is not there; attach it ({how}), "
        f"or set data=FOLDER. There is:\n{tree(attached, depth=4)}"
    )


def _search(top: Path) -> list[Path]:
    """Folders below ``top`` that look like a competition: the sample, and train.csv or train photos."""
    found, level = [], [top]
    for _ in range(_SEARCH_DEPTH):
        found += [
            f
            for f in level
            if _csv(f, SAMPLE_NAMES) and (_csv(f, ("train.csv",)) or _photos(f, TRAIN_FOLDERS))
        ]
        level = [
            entry
            for folder in level
            for entry in _folders(folder)
            if entry.name not in ("train", "test_upload")
        ]
    return found


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(
            entry for entry in folder.iterdir() if entry.is_dir() and not _junk(entry.name)
        )
    except OSError:  # a folder we may not read holds nothing for us
        return []


def _csv(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _photos(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder of photos if it holds one, else the zip of that name."""
    for name in names:
        if (root / name).is_dir() and _has_photo(root / name):
            return root / name
    return next((root / f"{name}.zip" for name in names if (root / f"{name}.zip").is_file()), None)


def _has_photo(folder: Path) -> bool:
    return any(is_photo_name(name) for _, name in photo_files(folder))


def _top(folder: Path) -> Path:
    """Down through folders that only wrap another one (train/train/…), so that classes come first."""
    while True:
        entries = [entry for entry in folder.iterdir() if not _junk(entry.name)]
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
    """Kaggle keeps all of /kaggle/working as the kernel's output, so scratch is elsewhere there."""
    if not kaggle:
        return _writable(out / ".scratch")
    try:
        return _writable(kaggle_root() / "temp" / "carcls")
    except InputError:
        return _writable(Path(tempfile.gettempdir()) / "carcls")


def _unpacked(source: Path, target: Path) -> Path:
    """The folder with the photos of ``source``: itself, or ``target`` with the zip unpacked into it.

    Unpacks under another name first, so a half-unpacked zip is never taken for a whole one. A folder
    unpacked from the same zip (member names, sizes and checksums) is kept. Raises InputError.
    """
    if source.is_dir():
        return source
    try:
        with zipfile.ZipFile(source) as archive:
            _refuse_unsafe(source, archive.infolist())
            for (
                member
            ) in archive.infolist():  # old Windows tools write train\1.jpg, others ./train/1.jpg
                member.filename = re.sub(r"(^|/)(\./)+", r"\1", member.filename.replace("\\", "/"))
            named = [
                member for member in archive.infolist() if member.filename
            ]  # ./ itself is none
            members = [
                m for m in named if not any(_junk(part) for part in m.filename.split("/") if part)
            ]
            files = [member for member in members if not member.is_dir()]
            if not any(is_photo_name(member.filename) for member in files):
                raise InputError(
                    f"{source}: no photo in it ({len(files)} files); expected {', '.join(sorted(PHOTO_SUFFIXES))}"
                )
            listing = "\n".join(f"{m.filename} {m.file_size} {m.CRC:08x}" for m in files)
            done = {
                "zip": source.name,
                "files": len({member.filename for member in files}),
                "sha256": hashlib.sha256(listing.encode()).hexdigest(),
            }
            if _is_done(target, done):
                return target
            needed, free = sum(m.file_size for m in files), shutil.disk_usage(target.parent).free
            if needed > free:
                raise InputError(
                    f"{source}: needs {needed / 1e6:,.0f} MB in {target.parent}, free: {free / 1e6:,.0f} MB"
                )
            for old in target.parent.glob(f"{target.name}.*.part"):
                if not _alive(old.name.split(".")[-2]):
                    _remove(old)  # of a run that was killed
            part = target.with_name(
                f"{target.name}.{os.getpid()}.part"
            )  # several processes may unpack at a time
            _remove(part)
            part.mkdir()
            for member in files:
                archive.extract(member, part)  # checks the CRC
        write_atomic(part / _DONE, json.dumps(done))
        try:
            part.rename(target)
        except OSError:  # there is one already
            if _is_done(target, done):  # another process was faster
                _remove(part)
                return target
            _remove(target)
            part.rename(target)
    # What zipfile lets through of a file that is broken, uses an unknown compression, or is
    # encrypted (RuntimeError).
    except (
        zipfile.BadZipFile,
        zlib.error,
        LZMAError,
        EOFError,
        RuntimeError,
        UnicodeDecodeError,
        OSError,
    ) as error:
        if isinstance(error, OSError) and error.errno not in (
            None,
            errno.EINVAL,
        ):  # these two come from wrong bytes
            raise InputError(
                f"{source}: cannot be unpacked into {target.parent} ({error.strerror})"
            ) from None
        raise InputError(f"{source}: not a whole zip file ({error}); download it again") from None
    return target


def _refuse_unsafe(source: Path, members: list[zipfile.ZipInfo]) -> None:
    """Raise InputError if a member would land outside the folder, or is a link to elsewhere."""
    for member in members:
        parts = re.split(r"[/\\]", member.filename)
        if parts[0] == "" or re.match(r"[A-Za-z]:", member.filename):
            raise InputError(
                f"{source}: member {member.filename!r} has an absolute path; nothing was unpacked"
            )
        if ".." in parts:
            raise InputError(
                f"{source}: member {member.filename!r} leaves the folder; nothing was unpacked"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(
                f"{source}: member {member.filename!r} is a symbolic link; nothing was unpacked"
            )


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _is_done(target: Path, done: dict[str, object]) -> bool:
    try:
        same = json.loads((target / _DONE).read_text()) == done
    except (OSError, ValueError):  # none, or damaged
        return False
    return same and sum(1 for _ in photo_files(target)) == done["files"]


def _remove(folder: Path) -> None:
    while folder.exists():
        with suppress(FileNotFoundError):  # another process may be removing it, too
            shutil.rmtree(folder)

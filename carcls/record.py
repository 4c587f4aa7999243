"""What is done already: a folder's finished steps, with what each was made from; an earlier run.

A file is written whole before the note that names it, and the note is replaced in one move: a kill
leaves the old record or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from carcls import disk, stops
from carcls.config import Config
from carcls.errors import InputError, full_disk_named

NOTE = "steps.json"
# What a run leaves that a later one goes on from.
_OF_A_NETWORK = (
    r"steps\.json|history\.csv|(best|last)\.weights\.h5|votes_(validation|test)\.npz"
    r"|state/(note\.json|\d+\.npz)|tensorboard/\w+/\w+/events\.out\.tfevents\.[^/]+"
)
_FILES = r"config\.json|steps\.json|progress\.jsonl|submission\.(csv|json)|\w+\.earlier\d+\.\w+"
_OF_A_SEARCH = rf"search\.json|\d+/(candidate\.json|[\w-]+/(trial\.json|{_OF_A_NETWORK}))"
_LEFT = re.compile(
    rf"{_FILES}|tune/({_OF_A_SEARCH})"
    rf"|member\d+/(member\.json|((fold\d+|pseudo|refit)/)?({_OF_A_NETWORK}))",
    re.ASCII,
)
_OF_A_RUN = re.compile(rf"{_FILES}|member\d+|tune", re.ASCII)  # names at its top
_DEEP = 6  # folders in each other, the run's own included
COPYING = f"{disk.PART}earlier"  # holds an earlier run while it is copied

Facts = dict[str, Any]  # what a step is made from, by name: settings, photos, code; JSON values


class Steps:
    """The finished steps of one folder, in its steps.json."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = folder / NOTE

    def about(self, name: str, facts: Facts) -> dict[str, Any] | None:
        """What ``finish`` was told of the step; None if it is not done from these facts.

        Where it was done and cannot be used, one printed line says why.
        """
        step = self.done(name)
        if step is None:
            return None
        try:
            why = differences(step["facts"], facts) or self.faults(disk.unsealed(step))
        except ValueError as error:
            why = [f"its note in {NOTE} was {error}"]
        if why:
            print(f"{self.folder.name}: {name} is made anew: {'; '.join(why)}")
            return None
        return step["about"]

    def faults(self, step: dict[str, Any]) -> list[str]:
        """What is wrong with a step's files."""
        return [
            f"{file} is not as it was left"
            for file, digest in step["files"].items()
            if not (self.folder / file).is_file() or digest_of(self.folder / file) != digest
        ]

    def finish(self, name: str, facts: Facts, files: Iterable[str], **about: Any) -> None:
        """Say that the step's files, by their names in the folder, are there and whole."""
        stops.check()
        digests = {file: digest_of(self.folder / file) for file in files}
        step = disk.sealed({"facts": facts, "files": digests, "about": about})
        steps = {**self._read(), name: step}
        disk.make_way(self.file)
        disk.write_atomic(self.file, json.dumps(steps, indent=2) + "\n")

    def done(self, name: str) -> dict[str, Any] | None:
        """facts, files and about of a finished step, of any facts; None if it is not done."""
        return self._read().get(name)

    def digest(self, name: str, file: str) -> str:
        """Of a finished step's file: what a later step is made from."""
        return str(self._read()[name]["files"][file])

    def forget(self) -> None:
        """Nothing in the folder is done any more."""
        disk.remove(self.file)

    def _read(self) -> dict[str, Any]:
        try:
            steps = disk.read_json(self.file)
            for part in ("facts", "files", "about"):
                if not all(isinstance(step[part], dict) for step in steps.values()):
                    raise ValueError(f"a step's {part} are not values by name")
            return steps
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            print(f"warning: {self.file}: not what a run leaves ({error}); its steps are made anew")
            return {}


def differences(was: Facts, now: Facts) -> list[str]:
    """``["lr 0.002 → 0.001"]``: in what a finished step differs from the one that is wanted."""
    was, now = (json.loads(json.dumps(facts)) for facts in (was, now))  # (1, 2) is [1, 2] in a file
    found = []
    for key in dict.fromkeys([*was, *now]):
        values = was.get(key), now.get(key)
        if values[0] != values[1]:
            before, after = (",".join(map(str, v)) if isinstance(v, list) else v for v in values)
            change = f"{key} {before} → {after}"
            is_short = len(change) < 100 and not key.startswith("the ")
            found.append(change if is_short else f"{key} changed")
    return found


# --- Digests --------------------------------------------------------------------------------------


@cache
def source_hash() -> str:
    """Of the package's modules, the same in kernel.py: a result names the code that made it."""
    digest, package = hashlib.sha256(), Path(__file__).parent
    for path in bundled(package):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def bundled(package: Path) -> list[Path]:
    """The modules that kernel.py has too: all but the desk's and ``__main__``."""
    return [
        path
        for path in sorted(package.rglob("*.py"))
        if path.name != "__main__.py" and "desk" not in path.relative_to(package).parts
    ]


def opencv() -> str:
    """Of OpenCV's version what may change pixels: warpAffine's differ between 4.13 and 5.0.

    A patch release mends faults, and is no reason to train again.
    """
    import cv2

    return ".".join(cv2.__version__.split(".")[:2])


def rows(*columns: Iterable[Any]) -> str:
    """A digest of a table's columns."""
    text = json.dumps([list(map(str, column)) for column in columns])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- An earlier run -------------------------------------------------------------------------------


def is_run(folder: Path) -> bool:
    """Whether a run has left something there that can be gone on from."""
    networks = ("member1", "member1/fold*")
    marks = [f"{network}/{mark}" for network in networks for mark in (NOTE, "state/note.json")]
    marks.append("tune/search.json")  # it was stopped in its search
    return (folder / "config.json").is_file() and any(any(folder.glob(mark)) for mark in marks)


def find_earlier(cfg: Config) -> Path | None:
    """The earlier run to go on from: the one that is set, on Kaggle else the one attached.

    Raises InputError if the folder that is set has none, or several are attached.
    """
    if cfg.earlier:
        top = disk.user_path(cfg.earlier)
    elif disk.on_kaggle():
        top = disk.kaggle_root() / "input"
    else:
        return None
    runs: list[Path] = []
    for folder in disk.folders_below(top):
        if is_run(folder) and not any(folder.is_relative_to(run) for run in runs):
            runs.append(folder)
    if cfg.earlier and not runs:
        has = f"there is:\n{disk.tree(top)}" if top.is_dir() else "no such folder"
        raise InputError(
            f"earlier={cfg.earlier}: expected an earlier run's config.json, with member1 or tune; "
            f"{has}"
        )
    if len(runs) > 1:
        names = "\n  ".join(map(str, runs))
        raise InputError(f"several earlier runs are attached; set earlier to one of\n  {names}")
    return runs[0] if runs else None


def take_over(earlier: Path, out: Path) -> list[str]:
    """Copy an earlier run's networks, submissions and settings; returns the copies' names.

    What the run folder has already stays. The copies get their names once they are whole. Copied
    are plain files of the names that a run leaves, no links that lead elsewhere, nor devices.
    """
    part = out / COPYING
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir()
    top, left_out = Path(os.path.realpath(earlier)), []  # resolve() raises on loops
    taken = [path for path in sorted(earlier.iterdir()) if _OF_A_RUN.fullmatch(path.name)]
    taken = [path for path in taken if not os.path.lexists(out / path.name)]
    for path in (path for name in taken for path in _below(name, (top,))):
        name, real = path.relative_to(earlier).as_posix(), Path(os.path.realpath(path))
        if _LEFT.fullmatch(name) and real.is_relative_to(top) and real.is_file():
            _copy(real, part / name)
        else:
            left_out.append(name)
    if left_out:
        some = f"{', '.join(left_out[:5])}{' …' if len(left_out) > 5 else ''}"
        print(f"left out   of {earlier}: {len(left_out)} that are no files of a run: {some}")
    names = [path.name for path in taken if (part / path.name).exists()]
    for name in names:
        (part / name).rename(out / name)
    part.rmdir()
    return names


def _below(path: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """The files in a folder, or the path itself if it is none, leads elsewhere or in a circle.

    above: the folders that it is in, the earlier run's first.
    """
    real, inside = Path(os.path.realpath(path)), []
    with suppress(OSError):
        if real not in above and real.is_relative_to(above[0]) and len(above) < _DEEP:
            inside = sorted(path.iterdir())  # raises for a file
    if not inside:
        yield path
    for each in inside:
        yield from _below(each, (*above, real))


def _copy(source: Path, target: Path) -> None:
    """Writable, and on the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as old, full_disk_named(target), target.open("wb") as new:
        shutil.copyfileobj(old, new)
        disk.flush(new)


def sweep(out: Path) -> None:
    """Remove what a killed run was writing: files that have not got their names yet."""
    shutil.rmtree(out / COPYING, ignore_errors=True)
    for folders in ("", *(f"{top}{'*/' * n}" for top in ("member*/", "tune/") for n in range(4))):
        for part in out.glob(f"{folders}{disk.PART}*"):
            if not part.is_dir():
                part.unlink()

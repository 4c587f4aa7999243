"""What is done already: a run's steps with what each was made from, and a training's state after each epoch.

Every file is written whole before the note that names it, and the note is replaced in one move, so that a kill at any
moment leaves the old record or the new one (S47). What no note names is left over from a kill, and is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk
from carcls.errors import InputError

NOTE = "steps.json"
_TAKEN = ".earlier.part"  # an earlier run's, while it is copied
_PART = re.compile(
    r"\.part(\.npz|\.png|\.weights\.h5)?$"
)  # ends the name of a file that is being written

Facts = dict[str, Any]  # what a step is made from, by name: settings, photos, code; JSON values


class Steps:
    """The finished steps of one folder, in its steps.json: of each what it was made from, and its files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.note = folder / NOTE

    def about(self, name: str, facts: Facts) -> dict[str, Any] | None:
        """What ``finish`` was told of the step; None if it is not done, or with other facts, or its files are not whole.

        Where it was done and cannot be used, one printed line says why.
        """
        done = self._read().get(name)
        if done is None:
            return None
        why = differences(done["facts"], facts) or self._damaged(done["files"])
        if why:
            print(f"{self.folder.name}: {name} is made anew: {'; '.join(why)}")
            return None
        return done["about"]

    def finish(self, name: str, facts: Facts, files: Iterable[str], **about: Any) -> None:
        """The step's files, by their names in the folder, are there and whole."""
        written = {file: digest_of(self.folder / file) for file in files}
        steps = {**self._read(), name: {"facts": facts, "files": written, "about": about}}
        disk.write_atomic(self.note, json.dumps(steps, indent=2) + "\n")

    def made_from(self, name: str) -> Facts | None:
        """What a finished step was made from; None if it is not done."""
        done = self.done(name)
        return dict(done["facts"]) if done else None

    def done(self, name: str) -> dict[str, Any] | None:
        """The note of a finished step, whatever it was made from: its facts, its files, and about, what ``finish`` was told."""
        return self._read().get(name)

    def forget(self) -> None:
        self.note.unlink(missing_ok=True)

    def digest(self, name: str, file: str) -> str:
        """Of a finished step's file: what a later step is made from."""
        return str(self._read()[name]["files"][file])

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.note.read_text())
            if not all({"facts", "files", "about"} <= set(done) for done in found.values()):
                raise ValueError("not steps with facts, files and about")
            return found
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            print(f"warning: {self.note}: not what a run leaves ({error}); its steps are made anew")
            return {}

    def _damaged(self, files: dict[str, str]) -> list[str]:
        return [
            f"{name} is not as it was left"
            for name, digest in files.items()
            if not (self.folder / name).is_file() or digest_of(self.folder / name) != digest
        ]


class States:
    """The state of a training after its last epoch and after its best one: arrays in a file each, and one note."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = folder / "note.json"

    def load(self, facts: Facts) -> dict[str, Any] | None:
        """The note of the last epoch; None if there is none, or it is of a training from other facts (a line says so)."""
        try:
            note = json.loads(self.file.read_text())
            why = differences(note["facts"], facts)
            for name in () if why else {note["last"], note["best"]}:
                with zipfile.ZipFile(self.folder / name) as arrays:
                    why += [f"{self.folder / name} is damaged"] if arrays.testzip() else []
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            why = [f"{self.folder} is not what a run leaves ({error})"]
        if why:
            print(f"{self.folder.parent.name}: training starts anew: {'; '.join(why)}")
            return None
        return note

    def arrays(self, which: str) -> list[np.ndarray]:
        """Of the "last" epoch or the "best" one."""
        note = json.loads(self.file.read_text())
        with np.load(self.folder / note[which]) as arrays:
            return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]

    def save(
        self,
        number: int,
        facts: Facts,
        note: dict[str, Any],
        arrays: Sequence[np.ndarray],
        better: bool,
    ) -> None:
        """Make this the last state, and if it is better the best one; number: of the epoch, all stages together."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{number}.npz"
        with (self.folder / name).open("wb") as file:
            np.savez(file, *arrays)
            disk.flush(file)
        best = name if better else json.loads(self.file.read_text())["best"]
        whole = {**note, "facts": facts, "last": name, "best": best}
        disk.write_atomic(self.file, json.dumps(whole) + "\n")
        for old in self.folder.iterdir():
            if old.name not in (name, best, self.file.name):
                old.unlink()

    def amend(self, **changes: Any) -> None:
        """Change the note of the last epoch, and nothing else."""
        note = json.loads(self.file.read_text())
        disk.write_atomic(self.file, json.dumps({**note, **changes}) + "\n")

    def remove(self) -> None:
        """The training has ended, or starts anew."""
        self.file.unlink(missing_ok=True)  # first: without it the rest is nothing
        shutil.rmtree(self.folder, ignore_errors=True)


def sweep(out: Path) -> None:
    """Remove what a killed run was in the middle of writing: files that have not got their names yet."""
    shutil.rmtree(out / _TAKEN, ignore_errors=True)
    for folder in (out, *out.glob("member*"), *out.glob("member*/*/")):
        for part in folder.glob(".*") if folder.is_dir() else ():
            if part.is_file() and _PART.search(part.name):
                part.unlink()


def differences(was: Facts, now: Facts) -> list[str]:
    """``["lr 0.002 → 0.001"]``: in what a step that is done differs from the one that is wanted."""
    found = []
    for key in [*was, *(key for key in now if key not in was)]:
        before, after = (json.loads(json.dumps(facts.get(key))) for facts in (was, now))
        if before != after:
            change = f"{key} {show(before)} → {show(after)}"
            found.append(
                change if len(change) < 100 and not key.startswith("the ") else f"{key} changed"
            )
    return found


def show(value: Any) -> str:
    """A setting's value, stages as they are given."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "height" in value[0]:
        return ",".join(
            "x".join(str(stage[key]) for key in ("height", "width", "epochs")) for stage in value
        )
    return str(value)


@cache
def source_hash() -> str:
    """Of the package's modules but the desk's, the same in kernel.py, so that a result names the code that made it."""
    digest, package = hashlib.sha256(), Path(__file__).parent
    for path in bundled(package):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def bundled(package: Path) -> list[Path]:
    """The modules that kernel.py has too."""
    return [
        path
        for path in sorted(package.rglob("*.py"))
        if path.name != "__main__.py" and "desk" not in path.relative_to(package).parts
    ]


def rows(*columns: Iterable[Any]) -> str:
    """A digest of a table's columns."""
    return hashlib.sha256(
        json.dumps([list(map(str, column)) for column in columns]).encode()
    ).hexdigest()[:16]


def digest_of(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- An earlier run, attached as input ------------------------------------------------------------


def take_over(earlier: Path, out: Path) -> list[str]:
    """Copy an earlier run's networks, submissions and settings into the run folder; returns the names of what was copied.

    What the run folder has already stays. The copies get their names once they are whole.
    """
    part = out / _TAKEN
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    taken = []
    for source in sorted(earlier.iterdir()):
        wanted = (source.is_dir() and source.name.startswith("member")) or source.name.startswith(
            "submission."
        )
        wanted |= source.name in (
            NOTE,
            "config.json",
        )  # without it the folder would be no run if this one ends early
        if not wanted or (out / source.name).exists():
            continue
        part.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, part / source.name, copy_function=_copy)
        else:
            _copy(source, part / source.name)
        _writable(part / source.name)  # copytree keeps the modes of a read-only folder
        (part / source.name).rename(out / source.name)
        taken.append(source.name)
    if part.exists():
        part.rmdir()
    return taken


def _copy(source: str | Path, target: str | Path) -> None:
    with Path(source).open("rb") as old, Path(target).open("wb") as new:
        shutil.copyfileobj(old, new)
        disk.flush(new)


def _writable(top: Path) -> None:
    for path in [top, *(top.rglob("*") if top.is_dir() else ())]:
        path.chmod(path.stat().st_mode | (0o700 if path.is_dir() else 0o600))


def is_run(folder: Path) -> bool:
    """Whether a run has left something there that can be gone on from."""
    return (folder / "config.json").is_file() and any(
        (folder / "member1" / inside).exists()
        or next((folder / "member1").glob(f"fold*/{inside}"), None)
        for inside in (NOTE, "state/note.json")
    )


def find_earlier(cfg: Any) -> Path | None:
    """The earlier run to go on from: the one that the setting names, else the one that is attached on Kaggle.

    Raises InputError if the named folder is none, or several are attached.
    """
    if cfg.earlier:
        named = disk.user_path(cfg.earlier)
        found = [folder for folder in _folders(named) if is_run(folder)] if named.is_dir() else []
        if not found:
            has = f"there is:\n{disk.tree(named)}" if named.is_dir() else "there is no such folder"
            raise InputError(
                f"earlier={cfg.earlier}: expected what an earlier run left (config.json, member1/); {has}"
            )
    elif disk.on_kaggle():
        found = [folder for folder in _folders(disk.kaggle_root() / "input") if is_run(folder)]
    else:
        return None
    if len(found) > 1:
        raise InputError(
            "several earlier runs are attached; set earlier to one of\n  "
            + "\n  ".join(map(str, found))
        )
    return found[0] if found else None


def _folders(top: Path, depth: int = 4) -> Iterable[Path]:
    """The folder and those below it, a few levels down; none of photos."""
    if not top.is_dir():
        return
    yield top
    if depth and not is_run(top):
        with os.scandir(top) as entries:
            inside = sorted(
                e.name
                for e in entries
                if e.is_dir() and e.name not in ("train", "test_upload", "test", "competitions")
            )
        for name in inside:
            yield from _folders(top / name, depth - 1)

"""What comes with a kernel as input: which kind of source a file is from, and whether it is whole.

A dataset made by ``python -m carcls dataset`` has a manifest.json: which file is for which backbone, and the size and
sha256 of every file. Kaggle unpacks archives and has changed its layout before, so files are looked up by that, too.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from carcls import disk
from carcls.errors import InputError

if TYPE_CHECKING:
    from carcls.config import Config

MANIFEST = "manifest.json"
BOXES = "carcls-boxes"  # how a dataset of boxes is called, before a digest
_OURS = "carcls weights"  # tells our manifest.json from those of others
_FORMAT = f"{_OURS} 1"
_KINDS = {
    "models": "model",
    "datasets": "dataset",
    "notebooks": "notebook output",
    "competitions": "competition",
}
# In the older layout a dataset and an earlier kernel's output lie side by side; the latter has
# these.
_OF_A_KERNEL = (
    "result.json",
    "progress.jsonl",
    "__results__.html",
    "__notebook__.ipynb",
    "__script__.py",
)


def kind(file: Path) -> str:
    """model, dataset, notebook output or competition; "" for a file that is not one of Kaggle's inputs."""
    top = disk.kaggle_root() / "input"
    if not file.is_relative_to(top):
        return ""
    parts = file.relative_to(top).parts
    if len(parts) > 3 and parts[0] in _KINDS:
        return _KINDS[parts[0]]
    if (
        len(parts) > 4 and parts[1].lower() == "keras" and parts[3].isdigit()
    ):  # <model>/keras/<variation>/<version>
        return "model"
    return (
        "notebook output"
        if any((top / parts[0] / name).is_file() for name in _OF_A_KERNEL)
        else "dataset"
    )


def box_files(cfg: Config) -> list[Path]:
    """The files that cfg.boxes names; on Kaggle also found by name alone, below input. Raises InputError."""
    return [box_file(text) for text in cfg.boxes.split(",")] if cfg.boxes else []


def box_file(text: str) -> Path:
    """One of them. Raises InputError that says what is there, if it is not or if several differ that have its name."""
    path = disk.user_path(text)
    if path.is_file():
        return path
    how = "`python -m carcls boxes` makes one"
    top = disk.kaggle_root() / "input"
    if not disk.on_kaggle():
        raise InputError(f"boxes={text}: no such file; {how}")
    # Older and newer layouts differ in how deep a dataset's files are.
    found = sorted(
        file
        for folder in disk.folders_below(top)
        for file in [folder / path.name]
        if file.is_file()
    )
    # The competition's tables and an earlier run's output may have files of that name, too.
    found = [file for file in found if file.parent.name.startswith(BOXES)] or found
    if len({_sha256(file) for file in found}) != 1:  # one file may be there in both layouts
        several = f"several are attached: {', '.join(map(str, found))}; name one of them"
        none = f"no {path.name} is attached; {how}, and `make dataset` with the same SET uploads it. There is:\n{disk.tree(top, depth=4)}"
        raise InputError(f"boxes={text}: {several if found else none}")
    return found[0]


def write_manifest(folder: Path, weights: dict[str, str]) -> Path:
    """manifest.json of all files in a folder; weights: backbone → its file, relative to the folder."""
    files = {}
    for subfolder, name in disk.photo_files(folder):
        path = PurePosixPath(subfolder, name)
        if name not in (MANIFEST, "dataset-metadata.json"):
            file = folder / path
            files[str(path)] = {"sha256": _sha256(file), "bytes": file.stat().st_size}
    content = {"format": _FORMAT, "weights": weights, "files": files}
    disk.write_atomic(folder / MANIFEST, json.dumps(content, indent=2) + "\n")
    return folder / MANIFEST


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Our manifest in that folder; None if there is none or it is someone else's. Raises InputError on a broken one."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        if _OURS not in text:
            return None
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a JSON file ({error}); make the dataset again: make dataset"
        ) from None
    if not isinstance(found, dict) or not str(found.get("format", "")).startswith(_OURS):
        return None
    if found["format"] != _FORMAT or not _is_whole(found):
        raise InputError(
            f"{path}: format {found['format']!r}, expected {_FORMAT!r} with weights and files; make the dataset again"
        )
    return found


def _is_whole(manifest: dict[str, Any]) -> bool:
    weights, files = manifest.get("weights"), manifest.get("files")
    return (
        isinstance(weights, dict)
        and isinstance(files, dict)
        and all(
            isinstance(entry, dict) and {"sha256", "bytes"} <= set(entry)
            for entry in files.values()
        )
    )


def by_manifest(folder: Path, backbone: str) -> Path | None:
    """The weights of a backbone that a manifest in this folder names. Raises InputError on a broken manifest."""
    manifest = read_manifest(folder)
    if manifest is None or backbone not in manifest["weights"]:
        return None
    path = PurePosixPath(manifest["weights"][backbone])
    places = (
        folder / path,
        folder / path.name,
    )  # the second: an archive unpacked without its folder
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(
            f"{folder / MANIFEST}: lists {path}, which is not there. There is:\n{disk.tree(folder)}"
        )
    return found


def verify(file: Path) -> str:
    """ "manifest verified" if a manifest beside the file or one folder up lists it, with all listed beside it; else "".

    Raises InputError that names the file, what was found and what was expected.
    """
    for folder in (file.parent, file.parent.parent):
        manifest = read_manifest(folder)
        if manifest is None:
            continue
        listed = {PurePosixPath(name): entry for name, entry in manifest["files"].items()}
        own = [p for p in listed if folder / p == file] or [
            p for p in listed if p.name == file.name
        ]
        if len(own) != 1:
            return f"not listed in {folder / MANIFEST}"
        for path, entry in listed.items():
            if path.parent == own[0].parent:
                _check(file.parent / path.name, entry, folder / MANIFEST)
        return "manifest verified"
    return ""


def _check(file: Path, entry: dict[str, Any], manifest: Path) -> None:
    if not file.is_file():
        raise InputError(f"{file}: not there; expected {entry['bytes']} bytes by {manifest}")
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise InputError(
            f"{file}: has {size} bytes, expected {entry['bytes']} by {manifest}; upload it again"
        )
    found = _sha256(file)
    if found != entry["sha256"]:
        raise InputError(
            f"{file}: sha256 {found}, expected {entry['sha256']} by {manifest}; upload it again"
        )


def _sha256(file: Path) -> str:
    stat = file.stat()
    return _digest(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(
    maxsize=256
)  # a run asks for each stage and member; size and time of change tell another content
def _digest(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()

"""What comes with a kernel as input: which kind of source a file is from, and whether it is whole.

A dataset of ``make dataset`` has a manifest.json: which file is for which backbone, and the size
and sha256 of every file. Files are looked up by their names, too, as Kaggle may unpack them
elsewhere.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from carcls import disk, record
from carcls.config import Config
from carcls.errors import InputError

MANIFEST = "manifest.json"
BOXES = "carcls-boxes"  # begins the name of a dataset of boxes; a digest follows
_OURS = "carcls weights"  # tells our manifest.json from those of others
FORMAT = f"{_OURS} 1"
_KINDS = {
    "models": "model",
    "datasets": "dataset",
    "notebooks": "notebook output",
    "competitions": "competition",
}
# An output of a kernel has one of these; in Kaggle's older layout datasets lie beside it.
_IN_OUTPUTS = "result.json progress.jsonl __results__.html __notebook__.ipynb __script__.py"


def kind(file: Path) -> str:
    """model, dataset, notebook output or competition; "" for what is no input of Kaggle's."""
    top = disk.kaggle_root() / "input"
    if not file.is_relative_to(top):
        return ""
    parts = file.relative_to(top).parts
    if len(parts) > 3 and parts[0] in _KINDS:
        return _KINDS[parts[0]]
    # <model>/keras/<variation>/<version>/<file>
    if len(parts) > 4 and parts[1].lower() == "keras" and parts[3].isdigit():
        return "model"
    is_output = any((top / parts[0] / name).is_file() for name in _IN_OUTPUTS.split())
    return "notebook output" if is_output else "dataset"


def box_files(cfg: Config) -> list[Path]:
    """The files that cfg.boxes names. Raises InputError."""
    return [box_file(text) for text in cfg.boxes.split(",")] if cfg.boxes else []


def box_file(text: str) -> Path:
    """The file of that path, on Kaggle else the attached one of that name. Raises InputError."""
    path = disk.user_path(text)
    if path.is_file():
        return path
    if not disk.on_kaggle():
        raise InputError(f"boxes={text}: no such file; `carcls boxes` makes one")
    top = disk.kaggle_root() / "input"
    folders = [folder for folder in disk.folders_below(top) if (folder / path.name).is_file()]
    # The competition and an earlier run's output may have files of that name, too.
    folders = [folder for folder in folders if folder.name.startswith(BOXES)] or folders
    files = sorted(folder / path.name for folder in folders)
    if not files:
        raise InputError(
            f"boxes={text}: no {path.name} is attached; `make dataset` with the same SET uploads "
            f"it. There is:\n{disk.tree(top, depth=4)}"
        )
    if len({file.read_bytes() for file in files}) > 1:  # the same file may be there in both layouts
        raise InputError(
            f"boxes={text}: several are attached: {', '.join(map(str, files))}; name one of them"
        )
    return files[0]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Our manifest in that folder; None if there is none of ours. Raises InputError if broken."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        if _OURS not in path.read_text(encoding="utf-8", errors="replace"):
            return None
        manifest = disk.read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a JSON file ({error}); make the dataset again") from None
    if not isinstance(manifest, dict) or not str(manifest.get("format")).startswith(_OURS):
        return None
    weights, files = manifest.get("weights"), manifest.get("files")
    if not (
        manifest["format"] == FORMAT
        and isinstance(weights, dict)
        and isinstance(files, dict)
        and all(_is_below(name) for name in (*weights.values(), *files))
        and all(
            isinstance(file, dict)
            and isinstance(file.get("sha256"), str)
            and type(file.get("bytes")) is int
            for file in files.values()
        )
    ):
        raise InputError(
            f"{path}: format {manifest['format']!r}, expected {FORMAT!r} with weights and files; "
            "make the dataset again"
        )
    return manifest


def _is_below(name: Any) -> bool:
    """Whether it is the name of a file in the manifest's folder, or below it."""
    if not isinstance(name, str) or "\0" in name or not name:
        return False
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


def by_manifest(folder: Path, backbone: str) -> Path | None:
    """The weights of a backbone that a manifest in this folder names. Raises InputError."""
    manifest = read_manifest(folder)
    if manifest is None or backbone not in manifest["weights"]:
        return None
    path = PurePosixPath(manifest["weights"][backbone])
    for place in (folder / path, folder / path.name):  # the second: unpacked without its folder
        if place.is_file():
            return place
    raise InputError(
        f"{folder / MANIFEST}: lists {path}, which is not there. There is:\n{disk.tree(folder)}"
    )


def verify(file: Path) -> str:
    """Check a file, and those listed beside it, by the manifest beside it or one folder up.

    Returns "manifest verified", or that it is not listed, or "" without a manifest.
    Raises InputError.
    """
    for folder in (file.parent, file.parent.parent):
        manifest = read_manifest(folder)
        if manifest is None:
            continue
        listed = {PurePosixPath(name): entry for name, entry in manifest["files"].items()}
        same = [path for path in listed if folder / path == file]
        same = same or [path for path in listed if path.name == file.name]
        if len(same) != 1:
            return f"not listed in {folder / MANIFEST}"
        for path, entry in listed.items():
            beside = file.parent / path.name
            if path.parent == same[0].parent and (fault := _fault(beside, entry)):
                raise InputError(f"{beside}: {fault} by {folder / MANIFEST}; upload it again")
        return "manifest verified"
    return ""


def _fault(file: Path, entry: dict[str, Any]) -> str:
    """How a file differs from its entry in a manifest, or ""."""
    if not file.is_file():
        return f"not there; expected {entry['bytes']} bytes"
    stat = file.stat()
    if stat.st_size != entry["bytes"]:
        return f"has {stat.st_size} bytes, expected {entry['bytes']}"
    digest = _digest(file, stat.st_size, stat.st_mtime_ns)
    return "" if digest == entry["sha256"] else f"sha256 {digest}, expected {entry['sha256']}"


@lru_cache(maxsize=256)  # a run asks for each stage and member; size and time tell other content
def _digest(file: Path, size: int, changed: int) -> str:
    return record.digest_of(file)

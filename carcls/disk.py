"""The disk: paths as people write them, files written whole or not at all, and walks through folders."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from carcls.errors import InputError

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
)
_DEEP = 7  # of the search for weights and boxes: input/models/<owner>/<model>/keras/<variation>/<version>
_MANY = 3000  # folders at most, per root
_NOT_SEARCHED = {
    "build",
    "train",
    "test",
    "test_upload",
    "node_modules",
    "site-packages",
    "venv",
    "__pycache__",
}


def kaggle_root() -> Path:
    """``/kaggle``, or what CARCLS_KAGGLE_ROOT names (for trying a kernel elsewhere)."""
    return Path(os.environ.get("CARCLS_KAGGLE_ROOT") or "/kaggle")


def on_kaggle() -> bool:
    return (kaggle_root() / "input").is_dir()


def cache_home() -> Path:
    """Where things are kept from run to run: $CARCLS_HOME, else ~/.cache/carcls."""
    home = os.environ.get("CARCLS_HOME")
    return user_path(home) if home else Path.home() / ".cache" / "carcls"


def user_path(text: str) -> Path:
    """A path as a person wrote it: ~ is a home folder. Raises InputError if there is none."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"{text}: there is no home folder of {text.partition('/')[0]}") from None


def search_roots() -> list[Path]:
    """Folders in which to look for weights, best first. They need not exist."""
    attached = [kaggle_root() / "input"] if on_kaggle() else []
    return [*attached, cache_home() / "weights", Path()]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that whoever looks sees the old one or the whole new one, after a power cut too. Text becomes UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            flush(file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def flush(file: IO[bytes]) -> None:
    """Wait until what was written is on the disk: a rename that is there before the content would leave a torn file."""
    file.flush()
    os.fsync(file.fileno())


def tree(folder: Path, depth: int = 3, most: int = 40) -> str:
    """What is in a folder, ``depth`` levels down, in ``most`` lines at most; long lists are cut short."""
    lines = list(_tree(folder, depth, "  "))
    more = [f"  … {len(lines) - most + 1} more lines"] if len(lines) > most else []
    return "\n".join(
        [f"{folder}/", *(lines[: most - 1] + more if more else lines or ["  (empty)"])]
    )


def _tree(folder: Path, depth: int, indent: str, each: int = 12, files: int = 4) -> Iterator[str]:
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        yield f"{indent}({error.strerror or error})"
        return
    folders = [entry for entry in entries if entry.is_dir()]
    others = [entry for entry in entries if not entry.is_dir()]
    # One file too many takes the same line as "… 1 more"; CSV and zip files are what a reader looks
    # for.
    others.sort(key=lambda entry: (entry.suffix.lower() not in (".csv", ".zip"), entry.name))
    for entry in folders[:each]:
        yield f"{indent}{entry.name}/"
        if depth > 1:
            yield from _tree(entry, depth - 1, indent + "  ")
    if len(folders) > each:
        yield f"{indent}… {len(folders) - each} more folders"
    shown = others if len(others) <= files + 1 else others[:files]
    yield from (f"{indent}{entry.name}" for entry in shown)
    if len(others) > len(shown):
        yield f"{indent}… {len(others) - len(shown)} more files"


def folders_below(root: Path) -> Iterator[Path]:
    """The folder and those below it, level by level, but none that is hidden or holds photos or programs."""
    level: list[Path] = [root] if root.is_dir() else []
    seen: set[Path] = set()
    for _ in range(_DEEP + 1):
        below = []
        for folder in level:
            try:
                real = folder.resolve()
                with os.scandir(folder) as entries:
                    inside = sorted(e.name for e in entries if e.is_dir())
            except OSError:  # no permission, or gone meanwhile
                continue
            if real in seen or len(seen) >= _MANY:
                continue
            seen.add(real)
            yield folder
            below += [
                folder / n for n in inside if not n.startswith(".") and n not in _NOT_SEARCHED
            ]
        level = below


def _junk(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))  # ._1.jpg in zips made on a Mac is no photo


def photo_files(folder: Path) -> Iterator[tuple[str, str]]:
    """(subfolder as a posix path, "" for the folder itself; file name) of all files below but hidden ones.

    A link to a folder elsewhere counts as that folder, once.
    """
    top, seen = folder.resolve(), set[Path]()

    def walked(inside: Path) -> bool:
        if not inside.is_symlink():
            return True
        target = inside.resolve()
        if target in seen or target.is_relative_to(top) or top.is_relative_to(target):
            return False
        seen.add(target)
        return True

    for at, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not _junk(name) and walked(Path(at, name)))
        relative = Path(at).relative_to(folder).as_posix()
        yield from (
            ("" if relative == "." else relative, name) for name in sorted(names) if not _junk(name)
        )


def is_photo_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES  # noqa: PTH122 — a third of Path's time, and there are 22,000

"""The disk: paths as people write them, files written whole or not at all, walks of folders."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from carcls.errors import InputError, full_disk_named

PART = ".part-"  # begins the name of a file that is being written
PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
)
# Files that lie beside photos; one of any other kind is looked at, whatever its name says.
_NO_PHOTO = re.compile(
    r"readme|license|thumbs\.db|.*\.(txt|[ct]sv|json|xml|md|html?|css|js|ya?ml|toml|pdf|xlsx?"
    r"|docx?|ini|lnk|url|py|ipynb|sh|bat|aae|xmp|np[yz]|pkl|h5|zip|rar|7z|tar|gz|mp[34]|wav|mov"
    r"|avi|mkv|md5|sha1)",
    re.IGNORECASE,
)
# What zipfile and numpy raise on a file that is no whole .npz, beside OSError and ValueError.
NO_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
# Ways to lock a folder.
ALONE, IN_TURN = fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX
TOGETHER = fcntl.LOCK_SH | fcntl.LOCK_NB
_without_locks: set[int] = set()  # file systems of which that was said
_DEEP = 7  # levels: input/models/<owner>/<model>/keras/<variation>/<version>
_MANY = 3000  # folders at most, per root
_PHOTOS = {"train", "test", "test_upload", "train_images", "test_images"}
_PROGRAMS = {"build", "node_modules", "site-packages", "venv", "__pycache__"}


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
    """Write a file so that whoever looks sees the old one or the whole new one. Text is UTF-8."""
    make_folder(path.parent)
    # Names of files that are no UTF-8 come as surrogates, and go back to their bytes.
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with replacing(path) as part:
        part.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; at the end that file takes the place of ``path``.

    A kill or a power cut leaves the old file or the whole new one; an error leaves the old one.
    """
    suffix = "".join(path.suffixes[-2:])  # writers look at .png or .npz
    part = path.with_name(f"{PART}{path.name}.{os.getpid()}-{threading.get_ident()}{suffix}")
    try:
        with full_disk_named(path):
            yield part
            with part.open("rb+") as file:
                flush(file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def make_way(path: Path) -> None:
    """A folder in the place of a file that a run goes on from is kept under another name."""
    if path.is_dir() and not path.is_symlink():
        _set_aside(path)


def remove(path: Path) -> None:
    """Nothing of that name any more; a folder in the place of a file keeps what is in it."""
    make_way(path)
    path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """The folder, and those above it; a file in its place is kept under another name."""
    if not path.is_dir():
        if path.exists():
            _set_aside(path)
        path.mkdir(parents=True, exist_ok=True)


def _set_aside(path: Path) -> None:
    """Rename what is in the place of one of ours."""
    names = (path.with_name(f"{path.name}.aside{n}") for n in itertools.count(1))
    other = next(name for name in names if not name.exists())
    print(f"warning: {path}: not what a run leaves there; it is called {other.name} from now on")
    path.rename(other)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write them so that ``unsealed`` knows whether they were changed since."""
    make_way(path)
    write_atomic(path, json.dumps(sealed(values), indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises FileNotFoundError without one, else ValueError."""
    try:
        if not path.is_file() and path.exists():
            raise ValueError("not a file")
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except OSError as error:
        raise ValueError(error.strerror) from None


_SEAL = "sha256 of the rest"


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """These values, and a digest by which ``unsealed`` knows whether they were changed since."""
    return {**values, _SEAL: hashlib.sha256(json.dumps(values).encode()).hexdigest()}


def unsealed(values: Any) -> dict[str, Any]:
    """What was sealed. Raises ValueError if it is not that, or not as it was."""
    if not isinstance(values, dict):
        raise ValueError(f"holds a {type(values).__name__}, not values by name")
    rest = {name: value for name, value in values.items() if name != _SEAL}
    if sealed(rest)[_SEAL] != values.get(_SEAL):
        raise ValueError("changed since a run left it, or of another version")
    return rest


def lock(folder: Path, how: int = ALONE) -> int | None:
    """The folder, which is made if need be, open and locked; None if others have locked it.

    how: ALONE; TOGETHER with others that ask for that; IN_TURN, as soon as the others have done. A
    kill lets go of it. Where the file system knows no locks, a line says so, and all get them.
    """
    make_folder(folder)
    opened = os.open(folder, os.O_RDONLY)  # the folder's own: nothing is left in it
    try:
        fcntl.flock(opened, how)
    except BlockingIOError:
        os.close(opened)
        return None
    except OSError as error:  # some network file systems
        device = os.fstat(opened).st_dev
        if device not in _without_locks:
            _without_locks.add(device)
            why = f"cannot be locked ({error.strerror})"
            print(f"warning: {folder} {why}; two processes in it would spoil each other's work")
    return opened


def unlock(opened: int | None) -> None:
    """Let go of what ``lock`` has returned."""
    if opened is not None:
        with suppress(OSError):  # a forked process may have the folder open too
            fcntl.flock(opened, fcntl.LOCK_UN)
        os.close(opened)


@contextmanager
def locked(folder: Path, how: int = ALONE) -> Iterator[bool]:
    """Whether the folder is locked, until the end, as by ``lock``."""
    opened = lock(folder, how)
    try:
        yield opened is not None
    finally:
        unlock(opened)


def flush(file: IO[bytes]) -> None:
    """Wait until it is on the disk: renamed before its content is, it would be torn."""
    file.flush()
    os.fsync(file.fileno())


# --- Walks ----------------------------------------------------------------------------------------


def tree(folder: Path, depth: int = 3, most: int = 40) -> str:
    """What is in a folder, ``depth`` levels down, in at most ``most`` lines below its name."""
    lines = list(_tree(folder, depth, "  ")) or ["  (empty)"]
    if len(lines) > most:
        lines[most - 1 :] = [f"  … {len(lines) - most + 1} more lines"]
    return "\n".join([f"{folder}/", *lines])


def _tree(folder: Path, depth: int, indent: str) -> Iterator[str]:
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        yield f"{indent}({error.strerror or error})"
        return
    folders = [entry for entry in entries if entry.is_dir()]
    files = [entry.name for entry in entries if not entry.is_dir()]
    files.sort(key=lambda name: not name.lower().endswith((".csv", ".zip")))  # what a reader wants
    for entry in folders[:12]:
        yield f"{indent}{entry.name}/"
        if depth > 1:
            yield from _tree(entry, depth - 1, indent + "  ")
    if len(folders) > 12:
        yield f"{indent}… {len(folders) - 12} more folders"
    shown = files if len(files) == 5 else files[:4]  # the fifth takes no more room than "… 1 more"
    yield from (indent + name for name in shown)
    if len(files) > len(shown):
        yield f"{indent}… {len(files) - len(shown)} more files"


def folders_below(root: Path) -> Iterator[Path]:
    """The folder and those below it, level by level; none hidden, of photos or of programs."""
    level: list[Path] = [root] if root.is_dir() else []
    seen: set[Path] = set()
    for _ in range(_DEEP + 1):
        below = []
        for folder in level:
            try:
                real = folder.resolve()
                with os.scandir(folder) as entries:
                    names = sorted(entry.name for entry in entries if entry.is_dir())
            except OSError:  # no permission, or gone meanwhile
                continue
            if real in seen or len(seen) >= _MANY:
                continue
            seen.add(real)
            yield folder
            names = [name for name in names if name not in _PHOTOS | _PROGRAMS]
            below += [folder / name for name in names if not name.startswith(".")]
        level = below


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, or a Mac's: ._1.jpg in its zip files is no photo."""
    return name.startswith((".", "__MACOSX"))


def photo_files(folder: Path) -> Iterator[tuple[str, str]]:
    """(subfolder as a posix path, "" for the folder itself; name) of all files but hidden ones.

    A link to a folder elsewhere counts as that folder, once.
    """
    top, seen = folder.resolve(), set[Path]()

    def is_new(inside: Path) -> bool:
        if not inside.is_symlink():
            return True
        target = inside.resolve()
        if target in seen or target.is_relative_to(top) or top.is_relative_to(target):
            return False
        seen.add(target)
        return True

    for at, folders, names in os.walk(folder, followlinks=True):
        wanted = sorted(name for name in folders if not is_junk(name))
        folders[:] = [name for name in wanted if is_new(Path(at, name))]
        relative = Path(at).relative_to(folder).as_posix()
        subfolder = "" if relative == "." else relative
        yield from ((subfolder, name) for name in sorted(names) if not is_junk(name))


def is_photo_name(name: str) -> bool:
    # A third of Path's time, and there are 22,000.
    return os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES  # noqa: PTH122


def may_be_photo(name: str) -> bool:
    """Whether the content of a file must tell: photos may have an unusual extension, or none."""
    return not _NO_PHOTO.fullmatch(name)

"""Unpacking zipped photos, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

from carcls.disk import PHOTO_SUFFIXES, is_junk, is_photo_name, photo_files, write_atomic
from carcls.errors import InputError

try:
    from lzma import LZMAError
except ImportError:  # a Python built without it; zipfile then says that it cannot open such a file
    LZMAError = zlib.error  # type: ignore[assignment,misc]  # one name for both cases

_DONE = ".unpacked.json"  # in a folder that is whole: which zip file it was unpacked from
# What zipfile raises on a file that is broken, encrypted (RuntimeError) or packed in another way.
_BROKEN = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, RuntimeError, UnicodeDecodeError)


def unpack(source: Path, target: Path) -> Path:
    """``target`` with what is in the zip file; kept if it is that already. Raises InputError."""
    try:
        with zipfile.ZipFile(source) as archive:
            files = _files(source, archive)
            facts = _facts(source, files)
            if _is_unpacked(target, facts):
                return target
            needed, free = sum(m.file_size for m in files), shutil.disk_usage(target.parent).free
            if needed > free:
                raise InputError(
                    f"{source}: needs {needed / 1e6:,.0f} MB in {target.parent}, free: "
                    f"{free / 1e6:,.0f} MB"
                )
            _extract(archive, files, target, facts)
    except (*_BROKEN, OSError) as error:
        # zipfile's own errors of wrong bytes have no number, or this one.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise InputError(
                f"{source}: cannot be unpacked into {target.parent} ({error.strerror})"
            ) from None
        raise InputError(f"{source}: not a whole zip file ({error}); download it again") from None
    return target


def _files(source: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files in it, but hidden ones. Raises InputError if one is unsafe, or none is a photo."""
    files = []
    for member in archive.infolist():
        # Old tools of Windows write train\1.jpg, others ./train/1.jpg.
        name = re.sub(r"(^|/)(\./)+", r"\1", member.filename.replace("\\", "/"))
        fault = ""
        if re.match(r"/|[A-Za-z]:", member.filename.replace("\\", "/")):
            fault = "has an absolute path"
        elif ".." in name.split("/"):
            fault = "leaves the folder"
        elif stat.S_ISLNK(member.external_attr >> 16):
            fault = "is a symbolic link"
        if fault:
            raise InputError(f"{source}: member {member.filename!r} {fault}; nothing was unpacked")
        member.filename = name
        hidden = any(is_junk(part) for part in name.split("/") if part)
        if name and not hidden and not member.is_dir():
            files.append(member)
    if not any(is_photo_name(member.filename) for member in files):
        raise InputError(
            f"{source}: no photo in it ({len(files)} files); expected "
            f"{', '.join(sorted(PHOTO_SUFFIXES))}"
        )
    return files


def _facts(source: Path, files: list[zipfile.ZipInfo]) -> dict[str, object]:
    """What tells a zip file from others: names, sizes and checksums of what is in it."""
    listing = "\n".join(f"{m.filename} {m.file_size} {m.CRC:08x}" for m in files)
    return {
        "zip": source.name,
        "files": len({member.filename for member in files}),
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }


def _is_unpacked(target: Path, facts: dict[str, object]) -> bool:
    """Whether the folder was unpacked from that zip file, and still has as many files."""
    try:
        same = json.loads((target / _DONE).read_text()) == facts
    except (OSError, ValueError):  # none, or damaged
        return False
    return same and sum(1 for _ in photo_files(target)) == facts["files"]


def _extract(
    archive: zipfile.ZipFile, files: list[zipfile.ZipInfo], target: Path, facts: dict[str, object]
) -> None:
    """Unpack under another name, then rename: a folder of that name is always whole."""
    for left in target.parent.glob(f"{target.name}.*.part"):
        if not _is_alive(left.name.split(".")[-2]):
            _remove(left)  # of a run that was killed
    part = target.with_name(f"{target.name}.{os.getpid()}.part")  # several runs may unpack at once
    _remove(part)
    part.mkdir()
    for member in files:
        archive.extract(member, part)  # checks the CRC
    write_atomic(part / _DONE, json.dumps(facts))
    try:
        part.rename(target)
    except OSError:  # there is one already
        if _is_unpacked(target, facts):  # another process was faster
            _remove(part)
            return
        _remove(target)
        part.rename(target)


def _is_alive(pid: str) -> bool:
    """Whether a process of that number runs."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _remove(folder: Path) -> None:
    while folder.exists():
        with suppress(FileNotFoundError):  # another process may be removing it, too
            shutil.rmtree(folder)

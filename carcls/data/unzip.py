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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from carcls.data import codepages, kinds
from carcls.disk import PHOTO_SUFFIXES, is_junk, may_be_photo, photo_files, read_json, write_atomic
from carcls.errors import InputError

try:
    from lzma import LZMAError
except ImportError:  # a Python built without it; zipfile then says that it cannot open such a file
    LZMAError = zlib.error  # type: ignore[assignment,misc]  # one name for both cases

_DONE = ".unpacked.json"  # in a folder that is whole: which zip file it was unpacked from
# What zipfile raises on a file that is broken or not one that it can read.
_BROKEN = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, RuntimeError, UnicodeDecodeError)
_METHODS = (0, 8, 12, 14)  # those that zipfile unpacks: none, Deflate, bzip2, LZMA
_OTHERS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "xz", 98: "PPMd"}
_RESERVE = 500_000_000  # bytes of a disk that are left for what else a run writes
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PARTS = "one part of a zip file in several parts; "
_BLOCK = 4096  # bytes; a file takes whole ones


@dataclass(frozen=True)
class _Zip:
    """A zip file, what is to be unpacked of it, and where to."""

    source: Path
    target: Path
    files: list[zipfile.ZipInfo]
    facts: dict[str, object]

    @property
    def size(self) -> int:
        """Bytes that it takes on the disk."""
        return sum(map(_size, self.files))


def _size(member: zipfile.ZipInfo) -> int:
    return -(-member.file_size // _BLOCK) * _BLOCK


def unpack(targets: dict[Path, Path], known: codepages.Known = tuple) -> list[str]:
    """Make each folder what is in its zip file, if it is not that already; lines for the log.

    Nothing is unpacked unless all can be. known: ids and labels, by which names are understood.
    Raises InputError.
    """
    zips, notes = [], list[str]()
    read = {source: _listed(source, known) for source in targets.values()}
    sure = {page for _, _, page in read.values() if page}
    for target, source in targets.items():
        files, found, page = read[source]
        if page == "" and len(sure) == 1:
            files, found, _ = _listed(source, known, *sure)
        notes += found
        facts = _facts(source, files)
        if not _is_unpacked(target, facts):
            zips.append(_Zip(source, target, files, facts))
            _refuse_unpackable(zips[-1])
    if zips:
        _refuse_full(zips[0], sum(zipped.size for zipped in zips))
    for zipped in zips:
        with _opened(zipped.source) as archive:
            _extract(archive, zipped)
    return notes


def names_in(source: Path, known: codepages.Known = tuple) -> list[str]:
    """The paths of the files in a zip file. Raises InputError."""
    return [member.filename for member in _listed(source, known)[0]]


def _listed(
    source: Path, known: codepages.Known, page: str = ""
) -> tuple[list[zipfile.ZipInfo], list[str], str | None]:
    """The files in a zip file, lines for the log, and the code page of the names."""
    with _opened(source) as archive:
        members = archive.infolist()
        names, doubt, page_found = codepages.names_of(members, known, page)
        return *_files(source, members, names, doubt), page_found


@contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    """The zip file; what is wrong with it is raised as InputError."""
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except InputError:
        raise
    except NotImplementedError as error:
        raise InputError(
            f"{source}: Python cannot unpack it ({error}); {_by_hand(source)}"
        ) from None
    except (*_BROKEN, OSError) as error:
        # zipfile's own errors of wrong bytes have no number, or this one.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            where = error.filename and f": {error.filename}"
            raise InputError(
                f"{source}: cannot be unpacked ({error.strerror}{where or ''})"
            ) from None
        raise InputError(f"{source}: {_what_it_is(source, error)}") from None


def _what_it_is(source: Path, error: Exception) -> str:
    """A file that cannot be read as a zip file: what it is, and what to do."""
    what = kinds.described(source)
    with source.open("rb") as file:
        is_first_part = file.read(4) == b"PK\7\x08"
    if is_first_part or _is_last_part(source):
        return _PARTS + _by_hand(source)
    if isinstance(error, UnicodeDecodeError):
        return (
            f"a name in it is marked as UTF-8 and is not ({error.object!r}), by damage "
            f"or a packer's mistake; {_by_hand(source)}"
        )
    if what in ("zip file", ""):
        return f"not a whole zip file ({error}); download it again"
    if what in ("rar", "7z", "tar", "gzip", "bzip2", "xz", "zstd"):
        return f"not a zip file but: {what}; {_by_hand(source)}"
    return f"not a zip file but: {what}; get the file itself"


def _is_last_part(source: Path) -> bool:
    """Whether a zip file ends with the number of a part; one that is whole has 0 there."""
    with source.open("rb") as file:
        file.seek(max(0, source.stat().st_size - 2**16 - 22))
        _, end, tail = file.read().rpartition(b"PK\5\6")
    return bool(end) and tail[:2] not in (b"\0\0", b"\xff\xff")


def _by_hand(source: Path) -> str:
    return f"unpack all of it with another program, such as 7z, into {source.with_suffix('')}"


def _files(
    source: Path, members: list[zipfile.ZipInfo], names: list[str], doubt: str
) -> tuple[list[zipfile.ZipInfo], list[str]]:
    """The files in it, but hidden ones, and lines for the log.

    Raises InputError if one is unsafe, or none is a photo.
    """
    files, count = dict[str, zipfile.ZipInfo](), 0
    for member, written in zip(members, names, strict=True):
        name = written.replace("\\", "/")  # old tools of Windows write train\1.jpg
        fault, kind = "", stat.S_IFMT(member.external_attr >> 16)
        if re.match(r"/|[A-Za-z]:", name):
            fault = "has an absolute path"
        elif ".." in name.split("/"):
            fault = "leaves the folder"
        elif stat.S_ISLNK(kind):
            fault = "is a symbolic link"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "is a FIFO, a device or a socket"
        if fault:
            raise InputError(f"{source}: member {written!r} {fault}; nothing was unpacked")
        parts = [part for part in name.split("/") if part not in ("", ".")]  # also ./train//1.jpg
        if parts and not name.endswith("/") and not any(map(is_junk, parts)):
            member.filename, count = "/".join(parts), count + 1
            files[member.filename] = member
    if not any(map(may_be_photo, files)):
        raise InputError(
            f"{source}: no photo in it ({len(files)} files); expected "
            f"{', '.join(sorted(PHOTO_SUFFIXES))}"
        )
    notes = [doubt] * bool(doubt)
    if count > len(files):
        notes.append(f"{count - len(files)} names come more than once; the last of each is taken")
    return list(files.values()), [_with_source(source, note) for note in notes]


def _with_source(source: Path, note: str) -> str:
    start = "WARNING: " * note.startswith("WARNING: ")
    return f"{start}{source}: {note.removeprefix(start)}"


def _facts(source: Path, files: list[zipfile.ZipInfo]) -> dict[str, object]:
    """What tells a zip file from others: names, sizes and checksums of what is in it."""
    listing = "\n".join(f"{m.filename} {m.file_size} {m.CRC:08x}" for m in files)
    return {
        "zip": source.name,
        "files": len(files),
        "bytes": sum(member.file_size for member in files),
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }


def _is_unpacked(target: Path, facts: dict[str, object]) -> bool:
    """Whether the folder was unpacked from that zip file, and still has as many files and bytes."""
    try:
        if read_json(target / _DONE) != facts:
            return False
        sizes = [(target / at / name).stat().st_size for at, name in photo_files(target)]
    except (OSError, ValueError):  # none, or damaged
        return False
    return (len(sizes), sum(sizes)) == (facts["files"], facts["bytes"])


def _refuse_unpackable(zipped: _Zip) -> None:
    """Raise InputError for what would stop the unpacking half-way."""
    source, hint = zipped.source, _by_hand(zipped.source)
    if any(member.volume for member in zipped.files) or _is_last_part(source):
        raise InputError(f"{source}: {_PARTS}{hint}")
    hint += ", or pack it again by Deflate, without a password"
    for member in zipped.files:
        method, name, fault = member.compress_type, member.filename, ""
        long = max(len(part.encode()) for part in name.split("/"))
        whole = len(os.fsencode(zipped.target)) + len(name.encode()) + 21  # with .<number>.part
        if member.flag_bits & 0x41:
            fault = "is encrypted"
        elif method not in _METHODS:
            how = f"{_OTHERS.get(method, 'a method')} (number {method})"
            fault = f"is packed by {how}, which Python cannot unpack"
        elif long > 255 or whole > 4095:
            hint = "pack it with a shorter name"
            fault = f"has a name too long for the disk ({max(long, whole)} bytes)"
        if fault:
            raise InputError(f"{source}: member {name!r} {fault}; nothing was unpacked; {hint}")


def _refuse_full(zipped: _Zip, needed: int, error: str = "") -> None:
    """Raise InputError if so many bytes do not go on the disk, or after an error that says so."""
    folder = zipped.target.parent
    disk = shutil.disk_usage(folder)
    reserve = min(_RESERVE, disk.total // 20)
    if error or needed > disk.free - reserve:
        needs, free, keeps = (f"{n / 1e6:,.1f} MB" for n in (needed, disk.free, reserve))
        raise InputError(
            f"{zipped.source}: unpacking needs {needs} in {folder}, free: {free}, of which {keeps} "
            f"are kept for the run{error and f' ({error})'}; what was there before is kept, and "
            "nothing else; make room, or set out to a folder on another disk"
        )


def _extract(archive: zipfile.ZipFile, zipped: _Zip) -> None:
    """Unpack under another name, then rename: a folder of that name is always whole."""
    target, left_to_write = zipped.target, zipped.size
    for left in target.parent.glob(f"{target.name}.*.part"):
        if not _is_alive(left.name.split(".")[-2]):
            _remove(left)  # of a run that was killed
    part = target.with_name(f"{target.name}.{os.getpid()}.part")  # several runs may unpack at once
    _remove(part)
    try:
        part.mkdir()
        for member in zipped.files:
            _refuse_full(zipped, left_to_write)  # others write to the disk, too
            _write(archive, zipped.source, member, part)
            left_to_write -= _size(member)
        write_atomic(part / _DONE, json.dumps(zipped.facts))
        try:
            part.rename(target)
        except OSError:  # there is one already
            if not _is_unpacked(target, zipped.facts):  # else another process was faster
                _remove(target)
                part.rename(target)
    except OSError as error:
        if error.errno in _FULL:
            _remove(part)
            _refuse_full(zipped, zipped.size, error.strerror or "full")
        raise
    finally:
        _remove(part)


def _write(archive: zipfile.ZipFile, source: Path, member: zipfile.ZipInfo, part: Path) -> None:
    """One file of it. Raises InputError if the disk takes no such name, or has it already."""
    path = part / member.filename
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    except (OSError, UnicodeEncodeError) as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        raise InputError(
            f"{source}: member {member.filename!r} cannot be written "
            f"({getattr(error, 'strerror', None) or error}); nothing was unpacked; two names may "
            "differ only in case or accents, or this disk takes no such name"
        ) from None
    with file, archive.open(member) as content:  # checks the CRC
        shutil.copyfileobj(content, file, 2**20)


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

"""Names in zip files, which often do not say in which code page they are."""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from zipfile import ZipInfo

from carcls.data.tables import clean

Known = Callable[[], Iterable[str]]  # ids and labels; asked for only where a name is in doubt
_UTF8_FLAG, _UNICODE_PATH = 0x800, 0x7075
# Of two that give the same ids and labels, the first is taken.
_PAGES = (
    "utf-8 cp437 cp850 cp1252 cp852 cp1250 cp866 cp1251 koi8_u cp932 euc_jp gb18030 cp949 cp950 "
    "cp737 cp1253 cp857 cp1254 cp775 cp1257 cp855 cp862 cp1255 cp720 cp864 cp1256 cp874 cp1258 "
    "cp865 cp861 iso8859_2 iso8859_5 iso8859_15 mac_roman mac_latin2 mac_cyrillic mac_greek"
)


def names_of(
    members: list[ZipInfo], known: Known, page: str = ""
) -> tuple[list[str], str, str | None]:
    """The names of a zip file's members, and a line for the log where they were in doubt.

    Also their code page, None if none had to be found, "" if one cannot be sure; page: that of
    another zip file, for names of which one cannot be sure else.

    One code page is taken for all that do not say theirs: UTF-8, else the one in which most of
    them are ids and labels, else that of the first zip files.
    """
    names = [_plain_name(member) for member in members]
    odd = [_bytes(member) for member, name in zip(members, names, strict=True) if name is None]
    if not odd:
        return [name or "" for name in names], "", None
    taken, note = _page(odd, known)
    sure = not note.startswith("WARNING")
    with suppress(UnicodeDecodeError):
        if page and not sure and not _signs(b"\0".join(odd).decode(page)):
            taken, sure = page, True
            note = f"names are read in code page {page}, as those of the other zip file are"
    read = [
        _bytes(member).decode(taken) if name is None else name
        for member, name in zip(members, names, strict=True)
    ]
    return read, note, taken if sure else ""


def _bytes(member: ZipInfo) -> bytes:
    """A name as it is in the file; zipfile takes those without the flag for cp437."""
    return member.orig_filename.partition("\0")[0].encode("cp437")


def _plain_name(member: ZipInfo) -> str | None:
    """The name, None if nothing says how it is to be read."""
    if member.flag_bits & _UTF8_FLAG:
        return member.orig_filename.partition("\0")[0]
    name, at = _bytes(member), 0
    while at + 4 <= len(member.extra):  # what Info-ZIP adds: (kind, length, content)
        kind, length = struct.unpack_from("<HH", member.extra, at)
        field = member.extra[at + 4 : at + 4 + length]
        if kind == _UNICODE_PATH and field[:5] == struct.pack("<BL", 1, zlib.crc32(name)):
            with suppress(UnicodeDecodeError):
                return field[5:].decode().partition("\0")[0]
        at += 4 + length
    return name.decode() if name.isascii() else None


def _page(odd: list[bytes], known: Known) -> tuple[str, str]:
    """The code page of these names, and what there is to say about it."""
    readings: dict[str, str] = {}
    # All folders and a thousand files are enough to tell, and there may be 22,000.
    some = [*{name.rpartition(b"/")[0] for name in odd}, *odd[:: 1 + len(odd) // 1000]]
    for page in _PAGES.split():
        with suppress(UnicodeDecodeError):
            b"\0".join(odd).decode(page)  # all of them must be names in it
            readings[page] = b"\0".join(some).decode(page)
    words = _words("/".join(known()))
    hits = {page: len(words & _words(names)) for page, names in readings.items()}
    most = max(hits.values())
    best = [page for page, count in hits.items() if count == most]
    if "utf-8" in best:
        return "utf-8", ""
    page = min(best, key=lambda page: len(_signs(readings[page])))  # the first of equals
    doubt = ""
    if not most:
        page, doubt = "cp437", "they are no UTF-8, and ids or labels in no code page"
    elif _signs(b"\0".join(odd).decode(page)):
        doubt = "some have signs that are no letters"
    else:
        others = (name for name in best if readings[name] != readings[page])
        other = next((name for name in others if not _signs(readings[name])), "")
        doubt = other and f"it may be {other}, too"
    names = [name.decode(page) for name in odd]
    if not doubt:
        return page, f"names are in code page {page} by the ids and labels, such as {names[0]!r}"
    shown = next((n for n, name in enumerate(names) if _signs(name)), 0)
    return page, (
        f"WARNING: {len(odd)} names do not say their code page ({doubt}); read as {page}: "
        f"{odd[shown]!r} as {names[shown]!r}; if that is wrong, pack them again with names in UTF-8"
    )


def _words(paths: str) -> set[str]:
    """Parts of paths, with and without an extension, as far as they tell code pages apart."""
    parts = {clean(part).casefold() for part in re.split(r"[/\\\0]", paths) if not part.isascii()}
    parts |= {part.rpartition(".")[0] for part in parts}
    return {part for part in parts if not part.isascii()}


def _signs(names: str) -> set[str]:
    """What a name in the wrong code page has: frames, blocks, sums, control characters."""
    return {
        sign
        for sign in set(names)
        if not sign.isascii() and unicodedata.category(sign)[0] in "SC" and sign not in "№°®™"
    }

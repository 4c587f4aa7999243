"""What a file is by its first bytes, where its name says something else."""

from __future__ import annotations

import re
import stat
from codecs import getincrementaldecoder
from contextlib import suppress
from pathlib import Path

HEAD = 512  # bytes; a tar file says so at byte 257
_ZIP = b"PK\x03\x04|PK\x05\x06|PK\x07\x08|PK00PK\x03\x04"
_BY_BYTES = [
    (rb"(PK\x03\x04).{26}(\[Content_Types\]|mimetypeapplication/vnd)", "spreadsheet or document"),
    (_ZIP, "zip file"),
    (rb"Rar!\x1a\x07", "rar"),
    (rb"7z\xbc\xaf\x27\x1c", "7z"),
    (rb"\x1f\x8b\x08", "gzip"),
    (rb"BZh[1-9](1AY&SY|\x17rE)", "bzip2"),
    (rb"\xfd7zXZ\0", "xz"),
    (rb"[\x22-\x28]\xb5\x2f\xfd", "zstd"),
    (rb".{257}ustar[\0 ]", "tar"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "spreadsheet or document"),
    (rb"PAR1[^ -~]", "Parquet"),
    (rb"SQLite format 3\0", "SQLite database"),
    (rb"\x89HDF\r\n\x1a\n", "HDF5"),
    (rb".{4}ftyp(avi[fs]|(mif1|miaf|msf1).{4}(.{4})*?avi[fs])", "AVIF"),
    (rb".{4}ftyp(hei|hev|mif1|msf1)", "HEIC"),
    (rb".{4}ftyp(crx )", "camera's raw file"),
    (rb"FUJIFILMCCD-RAW|II[*]\0.{4}CR", "camera's raw file"),
    (rb"(?=.{0,3}\0).{4}(ftyp|moov|mdat|wide)|\x1aE\xdf\xa3|RIFF.{4}AVI ", "video"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "JPEG 2000"),
    (rb"8BPS\0", "Photoshop file"),
]
_BY_TEXT = [
    (r"%PDF-", "PDF"),
    (r"version https://(git-lfs|hawser)\.github\.com", "Git LFS pointer"),
    (
        r"(<\?xml.*?)?(<!--.*?-->\s*)*<(!doctype\s+)?(html|head|body|title|script|meta)\b",
        "HTML page",
    ),
    (r"(<\?xml.*?)?(<!--.*?-->\s*)*(<!doctype\s+svg.*?)?<svg\b", "SVG"),
    (r"<\?xml|<[a-z]\w*(\s+\w+=\"|>\s*<)", "XML"),
    (r"\{\s*(\"|\}|$)|\[\s*([\[{\]]|\"[^\"]*\"\s*[\],])", "JSON"),
]


def content(head: bytes) -> str:
    """What a file is that begins so, "" if unknown; an ordinary photo or CSV file is unknown."""
    if not head:
        return "empty"
    if not head.strip(b"\0"):
        return "nothing but zero bytes"  # a download that broke off
    for pattern, name in () if _is_text(head) else _BY_BYTES:
        if re.match(pattern, head, re.DOTALL):
            return name
    text = _text(head)
    for words, name in _BY_TEXT:
        if re.match(words, text, re.DOTALL | re.IGNORECASE):
            return name
    return ""


def described(path: Path) -> str:
    """What a file is, with the first words of a text, "" if unknown. Raises OSError."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # to read a FIFO would wait for ever
        return "folder" if stat.S_ISDIR(mode) else "FIFO or device"
    with path.open("rb") as file:
        head = file.read(HEAD)
    name, words = content(head), " ".join(_text(head).split())[:60]
    is_text = name != "PDF" and name in {name for _, name in _BY_TEXT}
    return f"{name} ({words!r})" if is_text else name


def _is_text(head: bytes) -> bool:
    """Whether it begins like readable UTF-8, which may be cut within a letter."""
    with suppress(UnicodeDecodeError):
        getincrementaldecoder("utf-8")().decode(head)
        return not re.search(rb"[\0-\x08\x0e-\x1f\x7f]", head)
    return False


def _text(head: bytes) -> str:
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    return head.decode("utf-16" if wide else "utf-8-sig", "replace").lstrip()

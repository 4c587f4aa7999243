"""Looking at every file: what is odd about it, what is done about that, which are the same."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import median
from typing import NamedTuple

import pandas as pd
from PIL import Image

from carcls.data import pixels
from carcls.data.aloud import overheard
from carcls.data.headers import (
    JPEG_END,
    JPEG_PIXELS,
    JPEG_SIZES,
    ORIENTATION,
    JpegHeader,
    in_doubt,
    jpeg_header,
    jpeg_segments,
)
from carcls.data.pixels import PILLOW_ERRORS
from carcls.errors import InputError

AUDIT_COLUMNS = ("source", "id", "finding", "action", "detail")
# A JPEG of fewer bytes a px, or of less than this share of the others' median, may lack some.
_SHORT, _SHORTER = 1 / 16, 0.6
TINY = 32  # px: a shorter side below this is reported
# finding → what is done with a train photo, with a test photo. A new finding is a row here, and
# where it is seen in ``_facts``; pixels are decoded only where a header leaves doubt.
_ACTIONS = {
    "missing file": ("dropped", "predicted from a grey photo"),
    "unreadable": ("dropped", "predicted from a grey photo"),
    "too large": ("dropped", "predicted from a grey photo"),
    "truncated": ("dropped", "decoded as far as it goes"),
    "damaged JPEG data": ("kept",) * 2,
    "wrongly named": ("read as what it is",) * 2,
    "greyscale": ("repeated to 3 channels",) * 2,
    "CMYK": ("converted to RGB",) * 2,
    "transparent": ("laid on white",) * 2,
    "16-bit": ("scaled to 8 bits",) * 2,
    "EXIF-rotated": ("turned upright",) * 2,
    "several pictures": ("first one taken",) * 2,
    "tiny": ("kept",) * 2,
}
_PNG_TURNS = (b"eXIf", b"Raw profile type", b"adobe.xmp")  # a PNG that is turned has one
_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **{".png": "PNG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP"},
}


@dataclass
class Audit:
    """The findings so far, a row each of AUDIT_COLUMNS."""

    rows: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    def add(self, source: str, ident: str, finding: str, action: str, detail: str = "") -> None:
        self.rows.append((source, ident, finding, action, detail))

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=list(AUDIT_COLUMNS), dtype=str)

    def __str__(self) -> str:
        counts = Counter((row[2], row[3]) for row in self.rows).most_common()
        found = [f"{n} {finding} ({action})" for (finding, action), n in counts]
        return ", ".join(found) or "nothing"


@dataclass(frozen=True)
class Facts:
    """What one look at a file tells."""

    digest: str = ""  # SHA-1 of the file's bytes in hex
    height: int = 0  # px, upright; 0 if unreadable
    width: int = 0
    readable: bool = False
    findings: tuple[tuple[str, str], ...] = ()  # finding, detail
    density: float = 0.0  # bytes a px of a JPEG


class _Header(NamedTuple):
    """What a file says of itself."""

    format: str
    height: int  # px, upright
    width: int
    findings: list[tuple[str, str]]
    fault: str  # why Pillow cannot decode its pixels, or ""
    in_doubt: bool = False  # whether they must be decoded to see what they are
    density: float = 0.0


def look(paths: Iterable[str]) -> dict[str, Facts]:
    """Look at each of these files, in threads: at JPEGs far shorter than the others twice."""
    unique = list(dict.fromkeys(paths))
    Image.init()  # loads Pillow's formats here, not in several threads at a time
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        warnings.simplefilter("ignore")  # Pillow's name no file; what matters goes to the audit

        def all_facts(paths: list[str], least: float) -> dict[str, Facts]:
            chunks = [paths[start : start + 64] for start in range(0, len(paths), 64)]
            looks = pool.map(lambda chunk: [_facts(path, least) for path in chunk], chunks)
            return dict(zip(paths, (facts for chunk in looks for facts in chunk), strict=True))

        found = all_facts(unique, _SHORT)
        least = _SHORTER * median([f.density for f in found.values() if f.density] or [0.0])
        again = [path for path in unique if _SHORT <= found[path].density < least]
        return found | all_facts(again, least)


def _facts(path: str, least: float = 0.0) -> Facts:
    """Read and hash a file; its pixels are decoded only where a doubt is left.

    One is that a JPEG has fewer than least bytes a px.
    """
    try:
        with pixels.reading(path) as data:
            return _facts_of(path, data, least)
    except pixels.TooLarge as error:
        return Facts(findings=(("too large", str(error)),))
    except InputError as error:
        return Facts(findings=(("unreadable", str(error)),))


def _facts_of(path: str, data: bytes, least: float) -> Facts:
    digest = pixels.digest_of(data)
    jpeg = jpeg_header(data)
    header = _look_at_jpeg(data, jpeg, least) if jpeg else _look_at_other(data)
    if header.fault or header.in_doubt:
        try:
            with overheard(path) as said:
                pixels.decode(data, 1, 1)  # the upper part of a JPEG that is cut short can be shown
        except pixels.TooLarge:
            raise
        except InputError as error:
            return Facts(digest, findings=(("unreadable", header.fault or str(error)),))
        if header.fault:
            header.findings.append(("truncated", header.fault))
        elif said or (jpeg and data.rfind(JPEG_END) < _tables(data)[1]):
            header.findings.append(("damaged JPEG data", said[0] if said else "it has no end"))
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - Path is slow, and there are 22,000
    if _FORMATS.get(suffix, header.format) != header.format:
        header.findings.append(("wrongly named", f"{suffix} holds {header.format}"))
    if min(header.height, header.width) < TINY:
        header.findings.append(("tiny", f"{header.width}×{header.height}"))
    return Facts(digest, header.height, header.width, True, tuple(header.findings), header.density)


def _look_at_jpeg(data: bytes, jpeg: JpegHeader, least: float) -> _Header:
    findings = []
    if jpeg.channels != 3:
        findings.append(("greyscale" if jpeg.channels == 1 else "CMYK", ""))
    if jpeg.orientation > 1:
        findings.append(("EXIF-rotated", f"orientation {jpeg.orientation}"))
    if jpeg.kept or len(data) > pixels.ALONE:  # others can be reduced far enough
        pixels.jpeg_cost(jpeg, len(data), by=8)  # raises TooLarge
    # What stops a decoder is damage to the tables before the pixels, or pixels that end too soon.
    # The end is looked for among the last bytes, as some cameras append a few. Only where it is
    # missing does Pillow decode all pixels: unlike OpenCV it says when they end too soon. So it
    # does for CMYK, which it reads. Where they only look damaged, OpenCV's decoder says how.
    whole = jpeg.channels != 4 and data.rfind(JPEG_END, -64) >= 0
    tables, start = _tables(data)
    fault = _tables_fault(tables) or ("" if whole else _pillow_fault(data))
    doubt = in_doubt(data, start, jpeg, least)
    density = (len(data) - start) / (jpeg.height * jpeg.width)
    return _Header("JPEG", *jpeg.upright, findings, fault, doubt, density)


def _look_at_other(data: bytes) -> _Header:
    if not data:
        return _Header("", 0, 0, [], "empty file")
    try:
        with closing(pixels.open_photo(data)) as photo, pixels.alone(pixels.cost(photo, data)[1]):
            # MPO is a JPEG with a second one behind it.
            kind = "JPEG" if photo.format == "MPO" else photo.format or ""
            frames = getattr(photo, "n_frames", 1) if kind != "JPEG" else 1
            # Pillow decodes a PNG to find it, as it may stand behind the pixels.
            is_plain = kind == "PNG" and not any(word in data for word in _PNG_TURNS)
            turn = 1 if is_plain else photo.getexif().get(ORIENTATION, 1)
            bits_are_16 = kind == "PNG" and data[24] == 16  # bits a channel
            checks = [
                ("16-bit", photo.mode, photo.mode[0] in "IF" or bits_are_16),
                ("CMYK", "", photo.mode == "CMYK"),
                ("transparent", photo.mode, photo.has_transparency_data),
                ("greyscale", photo.mode, photo.mode in ("1", "L", "LA")),
                ("several pictures", f"{frames} of them", frames > 1),
                ("EXIF-rotated", f"orientation {turn}", turn in range(2, 9)),
            ]
            fault = _pillow_fault(data) if kind == "PNG" else ""
            if kind != "PNG":
                photo.load()
            # Only now, as Pillow itself turns a TIFF while it decodes it.
            height, width = photo.size[::-1] if is_plain else pixels.upright(photo)
        findings = [(finding, detail) for finding, detail, is_so in checks if is_so]
        return _Header(kind, height, width, findings, fault)
    except PILLOW_ERRORS as error:
        if isinstance(error, InputError):
            raise
        return _Header("", 0, 0, [], pixels.reason(error, data))


def _pillow_fault(data: bytes) -> str:
    """Why Pillow cannot decode the pixels, or ""."""
    try:
        with closing(pixels.open_photo(data)) as photo:
            if photo.format == "PNG":
                photo.verify()  # checksums: as sure as decoding, in a tenth of the time
            else:
                pixels.load(photo, data, 8)
    except PILLOW_ERRORS as error:
        if isinstance(error, InputError):
            raise
        return pixels.reason(error, data)
    return ""


def _tables(data: bytes) -> tuple[bytes, int]:
    """A JPEG cut down to its tables, as 16×16 px with no pixels, and where its pixels begin.

    One encoder at one quality gives the same bytes here for all photos, so that few are judged.
    b"" if no pixels follow them.
    """
    parts = [data[:2]]
    for marker, at, end in jpeg_segments(data):
        is_metadata = 0xE0 <= marker <= 0xED or marker == 0xFE  # 0xEE tells CMYK from its inverse
        if marker in JPEG_SIZES:
            parts.append(data[at : at + 5] + b"\0\x10\0\x10" + data[at + 9 : end])
        elif not is_metadata:
            parts.append(data[at:end])
        if marker == JPEG_PIXELS:
            return b"".join([*parts, JPEG_END]), end
    return b"", len(data)


@lru_cache(256)
def _tables_fault(tables: bytes) -> str:
    return _pillow_fault(tables) if tables else "no pixels in it"


def add_findings(
    audit: Audit, source: str, frame: pd.DataFrame, facts: dict[str, Facts]
) -> set[str]:
    """Add what is odd about each photo (columns id, path); the ids that are dropped for it."""
    dropped = set()
    for ident, path in zip(frame["id"], frame["path"], strict=True):
        missing = (("missing file", "named in the CSV only"),)
        for finding, detail in facts[path].findings if path else missing:
            action = _ACTIONS[finding][source == "test"]
            audit.add(source, ident, finding, action, detail)
            if action == "dropped":
                dropped.add(ident)
    return dropped


def add_duplicates(audit: Audit, train: pd.DataFrame, test: pd.DataFrame) -> set[str]:
    """Add files with the same bytes; the train ids that are dropped, as their labels differ."""
    clash: set[str] = set()
    for _, same in train[train.duplicated("digest", keep=False)].groupby("digest", sort=False):
        first, *others = same["id"]
        if same["label"].nunique() == 1:
            for ident in others:
                action, detail = "on the same side of the split", f"same as {first}"
                audit.add("train", ident, "duplicate", action, detail)
            continue
        clash |= {first, *others}
        for ident, label in zip(same["id"], same["label"], strict=True):
            twins = ", ".join(other for other in same["id"] if other != ident)
            detail = f"label {label}; same as {twins}"
            audit.add("train", ident, "duplicate with another label", "dropped", detail)

    kept = train[~train["id"].isin(clash)].drop_duplicates("digest")
    in_train = dict(zip(kept["digest"], zip(kept["id"], kept["label"], strict=True), strict=True))
    in_test: dict[str, str] = {}
    for digest, ident in test.loc[test["readable"], ["digest", "id"]].itertuples(index=False):
        if digest in in_train:
            twin, label = in_train[digest]
            detail = f"same as {twin}, label {label}"
            audit.add("test", ident, "duplicate of a train photo", "kept", detail)
        if digest in in_test:
            audit.add("test", ident, "duplicate", "kept", f"same as {in_test[digest]}")
        in_test.setdefault(digest, ident)
    return clash

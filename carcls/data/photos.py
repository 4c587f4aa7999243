"""One table of all photos: where each is, its label, which side of the split; and what is odd about it."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import struct
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from carcls.data import attached, boxes, tables
from carcls.data.files import Place
from carcls.disk import is_photo_name, photo_files, tree, write_atomic
from carcls.errors import InputError

if TYPE_CHECKING:
    from carcls.config import Config

Pixels = npt.NDArray[np.uint8]

VALIDATION, TRAIN, TEST = 0, 1, -1  # values of the column fold
TINY = 32  # px: a shorter side below this is reported
_LOOKED = ("source", "id", "path", "height", "width", "readable")
AUDIT_COLUMNS = ("source", "id", "finding", "action", "detail")
_GREY = "predicted from a grey photo"
# finding → what is done with a train photo, with a test photo.
_ACTIONS = {
    "missing file": ("dropped", _GREY),
    "unreadable": ("dropped", _GREY),
    "truncated": ("dropped", "decoded as far as it goes"),
    "wrongly named": ("read as what it is",) * 2,
    "greyscale": ("repeated to 3 channels",) * 2,
    "CMYK": ("converted to RGB",) * 2,
    "transparent": ("laid on white",) * 2,
    "16-bit": ("scaled to 8 bits",) * 2,
    "EXIF-rotated": ("turned upright",) * 2,
    "animated": ("first frame taken",) * 2,
    "tiny": ("kept",) * 2,
}
_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
# The reducing bits (OpenCV names them after grey) with RGB order: IMREAD_REDUCED_COLOR_x would give
# BGR.
_REDUCED = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB),
)
_END = b"\xff\xd9"  # the last marker of a JPEG; inside its pixel data it cannot occur
_ORIENTATION = 0x0112  # the EXIF tag
# What Pillow raises on files that are not what they seem: its plugins let their parsing errors
# through. Warning: where warnings are errors, as in tests.
_PIL_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    NotImplementedError,
    zlib.error,
    Image.DecompressionBombError,
    Warning,
)


@dataclass(frozen=True)
class Table:
    """All photos of a run that it can use, train rows in train.csv's order, then test rows in the sample's.

    ``frame`` has the columns id (str), path (str, "" if there is none), label (int class index, -1 for
    test), fold (VALIDATION, TRAIN or TEST), source ("train", "test" or "pseudo"), height and width (px, upright; 0 if
    unreadable), readable (bool; False only for test photos, which are predicted from a grey photo), group (int: files
    with the same bytes have the same), digest (str: SHA-1 of the file's bytes in hex, "" if there is none); and with
    cfg.boxes, left, top, right and bottom (int, px: what the photo is cut to).
    """

    frame: pd.DataFrame
    classes: list[int] | list[str]  # class index → label as in train.csv
    id_column: str
    label_column: str
    sample_ids: list[str]  # as written in the sample submission
    audit: pd.DataFrame  # AUDIT_COLUMNS, all str
    # All photos that have a file, dropped ones too: _LOOKED, as in ``frame``; height and width 0
    # where the CSV was enough to drop it.
    looked: pd.DataFrame = field(default_factory=partial(pd.DataFrame, columns=list(_LOOKED)))
    notes: list[str] = field(default_factory=list)  # for the log: what became of boxes

    def _part(self, fold: int) -> pd.DataFrame:
        return self.frame[self.frame["fold"] == fold].reset_index(drop=True)

    @property
    def train(self) -> pd.DataFrame:
        return self._part(TRAIN)

    @property
    def val(self) -> pd.DataFrame:
        return self._part(VALIDATION)

    @property
    def test(self) -> pd.DataFrame:
        return self._part(TEST)


@dataclass
class _Audit:
    rows: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    def note(self, source: str, ident: str, finding: str, action: str, detail: str = "") -> None:
        self.rows.append((source, ident, finding, action, detail))

    def counts(self) -> str:
        counts = Counter((row[2], row[3]) for row in self.rows).most_common()
        return (
            ", ".join(f"{n} {finding} ({action})" for (finding, action), n in counts) or "nothing"
        )


@dataclass(frozen=True)
class _Facts:
    """What one look at a file tells."""

    digest: bytes = b""  # of the file's bytes
    height: int = 0
    width: int = 0
    readable: bool = False
    findings: tuple[tuple[str, str], ...] = ()  # finding, detail


# --- The table ------------------------------------------------------------------------------------


def load(cfg: Config, place: Place) -> Table:
    """Read the CSV files, look at every photo, split. Raises InputError where the data cannot be used."""
    audit, given = _Audit(), [boxes.read(path) for path in attached.box_files(cfg)]
    sample = tables.read_csv(place.sample_csv)
    if len(sample.columns) != 2:
        raise InputError(
            f"{place.sample_csv}: columns {', '.join(sample.columns)}; expected two, id and label"
        )
    id_column, label_column = map(str, sample.columns)
    test = _test_rows(place, sample[id_column].tolist())
    train, aside = _train_rows(place, id_column, label_column, audit)
    for path in [*train["path"], *test["path"]]:
        if not path.isascii() and re.search(
            "[\ud800-\udfff]", path
        ):  # Python's stand-ins for bytes that are no text
            raise InputError(
                f"{path!a}: this name is not text in UTF-8, and could not be written to photos.csv; rename it"
            )
    named = set(train["label"])
    facts = _look(path for path in [*train["path"], *test["path"]] if path)
    for frame in (train, test):
        found = [facts[path] if path else _Facts() for path in frame["path"]]
        frame["digest"] = [f.digest.hex() for f in found]
        frame["height"] = [f.height for f in found]
        frame["width"] = [f.width for f in found]
        frame["readable"] = [f.readable for f in found]
    aside = aside.assign(height=0, width=0, readable=True)  # as far as anybody knows
    looked = pd.concat([train, aside], ignore_index=True).assign(source="train")
    looked = pd.concat([looked, test.assign(source="test")], ignore_index=True)[list(_LOOKED)]
    train = _drop(train, _note_findings("train", train, facts, audit))
    _note_findings("test", test, facts, audit)
    train = _duplicates(train, test, audit)
    classes = sorted(set(train["label"]))
    for label in sorted(named - set(classes)):
        audit.note(
            "train",
            "",
            "class without photos",
            "left out",
            f"class {label}: none of its photos can be used",
        )
    if train.empty or not test["readable"].any():
        which, folder = (
            ("train", place.train_photos) if train.empty else ("test", place.test_photos)
        )
        raise InputError(
            f"{folder}: no {which} photo can be used: {audit.counts()}. There is:\n{tree(folder)}"
        )
    if len(classes) < 2:
        raise InputError(
            f"{place.train_csv or place.train_photos}: every usable photo is of class {classes[0]!r}; "
            f"expected two classes or more; the audit found {audit.counts()}"
        )
    train["label"] = train["label"].map({label: index for index, label in enumerate(classes)})
    train["fold"] = _split(train, cfg.seed, cfg.val_fraction, classes, audit)
    if not (train["fold"] == VALIDATION).any():
        raise InputError(
            f"{place.train_csv or place.train_photos}: no class has two different photos, "
            "so none can be kept for validation"
        )
    test["label"], test["fold"] = -1, TEST
    frame = pd.concat([train.assign(source="train"), test.assign(source="test")], ignore_index=True)
    frame["group"] = pd.factorize(frame["digest"])[0]
    frame = frame[
        ["id", "path", "label", "fold", "source", "height", "width", "readable", "group", "digest"]
    ]
    frame, notes = boxes.cut(frame, given) if given else (frame, [])
    return Table(
        frame=frame,
        classes=classes,
        id_column=id_column,
        label_column=label_column,
        sample_ids=test["id"].tolist(),
        audit=pd.DataFrame(audit.rows, columns=list(AUDIT_COLUMNS), dtype=str),
        notes=notes,
        looked=looked,
    )


def folds(table: Table, count: int, seed: int) -> list[Table]:
    """The same photos so many times, each train photo in validation once: stratified, identical files together.

    Photos are dealt out class by class in the order of a hash of seed and id. Raises InputError if a fold gets none.
    """
    train = table.frame[table.frame["fold"] != TEST]
    first = train.groupby("group").agg(label=("label", "first"), id=("id", "min"))
    first["order"] = [
        hashlib.sha256(f"{seed}/folds/{name}".encode()).digest() for name in first["id"]
    ]
    dealt = first.sort_values(["label", "order"])
    number = dict(zip(dealt.index, np.arange(len(dealt)) % count, strict=True))
    if len(dealt) < 2 * count:
        raise InputError(
            f"folds={count}: {len(dealt)} different train photos; expected at least {2 * count}"
        )
    held = train["group"].map(number)
    parts = []
    for k in range(count):
        frame = table.frame.copy()
        frame.loc[train.index, "fold"] = np.where(held == k, VALIDATION, TRAIN)
        parts.append(replace(table, frame=frame))
    return parts


def with_folds(table: Table, count: int, seed: int) -> pd.DataFrame:
    """The frame with the numbers from 1 of ``folds`` in ``fold``: of the one that validates on the photo; TEST stays."""
    frame = table.frame.copy()
    for k, part in enumerate(folds(table, count, seed), 1):
        frame.loc[part.frame["fold"] == VALIDATION, "fold"] = k
    return frame


def summary(table: Table, count: int = 1) -> list[str]:
    """A few lines for the log: counts, classes, sizes, findings; warnings last. count: of folds."""
    train, val, test = table.train, table.val, table.test
    share = 100 * len(val) / (len(train) + len(val))
    per_class = Counter(table.classes[label] for label in [*train["label"], *val["label"]])
    shown = [f"{label}: {per_class[label]:,}" for label in table.classes[:20]]
    more = f" … {len(table.classes) - 20} more" if len(table.classes) > 20 else ""
    readable = table.frame[table.frame["readable"]]
    sizes = Counter(zip(readable["width"].tolist(), readable["height"].tolist(), strict=True))
    common = [f"{w}×{h} {100 * n / len(readable):.0f} %" for (w, h), n in sizes.most_common(3)]
    n_train, n_val, n_test = len(train), len(val), len(test)
    split = f"{n_train:,} to train, {n_val:,} to validate ({share:.1f} %)"
    if count > 1:
        split = f"{n_train + n_val:,} to train, each validated once in {count} folds"
    lines = [
        f"photos: {split}, {n_test:,} to predict",
        f"{len(table.classes)} classes ({table.label_column}: photos): {', '.join(shown)}{more}",
        f"sizes: {', '.join(common)}" + (f", {len(sizes) - 3} others" if len(sizes) > 3 else ""),
    ]
    found = Counter(
        zip(table.audit["source"], table.audit["finding"], table.audit["action"], strict=True)
    )
    lines += [
        f"audit: {n:,} {source} {finding} → {action}"
        for (source, finding, action), n in found.most_common()
    ]
    lines += [] if found else ["audit: nothing found"]
    lines += table.notes
    lost = test.loc[~test["readable"], "id"].tolist()
    if lost:
        names = ", ".join(lost[:5]) + (", …" if len(lost) > 5 else "")
        lines.append(
            f"WARNING: {len(lost):,} test photos cannot be read, their rows are guesses: {names}"
        )
    return lines


def write_audit(table: Table, path: Path) -> None:
    """audit.csv: one row per finding (AUDIT_COLUMNS), written whole or not at all."""
    write_atomic(path, table.audit.to_csv(index=False))


class _Files:
    """The files below a folder, by relative path and by name, each also without extension."""

    def __init__(self, folder: Path, place: Place) -> None:
        self._prefix = f"{folder}/"
        top = place.root if folder.is_relative_to(place.root) else place.scratch
        self._above = folder.relative_to(
            top
        ).parts  # train, or more where folders only wrap another one
        self.paths: list[str] = []  # relative
        self._by: tuple[defaultdict[str, list[str]], ...] = tuple(
            defaultdict(list) for _ in range(4)
        )
        for at, name in photo_files(folder):
            path = f"{at}/{name}" if at else name
            self.paths.append(path)
            stem = name.rpartition(".")[0] or name
            for index, key in zip(
                self._by, (path, f"{at}/{stem}" if at else stem, name, stem), strict=True
            ):
                index[key].append(path)

    def find(self, ident: str) -> list[str]:
        """Relative paths that the id may mean; [] if none. An id is looked up, never joined to a path."""
        for index in self._by:
            if ident in index:
                return index[ident]
        top, _, below = ident.partition("/")
        if below and top in self._above:  # train/1.jpg in the CSV
            return self.find(below)
        stem = (
            ident.rpartition(".")[0] if is_photo_name(ident) else ""
        )  # 1.jpg in the CSV, 1.png on disk
        return self._by[1].get(stem) or self._by[3].get(stem, [])

    def full(self, path: str) -> str:
        return self._prefix + path


def _test_rows(place: Place, ids: list[str]) -> pd.DataFrame:
    """Columns id, path ("" if there is no file), in the sample's order."""
    twice = [ident for ident, n in Counter(ids).items() if n > 1]
    if twice:
        raise InputError(
            f"{place.sample_csv}: {len(twice)} ids come more than once, such as {twice[0]!r}"
        )
    if any(not ident.strip() for ident in ids):
        raise InputError(
            f"{place.sample_csv}: row {next(i for i, x in enumerate(ids, 2) if not x.strip())} has no id"
        )
    files, paths = _Files(place.test_photos, place), []
    for ident in ids:
        found = files.find(ident.strip())
        if len(found) > 1:
            raise InputError(
                f"{place.sample_csv}: id {ident!r} may mean {' or '.join(found)} in {place.test_photos}"
            )
        paths.append(files.full(found[0]) if found else "")
    return pd.DataFrame({"id": ids, "path": paths}, dtype=object)


def _train_rows(
    place: Place, id_column: str, label_column: str, audit: _Audit
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of train.csv, or of the class folders, that have one label and one file: columns id, label (int or str), path.
    And those that are dropped but have a file: id, path.
    """
    files = _Files(place.train_photos, place)
    if place.train_csv is None:
        rows = [
            (path, path.partition("/")[0], path)
            for path in files.paths
            if is_photo_name(path) and "/" in path
        ]
        if not rows:
            raise InputError(
                f"{place.root}: missing train.csv, and {place.train_photos} has no folder "
                f"per class. There is:\n{tree(place.train_photos)}"
            )
        frame = pd.DataFrame(rows, columns=["id", "label", "path"], dtype=object)
        frame["label"] = frame["label"].map(_label_values(frame["label"]))
        frame["path"] = [files.full(path) for path in frame["path"]]
        return frame, pd.DataFrame(columns=["id", "path"])
    csv = tables.read_csv(place.train_csv)
    if not {id_column, label_column} <= set(csv.columns):
        raise InputError(
            f"{place.train_csv}: columns {', '.join(map(str, csv.columns))}; expected "
            f"{id_column} and {label_column}, as in {place.sample_csv.name}"
        )
    frame = pd.DataFrame(
        {"id": csv[id_column].str.strip(), "label": csv[label_column].str.strip()}, dtype=object
    )
    blank = frame["label"].str.lower().isin(["", "nan"])
    for ident in frame.loc[blank, "id"]:
        audit.note("train", ident, "no label", "dropped", f"{label_column} is empty")
    frame = frame[~blank].reset_index(drop=True)
    frame["label"] = frame["label"].map(_label_values(frame["label"]))
    frame = _one_row_per_id(frame, audit)
    folders = {str(label) for label in frame["label"]}
    paths = []
    for ident, label in zip(frame["id"], frame["label"], strict=True):
        found = files.find(ident)
        own = [path for path in found if str(label) in path.split("/")[:-1]]
        found = own if len(found) > 1 and own else found
        at = found[0].split("/")[-2] if len(found) == 1 and "/" in found[0] else ""
        if len(found) > 1:
            audit.note("train", ident, "several files", "dropped", " or ".join(found))
        elif not found:
            audit.note(
                "train", ident, "missing file", "dropped", f"not in {place.train_photos.name}"
            )
        elif at in folders and at != str(label):
            audit.note(
                "train", ident, "in another class's folder", "kept", f"label {label}, folder {at}"
            )
        paths.append(files.full(found[0]) if len(found) == 1 else "")
    frame["path"] = paths
    dropped = dict.fromkeys(row[1] for row in audit.rows if row[3] == "dropped")
    aside = [(ident, files.full(found[0])) for ident in dropped if (found := files.find(ident))]
    return frame[frame["path"] != ""].reset_index(drop=True), pd.DataFrame(
        aside, columns=["id", "path"], dtype=object
    )


def _label_values(labels: Iterable[str]) -> dict[str, int | str]:
    """Text → label: integers if all are (3.0 too: pandas writes it where a label was missing), else text."""
    texts = sorted(set(labels))
    if all(re.fullmatch(r"(0|-?[1-9]\d*)(\.0+)?", text) for text in texts):
        return {text: int(text.partition(".")[0]) for text in texts}
    return {text: text for text in texts}


def _one_row_per_id(frame: pd.DataFrame, audit: _Audit) -> pd.DataFrame:
    """Ids that come twice: once if the labels agree, else not at all."""
    twice = frame[frame.duplicated("id", keep=False)]
    clash = {ident for ident, labels in twice.groupby("id")["label"] if labels.nunique() > 1}
    for ident, label in twice[["id", "label"]].drop_duplicates().itertuples(index=False):
        if ident in clash:
            audit.note("train", ident, "id with several labels", "dropped", f"label {label}")
        else:
            audit.note(
                "train", ident, "id more than once", "first row kept", f"label {label} in each"
            )
    return _drop(frame, clash).drop_duplicates("id").reset_index(drop=True)


def _drop(frame: pd.DataFrame, ids: set[str]) -> pd.DataFrame:
    return frame[~frame["id"].isin(ids)].reset_index(drop=True)


# --- Looking at the files -------------------------------------------------------------------------


def _look(paths: Iterable[str]) -> dict[str, _Facts]:
    unique = list(dict.fromkeys(paths))
    chunks = [unique[start : start + 64] for start in range(0, len(unique), 64)]
    Image.preinit()  # loads Pillow's common formats once, not in several threads at a time
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        warnings.simplefilter(
            "ignore"
        )  # of Pillow, which names no file; what matters goes to the audit
        looks = pool.map(lambda chunk: [_facts(path) for path in chunk], chunks)
        return {
            path: facts
            for chunk, found in zip(chunks, looks, strict=True)
            for path, facts in zip(chunk, found, strict=True)
        }


class _Header(NamedTuple):
    """What a file says of itself. height and width are upright; fault: why its pixels are in doubt, or ""."""

    format: str
    height: int
    width: int
    findings: list[tuple[str, str]]
    fault: str


def _facts(path: str) -> _Facts:
    """Look at one file: it is read and hashed whole; pixels are decoded only where a doubt is left."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return _Facts(findings=(("unreadable", error.strerror or str(error)),))
    digest = hashlib.sha1(data, usedforsecurity=False).digest()
    jpeg = _jpeg_header(data)
    header = _look_at_jpeg(data, jpeg) if jpeg else _look_at_other(data)
    if header.fault:
        try:
            read_photo(path)  # of a JPEG cut short, the upper part can be shown
        except InputError:
            return _Facts(digest, findings=(("unreadable", header.fault),))
        header.findings.append(("truncated", header.fault))
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 — Path is slow, and there are 22,000
    if _FORMATS.get(suffix, header.format) != header.format:
        header.findings.append(("wrongly named", f"{suffix} holds {header.format}"))
    if min(header.height, header.width) < TINY:
        header.findings.append(("tiny", f"{header.width}×{header.height}"))
    return _Facts(digest, header.height, header.width, True, tuple(header.findings))


def _look_at_jpeg(data: bytes, jpeg: _Jpeg) -> _Header:
    kinds = {1: "greyscale", 4: "CMYK"}
    findings = [(kinds[jpeg.channels], "")] if jpeg.channels in kinds else []
    findings += (
        [("EXIF-rotated", f"orientation {jpeg.orientation}")] if jpeg.orientation > 1 else []
    )
    # What stops a decoder is damage to the tables before the pixels, or pixels that end too soon.
    # The end marker is looked for among the last bytes, as some cameras append a few; only where it
    # is missing are all pixels decoded: Pillow, unlike cv2, says when they end too soon. Pixels
    # lost before an end marker are not noticed, by Pillow neither. CMYK is read with Pillow, hence
    # judged by it. Progressive ones have tables between their pixels too.
    sound = jpeg.channels != 4 and not jpeg.progressive and data.rfind(_END, -64) >= 0
    fault = _tables_fault(_tables(data)) or ("" if sound else _pillow_fault(data))
    return _Header("JPEG", *jpeg.upright, findings, fault)


def _look_at_other(data: bytes) -> _Header:
    if not data:
        return _Header("", 0, 0, [], "empty file")
    findings = []
    try:
        with Image.open(io.BytesIO(data)) as photo:
            kind = (
                "JPEG" if photo.format == "MPO" else photo.format or ""
            )  # MPO: a JPEG with a second one behind
            deep = photo.mode[0] in "IF" or (
                kind == "PNG" and data[24] == 16
            )  # byte 24: bits per channel
            findings += [("16-bit", photo.mode)] if deep else []
            findings += [("CMYK", "")] if photo.mode == "CMYK" else []
            findings += [("transparent", photo.mode)] if photo.has_transparency_data else []
            findings += [("greyscale", photo.mode)] if photo.mode in ("1", "L", "LA") else []
            frames = getattr(photo, "n_frames", 1) if kind != "JPEG" else 1
            findings += [("animated", f"{frames} frames")] if frames > 1 else []
            turn = photo.getexif().get(_ORIENTATION, 1)
            findings += [("EXIF-rotated", f"orientation {turn}")] if turn in range(2, 9) else []
            height, width = photo.size if turn in range(5, 9) else photo.size[::-1]
        return _Header(kind, height, width, findings, _pillow_fault(data))
    except _PIL_ERRORS as error:
        return _Header("", 0, 0, [], _reason(error))


def _pillow_fault(data: bytes) -> str:
    """Why Pillow cannot decode the pixels, or ""."""
    try:
        with Image.open(io.BytesIO(data)) as photo:
            if photo.format == "PNG":
                photo.verify()  # checksums of all chunks: as sure as decoding, in a tenth of the time
            else:
                photo.load()
    except _PIL_ERRORS as error:
        return _reason(error)
    return ""


def _tables(data: bytes) -> bytes:
    """The same JPEG cut down to its tables, 16×16 px with no pixels; b"" if its segments lead to no pixels.

    The same encoder at the same quality gives the same bytes here, which is what makes the check cheap.
    """
    at, parts = 2, [data[:2]]
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in (0xC0, 0xC1, 0xC2):
            parts.append(data[at : at + 5] + b"\0\x10\0\x10" + data[at + 9 : end])
        elif not (
            0xE0 <= marker <= 0xED or marker == 0xFE
        ):  # metadata; 0xEE tells CMYK from its inverse
            parts.append(data[at:end])
        if marker == 0xDA:  # pixels follow
            return b"".join([*parts, _END])
        at = end
    return b""


@lru_cache(256)
def _tables_fault(tables: bytes) -> str:
    return _pillow_fault(tables) if tables else "no pixels in it"


def _reason(error: BaseException) -> str:
    return (
        "not a photo"
        if isinstance(error, UnidentifiedImageError)
        else str(error) or type(error).__name__
    )


def _note_findings(
    source: str, frame: pd.DataFrame, facts: dict[str, _Facts], audit: _Audit
) -> set[str]:
    """Note what is odd about each photo; return the ids of those that are dropped for it."""
    dropped = set()
    for ident, path in zip(frame["id"], frame["path"], strict=True):
        for finding, detail in (
            facts[path].findings if path else (("missing file", "named in the CSV only"),)
        ):
            action = _ACTIONS[finding][source == "test"]
            audit.note(source, ident, finding, action, detail)
            if action == "dropped":
                dropped.add(ident)
    return dropped


def _duplicates(train: pd.DataFrame, test: pd.DataFrame, audit: _Audit) -> pd.DataFrame:
    """Note files with the same bytes; return train without those whose labels differ."""
    clash: set[str] = set()
    for _, same in train[train.duplicated("digest", keep=False)].groupby("digest", sort=False):
        first, *others = same["id"]
        if same["label"].nunique() > 1:
            clash |= {first, *others}
            for ident, label in zip(same["id"], same["label"], strict=True):
                rest = ", ".join(x for x in same["id"] if x != ident)
                audit.note(
                    "train",
                    ident,
                    "duplicate with another label",
                    "dropped",
                    f"label {label}; same as {rest}",
                )
        else:
            for ident in others:
                audit.note(
                    "train", ident, "duplicate", "on the same side of the split", f"same as {first}"
                )
    train = _drop(train, clash)
    in_train: dict[bytes, tuple[str, object]] = {}
    for digest, ident, label in zip(train["digest"], train["id"], train["label"], strict=True):
        in_train.setdefault(digest, (ident, label))
    in_test: dict[bytes, str] = {}
    for digest, ident in test.loc[test["readable"], ["digest", "id"]].itertuples(index=False):
        if digest in in_train:
            twin, label = in_train[digest]
            audit.note(
                "test",
                ident,
                "duplicate of a train photo",
                "kept",
                f"same as {twin}, label {label}",
            )
        if digest in in_test:
            audit.note("test", ident, "duplicate", "kept", f"same as {in_test[digest]}")
        in_test.setdefault(digest, ident)
    return train


# --- The split ------------------------------------------------------------------------------------


def _split(
    train: pd.DataFrame, seed: int, fraction: float, classes: list[Any], audit: _Audit
) -> list[int]:
    """fold of each row: every class gives ``fraction`` of its photos to validation, identical files together.

    The order in which photos are taken comes from a hash of seed and id: it depends on neither the order of
    rows nor a library's version, and a photo more or less leaves the others where they are.
    """
    groups: defaultdict[object, defaultdict[bytes, list[int]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row, (label, digest) in enumerate(zip(train["label"], train["digest"], strict=True)):
        groups[label][digest].append(row)
    ids = train["id"].tolist()
    fold = [TRAIN] * len(train)
    for label, by_digest in groups.items():
        n = sum(map(len, by_digest.values()))
        if len(by_digest) == 1:
            audit.note(
                "train",
                ids[next(iter(by_digest.values()))[0]],
                "only photo of its class",
                "kept for training",
                f"class {classes[cast(int, label)]} is not validated",
            )
            continue
        names = {digest: min(ids[row] for row in rows) for digest, rows in by_digest.items()}
        order = sorted(
            by_digest, key=lambda d: hashlib.sha256(f"{seed}/{names[d]}".encode()).digest()
        )
        wanted = min(max(round(n * fraction), 1), n - 1)
        taken: list[int] = []
        for digest in order:
            if len(taken) + len(by_digest[digest]) <= wanted:
                taken += by_digest[digest]
        for row in taken or min((by_digest[digest] for digest in order), key=len):
            fold[row] = VALIDATION
    return fold


# --- Pixels ---------------------------------------------------------------------------------------


def read_photo(
    path: str | Path, min_height: int = 0, min_width: int = 0, height: int = 0, width: int = 0
) -> Pixels:
    """The photo as uint8 RGB (height, width, 3), upright, transparent parts on white, first frame only.

    Where both minima are given and the file is a JPEG, it is decoded at 1/2, 1/4 or 1/8 of its size so long
    as both sides stay at least the minima: less work, and no aliasing. ``height`` and ``width`` are its
    upright size where the table knows it, else the header tells. A JPEG cut short is grey from there on.
    Raises InputError naming the file if it cannot be read. Safe in threads.
    """
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - half the time of Path.read_bytes
            data = file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    jpeg = _jpeg_header(data)
    if jpeg and jpeg.channels != 4:  # CMYK comes in two senses, and Pillow knows which
        height, width = (height, width) if height and width else jpeg.upright
        flag = cv2.IMREAD_COLOR_RGB
        if min_height and min_width:
            flag = next(
                (
                    f
                    for by, f in _REDUCED
                    if height // by >= min_height and width // by >= min_width
                ),
                flag,
            )
        pixels = _decode(data, flag)
        if pixels is None:  # cv2 shows a part of a file cut short only if it ends like a whole one
            pixels = _decode(data + _END, flag)
        if pixels is not None:
            return pixels
    return _read_with_pillow(path, data)


def read_box(
    path: str | Path, box: Sequence[int], min_height: int, min_width: int, height: int, width: int
) -> Pixels:
    """The part of a photo inside left, top, right, bottom (px of the whole, which is height × width), as ``read_photo`` gives it.

    The minima are those of the part. Decoded at reduced scale, it may have up to one px of that scale more at each side. Raises InputError.
    """
    left, top, right, bottom = map(int, box)
    if (left, top, right, bottom) == (0, 0, width, height):
        return read_photo(path, min_height, min_width, height, width)
    least = -(-min_height * height // (bottom - top)), -(-min_width * width // (right - left))
    photo = read_photo(path, *least, height, width)
    down, across = (
        photo.shape[0] / height,
        photo.shape[1] / width,
    )  # 1, or less after decoding at reduced scale
    return photo[
        math.floor(top * down) : math.ceil(bottom * down),
        math.floor(left * across) : math.ceil(right * across),
    ]


def _decode(data: bytes, flag: int) -> Pixels | None:
    try:
        return cast(
            Pixels | None, cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        )  # (H, W, 3) uint8 RGB, upright
    except cv2.error:
        return None


def _read_with_pillow(path: str | Path, data: bytes) -> Pixels:
    try:
        with Image.open(io.BytesIO(data)) as photo:
            photo.load()
            upright = ImageOps.exif_transpose(photo)
            if upright.mode[0] in "IF":  # Pillow would clip these to 255 instead of scaling them
                grey = np.nan_to_num(np.asarray(upright, np.float64), posinf=0, neginf=0)
                top = 65535.0 if upright.mode.startswith("I;16") or grey.max() > 255 else 255.0
                top = (
                    1.0 if upright.mode == "F" and grey.max() <= 2 else top
                )  # resizing overshoots 1
                grey = np.clip(grey * (255.0 / top), 0, 255).round().astype(np.uint8)  # (H, W)
                return np.repeat(grey[:, :, None], 3, axis=2)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright)
            return np.array(
                upright.convert("RGB")
            )  # a copy: np.asarray of a Pillow image is read-only
    except _PIL_ERRORS as error:
        raise InputError(f"{path}: cannot be decoded ({_reason(error)})") from None


class _Jpeg(NamedTuple):
    height: int  # as stored
    width: int
    channels: int  # 1 grey, 3 colour, 4 CMYK
    orientation: int  # EXIF, 1–8
    progressive: bool

    @property
    def upright(self) -> tuple[int, int]:
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)


def _jpeg_header(data: bytes) -> _Jpeg | None:
    """The header of an ordinary 8-bit JPEG, 5 µs against 60 µs with Pillow; None if it is not one."""
    if data[:2] != b"\xff\xd8":
        return None
    at, orientation = 2, 0
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in (0xC0, 0xC1, 0xC2):  # baseline, extended, progressive: the size is here
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            known = bits == 8 and height and width and channels in (1, 3, 4)
            return (
                _Jpeg(height, width, channels, orientation or 1, marker == 0xC2) if known else None
            )
        if marker in (0xD8, 0xD9, 0xDA) or length < 2:  # pixels before a size: not for us
            return None
        if (
            marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0" and not orientation
        ):  # the first counts
            orientation = _orientation(data[at + 10 : at + 2 + length])
        at += 2 + length
    return None


def _orientation(exif: bytes) -> int:
    """EXIF orientation 1–8 from a TIFF block, 1 (upright) where its number is another one; 0 where it has none or is damaged."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2], "")
    try:
        start = struct.unpack_from(f"{order}I", exif, 4)[0]
        for entry in range(struct.unpack_from(f"{order}H", exif, start)[0]):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 0

"""From a file to pixels: reading and decoding, within bounds of memory."""

from __future__ import annotations

import ctypes
import hashlib
import io
import math
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from carcls.data import aloud, kinds
from carcls.data.headers import JPEG_END, ORIENTATION, JpegHeader, jpeg_header
from carcls.errors import InputError

Pixels = npt.NDArray[np.uint8]  # (H, W, 3) RGB, upright

# Bytes of memory, that of the file included. A photo that takes more than ALONE is decoded while
# no other such photo is; one that takes more than MOST is not decoded, so that a run stays below
# 3 GB.
ALONE, MOST = 2 * 10**8, 1_250_000_000
# What people photograph in. Others are not tried: the decoders of some take minutes.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM")
_STRIP = 2**20  # px that are converted at a time
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}  # a pixel in Pillow; others: 4
# What Pillow raises on files that are not what they seem, as its plugins let the errors of their
# parsing through; a Warning where warnings are errors, as in tests.
PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    EOFError,
    struct.error,
    zlib.error,
    Warning,
)
# By how much to reduce → OpenCV's flag; those that it names after colour give BGR.
_REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    1: cv2.IMREAD_COLOR_RGB,
}


class TooLarge(InputError):  # noqa: N818  (it says what was found)
    """A file or a photo that takes too much memory."""


class NotAsAudited(InputError):  # noqa: N818  (it says what was found)
    """A file that is gone, cannot be read, or has other bytes than in the audit."""


def read_photo(
    path: str | Path,
    min_height: int = 0,
    min_width: int = 0,
    height: int = 0,
    width: int = 0,
    digest: str = "",
) -> Pixels:
    """The photo, transparent parts on white, its first frame only. Safe in threads.

    With both minima (px), a JPEG is decoded at 1/2, 1/4 or 1/8 of its size if neither side falls
    below its minimum: less work, and no aliasing; and below them where that alone makes it small
    enough. So other large photos are reduced. height, width: its upright size, if known. digest:
    of the bytes that it must have. A JPEG that is cut short is grey from there on. Raises
    InputError.
    """
    try:
        with reading(path) as data, aloud.hushed(path):
            if digest and digest_of(data) != digest:
                raise NotAsAudited("its bytes have changed since the audit")
            return decode(data, min_height, min_width, height, width)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None


def read_box(
    path: str | Path,
    box: Sequence[int],
    least: tuple[int, int],
    whole: tuple[int, int],
    digest: str = "",
) -> Pixels:
    """The part of a photo inside left, top, right, bottom, px of the whole (height, width).

    least: height and width of the part, which, if its scale is reduced, may have up to one px of
    that scale more at each side. Raises InputError.
    """
    (left, top, right, bottom), (height, width) = map(int, box), whole
    if (left, top, right, bottom) == (0, 0, width, height):
        return read_photo(path, *least, height, width, digest)
    least_height = -(-least[0] * height // (bottom - top))
    least_width = -(-least[1] * width // (right - left))
    photo = read_photo(path, least_height, least_width, height, width, digest)
    down, across = photo.shape[0] / height, photo.shape[1] / width  # 1, or less where reduced
    rows = slice(math.floor(top * down), math.ceil(bottom * down))
    columns = slice(math.floor(left * across), math.ceil(right * across))
    return photo[rows, columns]


@contextmanager
def reading(path: str | Path) -> Iterator[bytes]:
    """The bytes of a file, if it is one and not too large. Other large files wait meanwhile.

    Raises InputError without the file's name.
    """
    try:
        # The calls of the system alone, which is faster; a FIFO is not waited for.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            about = os.fstat(file)
            if not stat.S_ISREG(about.st_mode):
                raise NotAsAudited("a folder" if stat.S_ISDIR(about.st_mode) else "FIFO or device")
            size = about.st_size
            if size > MOST:
                raise TooLarge(f"a file of {size / 1e9:.1f} GB; at most {MOST / 1e9} GB")
            with alone(size):
                data = os.read(file, size)
                while len(data) < size and (more := os.read(file, size - len(data))):
                    data += more
                yield data
        finally:
            os.close(file)
    except OSError as error:
        raise NotAsAudited(f"cannot be read ({error.strerror or error})") from None


def alone(cost: float) -> AbstractContextManager[object]:
    """While it takes so many bytes of memory: no other photo that takes many."""
    return _alone() if cost > ALONE else nullcontext()


@contextmanager
def _alone() -> Iterator[None]:
    with aloud.one_at_a_time:
        try:
            yield
        finally:
            with suppress(AttributeError, OSError):  # only glibc keeps what is freed, and has this
                ctypes.CDLL(None).malloc_trim(0)


def digest_of(data: bytes) -> str:
    """SHA-1 in hex."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


# --- Decoding -----------------------------------------------------------------------------------


def decode(
    data: bytes, min_height: int = 0, min_width: int = 0, height: int = 0, width: int = 0
) -> Pixels:
    """The photo of these bytes, as ``read_photo``. Raises InputError without the file's name."""
    if (
        header := jpeg_header(data)
    ) and header.channels != 4:  # CMYK comes in two senses, and Pillow knows which
        if not (height and width):
            height, width = header.upright
        by, cost = jpeg_cost(header, len(data), _factor(height, width, min_height, min_width))
        with alone(cost):
            photo = _decode(data, _REDUCED[by])
            if photo is None:  # OpenCV shows a part of a file only if it ends like a whole one
                photo = _decode(data.rstrip(b"\0") + JPEG_END, _REDUCED[by])
        if photo is not None:
            return photo
    try:
        with open_photo(data) as opened:
            return _pixels_of(opened, data, min_height, min_width)
    except PILLOW_ERRORS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot be decoded ({reason(error, data)})") from None


def _factor(height: int, width: int, min_height: int, min_width: int) -> int:
    """By how much a photo may be reduced; 0, not at all, without both minima."""
    return max(1, min(height // min_height, width // min_width)) if min_height and min_width else 0


def jpeg_cost(header: JpegHeader, size: int, by: int) -> tuple[int, float]:
    """By how much a decoder reduces a JPEG, of so many bytes, and the bytes that it takes.

    by: how much it may; more where it is too large else; 0: not at all. Raises TooLarge.
    """
    pixels = header.height * header.width
    kept = size + 2 * header.kept * pixels
    factor = max(factor for factor in _REDUCED if factor <= max(1, by))
    while by and factor < 8 and kept + pixels * 8 / factor**2 > MOST:
        factor *= 2
    return factor, _within(kept + pixels * 8 / factor**2, header.height, header.width)


def _within(cost: float, height: int, width: int) -> float:
    if cost > MOST:
        takes = f"takes {cost / 1e9:.1f} GB to decode; at most {MOST / 1e9} GB"
        raise TooLarge(f"{width}×{height} px, which {takes}")
    return cost


def _decode(data: bytes, flag: int) -> Pixels | None:
    try:
        return cast(Pixels | None, cv2.imdecode(np.frombuffer(data, np.uint8), flag))
    except cv2.error:
        return None


def open_photo(data: bytes) -> Image.Image:
    """Pillow's, not decoded yet. Raises PILLOW_ERRORS."""
    Image.MAX_IMAGE_PIXELS = None  # by its own limit whole photos looked damaged; see cost
    Image.init()
    return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])


def cost(photo: Image.Image, data: bytes, by: int = 0) -> tuple[int, float]:
    """As ``jpeg_cost``; what is no JPEG cannot be decoded reduced. Raises TooLarge."""
    if header := jpeg_header(data):
        return jpeg_cost(header, len(data), by)
    each = _MODE_BYTES.get(photo.mode, 4)
    if photo.format in ("WEBP", "AVIF", "JPEG2000"):  # several copies, or four bytes a channel
        each = 16
    elif photo.format == "TIFF":  # it is turned as a whole
        each *= 2
    sides = zip(photo.size, getattr(photo, "_tile_size", photo.size), strict=True)
    width, height = map(max, sides)
    return 1, _within(len(data) + each * height * width, height, width)


def load(photo: Image.Image, data: bytes, by: int = 0) -> None:
    """Decode it, a JPEG reduced as ``cost`` says. Raises PILLOW_ERRORS, TooLarge."""
    factor, takes = cost(photo, data, by)
    with alone(takes):
        if factor > 1:
            width, height = photo.size
            photo.draft(None, (max(1, width // factor), max(1, height // factor)))
        photo.load()


def upright(photo: Image.Image) -> tuple[int, int]:
    """Height and width of a decoded photo once it is turned as its EXIF says."""
    sideways = photo.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    return photo.size if sideways else photo.size[::-1]


def _pixels_of(photo: Image.Image, data: bytes, min_height: int, min_width: int) -> Pixels:
    # Only a JPEG says before how it is turned, and it alone is decoded reduced.
    by = _factor(*upright(photo), min_height, min_width) if jpeg_header(data) else 0
    # Closed, as it would wait for Python's collector with all its memory: it refers to itself.
    with alone(cost(photo, data, by)[1]), closing(photo):
        load(photo, data, by)
        takes = photo.width * photo.height * _MODE_BYTES.get(photo.mode, 4)
        by = _factor(*upright(photo), min_height, min_width) if takes > ALONE else 1
        return _turned(_rgb(photo, max(1, by)), photo.getexif().get(ORIENTATION))


def _turned(photo: Pixels, orientation: int | None) -> Pixels:
    """Upright, by an EXIF orientation."""
    if orientation in (5, 6, 7, 8):  # as mirrored at the diagonal, and then as the others
        photo = photo.transpose(1, 0, 2)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(photo[rows, columns])


def _rgb(photo: Image.Image, by: int) -> Pixels:
    """(H, W, 3) uint8 of a decoded photo, reduced by a factor, some rows at a time.

    As a whole, each step would make a copy of a large photo.
    """
    width, height = photo.size
    step = by * max(1, _STRIP // (width * by))
    top = _top(photo, step) if photo.mode[0] in "IF" else 0.0
    out = np.empty((-(-height // by), -(-width // by), 3), np.uint8)
    for start in range(0, height, step):
        strip = photo.crop((0, start, width, min(start + step, height)))
        rgb = _to_8_bits(strip, top) if top else _on_white(strip)
        into = out[start // by : -(-min(start + step, height) // by)]
        if by > 1:
            rgb = cv2.resize(rgb, into.shape[1::-1], interpolation=cv2.INTER_AREA)
        into[:] = rgb
    return out


def _on_white(photo: Image.Image) -> np.ndarray:
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return np.asarray(photo.convert("RGB"))


def _numbers(photo: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(photo, np.float64), posinf=0, neginf=0)  # (H, W)


def _top(photo: Image.Image, step: int) -> float:
    """What white is in a grey photo of 16 bits, or of floats."""
    if photo.mode.startswith("I;16"):
        return 65535.0
    width, height = photo.size
    strips = [(0, top, width, min(top + step, height)) for top in range(0, height, step)]
    most = max(_numbers(photo.crop(strip)).max() for strip in strips)
    if photo.mode == "F" and most <= 2:  # of 0–1, which resizing overshoots
        return 1.0
    return 65535.0 if most > 255 else 255.0


def _to_8_bits(photo: Image.Image, top: float) -> np.ndarray:
    """Grey scaled to 0–255; Pillow would clip it instead."""
    grey8 = np.clip(_numbers(photo) * (255.0 / top), 0, 255).round().astype(np.uint8)
    return np.repeat(grey8[:, :, None], 3, axis=2)


def reason(error: BaseException, data: bytes) -> str:
    """Why Pillow cannot read a file, in a few words: if it is no photo, what it is."""
    if isinstance(error, UnidentifiedImageError):
        kind = kinds.content(data[: kinds.HEAD]) or _pillow_kind(data[:16]) or "of no known kind"
        return f"not a photo that can be read: {kind}"
    return str(error) or type(error).__name__


def _pillow_kind(head: bytes) -> str:
    """Pillow's name of the format that begins so, "" if it knows none."""
    for name, (_, accepts) in Image.OPEN.items():
        try:
            if accepts and accepts(head) is True:
                return name
        except PILLOW_ERRORS:  # too short for it
            continue
    return ""

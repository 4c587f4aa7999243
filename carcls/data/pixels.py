"""From a file to pixels: decoding, and the header of a JPEG."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from carcls.errors import InputError

Pixels = npt.NDArray[np.uint8]  # (H, W, 3) RGB, upright

JPEG_END = b"\xff\xd9"  # the last marker of a JPEG; it cannot occur inside its pixel data
JPEG_SIZES = (0xC0, 0xC1, 0xC2)  # markers of the size: baseline, extended, progressive
JPEG_PIXELS = 0xDA  # the marker of the header right before pixels
ORIENTATION = 0x0112  # the EXIF tag
# What Pillow raises on files that are not what they seem, as its plugins let the errors of their
# parsing through; a Warning where warnings are errors, as in tests.
PILLOW_ERRORS = (
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
# By how much to reduce → OpenCV's flag; those that it names after colour give BGR.
_REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
}


def read_photo(
    path: str | Path, min_height: int = 0, min_width: int = 0, height: int = 0, width: int = 0
) -> Pixels:
    """The photo, transparent parts on white, its first frame only. Safe in threads.

    With both minima (px), a JPEG is decoded at 1/2, 1/4 or 1/8 of its size if neither side falls
    below its minimum: less work, and no aliasing. height, width: its upright size, if known. A JPEG
    that is cut short is grey from there on. Raises InputError.
    """
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - half the time of Path's
            data = file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    header = jpeg_header(data)
    if header and header.channels != 4:  # CMYK comes in two senses, and Pillow knows which
        if not (height and width):
            height, width = header.upright
        flag = cv2.IMREAD_COLOR_RGB
        if min_height and min_width:
            by = min(height // min_height, width // min_width)
            flag = next((reduced for least, reduced in _REDUCED.items() if by >= least), flag)
        photo = _decode(data, flag)
        if photo is None:  # OpenCV shows a part of a file only if it ends like a whole one
            photo = _decode(data + JPEG_END, flag)
        if photo is not None:
            return photo
    return _read_with_pillow(path, data)


def read_box(
    path: str | Path, box: Sequence[int], min_height: int, min_width: int, height: int, width: int
) -> Pixels:
    """The part of a photo inside left, top, right, bottom (px of the whole, height × width).

    The minima are those of the part, which, if its scale is reduced, may have up to one px of that
    scale more at each side. Raises InputError.
    """
    left, top, right, bottom = map(int, box)
    if (left, top, right, bottom) == (0, 0, width, height):
        return read_photo(path, min_height, min_width, height, width)
    whole_height = -(-min_height * height // (bottom - top))
    whole_width = -(-min_width * width // (right - left))
    photo = read_photo(path, whole_height, whole_width, height, width)
    down, across = photo.shape[0] / height, photo.shape[1] / width  # 1, or less where reduced
    rows = slice(math.floor(top * down), math.ceil(bottom * down))
    columns = slice(math.floor(left * across), math.ceil(right * across))
    return photo[rows, columns]


def _decode(data: bytes, flag: int) -> Pixels | None:
    try:
        return cast(Pixels | None, cv2.imdecode(np.frombuffer(data, np.uint8), flag))
    except cv2.error:
        return None


def _read_with_pillow(path: str | Path, data: bytes) -> Pixels:
    try:
        with Image.open(io.BytesIO(data)) as photo:
            photo.load()
            upright = ImageOps.exif_transpose(photo)
            if upright.mode[0] in "IF":
                return _to_8_bits(upright)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright)
            return np.array(upright.convert("RGB"))  # a copy: Pillow's own array is read-only
    except PILLOW_ERRORS as error:
        raise InputError(f"{path}: cannot be decoded ({reason(error)})") from None


def _to_8_bits(photo: Image.Image) -> Pixels:
    """A grey photo of 16 bits, or of floats, scaled to 0–255; Pillow would clip it instead."""
    grey = np.nan_to_num(np.asarray(photo, np.float64), posinf=0, neginf=0)  # (H, W)
    if photo.mode == "F" and grey.max() <= 2:  # of 0–1, which resizing overshoots
        top = 1.0
    elif photo.mode.startswith("I;16") or grey.max() > 255:
        top = 65535.0
    else:
        top = 255.0
    grey8 = np.clip(grey * (255.0 / top), 0, 255).round().astype(np.uint8)
    return np.repeat(grey8[:, :, None], 3, axis=2)


def reason(error: BaseException) -> str:
    """Why Pillow cannot read a file, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not a photo"
    return str(error) or type(error).__name__


class JpegHeader(NamedTuple):
    """What the header of a JPEG says."""

    height: int  # as stored
    width: int
    channels: int  # 1 grey, 3 colour, 4 CMYK
    orientation: int  # EXIF, 1–8
    progressive: bool

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width once it is turned as EXIF says."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment of a JPEG, its marker included, up to its pixels.

    Damage ends it: what is not read as segments, or is too short to hold the header of one.
    """
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in (0xD8, 0xD9) or length < 2:
            return
        yield marker, at, at + 2 + length
        if marker == JPEG_PIXELS:
            return
        at += 2 + length


def jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of an ordinary 8-bit JPEG, None of anything else; a tenth of Pillow's time."""
    if data[:2] != b"\xff\xd8":
        return None
    orientation = 0
    for marker, at, end in jpeg_segments(data):
        if marker in JPEG_SIZES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            if bits != 8 or not height or not width or channels not in (1, 3, 4):
                return None
            return JpegHeader(height, width, channels, orientation or 1, marker == 0xC2)
        is_exif = marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0"
        if is_exif and not orientation:  # the first one counts
            orientation = _orientation(data[at + 10 : end])
    return None


def _orientation(exif: bytes) -> int:
    """EXIF orientation of a TIFF block: 1–8, 1 (upright) for other numbers, 0 if it has none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2], "")
    try:
        start = struct.unpack_from(f"{order}I", exif, 4)[0]
        for entry in range(struct.unpack_from(f"{order}H", exif, start)[0]):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
            if tag == ORIENTATION:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # a damaged block
        pass
    return 0

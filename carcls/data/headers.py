"""What the header of a JPEG says, read without a decoder."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

JPEG_END = b"\xff\xd9"  # the last marker of a JPEG; it cannot occur inside its pixel data
JPEG_SIZES = (0xC0, 0xC1, 0xC2)  # markers of the size: baseline, extended, progressive
JPEG_PIXELS = 0xDA  # the marker of the header right before pixels
ORIENTATION = 0x0112  # the EXIF tag
# Among pixels FF only comes before 00, a restart, and tables or pixels of a next pass; or it ends.
_STRAY = re.compile(rb"\xff[^\0\xc4\xd0-\xd7\xda-\xdd\xe0-\xef\xfe\xff]")
_ZEROS = bytes(512)


class JpegHeader(NamedTuple):
    """What the header of a JPEG says."""

    height: int  # as stored
    width: int
    channels: int  # 1 grey, 3 colour, 4 CMYK
    orientation: int  # EXIF, 1–8
    kept: float  # samples a pixel that all passes of a progressive one share; 0 of an ordinary one

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
            kept = _samples(data[at + 11 : end : 3]) if marker == 0xC2 else 0.0
            return JpegHeader(height, width, channels, orientation or 1, kept)
        is_exif = marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0"
        if is_exif and not orientation:  # the first one counts
            orientation = _orientation(data[at + 10 : end])
    return None


def _samples(shares: bytes) -> float:
    """Of all channels a pixel, by how much each is sampled across (upper 4 bits) and down."""
    across, down = [share >> 4 for share in shares], [share & 15 for share in shares]
    areas = sum(x * y for x, y in zip(across, down, strict=True))
    return areas / max(1, max(across, default=1) * max(down, default=1)) or 4.0


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


def in_doubt(data: bytes, start: int, header: JpegHeader, least: float) -> bool:
    """Whether a JPEG's pixels, which begin at start, may be damaged, so that a decoder must tell.

    Signs of it are a marker where none can be, many zeros in a row, no end, and fewer than
    least bytes a px. Passes of a progressive one show none: any may be short, or left out.
    """
    stray, end = _STRAY.search(data, start), data.rfind(JPEG_END)
    is_stray = stray is not None and stray[0] != JPEG_END
    too_short = len(data) - start < least * header.height * header.width
    has_gap = end < start or data.find(_ZEROS, start, end) >= 0
    return header.kept > 0 or is_stray or too_short or has_gap

"""A small competition whose files a test decides on, and files of every odd kind."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from carcls.config import Config
from carcls.data import files, photos


def picture(seed: int, height=48, width=64) -> np.ndarray:
    """Smooth, and different in each corner, so that turns, flips and swapped channels show."""
    noise = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    noise[0, 0], noise[-1, -1] = (255, 0, 0), (0, 0, 255)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)


def encoded(photo, kind="JPEG", mode=None, **options) -> bytes:
    stream = io.BytesIO()
    image = photo if isinstance(photo, Image.Image) else Image.fromarray(photo)
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


def jpeg(seed: int, **options) -> bytes:
    return encoded(picture(seed), quality=95, **options)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def good(first: int, n: int, label: object = 0) -> dict[str, tuple[object, bytes]]:
    return {f"{number}.jpg": (label, jpeg(number)) for number in range(first, first + n)}


class Case:
    """By default 4 + 4 train photos of classes 0 and 1, in one folder, and 2 test photos.

    train: more of them, id → label and content; test: others, id → content.
    """

    def __init__(self, folder: Path, train=None, test=None, **settings):
        self.folder = folder
        train = {**good(100, 4, 0), **good(200, 4, 1)} | (train or {})
        test = test if test is not None else {"900.jpg": jpeg(900), "901.jpg": jpeg(901)}
        self.csv("train.csv", [(ident, label) for ident, (label, _) in train.items()])
        self.csv("sample-submission.csv", [(ident, 0) for ident in test])
        for ident, (_, content) in train.items():
            if content is not None:
                write(folder / "train" / ident, content)
        for ident, content in test.items():
            write(folder / "test_upload" / ident, content)
        settings = {"val_fraction": 0.25, **settings}
        self.cfg = Config(data=str(folder), out=str(folder / "out"), **settings)

    def csv(self, name: str, rows, header="Id,Category") -> None:
        lines = [header, *(",".join(map(str, row)) for row in rows), ""]
        write(self.folder / name, "\n".join(lines).encode())

    def load(self) -> photos.Table:
        return photos.load(self.cfg, files.locate(self.cfg))


def found(table: photos.Table) -> list[tuple[str, str, str, str]]:
    columns = ["source", "id", "finding", "action"]
    return list(table.audit[columns].itertuples(index=False, name=None))


def part(table: photos.Table, fold: int):
    """The photos of one side of the split."""
    return table.frame.iloc[table.rows(fold).rows].reset_index(drop=True)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def transparent(kind: str) -> bytes:
    image = Image.fromarray(np.dstack([picture(1), np.full((48, 64), 255, np.uint8)]))
    image.paste((9, 9, 9, 0), (20, 10, 40, 30))
    return encoded(image if kind == "RGBA" else image.quantize(16), "PNG")


def animation() -> bytes:
    frames = [Image.fromarray(picture(seed)) for seed in (1, 2)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def deep_png(channels: int) -> bytes:
    photo = picture(1).astype(np.uint16) * 257
    photo = photo[:, :, 1] if channels == 1 else photo[:, :, ::-1]
    return cv2.imencode(".png", photo)[1].tobytes()


def damaged_tables() -> bytes:
    """A JPEG that is whole at both ends: the counts of its first Huffman table are wrong."""
    data = jpeg(4)
    at = data.index(b"\xff\xc4") + 5
    return data[:at] + bytes([255] * 16) + data[at + 16 :]


GREY, LEFT = np.repeat(picture(1)[:, :, 1:2], 3, axis=2), np.rot90(picture(1))
ODD = {  # name → file, finding ("" none), what read_photo should give (None: do not compare)
    "grey.jpg": (encoded(picture(1)[:, :, 1].copy(), quality=95), "greyscale", GREY),
    "grey.png": (encoded(picture(1)[:, :, 1].copy(), "PNG"), "greyscale", GREY),
    "cmyk.jpg": (encoded(picture(1), mode="CMYK", quality=95), "CMYK", picture(1)),
    "rgba.png": (transparent("RGBA"), "transparent", None),
    "palette.png": (transparent("P"), "transparent", None),
    "plain palette.png": (encoded(picture(1), "PNG", mode="P"), "", None),
    "deep.png": (deep_png(3), "16-bit", picture(1)),
    "deep grey.png": (deep_png(1), "16-bit", GREY),
    "turned.jpg": (jpeg(1, exif=turned(6)), "EXIF-rotated", np.rot90(picture(1), -1)),
    "mirrored.jpg": (jpeg(1, exif=turned(2)), "EXIF-rotated", picture(1)[:, ::-1]),
    "turned.png": (encoded(picture(1), "PNG", exif=turned(8)), "EXIF-rotated", LEFT),
    "upright.jpg": (jpeg(1, exif=turned(1)), "", picture(1)),
    "progressive.jpg": (jpeg(1, progressive=True), "", picture(1)),
    "moving.gif": (animation(), "several pictures", None),
    "wrong.jpg": (encoded(picture(1), "PNG"), "wrongly named", picture(1)),
    "wrong.png": (jpeg(1), "wrongly named", picture(1)),
    "photo": (jpeg(2), "", None),  # no extension: nothing to be wrong about
    "tiny.jpg": (encoded(picture(1, 20, 64)), "tiny", None),
    "trailer.jpg": (jpeg(3) + bytes(500), "", picture(3)),  # cameras append such
    "cut.jpg": (jpeg(4)[:-300], "truncated", None),
    "cut header.jpg": (jpeg(4)[:100], "unreadable", None),
    "tables.jpg": (damaged_tables(), "unreadable", None),
    "cut.png": (encoded(picture(4), "PNG")[:-300], "unreadable", None),
    "cut.webp": (encoded(picture(4), "WEBP")[:-300], "unreadable", None),
    "text.jpg": (b"<html>not found</html>", "unreadable", None),
    "empty.jpg": (b"", "unreadable", None),
}


# What may stand in the place of a JSON file of a run.
NO_JSON = {
    "empty": b"",
    "text": b"no JSON",
    "torn": b'{"training": {"fac',
    "list": b"[]",
    "list of numbers": b'{"training": [1, 2]}',
    "null": b"null",
    "number": b"3",
    "text in quotes": b'"training"',
    "empty values": b"{}",
    "another's": b'{"training": {"facts": [], "files": 3, "about": null}}',
    "deep": b"[" * 100_000,
    "deep values": b'{"a":' * 100_000,
    "huge": b'{"training": ' + b"9" * 10_000 + b"}",
    "latin-1": '{"training": "ü"}'.encode("latin-1"),
    "utf-16": '{"training": {}}'.encode("utf-16"),
    "nothing readable": bytes(range(256)),
}
NO_FILE = ("folder", "pipe", "link to nothing", "link to itself")


def put_in_place(path: Path, what: str, content: bytes | None = None) -> None:
    """Replace a file by one of NO_FILE, else by that content."""
    path.unlink(missing_ok=True)
    if content is not None:
        write(path, content)
    elif what == "folder":
        path.mkdir()
        (path / "mine.txt").write_text("keep me")
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if what == "link to itself" else path.with_name("nothing"))


def changes(values, name=""):
    """Copies of JSON values that differ in one place each, and the names of the places."""
    if isinstance(values, dict):
        for key, value in values.items():
            for where, changed in changes(value, f"{name}.{key}"):
                yield where, values | {key: changed}
        yield f"{name} more", {**values, "more": 1}
        if values:
            yield f"{name} less", dict(list(values.items())[1:])
    other = "x" if isinstance(values, (int, float)) else 99
    yield name, [other] if isinstance(values, list) else other
    if isinstance(values, (int, float)):
        yield f"{name} + 98", values + 98

"""Decoding: every kind of file as it should look, reduced and cut without loss."""

import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from cases import ODD, animation, encoded, picture, transparent, turned, write
from conftest import write_photo
from PIL import Image, ImageCms, ImageFile

from carcls.data import audit, pixels
from carcls.data.headers import jpeg_header
from carcls.data.pixels import read_box, read_photo
from carcls.errors import InputError


def near(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 4


@pytest.mark.parametrize("name", ODD)
def test_read_photo(tmp_path, name):
    data, finding, expected = ODD[name]
    path = write(tmp_path / name, data)
    if finding == "unreadable":
        with pytest.raises(InputError, match=name):
            read_photo(path)
        return
    photo = read_photo(str(path))
    assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3
    assert photo.flags.writeable and photo.flags.c_contiguous
    assert expected is None or near(photo, expected)


@pytest.mark.parametrize("kind", ["RGBA", "P"])
def test_what_is_transparent_is_white(tmp_path, kind):
    photo = read_photo(write(tmp_path / "a.png", transparent(kind)))
    assert (photo[10:30, 20:40] == 255).all()
    assert near(photo[30:], picture(1)[30:]) or kind == "P"


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    photo = read_photo(write(tmp_path / "a.gif", animation()))
    assert np.abs(photo.astype(int) - picture(1)).mean() < 20


def test_a_file_cut_short_is_grey_below(tmp_path):
    data = encoded(picture(4, 200, 300), quality=95)[:-1500]
    photo = read_photo(write(tmp_path / "cut.jpg", data))
    assert near(photo[:50], picture(4, 200, 300)[:50]) and photo[-1].std() == 0
    with pytest.raises(InputError, match=r"gone.jpg: cannot be read"):
        read_photo(tmp_path / "gone.jpg")


def test_floats_and_dark_16_bits_keep_their_scale(tmp_path):
    grey = np.linspace(0, 1, 40 * 40, dtype=np.float32).reshape(40, 40)
    grey[0, 0] = np.nan
    photo = read_photo(write(tmp_path / "a.tif", encoded(Image.fromarray(grey), "TIFF")))
    assert np.array_equal(photo[:, :, 1], np.nan_to_num(grey * 255).round())
    data = encoded(np.full((40, 40), 200, np.uint16), "PNG")
    assert (read_photo(write(tmp_path / "a.png", data)) == 1).all()


@pytest.mark.parametrize(
    ("least", "shape"),
    [
        ((48, 64), (48, 64)),
        ((49, 64), (96, 128)),
        ((10, 64), (48, 64)),
        ((24, 30), (24, 32)),
        ((1, 1), (12, 16)),
        ((0, 16), (96, 128)),
    ],
)
def test_reduced_decoding_keeps_the_minimum(tmp_path, least, shape):
    path = write(tmp_path / "a.jpg", encoded(picture(1, 96, 128), quality=95))
    photo = read_photo(path, *least)
    assert photo.shape == (*shape, 3)
    assert near(photo, cv2.resize(picture(1, 96, 128), shape[::-1], interpolation=cv2.INTER_AREA))
    assert np.array_equal(photo, read_photo(path, *least, 96, 128))


def test_reduced_decoding_of_a_turned_photo(tmp_path):
    data = encoded(picture(1, 96, 200), quality=95, exif=turned(6))  # 200 high when upright
    path = write(tmp_path / "a.jpg", data)
    assert read_photo(path, 100, 48).shape == (100, 48, 3)
    assert read_photo(path, 48, 100).shape == (200, 96, 3)  # 48 wide would be too little
    small = cv2.resize(picture(1, 96, 200), (50, 24), interpolation=cv2.INTER_AREA)
    assert near(read_photo(path, 50, 24), np.rot90(small, -1))


@pytest.mark.parametrize(
    ("kinds", "upright"),
    [((1, 6), (96, 200)), ((6, 1), (200, 96)), ((0, 6), (200, 96)), ((9, 6), (96, 200))],
)
def test_the_first_of_two_orientations_counts(tmp_path, kinds, upright):
    none = Image.Exif()
    none[271] = "a camera"
    segments = b""
    for block in [(turned(kind) if kind else none).tobytes() for kind in kinds]:
        segments += b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block
    data = encoded(picture(1, 96, 200), quality=95)
    data = data[:2] + segments + data[2:]
    assert read_photo(write(tmp_path / "a.jpg", data)).shape[:2] == upright
    assert jpeg_header(data).upright == upright


@pytest.mark.parametrize("least", [(0, 0), (60, 30), (20, 10)], ids=["whole", "half", "eighth"])
def test_pixels_of_a_box_are_those_of_the_photo(tmp_path, least):
    """Asymmetric, at every reduced scale of decoding: 640×480, its box is 160 wide and 320 high."""
    slope = np.add.outer(np.arange(480) * 0.2, np.arange(640) * 0.2)[..., None]
    photo = slope * [1.0, 0.5, 0.1] + [0, 60, 200]
    path = write_photo(tmp_path / "a.jpg", photo.astype(np.uint8))
    part = read_box(path, (400, 96, 560, 416), least, (480, 640))
    assert part.shape == {0: (320, 160, 3), 60: (80, 40, 3), 20: (40, 20, 3)}[least[0]]
    inside = photo[96:416, 400:560].astype(np.float32)
    wanted = cv2.resize(inside, part.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(part - wanted).mean() < 2
    whole = read_box(path, (0, 0, 640, 480), least, (480, 640))
    assert np.array_equal(whole, read_photo(path, *least, 480, 640))


# --- Turned photos --------------------------------------------------------------------------------

TURNED = {
    **{"a.jpg": ("JPEG", {}), "two.jpg": ("MPO", {"save_all": True}), "cmyk.jpg": ("JPEG", {})},
    **{"a.png": ("PNG", {}), "a.webp": ("WEBP", {"quality": 95}), "raw.tif": ("TIFF", {})},
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "jpeg.tif": ("TIFF", {"compression": "jpeg", "quality": 95}),
}


def as_turned(photo: np.ndarray, orientation: int) -> np.ndarray:
    """By the letter of EXIF: where the first row and the first column of the file belong."""
    row, column = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "lt", 6: "rt", 7: "rb", 8: "lb"}[
        orientation
    ]
    if row in "lr":  # the file's rows are columns
        photo, row, column = photo.swapaxes(0, 1), column, row
    return photo[:: -1 if row == "b" else 1, :: -1 if column == "r" else 1]


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_upright_and_as_large_as_the_audit_says(tmp_path, name, orientation):
    kind, options = TURNED[name]
    photo = Image.fromarray(picture(1, 40, 72))
    more = {"append_images": [photo]} if kind == "MPO" else {}
    mode = "CMYK" if "cmyk" in name else None
    data = encoded(photo, kind, mode, exif=turned(orientation), **options, **more)
    path = str(write(tmp_path / name, data))
    facts, seen = audit.look([path])[path], read_photo(path)
    assert seen.shape == (facts.height, facts.width, 3)
    wanted = as_turned(picture(1, 40, 72), orientation)
    assert seen.shape == wanted.shape and np.abs(seen.astype(int) - wanted).mean() < 12
    said = "EXIF-rotated" in [finding for finding, _ in facts.findings]
    assert said == (orientation > 1)


# --- Odd pixels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG2000", "BMP", "GIF", "WEBP", "PPM"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "LAB", "CMYK", "RGBA", "I;16", "F"])
def test_every_kind_of_pixels_is_read_or_said_to_be_unreadable(tmp_path, mode, kind):
    photo = Image.fromarray(picture(1))
    try:
        if mode == "LAB":
            sides = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
            photo = ImageCms.applyTransform(photo, ImageCms.buildTransform(*sides, "RGB", "LAB"))
        data = encoded(photo, kind, mode)
    except (OSError, ValueError, KeyError):
        pytest.skip("Pillow writes no such file")
    path = str(write(tmp_path / "a", data))
    facts = audit.look([path])[path]
    if not facts.readable:
        assert facts.findings[0][0] == "unreadable"
        return
    seen = read_photo(path)
    assert seen.dtype == np.uint8 and seen.shape == (facts.height, facts.width, 3) == (48, 64, 3)
    assert mode in ("1", "I;16", "F") or np.abs(seen.mean() - picture(1).mean()) < 8


def test_what_nobody_photographs_in_is_not_tried(tmp_path, monkeypatch):
    path = str(write(tmp_path / "a.jpg", encoded(picture(1), "DDS")))
    Image.init()
    monkeypatch.setitem(Image.OPEN, "DDS", (None, Image.OPEN["DDS"][1]))
    assert audit.look([path])[path].findings == (
        ("unreadable", "not a photo that can be read: DDS"),
    )
    with pytest.raises(InputError, match=r"a\.jpg: .*DDS"):
        read_photo(path)


# --- Large photos ---------------------------------------------------------------------------------


def test_a_large_photo_is_read_reduced_some_rows_at_a_time(tmp_path, monkeypatch):
    """All that is reduced when it is large, as it is when it is small: by blocks of px."""
    photo = picture(1, 96, 128)
    files = {"a.png": encoded(photo, "PNG"), "a.tif": encoded(photo, "TIFF", exif=turned(6))}
    whole = {name: read_photo(write(tmp_path / name, data)) for name, data in files.items()}
    monkeypatch.setattr(pixels, "ALONE", 1000)
    monkeypatch.setattr(pixels, "_STRIP", 128 * 10)
    for name, pixels_of_it in whole.items():
        high, wide = pixels_of_it.shape[:2]
        seen = read_photo(tmp_path / name, high // 4, wide // 4)
        shrunk = cv2.resize(pixels_of_it, seen.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert seen.shape == (high // 4, wide // 4, 3) and near(seen, shrunk)
        assert np.array_equal(read_photo(tmp_path / name), pixels_of_it)


@pytest.mark.parametrize("mode", [None, "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_reduced_until_it_is_not_too_large(tmp_path, monkeypatch, mode, progressive):
    data = encoded(picture(1, 960, 1280), "JPEG", mode, progressive=progressive)
    path = str(write(tmp_path / "a.jpg", data))
    kept = {None: 3, "CMYK": 8}[mode] * progressive  # 4:2:0 and 2 bytes; all of 4 channels
    monkeypatch.setattr(pixels, "MOST", len(data) + 960 * 1280 * (kept + 8 / 16))
    facts = audit.look([path])[path]
    assert facts.readable and (facts.height, facts.width) == (960, 1280)
    assert read_photo(path, 900, 1000).shape == (240, 320, 3)
    with pytest.raises(pixels.TooLarge, match="1280×960"):
        read_photo(path)
    monkeypatch.setattr(pixels, "ALONE", 1000)
    monkeypatch.setattr(pixels, "MOST", len(data) + 960 * 1280 * (kept + 8 / 64) - 1)
    ((finding, detail),) = [row for row in audit.look([path])[path].findings if row[0] != "CMYK"]
    assert finding == "too large" and "1280×960" in detail


def test_large_photos_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    at_work, most = [], []

    def load(photo):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.02)
        at_work.pop()
        return real(photo)

    real = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    paths = [write(tmp_path / f"{n}.bmp", encoded(picture(n), "BMP")) for n in range(4)]
    for limit, overlap in ((10**8, True), (1000, False)):
        monkeypatch.setattr(pixels, "ALONE", limit)
        most.clear()
        with ThreadPoolExecutor(4) as pool:
            assert len(list(pool.map(read_photo, paths))) == 4
        assert (max(most) > 1) == overlap

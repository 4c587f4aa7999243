"""Decoding: every kind of file as it should look, reduced and cut without loss."""

import cv2
import numpy as np
import pytest
from cases import ODD, animation, encoded, picture, transparent, turned, write
from conftest import write_photo
from PIL import Image

from carcls.data.pixels import jpeg_header, read_box, read_photo
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
    part = read_box(path, (400, 96, 560, 416), *least, 480, 640)
    assert part.shape == {0: (320, 160, 3), 60: (80, 40, 3), 20: (40, 20, 3)}[least[0]]
    inside = photo[96:416, 400:560].astype(np.float32)
    wanted = cv2.resize(inside, part.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(part - wanted).mean() < 2
    whole = read_box(path, (0, 0, 640, 480), *least, 480, 640)
    assert np.array_equal(whole, read_photo(path, *least, 480, 640))

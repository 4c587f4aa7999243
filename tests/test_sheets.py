"""Sheets of photos: which ones in which order, what is above them, and photos that are broken."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from build_votes import build, says
from conftest import write_photo
from drawn import assert_inside, record_figures, texts
from PIL import Image

from carcls.config import Config
from carcls.data import audit, augment, boxes, photos
from carcls.report import charts, sheets

GREY_PHOTO, RED_PHOTO, GREEN_PHOTO = [127, 127, 127], [200, 0, 0], [0, 200, 0]


@pytest.fixture
def figures(monkeypatch):
    return record_figures(monkeypatch)


@pytest.fixture
def frame(tmp_path):
    """A red photo, a green one, a file that is no photo, one that is missing, one of no path."""
    rows = []
    for n, colour in enumerate((RED_PHOTO, GREEN_PHOTO)):
        path = write_photo(tmp_path / f"{n}.png", np.full((150, 200, 3), colour, np.uint8))
        rows.append((str(path), 150, 200, True))
    (tmp_path / "2.jpg").write_text("no photo")
    rows += [(str(tmp_path / f"{n}.jpg"), 0, 0, True) for n in (2, 3)] + [("", 0, 0, False)]
    return pd.DataFrame(rows, columns=["path", "height", "width", "readable"])


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def images(figure):
    return [np.array(axis.images[0].get_array()) for axis in figure.axes]


# --- Augmentation ---------------------------------------------------------------------------------


def grid(path, photo, figures, box=None, **settings):
    """The images of the sheet of augmentations of one photo, of 48 × 64 px."""
    row = {"path": str(path), "height": 48, "width": 64, "fold": photos.TRAIN}
    if photo is not None:
        write_photo(path, photo)
        row["height"], row["width"] = photo.shape[:2]
    row |= dict(zip(boxes.SIDES, box or (), strict=False))
    table = SimpleNamespace(frame=pd.DataFrame([row]))
    sheets.augmentation(Config(stages="48x64x1", **settings), table, path.with_name("grid.png"))
    (whole,) = images(figures[-1])
    gap = (whole.shape[1] - 6 * 64) // 5
    assert whole.shape[0] == 48 and gap > 0
    return [whole[:, left : left + 64] for left in range(0, whole.shape[1], 64 + gap)]


def test_the_grid_shows_a_photo_as_it_is_and_draws_that_differ(tmp_path, figures):  # S23, S24
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    first, *draws = grid(tmp_path / "0.png", photo, figures)
    assert (first == photo).all()
    assert len({image.tobytes() for image in (first, *draws)}) == 6
    (tmp_path / "1.jpg").write_bytes(b"not a photo")
    assert (grid(tmp_path / "1.jpg", None, figures)[0] == augment.GREY).all()


def test_the_grid_shows_photos_as_they_are_cut(tmp_path, figures):  # S12
    photo = np.zeros((96, 128, 3), np.uint8)
    photo[48:, 64:] = np.random.default_rng(0).integers(0, 256, (48, 64, 3))
    shown = grid(tmp_path / "0.png", photo, figures, (64, 48, 128, 96), augment="none", views=1)
    assert all((image == photo[48:, 64:]).all() for image in shown)


# --- Audit and boxes ------------------------------------------------------------------------------


def audited(frame, rows):
    """A table with these findings: (source, id, finding, action)."""
    findings = pd.DataFrame([(*row, "") for row in rows], columns=list(audit.AUDIT_COLUMNS))
    return photos.Table(frame, [0, 1], "Id", "Category", [], findings, frame)


def test_what_the_audit_dropped_comes_first_with_the_rule(tmp_path, figures, frame):  # S11
    looked = frame.head(3).assign(
        id=["a", "b", "a"], source=["train", "train", "test"], readable=[True, True, False]
    )
    table = audited(
        looked,
        [
            ("train", "a", "greyscale", "repeated to 3 channels"),
            ("train", "a", "tiny", "kept"),
            ("train", "b", "truncated", "dropped"),
            ("train", "", "class without photos", "left out"),
            ("train", "none", "missing file", "dropped"),
            ("test", "a", "unreadable", "predicted from a grey photo"),
        ],
    )
    table = replace(table, frame=looked.iloc[[0, 2]])
    sheets.audit(table, tmp_path / "audit.png")
    axes = figures[0].axes
    assert titles(figures[0]) == [
        "train b\ntruncated → dropped",
        "train a\ngreyscale → repeated to 3\nchannels\ntiny → kept",
        "test a\nunreadable → predicted from\na grey photo",
    ]
    assert axes[0].spines["top"].get_edgecolor() != axes[1].spines["top"].get_edgecolor()
    assert texts(axes[2].texts) == ["unreadable"]
    said = set()
    for nothing in (table.audit[table.audit["id"] == "none"], table.audit.head(0)):
        said.add(sheets.audit(replace(table, audit=nothing), tmp_path / "audit.png"))
        assert not (tmp_path / "audit.png").exists()
    assert len(said) == 2 and len(figures) == 1


def test_of_many_findings_some_of_each_kind_are_shown(tmp_path, figures, frame):
    ids = [f"{n}.jpg" for n in range(60)]
    looked = frame.head(1).loc[[0] * 60].assign(id=ids, source="train")
    rows = [("train", i, "tiny" if i == "59.jpg" else "greyscale", "kept") for i in ids]
    sheets.audit(audited(looked, rows), tmp_path / "audit.png")
    assert len(titles(figures[0])) == 48
    assert "train 59.jpg\ntiny → kept" in titles(figures[0])


def test_boxes_are_drawn_the_smallest_first(tmp_path, figures):  # S12
    path = str(write_photo(tmp_path / "a.png", np.full((60, 80, 3), 40, np.uint8)))
    frame = pd.DataFrame(
        [("train", f"{n}", path, 60, 80, True, 0, 0, 80, 60 - 10 * n) for n in range(3)],
        columns=["source", "id", "path", "height", "width", "readable", *boxes.SIDES],
    )
    sheets.boxed(frame, tmp_path / "boxes.png")
    assert titles(figures[0]) == ["train 2\n67% of the photo", "train 1\n83% of the photo"]
    yellow = [(image[..., 0] > 128) & (image[..., 2] < 80) for image in images(figures[0])]
    lowest = [np.flatnonzero(part.any(1)).max() for part in yellow]
    assert lowest[0] < lowest[1]


def test_a_box_is_drawn_where_it_is_in_a_photo_that_is_decoded_smaller(tmp_path):  # S12
    photo = np.zeros((1200, 1600, 3), np.uint8)
    path = str(write_photo(tmp_path / "a.jpg", photo))
    sides = dict(zip(boxes.SIDES, (800, 600, 1400, 900), strict=True))
    shown = sheets.tile(pd.Series({"path": path, "height": 1200, "width": 1600, **sides}))
    yellow = np.argwhere((shown[..., 0] > 200) & (shown[..., 2] < 90))
    scale = sheets.TILE[1] / 1600  # a tile is as wide as a 4:3 photo
    wanted = np.array([[600, 800], [900, 1400]]) * scale
    assert np.abs(np.stack([yellow.min(0), yellow.max(0) + 1]) - wanted).max() <= 3


# --- Disputed photos, errors, labels --------------------------------------------------------------


def test_disputed_photos_have_their_votes_and_a_border_that_says_who_is_right(
    tmp_path, figures, frame
):
    tops = [[0, 1, 2, 3, 0], [0, 0, 2, 3, 1], [1, 1, 1, 3, 0], [0, 1, 1, 3, 0]]
    some = build(says(tops, classes=4), [1, 1, 2, 3, 0])
    path = tmp_path / "disputed.png"
    assert sheets.disputed(frame, some, range(4), path) == ""
    # Photo 2 has two views for 1 and two for 2: the lower class wins a tie, which is wrong here.
    assert titles(figures[0]) == [
        "1: 2  2: 2\ntrue 2",
        "0: 3  1: 1\ntrue 1",
        "0: 3  1: 1\ntrue 0",
        "1: 3  0: 1\ntrue 1",
    ]
    unreadable = [texts(axis.texts) for axis in figures[0].axes]
    assert unreadable == [["unreadable"], [], ["unreadable"], []]
    assert_inside(figures[0])
    pixels = cv2.imread(str(path))[:, :, ::-1]
    green, red = [44, 160, 44], [214, 39, 40]
    expected = zip(
        [GREY_PHOTO, RED_PHOTO, GREY_PHOTO, GREEN_PHOTO], [red, red, green, green], strict=True
    )
    for axis, (photo, border) in zip(figures[0].axes, expected, strict=True):
        box = axis.get_window_extent()
        y = round(len(pixels) - (box.y0 + box.y1) / 2) - 20  # above the word
        assert pixels[y, round((box.x0 + box.x1) / 2)].tolist() == photo
        assert pixels[y, round(box.x0)] == pytest.approx(np.array(border), abs=2)


def test_tally_says_the_biggest_first_and_sums_up_the_rest():
    assert sheets.tally(np.array([0, 3, 5, 0]), range(4)) == ["2: 5", "1: 3"]
    assert sheets.tally(np.array([1, 2, 1, 1, 1]), "abcde") == ["b: 2", "a: 1", "c: 1", "rest: 2"]


def test_errors_and_suspicious_labels_most_confident_first(tmp_path, figures, frame):
    probs = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.55, 0.45]])
    truth = np.array([1, 1, 1, 0, 0])
    sheets.errors(frame, truth, probs, "xy", tmp_path / "errors.png")
    assert titles(figures[0]) == ["y → x (0.90)", "x → y (0.70)", "y → x (0.60)"]
    labels = pd.DataFrame(
        {"row": [0, 4], "given": [1, 3], "predicted": [2, 7], "probability": [0.994, 0.95]}
    )
    sheets.suspicious(frame, labels, range(10), tmp_path / "suspicious.png")
    assert titles(figures[1]) == ["given 1, votes say 2 (0.99)", "given 3, votes say 7 (0.95)"]


def test_names_that_no_font_shows_are_numbers_on_sheets_too(tmp_path, figures, frame, recwarn):
    truth, wrong = np.array([0, 1, 2, 2, 2]), np.eye(3)[[1, 0, 2, 2, 2]]
    labels = ["轿车", "$a$", "c"]
    sheets.errors(frame, truth, wrong, labels, tmp_path / "errors.png")
    assert titles(figures[0]) == [r"#1 → \$a\$ (1.00)", r"\$a\$ → #1 (1.00)"]
    looked = frame.head(2).assign(id=["轿.jpg", "b$1$"], source="train")
    rows = [("train", i, "tiny", "kept") for i in looked["id"]]
    sheets.audit(audited(looked, rows), tmp_path / "audit.png")
    assert titles(figures[1]) == ["photo #1\ntiny → kept", "train b\\$1\\$\ntiny → kept"]
    with Image.open(tmp_path / "audit.png") as picture:
        assert picture.info[charts.LEGEND] == "photo #1: train 轿.jpg"
    assert not [str(w.message) for w in recwarn]


def test_of_an_empty_sheet_no_file_is_left_but_a_sentence(tmp_path, figures, frame):
    right = np.tile([0.9, 0.1], (5, 1))
    path = tmp_path / "sheet.png"
    path.write_bytes(b"of an earlier run")
    said = {sheets.errors(frame, np.zeros(5, int), right, range(2), path)}
    assert not path.exists()
    unanimous = build(says([[0, 1, 2, 3, 0]], classes=4), [0] * 5)
    said.add(sheets.disputed(frame, unanimous, range(4), path))
    assert len(said) == 2 and not figures


def test_titles_of_long_names_do_not_meet(tmp_path, figures, frame):
    many = pd.concat([frame.iloc[:1]] * 8, ignore_index=True)
    names = [f"Mercedes-Benz Sprinter WAGON {2000 + i}" for i in range(6)]
    tops = np.arange(6)[:, None] * np.ones((1, 8), int)
    sheets.disputed(many, build(says(tops, classes=6), [0] * 8), names, tmp_path / "disputed.png")
    assert_inside(figures[0])
    above = [axis.title.get_window_extent() for axis in figures[0].axes]
    assert all(a.x1 < b.x0 for a, b in pairwise(above[:6]))
    assert above[6].y1 < figures[0].axes[0].get_window_extent().y0

"""Boxes: what files may say, the mean of several, the pixels that are cut, runs with them."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import easy_competition, write_photo

from carcls import config
from carcls.config import Config
from carcls.data import attached, boxes, photos
from carcls.data.cache import PhotoCache
from carcls.desk import study
from carcls.errors import ConfigError, InputError
from carcls.nets.weights import check_attached
from carcls.spine import run

HEADER = "id,left,top,right,bottom\n"


def file(tmp_path, text: str, name: str = "b.csv"):
    (tmp_path / name).write_text(text)
    return boxes.read(tmp_path / name)


def table(train: str, test: str = "") -> pd.DataFrame:
    """Photos of 100×60 px with these ids."""
    rows = [(ident, "train") for ident in train.split()] + [
        (ident, "test") for ident in test.split()
    ]
    frame = pd.DataFrame(rows, columns=["id", "source"])
    return frame.assign(path="", height=60, width=100, readable=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,left,top,right\n1.jpg,1,2,30\n", "columns id, left, top, right; expected id"),
        (f"{HEADER}1.jpg,1,2,30,40\n2.jpg,30,2,10,40\n", "row 3, id '2.jpg': left '30', top '2', "),
        (f"{HEADER}1.jpg,1,,30,40\n", "row 2, id '1.jpg': left '1', top ''"),
        (f"{HEADER}1.jpg,1,two,30,40\n", "row 2, id '1.jpg': .*top 'two'"),
        (f"{HEADER}1.jpg,1,2,inf,40\n", "row 2, id '1.jpg': .*right 'inf'"),
        (f"{HEADER}1.jpg,0.1,0.1,0.9,1.0\n", "no box reaches beyond 1"),
        (f"{HEADER}1.jpg,,,,\n", "no box in any of its 1 rows"),
        (f"source,{HEADER}val,1.jpg,1,2,30,40\n", "source 'val'; expected train or test"),
        (f"Score,score,{HEADER}1,2,1.jpg,1,2,30,40\n", "columns Score, score, id"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=f"b.csv: {message}"):
        file(tmp_path, text)


TWICE = "id '1.jpg' comes more than once"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}7.jpg,1,2,30,40\n", r"none of its 1 boxes .*7.jpg.*1.jpg"),
        (f"{HEADER}1.jpg,100,2,130,40\n", r"id '1.jpg': box \[100.0, .*\] .*, which is 100×60 px"),
        (f"{HEADER}1.jpg,1,2,30,40\n1.jpg,1,2,30,40\n", TWICE),
        (f"{HEADER}1,1,2,30,40\nx/1.JPG,1,2,30,40\n", "ids '1' and 'x/1.JPG' may be of one photo"),
        (f"{HEADER}3.jpg,1,2,30,40\n", "id '3.jpg' may be of 2 photos, test and train; .* source"),
        (f"score,{HEADER},1.jpg,0,0,50,50\n0.5,1.jpg,1,0,50,50\n", TWICE),
        (f"score,{HEADER}0.5,1.jpg,0,0,50,50\nhigh,1.jpg,1,0,50,50\n", TWICE),
    ],
)
def test_boxes_that_fit_no_photo_or_several_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=f"b.csv: {message}"):
        boxes.cut(table("1.jpg 3.jpg", "3.jpg"), [file(tmp_path, text)])


def test_boxes_of_several_files_are_averaged(tmp_path):  # S13
    frame = table("a b", "c d")
    text = "Id, Left,top,right,bottom,score\na.jpg,10,10,50,40,0.9\nb,-5,20,90,70,0.9\nc,,,,,\n"
    one = file(tmp_path, text, "one.csv")
    two = file(tmp_path, f"{HEADER}photos/a.png,21.5,15.5,60.5,51.25\nz,1,1,9,9\n", "two.csv")
    cut, notes = boxes.cut(frame, [one, two])
    assert cut[boxes.SIDES].to_numpy().tolist() == [
        [15, 12, 56, 46],  # the mean is 15.75, 12.75, 55.25, 45.625: no part of it is lost
        [0, 20, 90, 60],  # inside the photo; one file's alone
        [0, 0, 100, 60],
        [0, 0, 100, 60],
    ]
    assert boxes.of(cut).dtype == int and boxes.of(frame).tolist() == [[0, 0, 100, 60]] * 4
    assert "2 of 2 train and 0 of 2 test" in notes[0] and "half of them to 42%" in notes[0]
    assert "two.csv" in notes[1] and notes[1].endswith("not used: 1")
    assert "reaches beyond" in notes[2] and notes[2].endswith("1 (b)") and len(notes) == 3


def test_what_a_person_should_look_at_is_said(tmp_path):
    one = file(tmp_path, f"{HEADER}a,0,0,40,40\nb,10,10,30,60\n", "one.csv")
    two = file(tmp_path, f"{HEADER}a,60,20,100,60\n", "two.csv")
    notes = boxes.cut(table("a b"), [one, two])[1]
    assert "WARNING: photos whose box has a side below 32 px: 1 (b)" in notes
    assert any("less than half alike" in note and note.endswith("1 (a)") for note in notes)


@pytest.mark.parametrize(
    ("frame", "text", "left", "unused"),
    [
        # An id as it is comes before one that may mean the same: copies/1.jpg is another photo.
        (
            table("1.jpg 0/2.jpg", "1/2.jpg"),
            "copies/1.jpg,1,1,9,9\n1.jpg,0,0,50,50\ntrain/0/2,10,0,60,50\n1\\2.jpg,20,0,70,50\n",
            [0, 10, 20],
            1,
        ),
        # Also where nothing was found in it.
        (
            table("1.jpg b/2.jpg", "3.jpg"),
            "1.jpg,,,,\ncopies/1.jpg,1,1,9,9\nb/2.jpg,20,0,70,50\nb/3.jpg,1,1,9,9\n3.jpg,,,,\n",
            [0, 20, 0],
            2,
        ),
        # Of two photos of one id nothing was found in either.
        (
            table("1.jpg b/2.jpg", "3.jpg 1.jpg"),
            "1.jpg,,,,\n2.jpg,20,0,70,50\n2,,,,\n",
            [0, 20, 0, 0],
            0,
        ),
        # A photo of a name that another has by its own id still gets its box.
        (table("1.jpg", "1"), "1.jpg,0,0,50,50\ntest/1.jpg,10,0,60,50\n", [0, 10], 0),
    ],
)
def test_which_photo_a_box_is_of(tmp_path, frame, text, left, unused):
    cut, notes = boxes.cut(frame, [file(tmp_path, HEADER + text)])
    assert cut["left"].tolist() == left
    assert [note.rpartition(": ")[2] for note in notes[1:]] == [str(unused)] * bool(unused)


def test_the_surest_box_counts_and_source_tells_train_from_test(tmp_path):
    text = f"score,source,{HEADER}0.3,,1,0,0,50,50\n0.9,train,1,10,0,60,50\n,,1,,,,\n"
    text += "0.4,,1,20,0,60,50\n,train,2,1,0,60,50\n,test,2,2,0,60,50\n"
    assert boxes.cut(table("1 2", "2"), [file(tmp_path, text)])[0]["left"].tolist() == [10, 1, 2]


def test_the_cache_cuts_and_keeps_the_shape_of_the_box(tmp_path):
    photo = np.zeros((60, 100, 3), np.uint8)
    photo[10:50, 20:40] = (250, 120, 10)
    path = str(write_photo(tmp_path / "a.png", photo))
    frame = table("a", "b").assign(path=path, readable=[True, False])
    frame, _ = boxes.cut(frame, [file(tmp_path, f"{HEADER}a,20,10,40,50\nb,20,10,40,50\n")])
    cache = PhotoCache(frame, (20, 30), "pad", tmp_path)
    assert cache[0].shape == (23, 12, 3)  # 1.15 × 20, and half as wide as high
    assert np.abs(cache[0].astype(int) - (250, 120, 10)).max() < 3
    assert (cache[1] == cache[1][0, 0]).all()  # it cannot be read


@pytest.fixture
def cfg(tmp_path, tiny) -> Config:
    """Photos whose lower right quarter alone has the colour of the class; the rest has any."""
    root, rng, rows = easy_competition(tmp_path / "data", 36, 12), np.random.default_rng(1), []
    for path in sorted(root.rglob("*.png")):
        photo = np.empty((96, 128, 3), np.uint8)
        photo[:] = rng.integers(0, 256, 3)
        photo[48:, 64:] = cv2.imread(str(path))[..., ::-1]
        write_photo(path, photo)
        rows.append(f"{path.name},64,48,128,96\n")
    (tmp_path / "boxes.csv").write_text(HEADER + "".join(rows))
    words = f"data={root} out={tmp_path / 'out'} boxes={tmp_path / 'boxes.csv'} weights=none "
    words += f"backbone={tiny} stages=32x48x4 batch=8 lr=0.02 views=2 val_fraction=0.25"
    return config.from_words(words.split())


def test_a_run_follows_its_boxes(cfg, tmp_path):  # S12
    out, member = tmp_path / "out", tmp_path / "out" / "member1"

    made = [member / name for name in ("best.weights.h5", "votes_validation.npz", "votes_test.npz")]

    def run_with(name: str) -> tuple[float, list[bool]]:
        """Validation accuracy with these boxes; which of weights and votes were made anew."""
        before = [path.exists() and path.stat().st_mtime_ns for path in made]
        run(cfg.replace(boxes=name and str(tmp_path / name)))
        accuracy = json.loads((out / "result.json").read_text())["validation_accuracy"]
        return accuracy, [p.stat().st_mtime_ns != t for p, t in zip(made, before, strict=True)]

    assert run_with("boxes.csv") == (1.0, [True] * 3)
    frame = pd.read_csv(out / "photos.csv")
    assert frame[boxes.SIDES].drop_duplicates().to_numpy().tolist() == [[64, 48, 128, 96]]
    assert 'data-file="boxes.png"' in (out / "report.html").read_text()
    before = (out / "submission.csv").read_bytes()

    (tmp_path / "boxes.csv").rename(tmp_path / "same.csv")  # what is in it counts
    assert run_with("same.csv")[1] == [False] * 3
    assert (out / "submission.csv").read_bytes() == before
    rows = pd.read_csv(tmp_path / "same.csv")
    rows["id"] = rows["id"].where(rows["id"] < "900.png", rows["id"] + "x")  # of no test photo
    rows.to_csv(tmp_path / "less.csv", index=False)
    assert run_with("less.csv")[1] == [False, False, True]
    accuracy, anew = run_with("")
    assert accuracy < 0.9 and all(anew)  # the background misleads it


def test_files_are_looked_for_before_the_photos(cfg, monkeypatch):
    monkeypatch.setattr(photos, "load", lambda *_: pytest.fail("too late"))
    with pytest.raises(InputError, match="boxes=gone.csv: no such file"):
        run(cfg.replace(boxes="gone.csv"))


def test_on_kaggle_a_file_is_found_by_its_name(tmp_path, monkeypatch, competition):
    top = tmp_path / "kaggle" / "input"
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "kaggle"))
    cfg = Config(boxes=" mine/a.csv, b.csv", weights="none", data=str(competition))
    for folder, name in (("datasets/me/carcls-boxes", "a.csv"), ("carcls-boxes", "b.csv")):
        (top / folder).mkdir(parents=True)
        (top / folder / name).touch()
    found = [top / "datasets/me/carcls-boxes/a.csv", top / "carcls-boxes/b.csv"]
    assert attached.box_files(cfg) == found
    assert f"boxes: dataset {found[0]}" in check_attached(cfg)
    (top / "carcls-boxes" / "a.csv").touch()  # the same file in the other layout
    assert attached.box_files(cfg)[0] in (found[0], top / "carcls-boxes/a.csv")
    (top / "other").mkdir()
    (top / "other" / "a.csv").write_text("an earlier run's")
    assert attached.box_files(cfg)[0] in (found[0], top / "carcls-boxes/a.csv")
    (top / "carcls-boxes" / "a.csv").write_text("another")
    with pytest.raises(InputError, match="boxes=mine/a.csv: several are attached"):
        check_attached(cfg)
    with pytest.raises(InputError, match="(?s)boxes=c.csv: no c.csv is attached; .*a.csv"):
        attached.box_files(cfg.replace(boxes="c.csv"))


def test_boxes_are_an_arm_of_a_study(cfg, tmp_path):
    base, arm = study.arms_of(cfg.replace(boxes=""), [f"boxes={tmp_path / 'boxes.csv'}"])
    assert (base.cfg.boxes, arm.cfg.boxes) == ("", cfg.boxes)
    (tmp_path / "broken.csv").write_text(f"{HEADER}100.png,30,2,10,40\n")
    with pytest.raises(InputError, match="broken.csv: row 2, id '100.png'"):
        study.study(cfg.replace(boxes=""), [f"boxes={tmp_path / 'broken.csv'}"])
    assert not (tmp_path / "out").exists()  # nothing was trained
    with pytest.raises(ConfigError, match="member 1: boxes cannot differ between members"):
        config.parse({"members": "boxes=a.csv+seed=2"})

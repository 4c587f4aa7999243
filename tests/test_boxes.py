"""Boxes: what files may say, the mean of several, the pixels that are cut, and runs that follow them."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import easy_competition, write_photo

from carcls import config
from carcls.config import Config
from carcls.data import attached, boxes, photos
from carcls.data import batches as pipeline
from carcls.desk import study
from carcls.errors import ConfigError, InputError
from carcls.nets import registry as backbones
from carcls.spine import run

HEADER = "id,left,top,right,bottom\n"


def file(tmp_path, text: str, name: str = "b.csv"):
    (tmp_path / name).write_text(text)
    return boxes.read(tmp_path / name)


def table(ids: dict[str, str], height: int = 60, width: int = 100) -> pd.DataFrame:
    """Photos of that size: id → source."""
    return pd.DataFrame(
        {
            "id": list(ids),
            "source": list(ids.values()),
            "path": "",
            "height": height,
            "width": width,
            "readable": True,
        }
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "id,left,top,right\n1.jpg,1,2,30\n",
            "columns id, left, top, right; expected id, left, top, right, bottom",
        ),
        (
            f"{HEADER}1.jpg,1,2,30,40\n2.jpg,30,2,10,40\n",
            r"row 3, id '2.jpg': left '30', top '2', right '10'.*left < right",
        ),
        (f"{HEADER}1.jpg,1,,30,40\n", "row 2, id '1.jpg': left '1', top ''.*or all four empty"),
        (f"{HEADER}1.jpg,1,two,30,40\n", "row 2, id '1.jpg': .*top 'two'"),
        (f"{HEADER}1.jpg,1,2,inf,40\n", "row 2, id '1.jpg': .*right 'inf'"),
        (
            f"{HEADER}1.jpg,0.1,0.1,0.9,1.0\n",
            "no box reaches beyond 1; expected px of the upright photo, not shares",
        ),
        (f"{HEADER}1.jpg,,,,\n", "no box in any of its 1 rows"),
        (f"source,{HEADER}val,1.jpg,1,2,30,40\n", "source 'val'; expected train or test"),
        (
            f"Score,score,{HEADER}0.1,0.2,1.jpg,1,2,30,40\n",
            "columns Score, score, id, .*; expected id",
        ),
        (
            f"Source,source,{HEADER}test,test,1.jpg,1,2,30,40\n",
            "columns Source, source, id, .*; expected id",
        ),
    ],
    ids=[
        "column",
        "sides",
        "half",
        "text",
        "infinite",
        "shares",
        "empty",
        "source",
        "scores",
        "sources",
    ],
)
def test_a_file_that_cannot_be_right_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=f"b.csv: {message}"):
        file(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "7.jpg,1,2,30,40\n",
            r"none of its 1 boxes is of a photo here, such as \['7.jpg'\]; expected ids as \['1.jpg', ",
        ),
        (
            "1.jpg,100,2,130,40\n",
            r"id '1.jpg': box \[100.0, 2.0, 130.0, 40.0\] lies outside of its photo, which is 100×60 px",
        ),
        (
            "1.jpg,1,2,30,40\n1.jpg,1,2,30,40\n",
            "id '1.jpg' comes more than once; expected one box a photo",
        ),
        (
            "1,1,2,30,40\nx/1.JPG,1,2,30,40\n",
            "ids '1' and 'x/1.JPG' may be of one photo; expected one box a photo",
        ),
        (
            "3.jpg,1,2,30,40\n",
            "id '3.jpg' may be of 2 photos, test and train; expected a column source, train or test",
        ),
    ],
    ids=["none", "outside", "twice", "twice, written otherwise", "ambiguous"],
)
def test_boxes_that_fit_no_photo_are_refused(tmp_path, text, message):
    frame = pd.concat(
        [table({"1.jpg": "train", "3.jpg": "train"}), table({"3.jpg": "test"})], ignore_index=True
    )
    with pytest.raises(InputError, match=f"b.csv: {message}"):
        boxes.cut(frame, [file(tmp_path, HEADER + text)])


def test_boxes_of_several_files_are_averaged(tmp_path):  # S13
    frame = table({"a": "train", "b": "train", "c": "test", "d": "test"})
    one = file(
        tmp_path,
        "Id, Left,top,right,bottom,score\na.jpg,10,10,50,40,0.9\nb,-5,20,90,70,0.9\nc,,,,,\n",
        "one.csv",
    )
    two = file(tmp_path, f"{HEADER}photos/a.png,21.5,15.5,60.5,51.25\nz,1,1,9,9\n", "two.csv")
    cut, notes = boxes.cut(frame, [one, two])
    assert cut[boxes.SIDES].to_numpy().tolist() == [
        [15, 12, 56, 46],  # the mean is 15.75, 12.75, 55.25, 45.625: no part of it is lost
        [0, 20, 90, 60],  # inside the photo; one file's alone
        [0, 0, 100, 60],
        [0, 0, 100, 60],
    ]
    assert boxes.of(cut).dtype == int and boxes.of(frame).tolist() == [[0, 0, 100, 60]] * 4
    assert notes == [
        "boxes: 2 of 2 train and 0 of 2 test photos are cut to one, the mean of 2 files, half of them to 42% of the "
        "photo or less; the others stay whole",
        "boxes of two.csv that are of photos which are not used: 1",
        "WARNING: photos whose box reaches beyond it by more than 10% (expected px of the upright photo): 1 (b)",
    ]


def test_what_a_person_should_look_at_is_said(tmp_path):
    frame = table({"a": "train", "b": "train"})
    one = file(tmp_path, f"{HEADER}a,0,0,40,40\nb,10,10,30,60\n", "one.csv")
    two = file(tmp_path, f"{HEADER}a,60,20,100,60\n", "two.csv")
    notes = boxes.cut(frame, [one, two])[1]
    assert "WARNING: photos whose box has a side below 32 px: 1 (b)" in notes
    apart = "boxes are less than half alike in the files, so that their mean may show neither car"
    assert f"WARNING: photos whose {apart}: 1 (a)" in notes


def test_an_id_as_it_is_comes_before_one_that_may_mean_the_same(tmp_path):
    """A file may have photos that are not used, such as a copy in another folder."""
    frame = table({"1.jpg": "train", "0/2.jpg": "train", "1/2.jpg": "test"})
    given = file(
        tmp_path,
        f"{HEADER}copies/1.jpg,1,1,9,9\n1.jpg,0,0,50,50\ntrain/0/2,10,0,60,50\n1\\2.jpg,20,0,70,50\n",
    )
    cut, notes = boxes.cut(frame, [given])
    assert cut["left"].tolist() == [0, 10, 20]
    assert "boxes of b.csv that are of photos which are not used: 1" in notes


def test_a_row_without_a_box_keeps_another_photos_from_its_photo(tmp_path):
    """A copy in another folder, or a train photo that is not used, is not the photo in which nothing was found."""
    frame = table({"1.jpg": "train", "b/2.jpg": "train", "3.jpg": "test"})
    text = "1.jpg,,,,\ncopies/1.jpg,1,1,9,9\nb/2.jpg,20,0,70,50\nb/3.jpg,1,1,9,9\n3.jpg,,,,\n"
    cut, notes = boxes.cut(frame, [file(tmp_path, HEADER + text)])
    assert cut[boxes.SIDES].to_numpy().tolist() == [
        [0, 0, 100, 60],
        [20, 0, 70, 50],
        [0, 0, 100, 60],
    ]
    assert "boxes of b.csv that are of photos which are not used: 2" in notes
    two = pd.concat(
        [frame, table({"1.jpg": "test"})], ignore_index=True
    )  # nothing was found in either
    cut, _ = boxes.cut(two, [file(tmp_path, HEADER + "1.jpg,,,,\n2.jpg,20,0,70,50\n2,,,,\n")])
    assert cut["left"].tolist() == [0, 20, 0, 0]


def test_a_photo_of_a_name_that_another_has_by_its_own_id_still_gets_its_box(tmp_path):
    frame = table({"1.jpg": "train", "1": "test"})
    cut, notes = boxes.cut(
        frame, [file(tmp_path, f"{HEADER}1.jpg,0,0,50,50\ntest/1.jpg,10,0,60,50\n")]
    )
    assert cut["left"].tolist() == [0, 10] and len(notes) == 1


def test_the_surest_box_of_a_photo_counts(tmp_path):
    frame = pd.concat(
        [table({"1": "train", "2": "train"}), table({"2": "test"})], ignore_index=True
    )
    header = "source,id,left,top,right,bottom,score\n"
    one = ",1,0,0,50,50,0.3\ntrain,1,10,0,60,50,0.9\n,1,,,,,\n,1,20,0,60,50,0.4\n"
    cut, _ = boxes.cut(
        frame, [file(tmp_path, header + one + "train,2,1,0,60,50,\ntest,2,2,0,60,50,\n")]
    )
    assert cut["left"].tolist() == [10, 1, 2]
    for scores in (("", ""), ("0.5", "high"), ("", "0.5")):
        text = "".join(f"train,1,{n},0,50,50,{score}\n" for n, score in enumerate(scores))
        with pytest.raises(
            InputError,
            match="id '1' comes more than once; .* a column score with numbers, whose highest",
        ):
            boxes.cut(frame, [file(tmp_path, header + text)])


def test_source_tells_train_from_test(tmp_path):
    frame = pd.concat([table({"1": "train"}), table({"1": "test"})], ignore_index=True)
    cut, _ = boxes.cut(
        frame, [file(tmp_path, f"source,{HEADER}test,1,0,0,50,50\ntrain,1,10,0,60,50\n")]
    )
    assert cut["left"].tolist() == [10, 0]


@pytest.mark.parametrize("least", [(0, 0), (60, 30), (20, 10)], ids=["whole", "half", "eighth"])
def test_pixels_of_a_box_are_those_of_the_photo(tmp_path, least):
    """Asymmetric, at every reduced scale of decoding: 640×480, its box is 160 wide and 320 high."""
    photo = np.add.outer(np.arange(480) * 0.2, np.arange(640) * 0.2)[..., None] * [
        1.0,
        0.5,
        0.1,
    ] + [0, 60, 200]
    path = write_photo(tmp_path / "a.jpg", photo.astype(np.uint8))
    box = (400, 96, 560, 416)
    part = photos.read_box(path, box, *least, 480, 640)
    assert part.shape[0] >= least[0] and part.shape[1] >= least[1]
    assert part.shape == {0: (320, 160, 3), 60: (80, 40, 3), 20: (40, 20, 3)}[least[0]]
    wanted = cv2.resize(
        photo[96:416, 400:560].astype(np.float32), part.shape[1::-1], interpolation=cv2.INTER_AREA
    )
    assert np.abs(part - wanted).mean() < 2
    whole = photos.read_box(path, (0, 0, 640, 480), *least, 480, 640)
    assert np.array_equal(whole, photos.read_photo(path, *least, 480, 640))


def test_the_pipeline_cuts_and_keeps_the_shape_of_the_box(tmp_path):
    photo = np.zeros((60, 100, 3), np.uint8)
    photo[10:50, 20:40] = (250, 120, 10)
    frame = table({"a": "train", "b": "test"}).assign(
        path=str(write_photo(tmp_path / "a.png", photo)), readable=[True, False]
    )
    frame, _ = boxes.cut(frame, [file(tmp_path, f"{HEADER}a,20,10,40,50\nb,20,10,40,50\n")])
    cache = pipeline.PhotoCache(frame, 20, 30, "pad", 0.5, tmp_path)
    assert cache[0].shape == (23, 12, 3)  # 1.15 × 20, and half as wide as high
    assert np.abs(cache[0].astype(int) - (250, 120, 10)).max() < 3
    assert (cache[1] == cache[1][0, 0]).all()  # it cannot be read


@pytest.fixture
def cfg(tmp_path, tiny) -> Config:
    """Photos whose colour tells the class in the lower right quarter alone; the rest is of any colour."""
    root, rng, rows = (
        easy_competition(tmp_path / "competition", 36, 12),
        np.random.default_rng(1),
        [],
    )
    for path in sorted(root.rglob("*.png")):
        part = cv2.imread(str(path))[..., ::-1]
        photo = np.empty((96, 128, 3), np.uint8)
        photo[:] = rng.integers(0, 256, 3)
        photo[48:, 64:] = part
        write_photo(path, photo)
        rows.append(f"{path.name},64,48,128,96\n")
    (tmp_path / "boxes.csv").write_text(HEADER + "".join(rows))
    return config.parse(
        {
            "data": str(root),
            "out": str(tmp_path / "out"),
            "weights": "none",
            "backbone": tiny,
            "stages": "32x48x4",
            "batch": 8,
            "lr": 0.02,
            "tta_views": 2,
            "val_fraction": 0.25,
            "boxes": str(tmp_path / "boxes.csv"),
        }
    )


def test_a_run_follows_its_boxes(cfg, tmp_path, capsys):  # S12
    run(cfg)
    said = capsys.readouterr().out
    assert (
        "boxes: 36 of 36 train and 12 of 12 test photos are cut to one, half of them to 25% of the photo or less"
        in said
    )
    out = tmp_path / "out"
    assert json.loads((out / "result.json").read_text())["validation_accuracy"] == 1.0
    frame = pd.read_csv(out / "photos.csv")
    assert frame[boxes.SIDES].drop_duplicates().to_numpy().tolist() == [[64, 48, 128, 96]]
    assert 'alt="boxes.png"' in (out / "report.html").read_text()
    before = (out / "submission.csv").read_bytes()

    run(cfg.replace(boxes=str((tmp_path / "boxes.csv").rename(tmp_path / "same.csv"))))
    assert (
        "cast before" in capsys.readouterr().out and (out / "submission.csv").read_bytes() == before
    )

    rows = pd.read_csv(tmp_path / "same.csv")
    rows["id"] = rows["id"].where(
        rows["id"] < "900.png", rows["id"] + "x"
    )  # the test photos have none now
    rows.to_csv(tmp_path / "less.csv", index=False)
    run(cfg.replace(boxes=str(tmp_path / "less.csv")))
    said = capsys.readouterr().out
    assert (
        "boxes: 36 of 36 train and 0 of 12 test photos" in said
        and "training is made anew" not in said
    )
    assert "test votes is made anew: boxes" in said and "validation votes is made anew" not in said

    run(cfg.replace(boxes=""))
    assert "training is made anew: boxes" in capsys.readouterr().out
    assert (
        json.loads((out / "result.json").read_text())["validation_accuracy"] < 0.9
    )  # the background misleads it


def test_files_are_looked_for_before_the_photos(cfg, monkeypatch):
    monkeypatch.setattr(photos, "load", lambda *_: pytest.fail("too late"))
    with pytest.raises(
        InputError, match="boxes=gone.csv: no such file; `python -m carcls boxes` makes one"
    ):
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
    assert f"boxes: dataset {found[0]}" in backbones.check_attached(cfg)
    (top / "carcls-boxes" / "a.csv").touch()  # the same file in the other layout
    assert attached.box_files(cfg)[0] in (found[0], top / "carcls-boxes/a.csv")
    (top / "other").mkdir()
    (top / "other" / "a.csv").write_text("an earlier run's")
    assert attached.box_files(cfg)[0] in (found[0], top / "carcls-boxes/a.csv")
    (top / "carcls-boxes" / "a.csv").write_text("another")
    with pytest.raises(InputError, match="boxes=mine/a.csv: several are attached"):
        backbones.check_attached(cfg)
    with pytest.raises(
        InputError, match="(?s)boxes=c.csv: no c.csv is attached; .*make dataset.*There is:.*a.csv"
    ):
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

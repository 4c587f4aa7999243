"""submission.csv: order, columns, label type, checks before writing, and the alarm."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from carcls.data import photos
from carcls.errors import InputError
from carcls.report import submission


def table(classes=(0, 1, 2), ids=("b.jpg", "a.jpg", "c.jpg")) -> photos.Table:
    train = pd.DataFrame(
        {
            "id": list("xyz"),
            "path": "",
            "label": [0, 1, 2],
            "fold": photos.TRAIN,
            "source": "train",
            "height": 1,
            "width": 1,
            "readable": True,
        }
    )
    return photos.Table(train, list(classes), "Name", "Kind", list(ids), pd.DataFrame())


PROBS = np.eye(3)[[2, 0, 1]]  # for a.jpg, b.jpg, c.jpg


def test_rows_are_in_the_samples_order_with_its_columns(tmp_path):
    submission.write(tmp_path / "s.csv", table(), ["a.jpg", "b.jpg", "c.jpg"], PROBS, "test", 0.5)
    assert (tmp_path / "s.csv").read_text() == "Name,Kind\nb.jpg,0\na.jpg,2\nc.jpg,1\n"


def test_string_labels_stay_strings(tmp_path):
    submission.write(
        tmp_path / "s.csv",
        table(classes=("van", "suv", "007")),
        ["a.jpg", "b.jpg", "c.jpg"],
        PROBS,
        "test",
        0.5,
    )
    assert (tmp_path / "s.csv").read_text() == "Name,Kind\nb.jpg,van\na.jpg,007\nc.jpg,suv\n"


@pytest.mark.parametrize(
    ("ids", "probs", "said"),
    [
        (
            ["a.jpg", "b.jpg"],
            PROBS[:2],
            "2 predictions of 2 ids, 3 rows.*1 of them without prediction .c.jpg",
        ),
        (["a.jpg", "b.jpg", "b.jpg"], PROBS, "3 predictions of 2 ids"),
        (["a.jpg", "b.jpg", "c.jpg", "d.jpg"], PROBS[[0, 1, 2, 0]], "4 predictions"),
        (
            ["a.jpg", "b.jpg", "c.jpg"],
            PROBS * np.nan,
            "3 photos have no finite prediction, a.jpg first",
        ),
        (["a.jpg", "b.jpg", "c.jpg"], PROBS[:, :2], r"\(3, 2\), expected \(3, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused_and_an_earlier_file_stays(tmp_path, ids, probs, said):
    (tmp_path / "s.csv").write_text("earlier")
    with pytest.raises(InputError, match=said):
        submission.write(tmp_path / "s.csv", table(), ids, probs, "test", 0.5)
    assert (tmp_path / "s.csv").read_text() == "earlier"


def test_what_made_it_is_beside_it_and_earlier_ones_are_kept(tmp_path):
    path = tmp_path / "submission.csv"
    ids = ["a.jpg", "b.jpg", "c.jpg"]
    texts = []
    for number, made_by in enumerate(("one", "two", "three")):
        submission.write(
            path, table(), ids, np.roll(PROBS, number, 0), made_by, 0.25 * number, run=made_by
        )
        texts.append(path.read_text())
    submission.write(
        path, table(), ids, PROBS, "four", 0.75, run="three"
    )  # a better one of the same run
    assert len(set(texts)) == 3
    assert [(tmp_path / f"submission.earlier{n}.csv").read_text() for n in (1, 2)] == texts[:2]
    assert not (tmp_path / "submission.earlier3.csv").exists()
    about, before = (
        json.loads((tmp_path / f"{n}.json").read_text())
        for n in ("submission", "submission.earlier2")
    )
    assert (about["made_by"], about["validation_accuracy"], about["rows"]) == ("four", 0.75, 3)
    assert before["made_by"] == "two"
    (tmp_path / "result.json").write_text("of four")
    path.write_text("mine")  # nobody's but the user's, whatever is beside it
    submission.write(path, table(), ids, PROBS, "four", 0.75, run="three")
    assert (tmp_path / "submission.earlier3.csv").read_text() == "mine"
    assert (tmp_path / "result.earlier3.json").read_text() == "of four"  # not of what is there now
    assert not (tmp_path / "result.json").exists()
    assert about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_one_class_that_takes_nearly_everything_is_flagged():
    assert submission.warnings(table(), [1] * 19 + [0]) == [
        "class 1 takes 95% of the submission but 33% of the training photos: the network has not learned; do not submit this"
    ]
    assert submission.warnings(table(), [0, 1, 2] * 5) == []
    assert submission.warnings(table(), [0, 1] * 40) == ["never predicted: class 2"]


def test_accuracy_of_a_submission(tmp_path):
    (tmp_path / "answers.csv").write_text("Id,Category\na,1\nb,2\nc,3\n")
    (tmp_path / "mine.csv").write_text("Id,Category\nc,3\nb,2\na,7\n")
    assert submission.accuracy(tmp_path / "mine.csv", tmp_path / "answers.csv") == pytest.approx(
        2 / 3
    )
    (tmp_path / "mine.csv").write_text("Id,Category\nc,3\nd,2\n")
    with pytest.raises(InputError, match="mine.csv: 2 ids do not match the 3 of"):
        submission.accuracy(tmp_path / "mine.csv", tmp_path / "answers.csv")

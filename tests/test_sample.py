"""The drawn competition: Kaggle's layout, reproducible and unbalanced."""

import csv
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from carcls import disk
from carcls.desk import cars, sample
from carcls.errors import InputError

FILES = sorted([*sample.FILES, "sample.json"])


def rows(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="") as file:
        header, *rest = csv.reader(file)
    assert header == ["Id", "Category"]
    return [(a, b) for a, b in rest]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "a" / "b"
    assert sample.draw(folder, seed=3, train=40, test=12) == folder
    return folder


def test_layout(drawn):
    assert sorted(contents(drawn)) == FILES
    train, answers = rows(drawn / "train.csv"), rows(drawn / "answers/answers.csv")
    empty = rows(drawn / "sample-submission.csv")
    with zipfile.ZipFile(drawn / "train.zip") as archive:
        assert archive.namelist() == [f"train/{label}/{name}" for name, label in train]
    with zipfile.ZipFile(drawn / "test.zip") as archive:
        # No class folder and no order that would give an answer away.
        assert archive.namelist() == [f"test_upload/{name}" for name, _ in empty]
    assert [name for name, _ in answers] == [name for name, _ in empty]
    assert {label for _, label in empty} == {"0"}
    labels = [label for _, label in answers]
    assert labels != sorted(labels) and len(set(labels)) > 5
    ids = [name for name, _ in train + empty]
    assert len(set(ids)) == len(ids) == 52
    assert all(name.endswith(".jpg") and name[:-4].isdigit() for name in ids)


def test_photos_are_colour_jpegs_of_one_size(drawn):
    for file in ("train.zip", "test.zip"):
        with zipfile.ZipFile(drawn / file) as archive:
            for name in archive.namelist():
                data = archive.read(name)
                assert data[:2] == b"\xff\xd8"
                photo = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
                assert photo.shape == (480, 640, 3)
                assert photo.std() > 10


def test_same_seed_same_bytes_other_seed_others(drawn, tmp_path):
    again = contents(sample.draw(tmp_path / "same", seed=3, train=40, test=12))
    assert again == contents(drawn)
    other = contents(sample.draw(tmp_path / "other", seed=4, train=40, test=12))
    assert all(again[name] != other[name] for name in FILES)


def test_classes_are_unbalanced_and_all_there():
    for total in (20, 21, 37, 600):
        counts = Counter(sample._labels(total, np.random.default_rng(total)))
        assert sum(counts.values()) == total
        assert set(counts) == set(range(len(cars.MODELS)))
    assert 2 < max(counts.values()) / min(counts.values()) < 3


def test_second_call_leaves_files_alone_and_an_incomplete_sample_is_redrawn(tmp_path):
    sample.draw(tmp_path, train=20, test=2)
    before, times = contents(tmp_path), {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    sample.draw(tmp_path, train=20, test=2)
    assert times == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    (tmp_path / "answers/answers.csv").unlink()
    sample.draw(tmp_path, train=20, test=2)
    assert contents(tmp_path) == before
    sample.draw(tmp_path, train=21, test=2)
    assert len(rows(tmp_path / "train.csv")) == 21


def test_a_sample_that_was_killed_while_it_was_drawn_is_redrawn(tmp_path, monkeypatch):
    def killed(path, content):
        if path.name == "test.zip":
            raise KeyboardInterrupt
        write(path, content)

    write = disk.write_atomic
    monkeypatch.setattr(disk, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        sample.draw(tmp_path, train=20, test=2)
    monkeypatch.undo()
    assert (tmp_path / "train.zip").is_file()
    sample.draw(tmp_path, train=20, test=2)
    assert len(zipfile.ZipFile(tmp_path / "test.zip").namelist()) == 2


def test_files_that_are_no_sample_are_not_replaced(tmp_path):
    (tmp_path / "train.csv").write_text("Id,Category\nmine.jpg,1\n")
    with pytest.raises(InputError, match=r"has train\.csv, not of a drawn sample"):
        sample.draw(tmp_path, train=20, test=2)
    assert contents(tmp_path) == {"train.csv": b"Id,Category\nmine.jpg,1\n"}
    (tmp_path / "sample.json").write_text('{"mine": true}')
    with pytest.raises(InputError, match=r"has train\.csv"):
        sample.draw(tmp_path, train=20, test=2)


def test_every_model_differs_from_every_other_in_several_details():
    details = [f for f in cars.Model.__dataclass_fields__ if f not in ("name", "share")]
    for i, a in enumerate(cars.MODELS):
        for b in cars.MODELS[:i]:
            assert sum(getattr(a, f) != getattr(b, f) for f in details) >= 3, (a.name, b.name)


def test_too_few_photos_are_refused(tmp_path):
    for train, test in ((19, 5), (20, 0)):
        with pytest.raises(InputError, match=f"not {train} and {test}"):
            sample.draw(tmp_path / "none", train=train, test=test)
    assert not (tmp_path / "none").exists()

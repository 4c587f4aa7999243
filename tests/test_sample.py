"""The drawn competition: Kaggle's layout, reproducible and unbalanced."""

import csv
import json
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from carcls import disk
from carcls.config import Config
from carcls.data import files, photos
from carcls.desk import cars, plants, sample, scenes
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
                assert photo.std() > 5  # a night is dark, yet no grey photo


def test_same_seed_same_bytes_other_seed_others(drawn, tmp_path):
    again = contents(sample.draw(tmp_path / "same", seed=3, train=40, test=12))
    assert again == contents(drawn)
    other = contents(sample.draw(tmp_path / "other", seed=4, train=40, test=12))
    assert all(again[name] != other[name] for name in FILES)


def test_classes_are_unbalanced_and_all_there():
    for total in (20, 21, 37, 600):
        counts = Counter(plants.labels(total, np.random.default_rng(total)))
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


def test_every_model_differs_from_every_other_in_several_details_and_two_in_their_rims_alone():
    details = [f for f in cars.Model.__dataclass_fields__ if f not in ("name", "share", "home")]
    alike = {}
    for i, a in enumerate(cars.MODELS):
        for b in cars.MODELS[:i]:
            differ = [f for f in details if getattr(a, f) != getattr(b, f)]
            if len(differ) < 3:
                alike[a.name, b.name] = differ
    assert alike == {("Borea Five", "Borea"): ["rim"]}


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = sample.draw(tmp_path_factory.mktemp("spoiled"), seed=2, train=300, test=50)
    return folder, json.loads((folder / "sample.json").read_text())


def test_the_labels_are_wrong_that_the_sample_lists_and_the_answers_are_true(spoiled):
    folder, planted = spoiled
    learned, asked = plants.plan(2, 300, 50)
    assert rows(folder / "train.csv") == [(p.id, str(p.label)) for p in learned]
    assert rows(folder / "answers/answers.csv") == [(p.id, str(p.true)) for p in asked]
    wrong = {p.id: p.true for p in learned if p.label != p.true}
    assert planted["wrong_labels"] == wrong and 10 <= len(wrong) <= 13
    for photo in (*learned, *asked):
        assert photo.shot.model == cars.MODELS[photo.true]  # what is drawn is what is true
        if photo.id in wrong:
            assert cars.MODELS[photo.label].body != photo.shot.model.body


def test_the_audit_finds_the_spoiled_files_that_the_sample_lists_and_no_others(spoiled, tmp_path):
    folder, planted = spoiled
    cfg = Config(data=str(folder), out=str(tmp_path))
    table = photos.load(cfg, files.locate(cfg))
    found = set(zip(table.audit["id"], table.audit["finding"], strict=True))
    learned = {name for name, _ in rows(folder / "train.csv")}
    named = {
        plants.CUT_SHORT: "truncated",
        plants.EMPTY: "unreadable",
        plants.WEB_PAGE: "unreadable",
        plants.OTHER_LABEL: "duplicate with another label",
    }
    expected = {(i, named[how]) for i, how in planted["spoiled"].items() if how in named}
    for ident, how in planted["spoiled"].items():
        twin = planted["twins"].get(ident)
        if how == plants.OTHER_LABEL:
            expected.add((twin, named[how]))
        if how == plants.COPY:  # the audit names the later one of the two
            expected.add((max(ident, twin, key=list(table.frame["id"]).index), "duplicate"))
    assert found == expected and len(found) == 9
    again = [i for i, how in planted["spoiled"].items() if how == plants.ENCODED_AGAIN]
    assert len(again) == 2 and not learned & set(again)
    path = table.frame.set_index("id")["path"]
    for ident in again:  # nearly the same pixels in fewer bytes
        twins = Path(path[ident]), Path(path[planted["twins"][ident]])
        one, other = (cv2.imread(str(file)).astype(int) for file in twins)
        assert 0 < np.abs(one - other).mean() < 5
        assert twins[0].stat().st_size < 0.8 * twins[1].stat().st_size


def test_the_background_tells_two_models_apart_in_train_and_not_in_test():
    learned, asked = plants.plan(1, 600, 200)
    for name in ("Dunet", "Dunet City"):
        shares = [
            np.mean([p.shot.scene == p.shot.model.home for p in part if p.shot.model.name == name])
            for part in (learned, asked)
        ]
        assert shares[0] > 0.65 and shares[1] < 0.4


def test_what_makes_a_photo_hard_can_be_seen():
    def draw(*troubles: str) -> np.ndarray:
        shot = scenes.Shot(cars.MODELS[0], "wall", troubles)
        return scenes.photo(shot, np.random.default_rng(1)).astype(float)

    def edges(image: np.ndarray) -> float:
        return (np.abs(np.diff(image, axis=1)) > 40).mean()  # more than noise

    plain = draw()
    assert draw("dark").mean() < plain.mean() / 2
    assert edges(draw("blurred")) < edges(plain) / 2
    hidden = np.abs(draw("hidden") - plain).max(axis=2) > 60
    assert 0.02 < hidden.mean() < 0.5
    assert (np.abs(draw("far") - plain).max(axis=2) > 60).mean() > 0.05


def test_too_few_photos_are_refused(tmp_path):
    for train, test in ((19, 5), (20, 0)):
        with pytest.raises(InputError, match=f"not {train} and {test}"):
            sample.draw(tmp_path / "none", train=train, test=test)
    assert not (tmp_path / "none").exists()

"""The table of photos, its split and its folds."""

import numpy as np
import pandas as pd
import pytest
from cases import Case, found, good, jpeg, part
from conftest import CARS10

from carcls.config import Config
from carcls.data import files, photos
from carcls.data.audit import Audit
from carcls.data.photos import TEST, TRAIN, VALIDATION, Table
from carcls.data.pixels import read_photo
from carcls.errors import InputError


@pytest.fixture(autouse=True)
def no_kaggle(tmp_path, monkeypatch):
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "no-kaggle"))


def test_plain_table(tmp_path, capsys):
    table = Case(tmp_path).load()
    columns = "id path label fold source height width readable group digest"
    assert list(table.frame.columns) == columns.split()
    assert (table.id_column, table.label_column, table.classes) == ("Id", "Category", [0, 1])
    assert table.sample_ids == ["900.jpg", "901.jpg"]
    assert table.frame["label"].tolist() == [0] * 4 + [1] * 4 + [-1] * 2
    assert table.frame["source"].tolist() == ["train"] * 8 + ["test"] * 2
    assert set(zip(table.frame["height"], table.frame["width"], strict=True)) == {(48, 64)}
    assert photos.summary(table) == [
        "photos: 6 to train, 2 to validate (25.0 %), 2 to predict",
        "2 classes (Category: photos): 0: 4, 1: 4",
        "sizes: 64×48 100 %",
        "audit: nothing found",
        *table.notes,
    ]
    assert len(table.notes) == 1 and "metric=auc" in table.notes[0]  # labels, or a probability?
    assert "8 to train, each validated once in 5 folds" in photos.summary(table, 5)[0]
    assert capsys.readouterr().out == ""


def test_rows_are_positions_in_the_frame_with_their_labels(tmp_path):
    table = Case(tmp_path).load()
    train, val, test = (table.rows(fold) for fold in (TRAIN, VALIDATION, TEST))
    assert (len(train), len(val), test.rows.tolist()) == (6, 2, [8, 9])
    assert test.labels.tolist() == [-1, -1] and sorted(val.labels) == [0, 1]
    assert sorted((train + val).rows) == table.rows(TRAIN, VALIDATION).rows.tolist()
    assert (train + val).labels.tolist() == table.frame["label"][(train + val).rows].tolist()
    few = train.take(train.labels == 1)
    assert set(few.labels) == {1} and set(few.rows) < set(train.rows)


def test_class_whose_photos_are_all_broken_is_left_out(tmp_path):
    table = Case(tmp_path, {"a.jpg": (-5, b"text"), "b.jpg": (-5, b"")}).load()
    assert table.classes == [0, 1]
    assert found(table)[-1] == ("train", "", "class without photos", "left out")


def test_a_test_photo_without_a_file_is_not_one_that_cannot_be_read(tmp_path):
    case = Case(tmp_path, test={f"{n}.jpg": jpeg(n) for n in range(900, 904)} | {"bad.jpg": b"x"})
    (tmp_path / "test_upload" / "901.jpg").unlink()
    table = case.load()
    assert [row[1:3] for row in found(table)] == [
        ("901.jpg", "missing file"),
        ("bad.jpg", "unreadable"),
    ]
    lines = [line for line in photos.summary(table) if line.startswith("WARNING")]
    assert len(lines) == 2
    assert "1 test photo has no file" in lines[0] and "901.jpg" in lines[0]
    assert "1 test photo cannot be read" in lines[1] and "bad.jpg" in lines[1]


def test_many_dropped_photos_are_a_warning_with_the_commonest_reason(tmp_path):
    case = Case(tmp_path, {**good(300, 30, 1), "x.jpg": (1, None), "y.jpg": (1, None)})
    lines = photos.summary(case.load())
    assert not any(line.startswith("WARNING") for line in lines)
    (tmp_path / "train" / "300.jpg").write_bytes(b"")
    (warning,) = (line for line in photos.summary(case.load()) if line.startswith("WARNING"))
    assert "3 of 40" in warning and "2 of them" in warning
    assert "missing file" in warning and "x.jpg" in warning


def test_a_refusal_shows_what_the_files_are(tmp_path):
    case = Case(tmp_path)
    for number, path in enumerate(sorted((tmp_path / "train").iterdir())):
        path.write_bytes(b"" if number < 3 else b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError) as refused:
        case.load()
    details = [line.split(maxsplit=2) for line in str(refused.value).splitlines()[1:3]]
    assert [words[:2] for words in details] == [["5", "unreadable:"], ["3", "unreadable:"]]
    assert details[1][2] == "empty file"


# --- The split ----------------------------------------------------------------------------------


def rows(sizes: dict[int, int], copies: int = 1) -> pd.DataFrame:
    """Train rows of classes of these sizes, each ``copies`` neighbours the same file."""
    cases = [(label, i) for label, size in sizes.items() for i in range(size)]
    table = [(f"{label}-{i}", label, f"{label}-{i // copies}") for label, i in cases]
    return pd.DataFrame(table, columns=["id", "label", "digest"])


def split(frame: pd.DataFrame, seed=1) -> pd.Series:
    cfg = Config(seed=seed, val_fraction=0.2)
    return pd.Series(photos._split(frame, cfg, [0, 1, 2, 3], Audit()), index=frame["id"])


def test_split_is_stratified_seeded_and_blind_to_row_order():
    frame = rows({0: 100, 1: 50, 2: 3, 3: 2})
    fold = split(frame)
    n_val = fold.eq(VALIDATION).groupby(fold.index.str[0]).sum()
    assert n_val.tolist() == [20, 10, 1, 1]
    shuffled = frame.sample(frac=1, random_state=7).reset_index(drop=True)
    assert split(shuffled)[fold.index].equals(fold)
    assert not split(frame, seed=2).equals(fold)


def test_split_keeps_duplicates_together():
    frame = rows({0: 100, 1: 30, 2: 4}, copies=3)
    for seed in range(5):
        fold = split(frame, seed)
        assert fold.groupby(frame["digest"].to_numpy()).nunique().eq(1).all()
        n_val = fold.eq(VALIDATION).groupby(fold.index.str[0]).sum()
        assert 18 <= n_val["0"] <= 20 and n_val["1"] == 6 and n_val["2"] == 1


def test_class_of_one_photo_stays_in_train(tmp_path):
    train = {"one.jpg": (7, jpeg(1)), "two.jpg": (8, jpeg(2)), "two again.jpg": (8, jpeg(2))}
    table = Case(tmp_path, train, val_fraction=0.8).load()
    assert set(table.audit["detail"]) >= {"class 7 is not validated", "class 8 is not validated"}
    assert {(row[1], row[2]) for row in found(table)} == {
        ("one.jpg", "only photo of its class"),
        ("two.jpg", "only photo of its class"),
        ("two again.jpg", "duplicate"),
    }
    assert set(train) <= set(part(table, TRAIN)["id"])
    assert set(table.rows(TRAIN).labels) == {0, 1, 2, 3}  # one of each, whatever the fraction


def test_with_folds_a_class_of_one_photo_is_validated(tmp_path):
    table = Case(tmp_path, {"one.jpg": (7, jpeg(1))}, folds=2).load()
    assert found(table) == [("train", "one.jpg", "only photo of its class", "kept")]
    assert "not validated" not in table.audit["detail"][0]
    checked = [check for _, check in photos.splits(table, 2, 1) if 2 in check.labels]
    assert len(checked) == 1


def test_folds_hold_each_train_photo_once_stratified_and_twins_together():
    n = 90
    labels = np.random.default_rng(0).permutation(np.arange(n) % 3)
    twins, group = np.flatnonzero(labels == 1)[:2], np.arange(n)
    group[twins] = group[twins[0]]
    ids = [f"{i}.jpg" for i in range(n)]
    frame = pd.DataFrame({"id": ids, "label": labels, "fold": TRAIN, "group": group})
    frame.loc[5, "fold"] = VALIDATION  # where a photo was before does not matter
    test = pd.DataFrame({"id": list("abcd"), "label": -1, "fold": TEST, "group": range(100, 104)})
    frame = pd.concat([frame, test], ignore_index=True)
    table = Table(frame, [0, 1, 2], "Id", "Category", list("abcd"), pd.DataFrame())

    def splits(folds: int, seed: int) -> list[tuple[list[int], list[int]]]:
        made = photos.splits(table, folds, seed)
        assert all((frame["label"][part.rows] == part.labels).all() for two in made for part in two)
        return [(learn.rows.tolist(), check.rows.tolist()) for learn, check in made]

    parts = splits(5, seed=1)
    assert sorted(row for _, check in parts for row in check) == list(range(n))
    for learn, check in parts:
        assert sorted(learn + check) == list(range(n)) and learn == sorted(learn)
        assert all(4 <= count <= 8 for count in np.bincount(labels[check]))
        assert np.isin(twins, check).sum() in (0, 2)
    assert splits(5, seed=1) == parts != splits(5, seed=2)
    numbers = photos.with_folds(table, 5, seed=1)["fold"]
    assert all((numbers[check] == k).all() for k, (_, check) in enumerate(parts, 1))
    assert (numbers[n:] == TEST).all()
    assert splits(1, seed=1) == [([*range(5), *range(6, n)], [5])]
    with pytest.raises(InputError, match="folds=50: 89 different .*; expected at least 100"):
        photos.splits(table, 50, seed=1)


@pytest.mark.skipif(not CARS10.is_dir(), reason="the photos of cars10 are not here")
def test_cars10(tmp_path):
    cfg = Config(data=str(CARS10), out=str(tmp_path))
    place = files.locate(cfg)
    table = photos.load(cfg, place)
    train, val = table.rows(TRAIN), table.rows(VALIDATION)
    assert len(train + val) == 2450 and len(table.rows(TEST)) == 1050
    assert table.classes == list(range(10))
    assert abs(len(val) / 2450 - cfg.val_fraction) < 0.01
    share = np.bincount(val.labels) / np.bincount((train + val).labels)
    assert share.min() > 0.14 and share.max() < 0.16
    twin = ("duplicate", "on the same side of the split")
    assert found(table) == [("train", ident, *twin) for ident in ("163047.jpg", "166188.jpg")]
    other = photos.load(cfg.replace(seed=2), place).rows(VALIDATION)
    assert len(other) == len(val) and 0.05 < np.isin(other.rows, val.rows).mean() < 0.3
    row = part(table, TRAIN).iloc[0]
    assert read_photo(row["path"]).shape == (row["height"], row["width"], 3)

"""Which files and labels the ids of CSV files mean."""

import os
from pathlib import Path

import pytest
from cases import Case, encoded, found, good, jpeg, part, picture, write

from carcls.config import Config
from carcls.data import files, photos
from carcls.data.photos import TEST
from carcls.errors import InputError


@pytest.fixture(autouse=True)
def no_kaggle(tmp_path, monkeypatch):
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "no-kaggle"))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("10", "9"), [9, 10]),  # by number, not by text
        (("1.0", "0.0"), [0, 1]),
        (("-1", "1"), [-1, 1]),
        (("Niva", "Ford Focus"), ["Ford Focus", "Niva"]),
        (("01", "02"), ["01", "02"]),  # a number would lose the zero
        (("NA", "1"), ["1", "NA"]),
    ],
)
def test_label_types(tmp_path, labels, classes):
    case = Case(tmp_path)
    rows = [(f"{100 * k + i}.jpg", label) for k, label in enumerate(labels, 1) for i in range(4)]
    case.csv("train.csv", rows)
    table = case.load()
    assert table.classes == classes
    assert [type(label) for label in table.classes] == [type(label) for label in classes]
    assert str(table.classes[table.frame["label"][0]]) == labels[0].removesuffix(".0")


def test_commas_at_the_end_of_lines_do_no_harm(tmp_path):
    case = Case(tmp_path)
    for csv in (tmp_path / "train.csv", tmp_path / "sample-submission.csv"):
        csv.write_text("".join(f"{line},,\n" for line in csv.read_text().splitlines()))
    table = case.load()
    assert len(table.frame) == 10 and table.audit.empty
    assert (table.id_column, table.label_column) == ("Id", "Category")


def test_many_classes_and_other_columns(tmp_path):
    train = {f"{k}_{i}.jpg": (f"class {k}", jpeg(10 * k + i)) for k in range(30) for i in range(2)}
    case = Case(tmp_path, train)
    rows = [("x", ident, label) for ident, (label, _) in train.items()]
    case.csv("train.csv", rows, "fold,file,make")
    case.csv("sample-submission.csv", [("900.jpg", "class 0")], "file,make")
    table = case.load()
    assert (table.id_column, table.label_column, len(table.classes)) == ("file", "make", 30)
    assert len(table.rows(photos.TRAIN)) == len(table.rows(photos.VALIDATION)) == 30


def test_ids_without_extension_and_class_folders(tmp_path):
    case = Case(tmp_path)
    for number in range(8):
        name = f"{100 * (1 + number // 4) + number % 4}.jpg"
        (tmp_path / "train" / str(number // 4)).mkdir(exist_ok=True)
        (tmp_path / "train" / name).rename(tmp_path / "train" / str(number // 4) / name)
    write(tmp_path / "train" / "1" / "100.jpg", jpeg(1))  # its name in another class's folder
    case.csv(
        "train.csv", [(100 * k + i, k - 1 if k + i < 5 else 0) for k in (1, 2) for i in range(4)]
    )
    case.csv("sample-submission.csv", [("900", 0), ("901", 0)])
    table = case.load()
    assert table.frame["id"].tolist()[:2] == ["100", "101"] and table.sample_ids == ["900", "901"]
    assert table.frame["path"][0].endswith("train/0/100.jpg")
    assert part(table, TEST)["path"][0].endswith("test_upload/900.jpg")
    assert found(table) == [("train", "203", "in another class's folder", "kept")]
    assert table.frame["label"][7] == 0  # the CSV counts


@pytest.mark.parametrize("form", ["0/1.jpg", "0/1.png", "train/0/1.jpg", "train/0/1"])
def test_ids_with_folders(tmp_path, form):
    ids = {}
    case = Case(tmp_path)
    for label in range(2):
        for number in range(3):  # the same names in each class's folder
            write(tmp_path / f"train/{label}/{number}.jpg", jpeg(10 * label + number))
            ids[form.replace("0/1", f"{label}/{number}")] = label
    case.csv("train.csv", ids.items())
    case.csv("sample-submission.csv", [("test_upload/900.jpg", 0)])
    table = case.load()
    assert table.audit.empty and table.sample_ids == ["test_upload/900.jpg"]
    assert table.frame["readable"].all()
    paths = [path.removeprefix(f"{tmp_path}/") for path in table.frame["path"][:6]]
    assert paths == [f"train/{label}/{number}.jpg" for label in range(2) for number in range(3)]


def test_folders_that_only_wrap_may_be_in_ids_and_others_may_not(tmp_path):
    case = Case(tmp_path)
    (tmp_path / "train").rename(tmp_path / "images")
    (tmp_path / "train").mkdir()
    (tmp_path / "images").rename(tmp_path / "train" / "images")
    good = [("train/images/100.jpg", 0), ("images/101.jpg", 0), ("102.jpg", 0)]
    good += [(f"{k}.jpg", 1) for k in range(200, 203)]
    bad = ["test_upload/200.jpg", "other/201.jpg", "../test_upload/900.jpg"]  # never joined
    case.csv("train.csv", [*good, *((ident, 1) for ident in bad)])
    table = case.load()
    assert table.frame["id"].tolist()[:6] == [ident for ident, _ in good]
    assert found(table) == [("train", ident, "missing file", "dropped") for ident in bad]


def test_folders_alone_give_the_labels(tmp_path):
    for label in ("b", "a"):
        for number in range(4):
            write(tmp_path / "train" / label / f"{number}.jpg", jpeg(ord(label) + 10 * number))
    write(tmp_path / "train" / "a" / "notes.txt", b"not a photo")
    write(tmp_path / "test" / "7.png", encoded(picture(7), "PNG"))
    write(tmp_path / "sample_submission.csv", b"Id,Category\n7,a\n")
    cfg = Config(data=str(tmp_path), out=str(tmp_path / "out"))
    table = photos.load(cfg, files.locate(cfg))
    assert table.classes == ["a", "b"] and table.frame["id"][0] == "a/0.jpg"
    assert table.frame["readable"].all() and table.audit.empty
    odd = write(tmp_path / "train" / "a" / os.fsdecode(b"\xff.jpg"), jpeg(9))
    with pytest.raises(InputError, match=r"train/a/\\udcff.jpg': this name is not text in UTF-8"):
        photos.load(cfg, files.locate(cfg))
    odd.unlink()
    for path in list((tmp_path / "train").rglob("*.jpg")):
        path.rename(tmp_path / "train" / f"{path.parent.name}{path.name}")
    with pytest.raises(InputError, match=r"(?s)missing train.csv, .* no folder per class.*a0\.jpg"):
        photos.load(cfg, files.locate(cfg))


def test_a_file_is_found_by_its_stem_unless_several_may_be_meant(tmp_path):
    case = Case(tmp_path, {"5.jpg": (0, None), "6": (1, None)})
    write(tmp_path / "train" / "5.png", encoded(picture(5), "PNG"))
    for suffix in ("jpg", "png"):
        write(tmp_path / "train" / f"6.{suffix}", jpeg(6))
    table = case.load()
    assert found(table) == [("train", "6", "several files", "dropped")]
    assert "5.jpg" in table.frame["id"].tolist()
    write(tmp_path / "test_upload" / "900.png", jpeg(6))
    case.csv("sample-submission.csv", [("900", 0)])
    with pytest.raises(InputError, match=r"sample-.*: id '900' may mean 900.jpg or 900.png"):
        case.load()


def test_ids_twice_no_label_missing_file(tmp_path):
    case = Case(tmp_path, good(300, 3, 1))
    rows = [(f"{100 * (k + 1) + i}.jpg", k) for k in (0, 1) for i in range(4)]
    rows += [("300.jpg", 1), ("300.jpg", 1), ("301.jpg", 1), ("301.jpg", 0)]
    rows += [("302.jpg", ""), ("gone.jpg", 0)]
    case.csv("train.csv", rows)
    test = ["901.jpg", "lost.jpg", "900.jpg"]
    case.csv("sample-submission.csv", [(ident, 0) for ident in test])
    table = case.load()
    assert sorted(found(table)) == [
        ("test", "lost.jpg", "missing file", "predicted from a grey photo"),
        ("train", "300.jpg", "id more than once", "first row kept"),
        ("train", "301.jpg", "id with several labels", "dropped"),
        ("train", "301.jpg", "id with several labels", "dropped"),
        ("train", "302.jpg", "no label", "dropped"),
        ("train", "gone.jpg", "missing file", "dropped"),
    ]
    assert table.frame["id"].tolist() == [ident for ident, _ in rows[:9]] + test
    looked = table.looked.set_index("id")["path"]  # S11: dropped ones can be shown
    assert set(looked.index) == {ident for ident, _ in rows} - {"gone.jpg"} | set(test)
    for name in ("300.jpg", "301.jpg", "302.jpg"):
        assert Path(looked[name]).name == name
    lost = part(table, TEST).iloc[1]
    assert (lost["path"], lost["readable"], lost["height"], lost["label"]) == ("", False, 0, -1)
    assert photos.summary(table)[-1].startswith("WARNING: 1 test photos cannot be read")


SAMPLE, TRAIN = "sample-submission.csv", "train.csv"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (SAMPLE, "Id,Category\n900.jpg,0\n900.jpg,0\n", "1 ids .* once, such as '900.jpg'"),
        (SAMPLE, "Id,Category\n900.jpg,0\n,0\n", "row 3 has no id"),
        (SAMPLE, "Id,Category\n", "no rows below the header Id,Category"),
        (SAMPLE, "Id\n900.jpg\n", "columns Id; expected two"),
        (SAMPLE, "Id,Category\nno,0\n", "(?s)no test photo can be used; .* 1 missing .*900.jpg"),
        (SAMPLE, "Id,Id\n900.jpg,0\n", "two columns are called Id"),
        (TRAIN, "", "train.csv: not a readable CSV file"),
        (TRAIN, "Id,Category\n", "no rows below the header"),
        (TRAIN, "Id,Category\n1,2,3,4\n1,2\n1,2,3,4,5,6\n", "train.csv: not a readable CSV file"),
        (TRAIN, b"Id,Category\n\xff\xfe,0\n", "train.csv: not a readable CSV file"),
        (TRAIN, "Id,Category\n1.jpg,0,9\n2.jpg,1,9\n", r"CSV file \(rows have more fields"),
        (TRAIN, "Id,Label\n100.jpg,0\n", "Id, Label; expected Id and Category, as in sample-sub"),
        (TRAIN, "Id,Category\n100.jpg,0\n101.jpg,0\n", "every usable photo is of class 0"),
        (TRAIN, "Id,Category\n100.jpg,0\n200.jpg,1\n", "no class has two different photos"),
        (TRAIN, "Id,Category\n100.jpg,\n101.jpg,\n", "no train photo can be used; .* 2 no label"),
    ],
)
def test_csv_files_that_cannot_be_used(tmp_path, name, content, message):
    case = Case(tmp_path)
    write(tmp_path / name, content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        case.load()

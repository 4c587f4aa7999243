"""Which files and labels the ids of CSV files mean."""

import os
import shutil
from pathlib import Path
from unicodedata import normalize

import pytest
from cases import Case, encoded, found, good, jpeg, part, picture, write

from carcls.config import Config
from carcls.data import files, photos
from carcls.data.photos import TEST
from carcls.errors import InputError


@pytest.fixture(autouse=True)
def no_kaggle(tmp_path, monkeypatch):
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "no-kaggle"))


def of_ids(table):
    """The table's notes but that 0 and 1 are taken for labels."""
    return [note for note in table.notes if "labels are submitted" not in note]


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
    assert table.frame["readable"].all()
    assert found(table) == [("train", "", "files that are no photos", "left out")]
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
    assert photos.summary(table)[-1].startswith("WARNING: 1 test photo has no file")


SAMPLE, TRAIN = "sample-submission.csv", "train.csv"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (SAMPLE, "Id,Category\n900.jpg,0\n900.jpg,0\n", "1 id .* once, such as '900.jpg'"),
        (SAMPLE, "Id,Category\n900.jpg,0\n,0\n", "row 3 has no id"),
        (SAMPLE, "Id,Category\n", "no rows below the header Id,Category"),
        (SAMPLE, "Id\n900.jpg\n", "column Id alone; expected an id and a label"),
        (SAMPLE, "Id,Category\nno,0\n", "1 of 1 ids match no file .*'no', and .* '900.jpg'"),
        (SAMPLE, "Id,Id\n900.jpg,0\n", "two columns are called Id"),
        (TRAIN, "", "train.csv: not a readable CSV file"),
        (TRAIN, "Id,Category\n", "no rows below the header"),
        (TRAIN, "Id,Category\n1,2,3,4\n1,2\n1,2,3,4,5,6\n", "train.csv: not a readable CSV file"),
        (TRAIN, b"Id,Category\n\xff\xfe,0\n", "train.csv: not a readable CSV file"),
        (TRAIN, "Id,Category\n1.jpg,0,9\n2.jpg,1,9\n", r"CSV file \(rows have more fields"),
        (TRAIN, "Id,x,y\n100.jpg,0,3\n", "columns x, y beside the ids, .* expected Category"),
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


# --- Ids that are not quite the files' names ------------------------------------------------------

NAMED = "{:05}.jpg"  # 00100.jpg


def renamed(folder: Path, ident: str, name: str) -> Case:
    """The usual case, its ids written in one way and its files named in another, as of a number."""
    case = Case(folder)
    for path in (*(folder / "train").iterdir(), *(folder / "test_upload").iterdir()):
        path.rename(path.with_name(name.format(int(path.stem))))
    train = [(100 * k + i, k - 1) for k in (1, 2) for i in range(4)]
    case.csv("train.csv", [(ident.format(n), label) for n, label in train])
    case.csv("sample-submission.csv", [(ident.format(n), 0) for n in (900, 901)])
    return case


@pytest.mark.parametrize(
    ("ident", "name", "told"),
    [
        (r"train\{}.jpg", "{}.jpg", ("/ for",)),
        (r".\train\.\{}.jpg", "{}.jpg", ("/ for",)),
        ("train//{}.jpg", "{}.jpg", ("/ for",)),
        ("{}.jpg", r"train\{}.jpg", ("/ for",)),  # unpacked by a tool that knows no folders
        ("/data/cars 1/{}.jpg", "{}.jpg", ("without 'data/cars 1/'",)),
        ("../input/images/{}.jpg", "{}.jpg", ("without '../input/images/'",)),
        ("car_{}.jpg", "{}.jpg", ("without 'car_'",)),
        ("Car{}", "{}.jpg", ("without 'Car'",)),
        ("{}", "car_{}.jpg", ("with 'car_'",)),
        (r"C:\cars\{}.jpg", "{}.jpg", ("/ for", "without 'C:/cars/'")),
        ("set{0}/{0}.jpg", "{}.jpg", ("by name alone",)),
        ("https://cars.org/a/{}.jpg?size=1#top", "{}.jpg", ("addresses", "without 'cars.org/a/'")),
        ("gs://cars/o/old%2F{}%20a.jpg?alt=media", "{} a.jpg", ("addresses",)),
        ("a%20{}.jpg", "a {}.jpg", ("addresses",)),
        ("a {}.jpg", "a%20{}.jpg", ("addresses",)),
        ("IMG_{}.JPG", "img_{}.jpg", ("capital",)),
        (r"Old\IMG_{}.JPG", "img {}.jpg", ("capital", "without 'old/'")),
        ("Ｉmg {}.jpg", "img\u00a0{}.jpg", ("capital",)),
        ("{}", NAMED, ("numbers",)),
        ("{}.0", NAMED, ("numbers",)),
        ("{}.jpg", NAMED, ("numbers",)),
        ("img_{}.jpg", "img_{:05}.jpg", ("numbers",)),
        ("'{:05}", NAMED, ("in front",)),
        (" {}.jpg  ", "{}.jpg", ()),
        ("{}.jpg.jpg", "{}.jpg", ()),
        (normalize("NFC", "й ü {}.jpg"), normalize("NFD", "й ü {}.jpg"), ()),
        (normalize("NFD", "й ü {}"), normalize("NFC", "й ü {}.jpg"), ()),
    ],
)
def test_a_column_of_ids_is_read_in_one_way_and_submitted_as_written(tmp_path, ident, name, told):
    table = renamed(tmp_path, ident, name).load()
    assert table.audit.empty and table.frame["readable"].all()
    assert table.sample_ids == [ident.format(n) for n in (900, 901)]
    numbers = [100, 101, 102, 103, 200, 201, 202, 203, 900, 901]
    assert [Path(path).name for path in table.frame["path"]] == [name.format(n) for n in numbers]
    notes = of_ids(table)
    assert len(notes) == (2 if told else 0)  # train.csv and the sample
    assert all(word in note for note in notes for word in told)


@pytest.mark.parametrize("few", [1, 4, 7])
def test_some_ids_may_have_a_front_that_others_have_not(tmp_path, few):
    case, front = Case(tmp_path), "https://cars.org/imgs/"
    ids = [f"{100 * k + i}.jpg" for i in range(4) for k in (1, 2)]
    case.csv("train.csv", [(front * (n < few) + name, n % 2) for n, name in enumerate(ids)])
    case.csv("sample-submission.csv", [("imgs/900.jpg", 0), ("901.jpg", 0)])
    table = case.load()
    assert table.audit.empty and table.frame["readable"].all()
    assert len(of_ids(table)) == 2 and "WARNING" not in str(table.notes)


def test_an_id_in_a_folder_that_is_there_is_not_looked_for_elsewhere(tmp_path):
    train = {f"{folder}/{n}.jpg": (n % 2, jpeg(n)) for n, folder in enumerate("aabb")}
    case = Case(tmp_path, {**train, "b/9.jpg": (0, None)})
    write(tmp_path / "train" / "a" / "9.jpg", jpeg(9))  # not in the CSV
    assert found(case.load()) == [("train", "b/9.jpg", "missing file", "dropped")]


def test_other_pictures_beside_the_photos_do_not_stand_for_lost_ones(tmp_path):
    case = Case(tmp_path, {"104.jpg": (0, None)})
    for path in list((tmp_path / "train").iterdir()):
        write(path.with_name(f"mask_{path.name}"), jpeg(int(path.stem) + 50))
    write(tmp_path / "train" / "mask_104.jpg", jpeg(3))
    assert found(case.load()) == [("train", "104.jpg", "missing file", "dropped")]


def test_two_ids_of_one_file_are_said(tmp_path):
    case = Case(tmp_path)
    case.csv("sample-submission.csv", [(name, 0) for name in ("900.jpg", "./900.jpg", "901.jpg")])
    lines = [line for line in photos.summary(case.load()) if line.startswith("WARNING")]
    assert "another id's" in lines[0] and "'./900.jpg'" in lines[0] and len(lines) == 2


def test_an_id_is_not_read_in_a_loose_way_that_leaves_a_doubt(tmp_path):
    odd = {"a.jpg": (0, jpeg(1)), "A.jpg": (0, None), "B.JPG": (0, None), "c.jpg": (1, None)}
    case = Case(tmp_path, odd)
    for seed, name in enumerate(("b.jpg", "x/c.jpg", "y/c.jpg"), 2):
        write(tmp_path / "train" / name, jpeg(seed))
    table = case.load()
    assert found(table) == [
        ("train", "A.jpg", "missing file", "dropped"),  # that file is a.jpg's
        ("train", "c.jpg", "several files", "dropped"),
    ]
    assert "B.JPG" in set(table.frame["id"]) and "b.jpg" in table.notes[0]


def test_files_beside_photos_are_no_doubt(tmp_path):
    case = renamed(tmp_path, "{}", "{}.jpg")
    write(tmp_path / "train" / "100.xml", b"<box/>")
    write(tmp_path / "test_upload" / "900.txt", b"")
    table = case.load()
    assert table.audit.empty and all(path.endswith(".jpg") for path in table.frame["path"])


def test_numbers_that_lost_their_zeros_are_not_those_of_several_files(tmp_path):
    case = renamed(tmp_path, "{}", NAMED)
    write(tmp_path / "train" / "0100.jpg", jpeg(5))
    assert found(case.load()) == [("train", "100", "several files", "dropped")]


def test_ids_that_match_nothing_are_refused_with_one_beside_a_file(tmp_path):
    case = renamed(tmp_path, "{}x", "{}.jpg")
    with pytest.raises(InputError, match=r"sample-.*: 2 of 2 ids .*'900x', .*'90[01].jpg'"):
        case.load()
    case.csv("sample-submission.csv", [(f"{n}.jpg", 0) for n in (900, 901)])
    with pytest.raises(InputError, match=r"train.csv: 8 of 8 ids .*'100x', .*'\d+.jpg'"):
        case.load()


def test_a_sample_with_swapped_columns_is_refused_with_the_reason(tmp_path):
    case = Case(tmp_path)
    for labels in ((0, 0), (0, 1)):  # repeated, or not a file's
        rows = zip(labels, ("900.jpg", "901.jpg"), strict=True)
        case.csv("sample-submission.csv", rows, "Category,Id")
        with pytest.raises(InputError, match="Category is taken for ids, .* Id looks like them"):
            case.load()
    case.csv("sample-submission.csv", [("900.jpg", 0), ("901.jpg", 1)])
    case.csv("train.csv", [(0, "100"), (1, "200"), (0, "101"), (1, "201")])
    with pytest.raises(InputError, match="train.csv: .*Id is taken for ids, .* Category looks"):
        case.load()


def test_what_few_ids_would_have_in_front_is_no_rule(tmp_path):
    case = renamed(tmp_path, "old/{}.jpg", "{}.jpg")
    for path in sorted((tmp_path / "train").iterdir())[1:]:
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(InputError, match="train.csv: 8 of 8 ids match no file"):
        case.load()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_the_same_names_in_class_folders_are_told_apart_by_label_and_folder(tmp_path, form):
    case, rows = Case(tmp_path), []
    shutil.rmtree(tmp_path / "train")
    for k, label in enumerate(("Škoda", "Лада й", "bmw")):
        for n in range(4):
            folder = tmp_path / "train" / normalize(form, label) / ("2019" * (n > 1))
            write(folder / f"{n}.jpg", jpeg(10 * k + n))
            rows.append((f"{n}.jpg", normalize("NFC", label).replace("bmw", "BMW")))
    case.csv("train.csv", rows)
    table = case.load()
    assert table.audit.empty and table.frame["id"].is_unique
    labelled = table.frame[table.frame["label"] >= 0]
    assert len(labelled) == 12 and "12 ids come in several classes" in table.notes[0]
    for path, label in zip(labelled["path"], labelled["label"], strict=True):
        assert normalize("NFC", path).lower().count(f"/{table.classes[label]}/".lower()) == 1


def test_labels_that_contradict_most_folders_are_a_warning(tmp_path):
    case, rows = Case(tmp_path), []
    shutil.rmtree(tmp_path / "train")
    for n in range(8):
        write(tmp_path / "train" / f"{n % 2}" / f"{n}.jpg", jpeg(n))
        rows.append((f"{n}.jpg", n % 2 if n < 3 else 1 - n % 2))
    case.csv("train.csv", rows)
    (warning,) = (line for line in photos.summary(case.load()) if line.startswith("WARNING"))
    assert "5 of 8 photos" in warning and "3.jpg (label 0, folder 1)" in warning
    case.csv("train.csv", [(f"{n}.jpg", n % 2 if n < 5 else 1 - n % 2) for n in range(8)])
    assert not any(line.startswith("WARNING") for line in photos.summary(case.load()))


def test_folders_of_few_labels_only_part_the_photos(tmp_path):
    case = Case(tmp_path)
    shutil.rmtree(tmp_path / "train")
    for n in range(24):
        write(tmp_path / "train" / f"{n % 3}" / f"{n}.jpg", jpeg(n))
    case.csv("train.csv", [(f"{n}.jpg", n % 8) for n in range(24)])
    assert case.load().audit.empty


CASES = Path(__file__).parents[2] / "shared" / "cases"
AS_THEY_ARE = "absolute_ids backslash_ids dot_ids name_case nfd_names nfd_one same_names zeros_lost"
PROBABILITIES = {
    "binary_prob": ("positive", (1,)),
    "one_hot": ("classes", (0, 1, 2)),
    "prob_columns": ("classes", (0, 1, 2)),
}
REFUSED = {
    "sample_swapped": "Id looks like them",
    "lfs_train": r"found: (?s:.*)\n  24 unreadable: ",
}


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside the repository")
@pytest.mark.parametrize("name", [*AS_THEY_ARE.split(), *PROBABILITIES, *REFUSED])
def test_shared_cases(tmp_path, name):
    cfg = Config(data=str(CASES / name), out=str(tmp_path))
    if name in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name]):
            photos.load(cfg, files.locate(cfg))
        return
    table = photos.load(cfg, files.locate(cfg))
    assert table.audit.empty and table.frame["readable"].all()
    rows = (CASES / name / "sample-submission.csv").read_text().splitlines()[1:]
    assert table.sample_ids == [row.partition(",")[0] for row in rows]
    assert (table.asks.kind, table.asks.classes) == PROBABILITIES.get(name, ("labels", ()))


# --- Class folders without train.csv --------------------------------------------------------------


def folders(root: Path, files: dict[str, bytes]) -> Case:
    case = Case(root)
    shutil.rmtree(root / "train")
    (root / "train.csv").unlink()
    usual = {f"{label}/{n}.jpg": jpeg(10 * k + n) for k, label in enumerate("ab") for n in range(3)}
    for name, content in (usual | files).items():
        write(root / "train" / name, content)
    case.csv("sample-submission.csv", [("900.jpg", "a"), ("901.jpg", "b")])
    return case


def test_every_file_in_a_class_folder_is_looked_at_and_every_folder_accounted_for(tmp_path):
    case = folders(
        tmp_path,
        {
            **{f"none/{n}": jpeg(50 + n) for n in range(2)},  # no extension
            **{f"heic/{n}.heic": jpeg(60 + n) for n in range(2)},
            **{f"raw/{n}.CR3": bytes([n]) * 99 for n in range(2)},
            **{f"text/{n}.txt": b"no photo" for n in range(3)},
            **{
                "a/Thumbs.db": b"",
                "a/8.bak": jpeg(71),
                "b/about.json": b"{}",
                "c/.DS_Store": b"",
                "e.jpg": jpeg(70),
            },
        },
    )
    (tmp_path / "train" / "empty" / "deep").mkdir(parents=True)
    table = case.load()
    assert table.classes == ["a", "b", "heic", "none"]
    assert sorted(found(table)) == [
        *[("train", "", "class without photos", "left out")] * 4,  # c, empty, raw, text
        ("train", "", "files that are no photos", "left out"),
        ("train", "e.jpg", "in no class's folder", "left out"),
        ("train", "raw/0.CR3", "unreadable", "dropped"),
        ("train", "raw/1.CR3", "unreadable", "dropped"),
    ]
    (counts,) = table.audit.query("finding == 'files that are no photos'")["detail"]
    assert "3 .txt" in counts and "1 .db" in counts and "1 .json" in counts
    *_, warning = (line for line in photos.summary(table) if line.startswith("WARNING"))
    assert warning.startswith("WARNING: 4 classes without a usable photo")
    assert all(f"class {name}" in warning for name in ("c", "empty", "raw", "text"))


def test_folders_named_in_decomposed_unicode_are_submitted_as_the_sample_writes_them(tmp_path):
    names = {normalize("NFD", label): f"{n}" for n, label in enumerate(("Škoda", "Лада й"))}
    files = {
        f"{label}/{n}{k}.jpg": jpeg(70 + 5 * int(n) + k)
        for label, n in names.items()
        for k in (1, 2)
    }
    case = folders(tmp_path, files)
    case.csv("sample-submission.csv", [("900.jpg", normalize("NFD", "Škoda"))])
    assert set(case.load().classes) == {
        "a",
        "b",
        normalize("NFD", "Škoda"),
        normalize("NFC", "Лада й"),
    }

"""The competition's files in every layout, and what people are told where something is missing."""

import gzip
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from cases import ODD, Case, encoded, jpeg, picture, write
from PIL import Image

from carcls import disk
from carcls.config import Config
from carcls.data import files, kinds, photos, tables
from carcls.errors import InputError

CASES = Path(__file__).parents[2] / "shared" / "cases"
SLUG = "sf-dl-car-classification"
TRAIN = ["0/1.jpg", "1/2.jpg"]


@pytest.fixture(autouse=True)
def kaggle(tmp_path, monkeypatch) -> Path:
    """Where Kaggle's folders would be; without an input there, this is a desk."""
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "kaggle"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "kaggle"


def competition(
    folder: Path, zipped=True, test="test_upload", sample="sample-submission.csv"
) -> Path:
    """Two train photos in class folders, one test photo, laid out as Kaggle does."""
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("Id,Category\n1.jpg,0\n2.jpg,1\n")
    (folder / sample).write_text("Id,Category\n3.jpg,0\n")
    for path in (folder / "train/0/1.jpg", folder / "train/1/2.jpg", folder / test / "3.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a photo")
    if zipped:
        for name, top in (("train.zip", "train"), ("test.zip", test)):
            with zipfile.ZipFile(folder / name, "w") as archive:
                for file in sorted((folder / top).rglob("*.jpg")):
                    archive.write(file, file.relative_to(folder))
            shutil.rmtree(folder / top)
    return folder


def names(folder: Path) -> list[str]:
    return [f"{at}/{name}".lstrip("/") for at, name in disk.photo_files(folder)]


@pytest.mark.parametrize(
    ("zipped", "test", "sample"),
    [(True, "test", files.SAMPLE_NAMES[0]), (False, "test_upload", files.SAMPLE_NAMES[1])],
)
def test_layouts_on_a_desk(tmp_path, zipped, test, sample):
    data = competition(tmp_path / "data", zipped, test, sample)
    place = files.locate(Config(data=str(data), out=str(tmp_path / "out")))
    assert names(place.train_photos) == TRAIN
    assert names(place.test_photos) == ["3.jpg"]
    assert (place.root, place.sample_csv) == (data, data / sample)
    assert place.train_csv == data / "train.csv"
    assert place.out == tmp_path / "out" and place.scratch.is_relative_to(place.out)
    assert place.answers is None and not place.on_kaggle
    assert not list(data.rglob(".*"))  # the data folder is only read
    (data / "train.csv").unlink()
    assert files.locate(Config(data=str(data))).train_csv is None


def test_data_one_level_down_answers_and_default_out(tmp_path):
    data = competition(tmp_path / "download" / "cars")
    (data / "answers").mkdir()
    (data / "answers" / "answers.csv").write_text("Id,Category\n3.jpg,1\n")
    assert files.locate(Config(data=str(data))).answers is None  # somebody's own file
    (data / "sample.json").write_text("{}")
    place = files.locate(Config(data=str(tmp_path / "download")))
    assert place.root == data and place.answers == data / "answers" / "answers.csv"
    assert place.out.resolve() == tmp_path / "out"
    competition(tmp_path / "download" / "planes")
    with pytest.raises(InputError, match=r"(?s)several competitions.*cars.*planes"):
        files.locate(Config(data=str(tmp_path / "download")))


@pytest.mark.parametrize(
    "layout", ["input/competitions/{}", "input/{}", "input/some/new/place/{}", "input/copy"]
)
def test_layouts_on_kaggle(kaggle, layout):
    root = competition(kaggle / layout.format(SLUG))
    place = files.locate(Config())
    assert place.root == root and place.on_kaggle
    assert place.out == kaggle / "working"  # which is kept as output, so scratch is elsewhere
    assert place.scratch.is_relative_to(kaggle / "temp")
    assert names(place.test_photos) == ["3.jpg"]


def test_a_competition_on_kaggle_whose_csv_files_are_zipped(kaggle):
    root = competition(kaggle / "input" / "another" / SLUG)
    for name in ("train.csv", "sample-submission.csv"):
        text = (root / name).read_text()
        (root / name).unlink()
        write(root / f"{name}.zip", zipped((name, text)))
    place = files.locate(Config())
    assert (place.root, place.train_csv) == (root, root / "train.csv.zip")


def test_scratch_on_kaggle_falls_back_to_the_temporary_folder(tmp_path, kaggle, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    competition(kaggle / "input" / SLUG)
    (kaggle / "temp").write_text("a file where the folder should be")
    assert files.locate(Config()).scratch == tmp_path / "tmp" / "carcls"


def test_kaggle_without_the_competition(kaggle):
    (kaggle / "input" / "models" / "keras").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"(?s){SLUG} is not there; attach it.*keras/"):
        files.locate(Config())
    for slug in ("first", "second"):
        competition(kaggle / "input" / slug)
    with pytest.raises(InputError, match=r"(?s)several competitions.*first.*second"):
        files.locate(Config())
    assert files.locate(Config(competition="second")).root.name == "second"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "set data=FOLDER"),
        ("nowhere", "data=nowhere: does not exist"),
        ("file", "data=file: is a file"),
        ("~nobody-here/x", "no home folder of ~nobody-here"),
    ],
)
def test_no_data(tmp_path, data, message):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        files.locate(Config(data=data))


@pytest.mark.parametrize("lost", ["train.zip", "test.zip"])
def test_what_is_missing_is_named_with_a_tree(tmp_path, lost):
    data = competition(tmp_path / "data")
    (data / lost).unlink()
    with pytest.raises(InputError, match=f"(?s)missing [^;]*{lost}.*There is:.*train.csv"):
        files.check(Config(data=str(data)))
    for name in ("train.csv", "sample-submission.csv"):
        (data / name).unlink()
    with pytest.raises(
        InputError, match=r"missing [^;]*\.zip.*; missing sample-sub\S* or train.csv"
    ):
        files.check(Config(data=str(data)))


def test_without_a_sample_submission_photos_to_learn_from_and_to_predict_are_enough(
    tmp_path, kaggle
):
    data = competition(tmp_path / "downloads" / "cars")
    (data / "sample-submission.csv").unlink()
    for top in (data, data.parent):
        place = files.locate(Config(data=str(top)))
        assert (place.root, place.sample_csv, place.notes) == (data, None, ())
    (data / "my_submission.csv").write_text("Id,Category\n3.jpg,1\n")  # may be it
    (note,) = files.locate(Config(data=str(data))).notes
    assert "WARNING" in note and "my_submission.csv" in note
    whole = competition(tmp_path / "downloads" / "whole")
    assert files.check(Config(data=str(data.parent))) == whole  # one with a sample comes first
    shutil.move(data, kaggle / "input" / "somebodys-photos")
    with pytest.raises(InputError, match="is not there; attach it"):
        files.check(Config())  # any data set may have photos of that name
    shutil.move(kaggle / "input" / "somebodys-photos", kaggle / "input" / "deep" / SLUG)
    assert files.check(Config()) == kaggle / "input" / "deep" / SLUG
    competition(kaggle / "input" / "another")  # with a sample, but not the one that is named
    assert files.check(Config()) == kaggle / "input" / "deep" / SLUG


def test_a_run_folder_that_cannot_be_one(tmp_path):
    data = competition(tmp_path / "data", zipped=False)
    (tmp_path / "taken").touch()
    for out, message in (
        (tmp_path / "taken", "taken: cannot be written"),
        (data / "train" / "out", "would be taken for photos"),
        (f"{data}/../{data.name}", "is the data folder"),
    ):
        with pytest.raises(InputError, match=message):
            files.locate(Config(data=str(data), out=str(out)))
    assert not (data / "train" / "out").exists()
    assert files.locate(Config(data=str(data), out=str(data / "out"))).out == data / "out"


def test_folders_that_are_links(tmp_path):
    data = competition(tmp_path / "data", zipped=False)
    (data / "train" / "1").rename(tmp_path / "elsewhere")
    (data / "train" / "1").symlink_to(tmp_path / "elsewhere")
    for n, target in enumerate(("train", ".", "train/0", "../elsewhere")):
        (data / "train" / "0" / f"link{n}").symlink_to((data / target).resolve())
    (tmp_path / "elsewhere" / "back").symlink_to(data / "train")
    place = files.locate(Config(data=str(data), out=str(tmp_path / "out")))
    assert names(place.train_photos) == TRAIN  # each once
    assert names(Path("data/train")) == TRAIN


def test_what_a_file_is_by_its_first_bytes():
    tar, pdf, tables = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("train/1.jpg"))
    Image.fromarray(picture(1)).save(pdf, "PDF")
    with zipfile.ZipFile(tables, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    for kind, head in {
        "empty": b"",
        "nothing but zero bytes": bytes(600),
        "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "HTML page": "\ufeff\n<!DOCTYPE html>\n<html>".encode(),
        "XML": b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        "JSON": b'{"code":404,"message":"Not found"}',
        "SVG": b'<?xml version="1.0"?><svg width="1">',
        "zip file": b"PK\x05\x06" + bytes(18),
        "gzip": gzip.compress(b"Id,Category\n"),
        "tar": tar.getvalue(),
        "PDF": pdf.getvalue(),
        "7z": b"7z\xbc\xaf\x27\x1c\0\4",
        "rar": b"Rar!\x1a\x07\x01\0",
        "AVIF": b"\0\0\0\x20ftypavif",
        "HEIC": b"\0\0\0\x20ftypheic",
        "spreadsheet or document": tables.getvalue(),
    }.items():
        assert kinds.content(head) == kind
    assert kinds.content("<html>".encode("utf-16")) == "HTML page"
    usual = [b"img_wide,label\n", b"x" * 255 + b"mustard \n", "PAR1é,label\n".encode()]
    usual += [b"cardftypheic,x\n", "ж".encode() * 99 + b"\xd0", b"BMWxmoov,\xff\n"]
    usual += [b"Id,Category\n", "Id;Category\n".encode("utf-16"), b"<jpg>,1\n", b"[1],2\n"]
    usual += [encoded(picture(1), kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")]
    usual += [data for name, (data, _, _) in ODD.items() if name not in ("text.jpg", "empty.jpg")]
    assert {kinds.content(head) for head in usual} == {""}


# --- CSV files -----------------------------------------------------------------------------------

TEXT = "Id,Category\nмашина.jpg,Škoda\n2.jpg,7\n"
ROWS = [["машина.jpg", "Škoda"], ["2.jpg", "7"]]


def zipped(*files: tuple[str, str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files:
            archive.writestr(name, text)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        "\ufeff".encode("utf-16-be") + TEXT.encode("utf-16-be"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace(",", ";").encode(),
        TEXT.replace(",", "\t").encode("utf-16"),
        ("sep=;\r\n" + TEXT.replace(",", ";")).encode(),
        zipped(("train.csv", TEXT), ("__MACOSX/._train.csv", "x")),
        b"Id,Category\n" + '"машина.jpg","Škoda"\n2.jpg,7\n'.encode(),
    ],
)
def test_csv_files_that_can_be_read_without_doubt(tmp_path, data):
    frame = tables.read_csv(write(tmp_path / "train.csv", data))
    assert list(frame.columns) == ["Id", "Category"] and frame.to_numpy().tolist() == ROWS


def test_only_the_header_says_the_separator(tmp_path):
    path = write(tmp_path / "a.csv", b"Id,Name\n1;2.jpg,a;b\n")
    assert tables.read_csv(path).to_numpy().tolist() == [["1;2.jpg", "a;b"]]
    path = write(tmp_path / "b.csv", b"Id;Name\n1.jpg;VW, Passat\n")
    assert tables.read_csv(path).to_numpy().tolist() == [["1.jpg", "VW, Passat"]]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (TEXT.encode("cp1251", "replace"), "UTF-8 in line 2"),
        (TEXT.encode("utf-16-le"), "zero bytes"),
        (TEXT.encode("utf-16")[:-1], "UTF-16"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS .*'version http"),
        (b"<!doctype html><html><title>Sign in</title>", "HTML page .*Sign in"),
        (b'{"code":403,"message":"You must accept"}', "JSON .*403"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "XML .*AccessDenied"),
        (b"", "empty"),
        (bytes(900), "zero bytes"),
        (gzip.compress(TEXT.encode(), mtime=0), "gzip"),
        (b"PK\3\4" + bytes(99), "zip file"),
        (zipped(("[Content_Types].xml", ""), ("xl/workbook.xml", "")), "spreadsheet"),
        (zipped(("a.csv", TEXT), ("b.csv", TEXT)), "2 CSV files"),
        (zipped(("train.csv", "<html>")), "HTML page"),
    ],
)
def test_what_is_no_csv_file_is_called_what_it_is(tmp_path, data, why):
    path = write(tmp_path / "train.csv", data)
    with pytest.raises(InputError, match=f"(?s)train.csv: not a readable CSV file .*{why}"):
        tables.read_csv(path)


def test_neither_a_fifo_nor_an_endless_file_is_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a.csv")
    monkeypatch.setattr(tables, "_MOST", 20)
    write(tmp_path / "b.csv", TEXT.encode())
    write(tmp_path / "c.csv", zipped(("c.csv", TEXT)))
    for name, why in (("a.csv", "FIFO"), ("b.csv", "MB"), ("c.csv", "MB"), ("", "folder")):
        with pytest.raises(InputError, match=why):
            tables.read_csv(tmp_path / name)


# --- Names that people write in several ways -----------------------------------------------------


@pytest.mark.parametrize(
    ("train", "sample", "photos_of"),
    [
        ("Train.csv", "SampleSubmission.csv", "Train"),
        ("TRAIN.CSV", "sampleSubmission.csv", "train_images"),
        ("train.csv.zip", "sample_submission.csv.zip", "TRAIN.ZIP"),
        ("train.csv/train.csv", "Sample Submission.csv", "train.zip/train"),
    ],
)
def test_usual_names_of_the_files(tmp_path, train, sample, photos_of):
    data = competition(tmp_path / "data", zipped=photos_of.endswith("ZIP"))
    for old, new in (("train.csv", train), ("sample-submission.csv", sample)):
        text = (data / old).read_text()
        (data / old).unlink()
        name = new.rpartition("/")[2].removesuffix(".zip")
        write(data / new, zipped((name, text)) if new.endswith("zip") else text.encode())
    (data / ("train.zip" if photos_of.endswith("ZIP") else "train")).rename(tmp_path / "aside")
    (data / photos_of).parent.mkdir(exist_ok=True)
    (tmp_path / "aside").rename(data / photos_of)
    place = files.locate(Config(data=str(data)))
    assert (place.train_csv, place.sample_csv) == (data / train, data / sample)
    assert names(place.train_photos) == TRAIN and place.notes == ()
    assert tables.read_csv(place.train_csv)["Id"].tolist() == ["1.jpg", "2.jpg"]


def test_names_in_doubt_and_what_is_no_file(tmp_path):
    data = competition(tmp_path / "data")
    cfg = Config(data=str(data))
    shutil.copy(data / "train.csv", data / "Train.csv")
    assert files.locate(cfg).train_csv == data / "train.csv"  # the same rows
    (data / "Train.csv").write_text("Id,Category\n1.jpg,1\n2.jpg,1\n")
    with pytest.raises(InputError, match=r"train.csv, Train.csv differ"):
        files.check(cfg)
    (data / "Train.csv").unlink()
    for name, make, what in (
        ("train.csv", os.mkfifo, "train.csv: a FIFO"),
        ("train.csv", os.mkdir, "train.csv: a folder"),
        ("train.csv", lambda path: path.symlink_to("gone"), "train.csv: a link to nothing"),
        ("test.zip", os.mkfifo, "test.zip: a FIFO"),
    ):
        odd = tmp_path / f"odd{len(list(tmp_path.iterdir()))}"
        shutil.copytree(data, odd)
        (odd / name).unlink()
        make(odd / name)
        with pytest.raises(InputError, match=what):
            files.check(Config(data=str(odd)))


# --- Which photos are taken ----------------------------------------------------------------------


def taken(data: Path) -> tuple[list[str], list[str], tuple[str, ...]]:
    place = files.locate(Config(data=str(data)))
    return names(place.train_photos), names(place.test_photos), place.notes


def test_of_a_folder_and_its_zip_file_the_one_with_all_ids_is_taken(tmp_path):
    data = competition(tmp_path / "data")
    write(data / "train" / "0" / "1.jpg", b"a photo")
    write(data / "train" / "0" / "of somebody else.jpg", b"a photo")
    found, _, (note,) = taken(data)
    assert found == TRAIN and "train.zip: has 2 of 2 photos and is used, not train (1)" in note
    (data / "train.zip").write_bytes(b"cut off")
    found, _, (broken, *_) = taken(data)
    assert found == ["1.jpg", "of somebody else.jpg"] and "not used" in broken
    write(data / "train" / "1" / "2.jpg", b"a photo")
    assert taken(data)[2] == ()  # a whole folder: nobody looks into the zip file
    write(data / "train" / "1" / "2.jpg", b"")
    assert "1 of 2 photos" in taken(data)[2][-1]  # an empty file is no photo
    shutil.rmtree(data / "train")
    write(data / "train" / "Thumbs.db", b"")
    with pytest.raises(InputError, match="not a whole zip file"):
        taken(data)


def test_of_folders_of_test_photos_the_one_with_all_ids_is_taken(tmp_path):
    data = competition(tmp_path / "data", zipped=False, test="test")
    write(data / "test_upload" / "4.jpg", b"a photo")
    _, found, (note,) = taken(data)
    assert found == ["3.jpg"] and "test: has 1 of 1 photos and is used, not test_upload" in note
    write(data / "test_upload" / "3.jpg", b"a photo")
    _, found, (note,) = taken(data)
    assert found == ["3.jpg", "4.jpg"] and "not test (not counted)" in note


def test_without_train_csv_the_source_with_most_photos_is_taken(tmp_path):
    data = competition(tmp_path / "data")
    (data / "train.csv").unlink()
    write(data / "train" / "0" / "1.jpg", b"a photo")
    found, _, (note,) = taken(data)
    assert found == TRAIN and "train.zip: has 2 photos and is used, not train (1)" in note


@pytest.mark.parametrize("zipped", [True, False])
def test_photos_may_have_an_unusual_extension_or_none(tmp_path, zipped):
    data = competition(tmp_path / "data", zipped=False)
    (data / "train" / "0" / "1.jpg").rename(data / "train" / "0" / "1.avif")
    (data / "train" / "1" / "2.jpg").rename(data / "train" / "1" / "2")
    if zipped:
        shutil.make_archive(str(data / "train"), "zip", data, "train")
        shutil.rmtree(data / "train")
    assert taken(data)[0] == ["0/1.avif", "1/2"]


def test_what_lies_beside_a_wrapper_of_photos_does_not_hide_them(tmp_path):
    data = competition(tmp_path / "data", zipped=False)
    (data / "train").rename(tmp_path / "train")
    (tmp_path / "train").rename((data / "train" / "images").parent.mkdir() or data / "train/images")
    for name in ("README.txt", "LICENSE", "data.yaml"):
        write(data / "train" / name, b"a text")
    (data / "train" / "labels").mkdir()
    assert taken(data)[0] == TRAIN


# --- Folders of classes --------------------------------------------------------------------------


def by_class(folder: Path, *tops: str, classes=("Лада", "VW"), zipped: bool = False) -> Case:
    """A case whose train photos are in folders of classes below each of these folders."""
    case = Case(folder)
    (folder / "train.csv").unlink()
    shutil.rmtree(folder / "train")
    paths = [f"{top}{name}/{n}.jpg" for top in tops for name in classes for n in range(2)]
    for number, path in enumerate(paths):
        write(folder / "train" / path, jpeg(number))
    if zipped:
        shutil.make_archive(str(folder / "train"), "zip", folder / "train")
        shutil.rmtree(folder / "train")
    return case


@pytest.mark.parametrize(
    ("tops", "zipped"),
    [
        (["train/", "valid/"], False),
        (["Train/", "Val/", "Test/"], True),
        (["cars/training/", "cars/validation/"], True),
        (["seg_train/", "seg_test/"], False),
        (["train_images/", "dev set/"], False),
    ],
)
def test_folders_of_a_split_are_no_classes(tmp_path, tops, zipped):
    case = by_class(tmp_path, *tops, zipped=zipped)
    table = case.load()
    assert table.classes == ["VW", "Лада"]
    assert len(table.rows(photos.TRAIN, photos.VALIDATION)) == 4 * len(tops)
    assert f"all {4 * len(tops)} photos" in table.notes[0]


def test_photos_outside_the_folders_of_classes_are_counted(tmp_path):
    case = by_class(tmp_path, "train/", "valid/")
    write(tmp_path / "train" / "test" / "9.jpg", jpeg(99))
    write(tmp_path / "train" / "valid" / "8.jpg", jpeg(98))
    write(tmp_path / "train" / "README.md", b"")
    write(tmp_path / "valid" / "VW" / "7.jpg", jpeg(97))
    place = files.locate(case.cfg)
    assert place.class_level == 1
    assert any("valid: not used" in note for note in place.notes)
    case.csv("train.csv", [("train/VW/2.jpg", 0)])
    assert not any("valid" in note for note in files.locate(case.cfg).notes)
    (tmp_path / "train.csv").unlink()
    table = case.load()
    assert table.classes == ["VW", "Лада"]
    assert table.audit["finding"].tolist().count("in no class's folder") == 2


def test_class_folders_of_a_mac_and_of_others_go_together(tmp_path):
    case = by_class(tmp_path, "S\u030ckoda/", "\u0160koda/", "VW/", classes=("a",), zipped=True)
    assert case.load().classes == ["VW", "\u0160koda"]


@pytest.mark.parametrize(
    ("top", "classes"),
    [("", ("train", "bus")), ("", ("train", "test")), ("", ("bullet train", "freight train"))],
)
def test_classes_may_be_called_train(tmp_path, top, classes):
    case = by_class(tmp_path, top, classes=classes)
    assert case.load().classes == sorted(classes)
    write(tmp_path / "train" / "bus" / "front" / "9.jpg", jpeg(9))
    assert files.locate(case.cfg).class_level == 0


@pytest.mark.parametrize(
    ("tops", "asked", "classes"),
    [
        (["train/", "valid/", "extra/"], "Лада", ["VW", "Лада"]),
        (["a/x/", "a/y/", "b/x/"], "VW", ["VW", "Лада"]),
        (["Audi/", "BMW/"], "BMW", ["Audi", "BMW"]),
        (["train/", "test/"], "test", ["test", "train"]),
        (["Audi/", "BMW/"], "", ["Audi", "BMW"]),
    ],
)
def test_the_labels_of_the_sample_say_which_folders_are_the_classes(tmp_path, tops, asked, classes):
    case = by_class(tmp_path, *tops)
    case.csv("sample-submission.csv", [("900.jpg", asked), ("901.jpg", asked)])
    table = case.load()
    assert table.classes == classes
    assert any("not told apart" in note for note in table.notes) == (not asked)


# --- The shared examples -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zip_cp866", "zip_cp866_classes", "half_unpacked"])
def test_shared_examples(tmp_path, name):
    if not (CASES / name).is_dir():
        pytest.skip(f"{CASES / name} is not there")
    cfg = Config(data=str(CASES / name), out=str(tmp_path))
    table = photos.load(cfg, files.locate(cfg))
    assert len(table.rows(photos.TRAIN, photos.VALIDATION)) == 24 and table.audit.empty
    assert len(table.notes) >= 1 and "WARNING" not in str(table.notes)
    if name == "zip_cp866_classes":
        assert table.classes == ["ГАЗ", "Лада", "Москвич"]


def test_shared_example_of_an_unusual_method(tmp_path):
    if not (CASES / "zip_deflate64").is_dir():
        pytest.skip(f"{CASES / 'zip_deflate64'} is not there")
    cfg = Config(data=str(CASES / "zip_deflate64"), out=str(tmp_path))
    with pytest.raises(InputError, match="Deflate64.*nothing was unpacked"):
        files.locate(cfg)
    assert not list((tmp_path / ".scratch").iterdir())

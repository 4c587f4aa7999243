"""The competition's files in every layout, and what people are told where something is missing."""

import shutil
import zipfile
from pathlib import Path

import pytest

from carcls import disk
from carcls.config import Config
from carcls.data import files
from carcls.errors import InputError

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


@pytest.mark.parametrize("lost", ["train.zip", "test.zip", "sample-submission.csv"])
def test_what_is_missing_is_named_with_a_tree(tmp_path, lost):
    data = competition(tmp_path / "data")
    (data / lost).unlink()
    with pytest.raises(InputError, match=f"(?s)missing [^;]*{lost}.*There is:.*train.csv"):
        files.check(Config(data=str(data)))


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

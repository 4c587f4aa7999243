import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carcls import disk
from carcls.config import Config
from carcls.data import files as inputs
from carcls.errors import InputError


@pytest.fixture(autouse=True)
def no_kaggle(tmp_path, monkeypatch):
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "no-kaggle"))
    monkeypatch.chdir(tmp_path)


def photo(path: Path, colour="red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 40), colour).save(path)
    return path


def competition(
    folder: Path, zipped=True, test="test_upload", sample="sample-submission.csv"
) -> Path:
    """Two train photos in class folders, one test photo, laid out as Kaggle does."""
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("Id,Category\n1.jpg,0\n2.jpg,1\n")
    (folder / sample).write_text("Id,Category\n3.jpg,0\n")
    for path in ("train/0/1.jpg", "train/1/2.jpg", f"{test}/3.jpg"):
        photo(folder / path)
    if zipped:
        for name, top in (("train.zip", "train"), ("test.zip", test)):
            with zipfile.ZipFile(folder / name, "w") as archive:
                for file in sorted((folder / top).rglob("*.jpg")):
                    archive.write(file, file.relative_to(folder))
            shutil.rmtree(folder / top)
    return folder


def names(folder: Path) -> list[str]:
    return [f"{at}/{name}".lstrip("/") for at, name in disk.photo_files(folder)]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("test", ["test_upload", "test"])
@pytest.mark.parametrize("sample", inputs.SAMPLE_NAMES)
def test_local_layouts(tmp_path, zipped, test, sample):
    data = competition(tmp_path / "data", zipped, test, sample)
    place = inputs.locate(Config(data=str(data), out=str(tmp_path / "out")))
    assert names(place.train_photos) == ["0/1.jpg", "1/2.jpg"]
    assert names(place.test_photos) == ["3.jpg"]
    assert (place.root, place.sample_csv, place.train_csv) == (
        data,
        data / sample,
        data / "train.csv",
    )
    assert place.out == tmp_path / "out" and place.scratch.is_relative_to(place.out)
    assert place.answers is None and not place.on_kaggle
    assert not list(data.rglob(".*"))  # the data folder is only read


def test_data_one_level_down_answers_and_default_out(tmp_path):
    data = competition(tmp_path / "download" / "cars")
    (data / "answers").mkdir()
    (data / "answers" / "answers.csv").write_text("Id,Category\n3.jpg,1\n")
    assert (
        inputs.locate(Config(data=str(data))).answers is None
    )  # somebody's own file, of whatever form
    (data / "sample.json").write_text("{}")
    place = inputs.locate(Config(data=str(tmp_path / "download")))
    assert place.root == data and place.answers == data / "answers" / "answers.csv"
    assert place.out.resolve() == tmp_path / "out"
    competition(tmp_path / "download" / "planes")
    with pytest.raises(InputError, match=r"(?s)several competitions.*cars.*planes"):
        inputs.locate(Config(data=str(tmp_path / "download")))


@pytest.mark.parametrize(
    "layout", ["input/competitions/{}", "input/{}", "input/some/new/place/{}", "input/copy"]
)
def test_kaggle_layouts(tmp_path, monkeypatch, layout):
    kaggle = tmp_path / "kaggle"
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(kaggle))
    root = competition(kaggle / layout.format("sf-dl-car-classification"))
    place = inputs.locate(Config())
    assert place.root == root and place.on_kaggle
    assert place.out == kaggle / "working"
    assert place.scratch.is_relative_to(
        kaggle / "temp"
    )  # working is kept as output, scratch must not be in it
    assert names(place.test_photos) == ["3.jpg"]


def test_kaggle_scratch_falls_back_to_the_temporary_folder(tmp_path, monkeypatch):
    kaggle = tmp_path / "kaggle"
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(kaggle))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    competition(kaggle / "input" / "sf-dl-car-classification")
    (kaggle / "temp").write_text("a file where the folder should be")
    assert inputs.locate(Config()).scratch == tmp_path / "tmp" / "carcls"


def test_kaggle_without_the_competition(tmp_path, monkeypatch):
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "kaggle"))
    (tmp_path / "kaggle" / "input" / "models" / "keras").mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"(?s)sf-dl-car-classification is not there; attach it.*keras/"
    ):
        inputs.locate(Config())
    for slug in ("first", "second"):
        competition(tmp_path / "kaggle" / "input" / slug)
    with pytest.raises(
        InputError, match=r"(?s)no sf-dl-car-classification, but several others.*first.*second"
    ):
        inputs.locate(Config())
    assert inputs.locate(Config(competition="second")).root.name == "second"


def test_no_data(tmp_path):
    with pytest.raises(InputError, match=r"set data=FOLDER"):
        inputs.locate(Config())
    with pytest.raises(InputError, match=r"data=nowhere: does not exist"):
        inputs.locate(Config(data="nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"data=file: is a file"):
        inputs.locate(Config(data="file"))


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("train.zip", "train photos"),
        ("test.zip", "test photos"),
        ("sample-submission.csv", "sample-submission.csv"),
    ],
)
def test_what_is_missing_is_named_with_a_tree(tmp_path, lost, named):
    data = competition(tmp_path / "data")
    (data / lost).unlink()
    with pytest.raises(InputError, match=f"(?s)missing {named}.*There is:.*train.csv"):
        inputs.locate(Config(data=str(data)))


def test_out_cannot_be_written(tmp_path):
    data = competition(tmp_path / "data")
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match=r"taken: cannot be written"):
        inputs.locate(Config(data=str(data), out=str(tmp_path / "taken")))


def test_out_among_the_photos(tmp_path):
    data = competition(tmp_path / "data", zipped=False)
    out = data / "train" / "out"
    with pytest.raises(InputError, match="would be taken for photos"):
        inputs.locate(Config(data=str(data), out=str(out)))
    assert not out.exists()
    with pytest.raises(InputError, match="is the data folder"):
        inputs.locate(Config(data=str(data), out=f"{data}/../{data.name}"))
    assert inputs.locate(Config(data=str(data), out=str(data / "out"))).out == data / "out"


def test_train_csv_may_be_absent(tmp_path):
    data = competition(tmp_path / "data")
    (data / "train.csv").unlink()
    place = inputs.locate(Config(data=str(data)))
    assert place.train_csv is None and names(place.train_photos) == ["0/1.jpg", "1/2.jpg"]


def add(path: Path, name: str, mode: int = 0) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, "../../outside")


@pytest.mark.parametrize(
    ("name", "mode", "why"),
    [
        ("/etc/photo.jpg", 0, "absolute path"),
        ("C:/photo.jpg", 0, "absolute path"),
        ("train/../../photo.jpg", 0, "leaves the folder"),
        ("train\\..\\..\\photo.jpg", 0, "leaves the folder"),
        ("train/0/photo.jpg", stat.S_IFLNK | 0o777, "symbolic link"),
    ],
)
def test_unsafe_zip_members(tmp_path, name, mode, why):
    data = competition(tmp_path / "data")
    add(data / "train.zip", name, mode)
    with pytest.raises(InputError, match=f"train.zip: member .*photo.jpg' .*{why}"):
        inputs.locate(Config(data=str(data), out=str(tmp_path / "out")))
    assert not [path for path in tmp_path.rglob("*.jpg") if not path.is_relative_to(data)]


@pytest.mark.parametrize("top", ["./", ".\\", "././"])
def test_member_names_as_other_zip_tools_write_them(tmp_path, top):
    data = competition(tmp_path / "data")
    content = photo(tmp_path / "a.jpg").read_bytes()
    with zipfile.ZipFile(data / "train.zip", "w") as archive:
        for name in ("", "train/", "train/0/1.jpg", "train/1/./2.jpg"):
            info = zipfile.ZipInfo((top + name).replace("/", top[-1]))
            info.filename = info.orig_filename  # the constructor may have mended it
            archive.writestr(info, content if name.endswith("jpg") else b"")
    place = inputs.locate(Config(data=str(data), out=str(tmp_path / "out")))
    assert names(place.train_photos) == ["0/1.jpg", "1/2.jpg"]
    before = place.train_photos.stat().st_ino  # and it is not unpacked again
    assert (
        inputs.locate(Config(data=str(data), out=str(tmp_path / "out"))).train_photos.stat().st_ino
        == before
    )


def test_folders_that_are_links(tmp_path):
    data = competition(tmp_path / "data", zipped=False)
    (data / "train" / "1").rename(tmp_path / "elsewhere")
    (data / "train" / "1").symlink_to(tmp_path / "elsewhere")
    for link, target in {
        "round": "train",
        "above": ".",
        "sibling": "train/0",
        "twice": "../elsewhere",
    }.items():
        (data / "train" / "0" / link).symlink_to((data / target).resolve())
    (tmp_path / "elsewhere" / "back").symlink_to(data / "train")
    place = inputs.locate(Config(data=str(data), out=str(tmp_path / "out")))
    assert names(place.train_photos) == ["0/1.jpg", "1/2.jpg"]  # each once
    assert names(Path("data/train")) == ["0/1.jpg", "1/2.jpg"]


def test_a_home_folder_that_nobody_has(tmp_path):
    with pytest.raises(InputError, match="~nobody-here/x: there is no home folder of ~nobody-here"):
        inputs.locate(Config(data="~nobody-here/x"))


def test_truncated_and_corrupt_zips(tmp_path):
    data = competition(tmp_path / "data")
    whole = (data / "train.zip").read_bytes()
    (data / "train.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"train.zip: not a whole zip file"):
        inputs.locate(Config(data=str(data), out="out"))
    (data / "train.zip").write_bytes(
        whole[:200] + bytes(50) + whole[250:]
    )  # inside the first photo
    with pytest.raises(InputError, match=r"train.zip: not a whole zip file .*1.jpg"):
        inputs.locate(Config(data=str(data), out="out"))
    assert not (tmp_path / "out" / ".scratch" / "train").exists()
    with zipfile.ZipFile(data / "train.zip", "w") as archive:
        archive.writestr("train/Нива/1.jpg", b"")
    named = (data / "train.zip").read_bytes()
    (data / "train.zip").write_bytes(named.replace("Н".encode(), b"\xd0\xd0"))  # no UTF-8 any more
    with pytest.raises(InputError, match=r"train.zip: not a whole zip file .*decode"):
        inputs.locate(Config(data=str(data), out="out"))
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(data / "train.zip", "w", method) as archive:
            archive.writestr(
                "train/0/1.jpg", np.random.default_rng(0).integers(0, 99, 9000, np.uint8).tobytes()
            )
        packed = (data / "train.zip").read_bytes()
        (data / "train.zip").write_bytes(packed[:3000] + bytes(3000) + packed[6000:])
        with pytest.raises(InputError, match=r"train.zip: not a whole zip file"):
            inputs.locate(Config(data=str(data), out="out"))
    (data / "train.zip").write_bytes(whole)
    assert names(inputs.locate(Config(data=str(data), out="out")).train_photos) == [
        "0/1.jpg",
        "1/2.jpg",
    ]


def test_zip_without_photos_and_mac_leftovers(tmp_path):
    data = competition(tmp_path / "data")
    add(data / "train.zip", "__MACOSX/train/0/._1.jpg")
    assert names(inputs.locate(Config(data=str(data))).train_photos) == ["0/1.jpg", "1/2.jpg"]
    with zipfile.ZipFile(data / "test.zip", "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(InputError, match=r"test.zip: no photo in it"):
        inputs.locate(Config(data=str(data)))


def test_zip_larger_than_the_disk(tmp_path, monkeypatch):
    data = competition(tmp_path / "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 900, 100))
    with pytest.raises(InputError, match=r"train.zip: needs .* MB in .*free: 0 MB"):
        inputs.locate(Config(data=str(data)))


def test_unpacks_once_and_again_when_needed(tmp_path):
    data = competition(tmp_path / "data")
    cfg = Config(data=str(data), out=str(tmp_path / "out"))
    first = inputs.locate(cfg).train_photos / "0" / "1.jpg"
    os.utime(first, (1, 1))
    assert inputs.locate(cfg).train_photos / "0" / "1.jpg" == first
    assert first.stat().st_mtime == 1  # not unpacked again
    first.unlink()
    inputs.locate(cfg)
    assert first.exists()  # an incomplete folder is
    (tmp_path / "out" / ".scratch" / "train.999999999.part").mkdir()  # of a run that was killed
    with zipfile.ZipFile(data / "train.zip", "a") as archive:
        archive.write(photo(tmp_path / "new.jpg"), "train/1/new.jpg")
    assert names(inputs.locate(cfg).train_photos) == [
        "0/1.jpg",
        "1/2.jpg",
        "1/new.jpg",
    ]  # so is another zip
    assert not (tmp_path / "out" / ".scratch" / "train.999999999.part").exists()


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "new folder" / "a.csv"
    disk.write_atomic(path, "ü\n")
    assert path.read_bytes() == b"\xc3\xbc\n"

    def fails(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match=r"disk full"):
        disk.write_atomic(path, b"new")
    assert path.read_bytes() == b"\xc3\xbc\n" and [x.name for x in path.parent.iterdir()] == [
        "a.csv"
    ]


def test_tree_is_short_and_shows_csv_first(tmp_path):
    for number in range(100):
        (tmp_path / f"{number:03}.jpg").touch()
    (tmp_path / "train.csv").touch()
    (tmp_path / "a" / "b" / "c" / "d").mkdir(parents=True)
    shown = disk.tree(tmp_path).splitlines()
    assert shown[1:] == [
        "  a/",
        "    b/",
        "      c/",
        "  train.csv",
        "  000.jpg",
        "  001.jpg",
        "  002.jpg",
        "  … 97 more files",
    ]
    assert len(disk.tree(tmp_path, most=4).splitlines()) == 5
    assert "(empty)" in disk.tree(tmp_path / "a" / "b" / "c" / "d")
    assert "No such file" in disk.tree(tmp_path / "gone")


def test_search_roots(tmp_path, monkeypatch):
    monkeypatch.setenv("CARCLS_HOME", str(tmp_path / "home"))
    assert disk.search_roots() == [tmp_path / "home" / "weights", Path()]
    (tmp_path / "kaggle" / "input").mkdir(parents=True)
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "kaggle"))
    assert disk.search_roots()[0] == tmp_path / "kaggle" / "input"


def test_processes_that_unpack_at_the_same_time_get_whole_folders(tmp_path):
    source = tmp_path / "train.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for n in range(400):
            archive.writestr(f"train/{n}.jpg", bytes(2000))
    code = (
        "import sys; from pathlib import Path; from carcls import inputs; "
        "print(sum(1 for _ in disk.photo_files(inputs._unpacked(Path(sys.argv[1]), Path(sys.argv[2])))))"
    )
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "train.999999999.part").mkdir()  # of a process that is no more
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "scratch" / "train")]
    env = {**os.environ, "PYTHONPATH": str(Path(inputs.__file__).parents[1])}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["400", "400"]
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["train"]

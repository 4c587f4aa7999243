import io
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carcls.config import Config
from carcls.data import files as inputs
from carcls.data import photos
from carcls.errors import InputError

CARS10 = Path(__file__).parents[2] / "shared/data/cars10"


@pytest.fixture(autouse=True)
def no_kaggle(tmp_path, monkeypatch):
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "no-kaggle"))


def picture(seed: int, height=48, width=64) -> np.ndarray:
    """Smooth, and different in each corner, so that turns, flips and swapped channels show."""
    noise = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    noise[0, 0], noise[-1, -1] = (255, 0, 0), (0, 0, 255)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)


def encoded(pixels, kind="JPEG", mode=None, **options) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


def jpeg(seed: int, **options) -> bytes:
    return encoded(picture(seed), quality=95, **options)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def good(first: int, n: int, label: object = 0) -> dict[str, tuple[object, bytes]]:
    return {f"{number}.jpg": (label, jpeg(number)) for number in range(first, first + n)}


class Case:
    """A small competition: by default 4 + 4 train photos of classes 0 and 1, flat, and 2 test photos."""

    def __init__(self, folder: Path, train=None, test=None, **settings):
        self.folder = folder
        train = {**good(100, 4, 0), **good(200, 4, 1)} | (train or {})
        test = test if test is not None else {"900.jpg": jpeg(900), "901.jpg": jpeg(901)}
        self.csv("train.csv", [(ident, label) for ident, (label, _) in train.items()])
        self.csv("sample-submission.csv", [(ident, 0) for ident in test])
        for name, data in {
            "train": {k: v[1] for k, v in train.items()},
            "test_upload": test,
        }.items():
            for ident, content in data.items():
                if content is not None:
                    write(folder / name / ident, content)
        self.cfg = Config(
            data=str(folder), out=str(folder / "out"), **{"val_fraction": 0.25, **settings}
        )

    def csv(self, name: str, rows, header="Id,Category") -> None:
        write(
            self.folder / name,
            "\n".join([header, *(",".join(map(str, row)) for row in rows), ""]).encode(),
        )

    def load(self) -> photos.Table:
        return photos.load(self.cfg, inputs.locate(self.cfg))


def found(table: photos.Table) -> list[tuple[str, str, str, str]]:
    return list(
        table.audit[["source", "id", "finding", "action"]].itertuples(index=False, name=None)
    )


# --- CSV files, ids, labels -----------------------------------------------------------------------


def test_plain_table(tmp_path):
    table = Case(tmp_path).load()
    assert list(table.frame.columns) == [
        "id",
        "path",
        "label",
        "fold",
        "source",
        "height",
        "width",
        "readable",
        "group",
        "digest",
    ]
    assert (table.id_column, table.label_column, table.classes) == ("Id", "Category", [0, 1])
    assert (len(table.train), len(table.val), table.sample_ids) == (6, 2, ["900.jpg", "901.jpg"])
    assert sorted(table.val["label"]) == [0, 1]
    assert table.frame["label"].tolist() == [0] * 4 + [1] * 4 + [-1] * 2
    assert set(zip(table.frame["height"], table.frame["width"], strict=True)) == {(48, 64)}
    assert table.audit.empty and list(table.audit.columns) == list(photos.AUDIT_COLUMNS)
    assert list(table.test.index) == [0, 1] and table.test["fold"].eq(photos.TEST).all()


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
    assert table.classes == classes and [type(x) for x in table.classes] == [
        type(x) for x in classes
    ]
    first = table.frame.iloc[0]
    assert str(table.classes[first["label"]]) == labels[0].removesuffix(".0")


def test_commas_at_the_end_of_lines_do_no_harm(tmp_path):
    case = Case(tmp_path)
    for csv in (tmp_path / "train.csv", tmp_path / "sample-submission.csv"):
        csv.write_text("".join(f"{line},,\n" for line in csv.read_text().splitlines()))
    table = case.load()
    assert len(table.train) + len(table.val) == 8
    assert (table.id_column, table.label_column) == ("Id", "Category")


def test_many_classes_and_other_columns(tmp_path):
    train = {f"{k}_{i}.jpg": (f"class {k}", jpeg(10 * k + i)) for k in range(30) for i in range(2)}
    case = Case(tmp_path, train)
    case.csv(
        "train.csv", [("x", ident, label) for ident, (label, _) in train.items()], "fold,file,make"
    )
    case.csv("sample-submission.csv", [("900.jpg", "class 0")], "file,make")
    table = case.load()
    assert (table.id_column, table.label_column, len(table.classes)) == ("file", "make", 30)
    assert len(table.val) == len(table.train) == 30  # one on each side of every class


def test_ids_without_extension_and_class_folders(tmp_path):
    case = Case(tmp_path)
    for number in range(4):
        for label, first in enumerate((100, 200)):
            name = f"{first + number}.jpg"
            (tmp_path / "train" / str(label)).mkdir(exist_ok=True)
            (tmp_path / "train" / name).rename(tmp_path / "train" / str(label) / name)
    write(
        tmp_path / "train" / "1" / "100.jpg", jpeg(1)
    )  # another photo of the same name, in another class's folder
    case.csv("train.csv", [(100 * k + i, k - 1) for k in (1, 2) for i in range(4)])
    case.csv("sample-submission.csv", [("900", 0), ("901", 0)])
    table = case.load()
    assert table.frame["id"].tolist()[:2] == ["100", "101"] and table.sample_ids == ["900", "901"]
    assert table.frame["path"][0].endswith("train/0/100.jpg")
    assert table.test["path"][0].endswith("test_upload/900.jpg")
    assert table.audit.empty


@pytest.mark.parametrize("form", ["0/1.jpg", "0/1", "0/1.png", "train/0/1.jpg", "train/0/1"])
def test_ids_with_folders(tmp_path, form):
    for label in range(2):
        for number in range(3):  # the same names in each class's folder
            write(tmp_path / f"train/{label}/{number}.jpg", jpeg(10 * label + number))
    write(tmp_path / "test_upload/9.jpg", jpeg(99))
    ids = {
        form.replace("0/1", f"{label}/{number}"): label for label in range(2) for number in range(3)
    }
    case = Case(tmp_path / "unused")
    case.folder = tmp_path
    case.csv("train.csv", ids.items())
    case.csv("sample-submission.csv", [("test_upload/9.jpg", 0)])
    cfg = case.cfg.replace(data=str(tmp_path))
    table = photos.load(cfg, inputs.locate(cfg))
    assert (
        table.audit.empty
        and table.sample_ids == ["test_upload/9.jpg"]
        and table.test["readable"].all()
    )
    paths = [path.removeprefix(f"{tmp_path}/") for path in table.frame["path"][:6]]
    assert paths == [f"train/{label}/{number}.jpg" for label in range(2) for number in range(3)]


def test_folders_that_only_wrap_may_be_in_ids_and_others_may_not(tmp_path):
    case = Case(tmp_path)
    (tmp_path / "train").rename(tmp_path / "images")
    (tmp_path / "train").mkdir()
    (tmp_path / "images").rename(tmp_path / "train" / "images")
    case.csv(
        "train.csv",
        [
            ("train/images/100.jpg", 0),
            ("images/101.jpg", 0),
            ("102.jpg", 0),
            *((f"{k}.jpg", 1) for k in range(200, 203)),
            ("test_upload/200.jpg", 1),
            ("other/201.jpg", 1),
        ],
    )
    table = case.load()
    assert len(table.train) + len(table.val) == 6
    missing = [
        ("train", ident, "missing file", "dropped")
        for ident in ("test_upload/200.jpg", "other/201.jpg")
    ]
    assert found(table) == missing


def test_folders_alone_give_the_labels(tmp_path):
    for label in ("b", "a"):
        for number in range(4):
            write(tmp_path / "train" / label / f"{number}.jpg", jpeg(ord(label) + 10 * number))
    write(tmp_path / "train" / "a" / "notes.txt", b"not a photo")
    write(tmp_path / "test" / "7.png", encoded(picture(7), "PNG"))
    write(tmp_path / "sample_submission.csv", b"Id,Category\n7,a\n")
    cfg = Config(data=str(tmp_path), out=str(tmp_path / "out"))
    table = photos.load(cfg, inputs.locate(cfg))
    assert table.classes == ["a", "b"] and table.frame["id"][0] == "a/0.jpg"
    assert table.test["readable"].all() and table.audit.empty
    odd = tmp_path / "train" / "a" / os.fsdecode(b"\xff.jpg")
    write(odd, jpeg(9))
    with pytest.raises(InputError, match=r"train/a/\\udcff.jpg': this name is not text in UTF-8"):
        photos.load(cfg, inputs.locate(cfg))
    odd.unlink()
    for path in list((tmp_path / "train").rglob("*.jpg")):
        path.rename(tmp_path / "train" / f"{path.parent.name}{path.name}")
    with pytest.raises(
        InputError, match=r"(?s)missing train.csv, and .* no folder per class.*a0\.jpg"
    ):
        photos.load(cfg, inputs.locate(cfg))


def test_file_found_by_stem_or_not_sure_which(tmp_path):
    case = Case(tmp_path, {"5.jpg": (0, None), "6": (1, None)})
    write(tmp_path / "train" / "5.png", encoded(picture(5), "PNG"))
    for suffix in ("jpg", "png"):
        write(tmp_path / "train" / f"6.{suffix}", jpeg(6))
    table = case.load()
    assert found(table) == [("train", "6", "several files", "dropped")]
    assert "5.jpg" in table.frame["id"].tolist()
    write(tmp_path / "test_upload" / "900.png", jpeg(6))
    case.csv("sample-submission.csv", [("900", 0)])
    with pytest.raises(
        InputError, match=r"sample-submission.csv: id '900' may mean 900.jpg or 900.png"
    ):
        case.load()


def test_id_is_never_joined_to_a_path(tmp_path):
    write(tmp_path / "outside.jpg", jpeg(1))
    table = Case(tmp_path / "data", {"../../outside.jpg": (0, None)}).load()
    assert found(table) == [("train", "../../outside.jpg", "missing file", "dropped")]


def test_label_against_folder(tmp_path):
    case = Case(tmp_path)
    (tmp_path / "train" / "1").mkdir()
    (tmp_path / "train" / "100.jpg").rename(tmp_path / "train" / "1" / "100.jpg")
    table = case.load()
    assert found(table) == [("train", "100.jpg", "in another class's folder", "kept")]
    assert table.frame["label"][0] == 0


def test_ids_twice_no_label_missing_file(tmp_path):
    case = Case(tmp_path, good(300, 3, 1))
    rows = [(f"{100 * (k + 1) + i}.jpg", k) for k in (0, 1) for i in range(4)]
    rows += [
        ("300.jpg", 1),
        ("300.jpg", 1),
        ("301.jpg", 1),
        ("301.jpg", 0),
        ("302.jpg", ""),
        ("gone.jpg", 0),
    ]
    case.csv("train.csv", rows)
    case.csv("sample-submission.csv", [("901.jpg", 0), ("lost.jpg", 0), ("900.jpg", 0)])
    table = case.load()
    assert sorted(found(table)) == [
        ("test", "lost.jpg", "missing file", "predicted from a grey photo"),
        ("train", "300.jpg", "id more than once", "first row kept"),
        ("train", "301.jpg", "id with several labels", "dropped"),
        ("train", "301.jpg", "id with several labels", "dropped"),
        ("train", "302.jpg", "no label", "dropped"),
        ("train", "gone.jpg", "missing file", "dropped"),
    ]
    assert table.frame["id"].tolist() == [row[0] for row in rows[:9]] + [
        "901.jpg",
        "lost.jpg",
        "900.jpg",
    ]
    seen = table.looked.set_index("id")["path"]
    assert set(seen.index) == {row[0] for row in rows} - {"gone.jpg"} | {
        "900.jpg",
        "901.jpg",
        "lost.jpg",
    }
    assert [Path(seen[name]).name for name in ("301.jpg", "302.jpg", "300.jpg")] == [
        "301.jpg",
        "302.jpg",
        "300.jpg",
    ]  # S11
    lost = table.test.iloc[1]
    assert (lost["path"], lost["readable"], lost["height"], lost["label"]) == ("", False, 0, -1)
    assert photos.summary(table)[-1].startswith("WARNING: 1 test photos cannot be read")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "sample-submission.csv",
            "Id,Category\n900.jpg,0\n900.jpg,0\n",
            r"1 ids come more than once, such as '900.jpg'",
        ),
        ("sample-submission.csv", "Id,Category\n900.jpg,0\n,0\n", r"row 3 has no id"),
        ("sample-submission.csv", "Id,Category\n", r"no rows below the header Id,Category"),
        ("sample-submission.csv", "Id\n900.jpg\n", r"columns Id; expected two"),
        (
            "sample-submission.csv",
            "Id,Category\nno,0\n",
            r"(?s)no test photo can be used: 1 missing file .*900.jpg",
        ),
        ("train.csv", "", r"train.csv: not a readable CSV file"),
        ("train.csv", "Id,Category\n", r"no rows below the header"),
        ("sample-submission.csv", "Id,Id\n900.jpg,0\n", r"two columns are called Id"),
        (
            "train.csv",
            "Id,Category\n1,2,3,4\n1,2\n1,2,3,4,5,6\n",
            r"train.csv: not a readable CSV file",
        ),
        ("train.csv", b"Id,Category\n\xff\xfe,0\n", r"train.csv: not a readable CSV file"),
        (
            "train.csv",
            "Id,Category\n100.jpg,0,9\n101.jpg,1,9\n",
            r"train.csv: not a readable CSV file \(its rows have more fields",
        ),
        (
            "train.csv",
            "Id,Label\n100.jpg,0\n",
            r"columns Id, Label; expected Id and Category, as in sample-sub",
        ),
        (
            "train.csv",
            "Id,Category\n100.jpg,0\n101.jpg,0\n",
            r"every usable photo is of class 0; expected two",
        ),
        ("train.csv", "Id,Category\n100.jpg,0\n200.jpg,1\n", r"no class has two different photos"),
        (
            "train.csv",
            "Id,Category\n1.jpg,0\n2.jpg,1\n",
            r"(?s)no train photo can be used: 2 missing file .*100.jpg",
        ),
        (
            "train.csv",
            "Id,Category\n100.jpg,\n101.jpg,\n",
            r"no train photo can be used: 2 no label",
        ),
    ],
)
def test_bad_csv(tmp_path, name, content, message):
    case = Case(tmp_path)
    write(tmp_path / name, content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        case.load()


# --- What the files hold --------------------------------------------------------------------------


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def transparent(kind: str) -> bytes:
    image = Image.fromarray(np.dstack([picture(1), np.full((48, 64), 255, np.uint8)]))
    image.paste((9, 9, 9, 0), (20, 10, 40, 30))
    return encoded(image if kind == "RGBA" else image.quantize(16), "PNG")


def animation() -> bytes:
    frames = [Image.fromarray(picture(seed)) for seed in (1, 2)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def deep_png(channels: int) -> bytes:
    pixels = picture(1).astype(np.uint16) * 257
    return cv2.imencode(".png", pixels[:, :, 1] if channels == 1 else pixels[:, :, ::-1])[
        1
    ].tobytes()


def damaged_tables() -> bytes:
    """A JPEG whole to the eye of who looks at its two ends: the counts of its first Huffman table are wrong."""
    data = jpeg(4)
    at = data.index(b"\xff\xc4") + 5
    return data[:at] + bytes([255] * 16) + data[at + 16 :]


GREY = np.repeat(picture(1)[:, :, 1:2], 3, axis=2)
ODD = {  # name → file, findings, what read_photo should give (None: do not compare)
    "grey.jpg": (encoded(picture(1)[:, :, 1].copy(), quality=95), ["greyscale"], GREY),
    "grey.png": (encoded(picture(1)[:, :, 1].copy(), "PNG"), ["greyscale"], GREY),
    "cmyk.jpg": (encoded(picture(1), mode="CMYK", quality=95), ["CMYK"], picture(1)),
    "rgba.png": (transparent("RGBA"), ["transparent"], None),
    "palette.png": (transparent("P"), ["transparent"], None),
    "plain palette.png": (encoded(picture(1), "PNG", mode="P"), [], None),
    "deep.png": (deep_png(3), ["16-bit"], picture(1)),
    "deep grey.png": (deep_png(1), ["16-bit"], GREY),
    "turned.jpg": (jpeg(1, exif=turned(6)), ["EXIF-rotated"], np.rot90(picture(1), -1)),
    "mirrored.jpg": (jpeg(1, exif=turned(2)), ["EXIF-rotated"], picture(1)[:, ::-1]),
    "turned.png": (
        encoded(picture(1), "PNG", exif=turned(8)),
        ["EXIF-rotated"],
        np.rot90(picture(1)),
    ),
    "upright.jpg": (jpeg(1, exif=turned(1)), [], picture(1)),
    "progressive.jpg": (jpeg(1, progressive=True), [], picture(1)),
    "moving.gif": (animation(), ["animated"], None),
    "wrong.jpg": (encoded(picture(1), "PNG"), ["wrongly named"], picture(1)),
    "wrong.png": (jpeg(1), ["wrongly named"], picture(1)),
    "photo": (jpeg(2), [], None),  # no extension: nothing to be wrong about
    "tiny.jpg": (encoded(picture(1, 20, 64)), ["tiny"], None),
    "trailer.jpg": (
        jpeg(3) + bytes(500),
        [],
        picture(3),
    ),  # cameras append such; the photo is whole
    "cut.jpg": (jpeg(4)[:-300], ["truncated"], None),
    "cut header.jpg": (jpeg(4)[:100], ["unreadable"], None),
    "tables.jpg": (damaged_tables(), ["unreadable"], None),
    "cut.png": (encoded(picture(4), "PNG")[:-300], ["unreadable"], None),
    "cut.webp": (encoded(picture(4), "WEBP")[:-300], ["unreadable"], None),
    "text.jpg": (b"<html>not found</html>", ["unreadable"], None),
    "empty.jpg": (b"", ["unreadable"], None),
}


def test_odd_files_are_found_and_said_what_is_done(tmp_path):
    test = {name: data for name, (data, _, _) in ODD.items()}
    train = {f"train {name}": (k % 2, data) for k, (name, data) in enumerate(test.items())}
    table = Case(tmp_path, train, test).load()
    audit = table.audit[~table.audit["finding"].str.startswith("duplicate")]
    for name, (_, findings, _) in ODD.items():
        assert audit.loc[audit["id"].eq(name), "finding"].tolist() == findings, name
        assert audit.loc[audit["id"].eq(f"train {name}"), "finding"].tolist() == findings, name
        lost = bool({"truncated", "unreadable"} & set(findings))
        assert (f"train {name}" in set(table.frame["id"])) != lost, name
        assert table.test.set_index("id")["readable"][name] == ("unreadable" not in findings), name
    assert sorted(set(audit["action"])) == [
        "converted to RGB",
        "decoded as far as it goes",
        "dropped",
        "first frame taken",
        "kept",
        "laid on white",
        "predicted from a grey photo",
        "read as what it is",
        "repeated to 3 channels",
        "scaled to 8 bits",
        "turned upright",
    ]
    size = table.test.set_index("id").loc["turned.jpg"]
    assert (size["height"], size["width"]) == (64, 48)
    assert len(table.test) == len(ODD)
    lines = photos.summary(table)
    assert "audit: 6 train unreadable → dropped" in lines and "WARNING: 6 test photos" in lines[-1]


def test_summary_prints_nothing(tmp_path, capsys):
    table = Case(tmp_path).load()
    split = f"{len(table.train) + len(table.val)} to train, each validated once in 5 folds"
    assert photos.summary(table, 5)[0] == f"photos: {split}, {len(table.test)} to predict"
    lines = photos.summary(table)
    assert lines == [
        "photos: 6 to train, 2 to validate (25.0 %), 2 to predict",
        "2 classes (Category: photos): 0: 4, 1: 4",
        "sizes: 64×48 100 %",
        "audit: nothing found",
    ]
    assert capsys.readouterr().out == ""


def test_audit_is_written_whole(tmp_path):
    table = Case(tmp_path, {"bad.jpg": (0, b"")}).load()
    photos.write_audit(table, tmp_path / "out" / "audit.csv")
    assert pd.read_csv(tmp_path / "out" / "audit.csv").to_dict("records") == [
        {
            "source": "train",
            "id": "bad.jpg",
            "finding": "unreadable",
            "action": "dropped",
            "detail": "empty file",
        }
    ]


def test_class_whose_photos_are_all_broken_is_left_out(tmp_path):
    table = Case(tmp_path, {"a.jpg": (-5, b"text"), "b.jpg": (-5, b"")}).load()
    assert table.classes == [0, 1]
    assert found(table)[-1] == ("train", "", "class without photos", "left out")


def test_floats_from_0_to_1_are_white_at_1(tmp_path):
    grey = np.linspace(0, 1, 40 * 40, dtype=np.float32).reshape(40, 40)
    grey[0, 0] = np.nan
    write(tmp_path / "a.tif", encoded(Image.fromarray(grey), "TIFF"))
    pixels = photos.read_photo(tmp_path / "a.tif")
    assert np.array_equal(pixels[:, :, 1], np.nan_to_num(grey * 255).round())


def test_dark_16_bit_photo_stays_dark(tmp_path):
    write(tmp_path / "a.png", encoded(np.full((40, 40), 200, np.uint16), "PNG"))
    assert (photos.read_photo(tmp_path / "a.png") == 1).all()


def test_duplicates(tmp_path):
    train = {"same.jpg": (0, jpeg(100)), "clash.jpg": (1, jpeg(101)), "twin.jpg": (1, jpeg(200))}
    test = {"900.jpg": jpeg(102), "901.jpg": jpeg(901), "902.jpg": jpeg(901), "a": b"", "b": b""}
    table = Case(tmp_path, train, test).load()
    assert sorted(row for row in found(table) if row[2] != "unreadable") == [
        ("test", "900.jpg", "duplicate of a train photo", "kept"),
        ("test", "902.jpg", "duplicate", "kept"),
        ("train", "101.jpg", "duplicate with another label", "dropped"),
        ("train", "clash.jpg", "duplicate with another label", "dropped"),
        ("train", "same.jpg", "duplicate", "on the same side of the split"),
        ("train", "twin.jpg", "duplicate", "on the same side of the split"),
    ]
    assert not {"101.jpg", "clash.jpg"} & set(table.frame["id"])
    detail = table.audit.set_index("id")["detail"]
    assert (
        detail["900.jpg"] == "same as 102.jpg, label 0" and detail["same.jpg"] == "same as 100.jpg"
    )


# --- The split ------------------------------------------------------------------------------------


def rows(sizes: dict[int, int], copies: int = 1) -> pd.DataFrame:
    """Train rows of classes of the given sizes, in which each ``copies`` neighbours are the same file."""
    labels = [label for label, size in sizes.items() for _ in range(size)]
    numbers = [i for size in sizes.values() for i in range(size)]
    digests = [f"{label}-{i // copies}".encode() for label, i in zip(labels, numbers, strict=True)]
    ids = [f"{label}-{i}" for label, i in zip(labels, numbers, strict=True)]
    return pd.DataFrame({"id": ids, "label": labels, "digest": digests})


def split(frame: pd.DataFrame, seed=1, fraction=0.2) -> pd.Series:
    return pd.Series(
        photos._split(frame, seed, fraction, [0, 1, 2, 3], photos._Audit()), index=frame["id"]
    )


def test_split_is_stratified_seeded_and_blind_to_row_order():
    frame = rows({0: 100, 1: 50, 2: 3, 3: 2})
    fold = split(frame)
    n_val = fold.eq(photos.VALIDATION).groupby(fold.index.str[0]).sum()
    assert n_val.tolist() == [20, 10, 1, 1]
    shuffled = frame.sample(frac=1, random_state=7).reset_index(drop=True)
    assert split(shuffled)[fold.index].equals(fold)
    assert not split(frame, seed=2).equals(fold)


def test_split_keeps_duplicates_together():
    frame = rows({0: 100, 1: 30, 2: 4}, copies=3)
    for seed in range(5):
        fold = split(frame, seed)
        assert fold.groupby(frame["digest"].to_numpy()).nunique().eq(1).all()
        n_val = fold.eq(photos.VALIDATION).groupby(fold.index.str[0]).sum()
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
    assert set(train) <= set(table.train["id"])
    assert set(table.train["label"]) == {0, 1, 2, 3}  # at least one of each, whatever the fraction


# --- Pixels ---------------------------------------------------------------------------------------


def near(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 4


@pytest.mark.parametrize("name", ODD)
def test_read_photo(tmp_path, name):
    data, findings, expected = ODD[name]
    write(tmp_path / name, data)
    if findings == ["unreadable"]:
        with pytest.raises(InputError, match=name):
            photos.read_photo(tmp_path / name)
        return
    pixels = photos.read_photo(str(tmp_path / name))
    assert (
        pixels.dtype == np.uint8
        and pixels.ndim == 3
        and pixels.shape[2] == 3
        and pixels.flags.writeable
    )
    assert pixels.flags.c_contiguous
    assert expected is None or near(pixels, expected)


def test_read_photo_details(tmp_path):
    for kind in ("RGBA", "P"):
        write(tmp_path / "a.png", transparent(kind))
        pixels = photos.read_photo(tmp_path / "a.png")
        assert (pixels[10:30, 20:40] == 255).all()  # white behind what is transparent
        assert near(pixels[30:], picture(1)[30:]) or kind == "P"
    write(tmp_path / "a.gif", animation())
    assert (
        np.abs(photos.read_photo(tmp_path / "a.gif").astype(int) - picture(1)).mean() < 20
    )  # the first frame
    write(tmp_path / "cut.jpg", encoded(picture(4, 200, 300), quality=95)[:-1500])
    pixels = photos.read_photo(tmp_path / "cut.jpg")
    assert near(pixels[:50], picture(4, 200, 300)[:50]) and pixels[-1].std() == 0
    with pytest.raises(InputError, match=r"gone.jpg: cannot be read"):
        photos.read_photo(tmp_path / "gone.jpg")


@pytest.mark.parametrize(
    ("least", "shape"),
    [
        ((0, 0), (96, 128)),
        ((48, 64), (48, 64)),
        ((49, 64), (96, 128)),
        ((10, 64), (48, 64)),
        ((24, 30), (24, 32)),
        ((12, 16), (12, 16)),
        ((1, 1), (12, 16)),
        ((0, 16), (96, 128)),
        ((500, 500), (96, 128)),
    ],
)
def test_reduced_decoding_keeps_the_minimum(tmp_path, least, shape):
    write(tmp_path / "a.jpg", encoded(picture(1, 96, 128), quality=95))
    pixels = photos.read_photo(tmp_path / "a.jpg", *least)
    assert pixels.shape == (*shape, 3)
    assert near(pixels, cv2.resize(picture(1, 96, 128), shape[::-1], interpolation=cv2.INTER_AREA))
    assert np.array_equal(pixels, photos.read_photo(tmp_path / "a.jpg", *least, 96, 128))


def test_reduced_decoding_of_a_turned_photo(tmp_path):
    write(
        tmp_path / "a.jpg", encoded(picture(1, 96, 200), quality=95, exif=turned(6))
    )  # 200 high when upright
    assert photos.read_photo(tmp_path / "a.jpg", 100, 48).shape == (100, 48, 3)
    assert photos.read_photo(tmp_path / "a.jpg", 48, 100).shape == (
        200,
        96,
        3,
    )  # 48 wide would be too little
    pixels = photos.read_photo(tmp_path / "a.jpg", 50, 24)
    assert near(
        pixels,
        np.rot90(cv2.resize(picture(1, 96, 200), (50, 24), interpolation=cv2.INTER_AREA), -1),
    )


def test_the_first_of_two_orientations_counts(tmp_path):
    data = encoded(picture(1, 96, 200), quality=95)
    none = Image.Exif()
    none[271] = "a camera"
    for kinds, upright in (
        ((1, 6), (96, 200)),
        ((6, 1), (200, 96)),
        ((0, 6), (200, 96)),
        ((9, 6), (96, 200)),
    ):
        blocks = [(turned(kind) if kind else none).tobytes() for kind in kinds]
        segments = b"".join(
            b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block for block in blocks
        )
        write(tmp_path / "a.jpg", data[:2] + segments + data[2:])
        assert photos.read_photo(tmp_path / "a.jpg").shape[:2] == upright
        assert photos._jpeg_header((tmp_path / "a.jpg").read_bytes()).upright == upright


def test_damaged_files_never_end_in_a_traceback(tmp_path):
    path = tmp_path / "a.jpg"
    whole = [data for data, _, _ in ODD.values() if data]
    for seed in range(8 * len(whole)):
        rng = np.random.default_rng(seed)
        data = bytearray(whole[seed % len(whole)])
        for _ in range(rng.integers(1, 20)):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data) + 1)] if seed % 16 == 0 else data)
        facts = photos._look([str(path)])[str(path)]
        if facts.readable:  # what the audit lets through can be read, and has the size it says
            assert photos.read_photo(path).shape == (facts.height, facts.width, 3)
        else:
            with pytest.raises(InputError, match=r"a\.jpg"):
                photos.read_photo(path)


# --- Real photos ----------------------------------------------------------------------------------


@pytest.mark.skipif(not CARS10.is_dir(), reason="the photos of cars10 are not here")
def test_cars10(tmp_path):
    cfg = Config(data=str(CARS10), out=str(tmp_path))
    place = inputs.locate(cfg)
    table = photos.load(cfg, place)
    train, val, test = table.train, table.val, table.test
    assert (len(train) + len(val), len(test), table.classes) == (2450, 1050, list(range(10)))
    assert abs(len(val) / 2450 - cfg.val_fraction) < 0.01
    share = val["label"].value_counts() / table.frame.query("fold >= 0")["label"].value_counts()
    assert share.between(0.14, 0.16).all()
    assert found(table) == [
        ("train", ident, "duplicate", "on the same side of the split")
        for ident in ("163047.jpg", "166188.jpg")
    ]
    assert photos.load(cfg, place).frame.equals(table.frame)
    other = photos.load(cfg.replace(seed=2), place)
    assert len(other.val) == len(val) and 0.05 < other.val["id"].isin(val["id"]).mean() < 0.3
    row = train.iloc[0]
    assert photos.read_photo(row["path"]).shape == (row["height"], row["width"], 3)


def test_folds_hold_each_train_photo_once_stratified_and_twins_together():
    rng = np.random.default_rng(0)
    n = 90
    frame = pd.DataFrame(
        {
            "id": [f"{i}.jpg" for i in range(n)],
            "path": "",
            "label": rng.permutation(np.arange(n) % 3),
            "fold": photos.TRAIN,
            "source": "train",
            "height": 1,
            "width": 1,
            "readable": True,
            "group": np.arange(n),
        }
    )
    twins = frame.index[frame["label"] == 1][:2]
    frame.loc[twins, "group"] = frame.loc[twins[0], "group"]
    frame.loc[5, "fold"] = photos.VALIDATION  # where a photo was before does not matter
    test = frame.iloc[:4].assign(fold=photos.TEST, label=-1, id=list("abcd"), group=range(100, 104))
    table = photos.Table(
        pd.concat([frame, test], ignore_index=True),
        [0, 1, 2],
        "Id",
        "Category",
        list("abcd"),
        pd.DataFrame(),
    )
    parts = photos.folds(table, 5, seed=1)
    held = [part.val["id"].tolist() for part in parts]
    assert sorted(ident for ids in held for ident in ids) == sorted(frame["id"])
    for part in parts:
        assert set(part.train["id"]) == set(frame["id"]) - set(part.val["id"])
        assert part.test["id"].tolist() == list("abcd")
        assert part.val["label"].value_counts().between(4, 8).all()
        assert part.val["id"].isin(frame.loc[twins, "id"]).sum() in (0, 2)
    assert [part.val["id"].tolist() for part in photos.folds(table, 5, seed=1)] == held
    with pytest.raises(
        InputError, match="folds=50: 89 different train photos; expected at least 100"
    ):
        photos.folds(table, 50, seed=1)

"""What labels mean, and what the sample's labels say is asked for."""

from unicodedata import normalize

import pandas as pd
import pytest
from cases import Case, found, jpeg

from carcls import session
from carcls.data import photos
from carcls.data.labels import refuse_quantities, spreadsheet_safe
from carcls.errors import InputError


@pytest.fixture(autouse=True)
def no_kaggle(tmp_path, monkeypatch):
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "no-kaggle"))


def labelled(folder, labels, sample=(), each=2) -> Case:
    """Photos with these labels, so many each; the sample has others, or these."""
    train = {
        f"{k}_{i}.jpg": (f'"{label}"', jpeg(10 * k + i))
        for k, label in enumerate(labels)
        for i in range(each)
    }
    case = Case(folder, train)
    case.csv("train.csv", [(ident, label) for ident, (label, _) in train.items()])
    sample = sample or [labels[0]] * 2
    case.csv(
        "sample-submission.csv", [(f"90{i}.jpg", f'"{label}"') for i, label in enumerate(sample)]
    )
    return case


def warnings(table) -> list[str]:
    return [line for line in photos.summary(table) if line.startswith("WARNING")]


# --- One class or two -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("BMW", "bmw"),
        ("VW Passat", "VWPassat"),
        ("VAZ-2114", "VAZ 2114"),
        ("VW Passat", "VW_Passat"),
        ("ＢＭＷ", "BMW"),  # full-width
        ("BMW", "ВМW"),  # two Cyrillic letters
        ("Škoda", "Skoda"),
        ("Citroën", "CITROEN"),
        ("1", "1.0"),
        ("1", "01"),
        ("1_12", "1-12"),
    ],
)
def test_labels_that_look_like_one_are_kept_apart_and_shown_with_their_counts(tmp_path, one, other):
    table = labelled(tmp_path, (one, other, "Niva"), each=3).load()
    assert set(table.classes) == {one, other, "Niva"}
    (warning,) = warnings(table)
    assert all(f"{name!r} 3" in warning or f"{name!a} 3" in warning for name in (one, other))
    assert "Niva" not in warning


@pytest.mark.parametrize(
    ("one", "other"), [("1_12", "11_2"), ("ハス", "バス"), ("й", "и"), ("1.6", "16")]
)
def test_what_parts_digits_and_marks_of_other_letters_count(tmp_path, one, other):
    assert warnings(labelled(tmp_path, (one, other, "Niva"), each=3).load()) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("VW Passat", "VW  Passat"),
        ("VW Passat", "VW\u00a0Passat"),
        ("VW Passat", " VW Passat "),
        ("VW Passat", "\ufeffVW Pas\u200bsat"),
        (normalize("NFC", "Škoda й"), normalize("NFD", "Škoda й")),
    ],
)
def test_blanks_and_forms_of_unicode_make_no_other_class(tmp_path, one, other):
    table = labelled(tmp_path, (one, other, "Niva"), ["Niva"] * 2).load()
    assert set(table.classes) == {one, "Niva"} or set(table.classes) == {other, "Niva"}
    (warning,) = warnings(table)
    assert "one class" in warning and warning.count(" 2") == 2
    if other.strip() != one:
        table = labelled(tmp_path, (one, other, "Niva"), [other, "Niva"]).load()
        assert set(table.classes) == {other, "Niva"}  # as the sample writes it


def test_a_class_is_written_as_in_the_sample_else_as_in_most_rows_of_the_csv(tmp_path):
    nfc, nfd = (normalize(form, "Škoda") for form in ("NFC", "NFD"))
    assert labelled(tmp_path, (nfc, "x"), [nfd, "x"]).load().classes == [nfd, "x"]
    assert labelled(tmp_path, (nfc, nfd, nfd, "x"), ["x"] * 2).load().classes == [nfd, "x"]
    assert labelled(tmp_path, (nfd, nfc, "x"), ["x"] * 2).load().classes == ["x", nfc]
    assert labelled(tmp_path, "012", ["1.0", "0.0"]).load().classes == ["0.0", "1.0", "2.0"]
    assert labelled(tmp_path, "012", ["1.0", "0"]).load().classes == [0, 1, 2]
    assert labelled(tmp_path, "012", ["01", "00"]).load().classes == ["00", "01", "02"]
    assert warnings(labelled(tmp_path, ("C", "C++", "A+", "A-", "1.6", "16")).load()) == []


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "None", "null", "n/a"])
def test_a_class_may_be_called_as_others_write_a_gap(tmp_path, word):
    table = labelled(tmp_path, (word, "Niva", ""), ["Niva"] * 2).load()
    assert table.classes == sorted([word, "Niva"])
    assert found(table) == [("train", f"2_{i}.jpg", "no label", "dropped") for i in range(2)]
    assert any(repr(word) in note and "2 photos" in note for note in table.notes)


def test_nan_beside_numbers_is_a_gap_unless_the_sample_asks_for_it(tmp_path):
    table = labelled(tmp_path, ("0.0", "1.0", "nan"), ["0", "1"]).load()
    assert table.classes == [0, 1] and any("'nan'" in note for note in table.notes)
    assert [row[2] for row in found(table)] == ["no label"] * 2
    assert labelled(tmp_path, ("0", "1", "nan"), ["nan", "nan"]).load().classes == [0, 1]
    assert labelled(tmp_path, ("0", "1", "nan"), ["0", "nan"]).load().classes == ["0", "1", "nan"]


# --- Quantities, and what the sample's labels look like -------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        [f"{n + 0.5}" for n in range(12)],
        [f"{n},25" for n in range(12)],
        [f"{n}e-1" for n in range(1, 24)],
        [f"{1000 * n}" for n in range(12)],
        [*(f"{n + 0.5}" for n in range(12)), "unknown"],
    ],
)
def test_a_quantity_is_refused(tmp_path, labels):
    with pytest.raises(InputError, match=r"train.csv: column Category .* a quantity"):
        labelled(tmp_path, labels, ["0", "0"], each=1).load()


@pytest.mark.parametrize(
    ("labels", "each", "warned"),
    [
        (["1.6", "2.0"], 2, True),
        (range(1990, 2012), 2, True),
        (range(18, 60), 6, True),
        (range(20, 32), 2, True),
        (range(1000, 5000, 500), 3, True),
        (range(5000, 17000, 1000), 6, True),
        ([n * n for n in range(12)], 6, True),
        (range(15), 1, True),  # few photos, but numbered like classes
        (range(22), 2, False),
        ([2107, 2109, 21099], 2, False),
        (range(1001, 1031), 6, False),
        (range(10007, 300211, 10007), 6, False),
    ],
)
def test_numbers_that_may_be_classes_are_taken_with_a_warning(tmp_path, labels, each, warned):
    column = pd.Series([str(label) for label in labels] * each, name="Category")
    (*lines,) = refuse_quantities(column, tmp_path / "train.csv")
    assert len(lines) == warned
    assert all("WARNING" in text and "Category" in text and "quantity" in text for text in lines)


@pytest.mark.parametrize(
    ("labels", "sample", "looks"),
    [
        ("012", "99", "other classes"),
        (("001", "002"), "12", "the same numbers"),
        ("abc", "00", "numbers"),
        (("Škoda", "Niva"), ("Å koda", "Å koda"), "garbled"),
        (("Лада", "Нива"), ("????", "????"), "garbled"),
        (("Лада", "Нива"), ("Р›Р°РґР°", "Р›Р°РґР°"), "garbled"),
        (("Лада", "Нива"), ("Ла\ufffdа", "Ла\ufffdа"), "garbled"),
        (("Niva", "Lada"), ("NIVA", "lada"), "another way"),
        (("Niva", "Lada"), ("label", "label"), "other classes"),
    ],
)
def test_sample_labels_that_are_no_classes_are_said_with_what_they_look_like(
    tmp_path, labels, sample, looks
):
    (warning,) = warnings(labelled(tmp_path, labels, sample).load())
    assert "none of its labels" in warning and repr(min(sample)) in warning
    assert looks in warning.partition("look like")[2]


@pytest.mark.parametrize(
    ("labels", "sample", "what"),
    [("abc", ("0.3", "0"), "probability"), ("012", ("17.25", "3"), "quantity")],
)
def test_a_sample_of_fractions_is_refused_where_they_cannot_be_answered(
    tmp_path, labels, sample, what
):
    with pytest.raises(InputError, match=f"Category holds '.*': a {what}, where .* of 3 classes"):
        labelled(tmp_path, labels, sample).load()


@pytest.mark.parametrize(
    "sample", [("", ""), ("NaN", "NaN"), ("1", "1"), ("1.0", "0"), (" 1", "2 ")]
)
def test_blank_and_true_labels_in_the_sample_are_no_matter(tmp_path, sample):
    assert warnings(labelled(tmp_path, "012", sample).load()) == []


def test_a_label_of_the_sample_that_training_lacks_is_said(tmp_path):
    (warning,) = warnings(labelled(tmp_path, "ab", ("a", "c")).load())
    assert "1 of 2" in warning and "'c'" in warning


def test_what_a_spreadsheet_would_calculate_is_text_for_people():
    texts = ["=1+1", "+a", "-b", "@c", "\t=d", "-1", "+2.5", "a=b", "", "'e"]
    frame = pd.DataFrame({"id": texts, "n": range(len(texts))})
    safe = spreadsheet_safe(frame)
    assert safe["id"].tolist() == ["'=1+1", "'+a", "'-b", "'@c", "'\t=d", *texts[5:]]
    assert safe["n"].tolist() == frame["n"].tolist()


def test_audit_csv_is_for_people_and_photos_csv_for_programs(tmp_path):
    case = Case(tmp_path, {"=1+1.jpg": (0, b"no photo"), "=2+2.jpg": (0, jpeg(1))})
    session.write_tables(case.cfg, case.load(), tmp_path)
    assert pd.read_csv(tmp_path / "audit.csv")["id"].tolist() == ["'=1+1.jpg"]
    assert "=2+2.jpg" in set(pd.read_csv(tmp_path / "photos.csv")["id"])

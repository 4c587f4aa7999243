"""What a submission has to look like: every format that is served, and every one that is not."""

import shutil

import numpy as np
import pandas as pd
import pytest
from cases import Case, encoded, found, good, jpeg, picture, write

from carcls import config, run
from carcls.data import asks, photos
from carcls.data.asks import Asks
from carcls.data.photos import TEST
from carcls.errors import ConfigError, InputError
from carcls.report.submission import Submission

SAMPLE = "sample-submission.csv"
IDS = ("900.jpg", "901.jpg")


@pytest.fixture(autouse=True)
def no_kaggle(tmp_path, monkeypatch):
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "no-kaggle"))


def labelled(folder, labels, header="Id,Category", row="0", **settings) -> Case:
    """Photos with these labels, four each, and a sample submission with that header and row."""
    ids = [f"{100 * k + i}.jpg" for k in (1, 2) for i in range(4)]
    more = {f"{n}.jpg": (0, jpeg(n)) for n in range(300, 300 + 4 * max(0, len(labels) - 2))}
    case = Case(folder, more, **settings)
    ids += more
    each = [label for label in labels for _ in range(4)]
    case.csv("train.csv", [(i, f'"{x}"') for i, x in zip(ids, each, strict=True)], "Id,Label")
    sampled(case, header, row)
    return case


def sampled(case: Case, header: str, row: str) -> Case:
    case.csv(SAMPLE, [(ident, row) for ident in IDS], header)
    return case


def hot(case: Case, rows, header: str) -> Case:
    """The usual train photos, with a row of ones and zeros each."""
    ids = [f"{100 * k + i}.jpg" for k in (1, 2) for i in range(4)]
    case.csv("train.csv", [(i, *row) for i, row in zip(ids, rows, strict=True)], header)
    return case


def warnings(table) -> list[str]:
    return [note for note in table.notes if note.startswith("WARNING")]


# --- A column a class -----------------------------------------------------------------------------

FORMS = [
    ("{}", ("sedan", "suv", "van")),
    ("prob_{}", ("sedan", "suv", "van")),
    ("{} (probability)", ("sedan", "suv", "van")),
    ("p[{}]", ("SEDAN", "Suv", "van")),
    ("class_{}", ("1", "2", "10")),
    ("class_{}", ("10", "20", "30")),
    ("Category_{:0>3}", ("1", "2", "10")),
    ("{:0>2}", ("1", "2", "3")),
    ("c{}.0", ("0", "1", "2")),
    ("prob{}", ("Sedan", "Suv", "Van")),
    ("{}", ("sedan", "suv", "saloon")),
    ("{}", ("prob_a", "prob_b", "prob_c")),
    ("x_{}", ("1", "11", "111")),
]


@pytest.mark.parametrize(("form", "names"), FORMS)
def test_columns_in_any_order_get_the_probability_of_their_class(tmp_path, form, names):
    case = labelled(tmp_path, names)
    rng = np.random.default_rng(0)
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        header = ["Id", *(form.format(names[k]) for k in order)]
        table = sampled(case, ",".join(header), "0.2,0.3,0.5").load()
        assert table.asks.kind == "classes" and table.asks.columns == tuple(header)
        assert [str(table.classes[k]) for k in table.asks.classes] == [names[k] for k in order]
        assert warnings(table) == []
        probs = rng.dirichlet([1, 1, 1], 2)
        offered = Submission(tmp_path / "submission.csv", table, "run", "log_loss")
        offered.offer(list(reversed(IDS)), probs[::-1], "test", 1.0)
        submitted = pd.read_csv(tmp_path / "submission.csv")
        assert list(submitted.columns) == header and submitted["Id"].tolist() == list(IDS)
        for name in names:
            own = probs[:, [str(label) for label in table.classes].index(name)]
            assert submitted[form.format(name)].to_numpy() == pytest.approx(own, abs=5e-6)


def test_names_that_look_alike_are_one_unless_there_are_two():
    found, cut = asks.by_column(["bmw x5", "vaz_2114", "Skoda"], ["BMW X5", "VAZ-2114", "Škoda"])
    assert found == ["BMW X5", "VAZ-2114", "Škoda"] and cut == ("", "")
    assert asks.by_column(["BMW", "bmw", "x"], ["bmw", "BMW", "y"])[0] == ["BMW", "bmw", None]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["class_10", "class_20", "class_30"], [1, 2, 3]),  # 0 is not what all have behind
        (["10", "11", "12"], [0, 1, 2]),
        (["1.5", "1.6"], [5, 6]),
        (["sedan", "suv"], ["edan", "uv"]),
    ],
)
def test_neither_a_word_nor_a_number_is_cut_in_two(names, classes):
    assert asks.by_column(names, classes)[0] == [None] * len(names)


def test_two_classes_may_have_a_column_each(tmp_path):
    table = labelled(tmp_path, ("yes", "no"), "Id,no,yes", "0.5,0.5").load()
    assert table.asks == Asks("classes", ("Id", "no", "yes"), (0, 1)) and table.classes[0] == "no"


def test_classes_without_a_column_and_columns_without_a_photo_are_said(tmp_path):
    case = labelled(tmp_path, ("a", "b", "c"), "Id,c,zebra,a", "0,0,1")
    table = case.load()
    assert table.asks == Asks("classes", ("Id", "c", "zebra", "a"), (2, -1, 0))
    without, strange = warnings(table)
    assert "no column for b" in without and "zebra" in strange
    for number in range(300, 304):  # the photos of c
        write(tmp_path / "train" / f"{number}.jpg", b"no photo")
    assert case.load().asks.classes == (-1, -1, 0)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("Id,x,y,a", ".3,.3,.4", "1 of 3 columns .*found columns x, y, a; .* are a, b, c"),
        ("Id,a,Usage", "1,Public", "1 of 2 columns .* are classes"),
        ("Id,a,A,b", ".3,.3,.4", "columns a and A may mean class a"),
        ("Id,a,b,url", "0,1,http", "column url holds 'http'; expected a probability"),
        ("Id,a,b,c", "12.5,3,-7", "column a holds '12.5'; expected a probability"),
        ("Id,x,y,z", "12.5,3,-7", "several quantities a photo are asked for"),
        ("Id,xmin,ymin,xmax,ymax", "0,0,1,1", "boxes or masks are asked for"),
        ("Id,PredictionString", "a 0.5 1 2 3 4", "PredictionString: boxes or masks"),
        ("Id,bbox", "0", "bbox: boxes or masks"),
        ("Id,Category", "1 3 10 5", "Category: boxes or masks"),
        ("Id,EncodedPixels", "", "EncodedPixels: boxes or masks"),
        ("Id", "", "column Id alone"),
    ],
)
def test_what_is_no_format_is_refused_with_what_was_found(tmp_path, header, row, message):
    case = labelled(tmp_path, "abc", header, row)
    if header == "Id":
        case.csv(SAMPLE, [(ident,) for ident in IDS], header)
    with pytest.raises(InputError, match=f"sample-submission.csv: .*{message}"):
        case.load()


# --- The probability of one of two classes --------------------------------------------------------


@pytest.mark.parametrize("share", ["0.5", "0,5", ".5", "50%", "5e-1", "1.0\n901.jpg,0.25"])
def test_fractions_ask_for_the_probability_of_one_of_two_classes(tmp_path, share):
    case = labelled(tmp_path, "01", row=f'"{share}"' if "\n" not in share else share)
    if "\n" in share:
        case.csv(SAMPLE, [("900.jpg", "1.0"), ("901.jpg", "0.25")])
    table = case.load()
    assert table.asks == Asks("positive", ("Id", "Category"), (1,))
    assert table.classes == [0, 1] and warnings(table) == []
    assert any("the probability of class 1, not of 0" in note for note in table.notes)


@pytest.mark.parametrize(
    ("classes", "column", "positive"),
    [
        ("10", "Category", "1"),
        (("-1", "1"), "label", "1"),
        (("False", "True"), "label", "True"),
        (("yes", "no"), "label", "yes"),
        (("Y", "N"), "label", "Y"),
        (("negative", "positive"), "label", "positive"),
        (("cat", "dog"), "dog", "dog"),
        (("cat", "dog"), "Cat", "cat"),
        (("VAZ-2114", "dog"), "vaz 2114", "VAZ-2114"),
    ],
)
def test_which_class_is_the_positive_one(tmp_path, classes, column, positive):
    table = labelled(tmp_path, classes, f"Id,{column}", "0.5").load()
    assert table.asks.kind == "positive" and table.asks.columns == ("Id", column)
    assert str(table.classes[table.asks.classes[0]]) == positive


def test_the_setting_positive_decides_if_it_is_one_of_the_classes_asked_for(tmp_path):
    case = labelled(tmp_path, ("cat", "dog"), "Id,cat", "0.5", positive="dog")
    assert case.load().asks.classes == (1,)
    labels = {"labels": ("Id,Category", "cat"), "a column a class": ("Id,cat,dog", "0.5,0.5")}
    for what, (header, row) in labels.items():
        with pytest.raises(ConfigError, match=f"positive=dog: .* {what}; leave it out"):
            sampled(case, header, row).load()
    assert sampled(case, "Id,Category", "0").load().asks.classes == (1,)  # though no fraction
    case.cfg = case.cfg.replace(positive="mouse")
    with pytest.raises(ConfigError, match="positive=mouse: .* 'cat' and 'dog'"):
        sampled(case, "Id,cat", "0.5").load()


@pytest.mark.parametrize("classes", [("cat", "dog"), "12", ("true", "yes")])
def test_if_one_cannot_tell_the_positive_class_the_setting_is_named(tmp_path, classes):
    one, two = classes
    with pytest.raises(InputError, match=f"'{one}' and '{two}', .*; set positive"):
        labelled(tmp_path, classes, row="0.5").load()


@pytest.mark.parametrize(
    ("labels", "row", "metric", "kind"),
    [
        ("01", "0", "auto", "labels"),
        ("01", "0", "accuracy", "labels"),
        ("01", "0", "auc", "positive"),
        ("01", "0.0", "log_loss", "positive"),
        ("12", "1", "auc", "labels"),
        ("12", "0", "auc", "positive"),  # no class is called 0
        (("cat", "dog"), "0", "auc", "positive"),
        (("cat", "dog"), "0", "auto", "labels"),
        (("cat", "dog"), "cat", "auc", "labels"),
        ("012", "0", "log_loss", "labels"),
        (("0.5", "1.0"), "0.5", "auto", "labels"),  # a class's name
    ],
)
def test_zeros_and_ones_are_labels_unless_the_metric_is_of_probabilities(
    tmp_path, labels, row, metric, kind
):
    header = "Id,dog" if labels == ("cat", "dog") else "Id,2" if labels == "12" else "Id,Category"
    table = labelled(tmp_path, labels, header, row, metric=metric).load()
    assert table.asks.kind == kind
    unsure = metric == "auto" and row == "0"
    assert any("set metric=auc" in note for note in table.notes) == unsure
    told = [line for line in warnings(table) if line.startswith(f"WARNING: metric={metric}")]
    assert bool(told) == (metric in ("auc", "log_loss") and kind == "labels")


def test_auc_is_of_two_classes(tmp_path):
    with pytest.raises(ConfigError, match="metric=auc: .* there are 3"):
        labelled(tmp_path, "abc", metric="auc").load()


# --- The labels of train.csv ----------------------------------------------------------------------

ONES = [(1, 0, 0)] * 3 + [(0, 1, 0)] * 3 + [(0, 0, 1)] * 2
SPOILED = [*ONES[:2], (0, 0, 0), *ONES[3:]]


@pytest.mark.parametrize(
    ("header", "sample", "row", "kind"),
    [
        ("Id,a,b,c", "Id,c,a,b", "0.2,0.3,0.5", "classes"),
        ("Id,a,b,c", "Id,p_c,p_a,p_b", "0.2,0.3,0.5", "classes"),  # found by one 1 a row
        ("Id,a,b,c", "Id,Category", "a", "labels"),
        ("name,a,b,c", "Id,a,b,c", "0,0,1", "classes"),
    ],
)
@pytest.mark.parametrize("of_bits", [int, bool, float])
def test_train_labels_may_stand_in_a_column_a_class(tmp_path, header, sample, row, kind, of_bits):
    ones = [tuple(map(of_bits, row)) for row in ONES]
    table = sampled(hot(Case(tmp_path), ones, header), sample, row).load()
    assert table.asks.kind == kind and table.classes == ["a", "b", "c"]
    assert table.frame["label"].tolist()[:8] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert any("column a class: a, b, c" in note for note in table.notes)
    assert ("no column Id" in str(table.notes)) == header.startswith("name")


def test_of_columns_a_class_others_are_kept_apart_and_texts_refused(tmp_path):
    case = sampled(Case(tmp_path), "Id,a,b", "0.5,0.5")
    rows = [(k, "left", 1 - k, 17) for k in (0, 0, 0, 0, 1, 1, 1, 1)]
    assert hot(case, rows, "Id,a,side,b,age").load().classes == ["a", "b"]
    hot(case, [(0.25, 0.75)] * 8, "Id,a,b")
    with pytest.raises(InputError, match="train.csv: columns a, b hold other numbers than 0 and 1"):
        case.load()


def test_a_broken_row_is_dropped_and_many_are_several_labels_a_photo(tmp_path):
    more = good(300, 24, 0)
    case = sampled(Case(tmp_path, more), "Id,a,b,c", "0,0,1")
    ids = [*(f"{100 * k + i}.jpg" for k in (1, 2) for i in range(4)), *more]

    def write_rows(broken: list[tuple[int, int, int]]) -> None:
        rows = [*broken, *(np.eye(3, dtype=int)[n % 3] for n in range(len(ids) - len(broken)))]
        case.csv("train.csv", [(i, *row) for i, row in zip(ids, rows, strict=True)], "Id,a,b,c")

    write_rows([(0, 0, 0), (1, 0, 1)])
    table = case.load()
    assert found(table) == [
        ("train", "100.jpg", "no label", "dropped"),
        ("train", "101.jpg", "several labels", "dropped"),
    ]
    assert table.audit["detail"].tolist() == ["no column has 1", "a, c"]
    assert {"100.jpg", "101.jpg"} <= set(table.looked["id"])  # and can be shown
    write_rows([(1, 1, 0)] * 2)
    with pytest.raises(InputError, match="2 of 32 rows have 1 in several columns: several labels"):
        case.load()
    sampled(case, "Id,Category", "a")
    write_rows([(1, 1, 0)] * 5)
    with pytest.raises(InputError, match="not one 1 a row: several labels a photo"):
        case.load()


@pytest.mark.parametrize(
    ("header", "rows", "sample", "column"),
    [
        ("Id,Category", "{k}", "Id,Category", "Category"),
        ("Id,kind", "{k}", "Id,Category", "kind"),  # the only one
        ("Id,fold,breed,age", "{n},{k},7", "Id,Category", "breed"),
        ("Id,label_group,target", "{n},{k}", "Id,answer", "target"),
        ("Id,group,make,label", "{n},{k},x", "Id,0,1", "make"),  # has what the columns are called
        ("image,n,Category", "{n},{k}", "Id,Category", "Category"),
        ("Category,Id", None, "Id,Category", "Category"),
    ],
)
def test_the_column_of_labels_is_found_where_there_is_no_doubt(
    tmp_path, header, rows, sample, column
):
    case, ids = Case(tmp_path), [f"{100 * k + i}.jpg" for k in (1, 2) for i in range(4)]
    texts = [(rows or "").format(k=n // 4, n=n % 7) for n in range(8)]
    written = zip(ids, texts, strict=True) if rows else [(n // 4, i) for n, i in enumerate(ids)]
    case.csv("train.csv", list(written), header)
    sampled(case, sample, ",".join(["0"] * sample.count(",")))
    table = case.load()
    assert table.label_column == column and table.classes == [0, 1]
    assert table.frame["label"].tolist()[:8] == [0] * 4 + [1] * 4
    assert any(column in note for note in table.notes) == (column not in sample.split(","))


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("Id,x,z", "{k},z", "columns x, z beside the ids.* expected Category"),
        ("Id,label,class", "{k},{k}", "columns label, class beside the ids"),
        ("Id,Category", "{l}", "several labels in 4 of 8 rows, such as 'red[ |]blue"),
    ],
)
def test_labels_that_nobody_can_find_or_several_in_one_field_are_refused(
    tmp_path, header, row, message
):
    case, ids = Case(tmp_path), [f"{100 * k + i}.jpg" for k in (1, 2) for i in range(4)]
    lists = ["red", "blue", "big", "red", "red|blue", "blue|big", "red|big", "red|blue|big"]
    for sign in "| ":
        texts = [row.format(k=n // 4, l=lists[n].replace("|", sign)) for n in range(8)]
        case.csv("train.csv", zip(ids, texts, strict=True), header)
        with pytest.raises(InputError, match=f"train.csv: .*{message}"):
            case.load()


def test_class_folders_with_a_column_a_class(tmp_path):
    case = Case(tmp_path)
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train.csv").unlink()
    for k, label in enumerate(("van", "suv", "sedan")):
        for n in range(3):
            write(tmp_path / "train" / label / f"{n}.jpg", jpeg(10 * k + n))
    table = sampled(case, "Id,p_van,p_sedan,p_suv", "0,0,1").load()
    assert table.classes == ["sedan", "suv", "van"] and table.asks.classes == (2, 0, 1)


# --- No sample submission -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ident", "ids"),
    [
        ("{}.jpg", ["10.jpg", "9.png", "sub.jpg"]),
        ("{}", ["10", "9", "sub"]),
        ("train/{}.jpg", ["test_upload/10.jpg", "test_upload/9.png", "test_upload/a/sub.jpg"]),
        (r"train\{}", ["test_upload/10", "test_upload/9", "test_upload/a/sub"]),
    ],
)
def test_without_a_sample_all_test_photos_are_predicted_with_ids_as_in_train_csv(
    tmp_path, ident, ids
):
    test = {"10.jpg": jpeg(10), "9.png": encoded(picture(9), "PNG"), "a/sub.jpg": jpeg(7)}
    case = Case(tmp_path, test=test)
    (tmp_path / SAMPLE).unlink()
    write(tmp_path / "test_upload" / "about.txt", b"no photo")
    rows = [(ident.format(100 * k + i), k) for k in (1, 2) for i in range(4)]
    case.csv("train.csv", rows, "file,make")
    table = case.load()
    assert table.sample_ids == ids
    assert table.asks == Asks("labels", ("file", "make")) and table.classes == [1, 2]
    test_rows = table.frame.iloc[table.rows(TEST).rows]
    tops = [path.removeprefix(f"{tmp_path}/test_upload/") for path in test_rows["path"]]
    assert tops == list(test) and test_rows["readable"].all()
    assert found(table) == [("test", "", "files that are no photos", "left out")]
    assert any("no sample submission" in line for line in photos.summary(table))


def test_without_a_sample_two_photos_never_have_one_id(tmp_path):
    case = Case(tmp_path, test={"1.jpg": jpeg(1), "1.png": encoded(picture(2), "PNG")})
    (tmp_path / SAMPLE).unlink()
    case.csv("train.csv", [(f"{100 * k + i}", k) for k in (1, 2) for i in range(4)])
    assert case.load().sample_ids == ["1.jpg", "1.png"]
    (tmp_path / "test_upload" / "a").mkdir()
    (tmp_path / "test_upload" / "1.png").rename(tmp_path / "test_upload" / "a" / "1.jpg")
    assert case.load().sample_ids == ["1.jpg", "a/1.jpg"]


@pytest.mark.parametrize(
    ("labels", "metric", "kind"),
    [
        ("012", "auto", Asks("labels", ("Id", "Label"))),
        ("012", "log_loss", Asks("classes", ("Id", "0", "1", "2"), (0, 1, 2))),
        ("01", "auc", Asks("positive", ("Id", "Label"), (1,))),
    ],
)
def test_without_a_sample_the_metric_says_what_is_submitted(tmp_path, labels, metric, kind):
    case = labelled(tmp_path, labels, metric=metric)
    (tmp_path / SAMPLE).unlink()
    assert case.load().asks == kind


def test_class_folders_without_any_csv_file(tmp_path):
    case = Case(tmp_path)
    for name in ("train.csv", SAMPLE):
        (tmp_path / name).unlink()
    shutil.rmtree(tmp_path / "train")
    for label in "ab":
        for n in range(3):
            write(tmp_path / "train" / label / f"{n}.jpg", jpeg(9 * ord(label) + n))
    table = case.load()
    assert (table.asks.columns, table.sample_ids) == (("id", "label"), ["900.jpg", "901.jpg"])
    shutil.rmtree(tmp_path / "train" / "b")
    for path in list((tmp_path / "train" / "a").iterdir()):
        path.rename(tmp_path / "train" / path.name)
    with pytest.raises(InputError, match="missing train.csv, and .* no folder per class"):
        case.load()


# --- Whole runs -----------------------------------------------------------------------------------


def submitted(cfg) -> pd.DataFrame:
    return pd.read_csv(run(cfg), index_col=0)


def test_a_run_for_a_column_a_class(brief, competition):
    ids = pd.read_csv(competition / SAMPLE)["Id"]
    order = ["p_2", "p_0", "p_1"]
    pd.DataFrame(1 / 3, ids, order).to_csv(competition / SAMPLE)
    frame = submitted(brief)
    assert frame.index.tolist() == ids.tolist() and list(frame.columns) == order
    assert frame.sum(axis=1).to_numpy() == pytest.approx(np.ones(len(ids)), abs=2e-6)
    assert frame.nunique().min() > 1


def test_a_run_for_one_of_two_classes_without_a_sample(brief, competition):
    (competition / SAMPLE).unlink()
    train = pd.read_csv(competition / "train.csv").query("Category < 2")
    train.to_csv(competition / "train.csv", index=False)
    frame = submitted(config.parse({**brief.model_dump(), "metric": "auc"}))
    assert frame.index.is_monotonic_increasing and list(frame.columns) == ["Category"]
    assert len(frame) == 10 and frame["Category"].between(0, 1, inclusive="neither").all()

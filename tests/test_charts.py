"""Charts: what is in them by arithmetic, that axes say what they show, and that texts fit."""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from build_votes import build, says
from drawn import assert_inside, curves_of, labels_of, random_votes, record_figures, texts
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from carcls.report import charts, names, views
from carcls.votes import calibrate, votes


@pytest.fixture
def figures(monkeypatch):
    return record_figures(monkeypatch)


# --- Epochs and classes ---------------------------------------------------------------------------


def epochs():
    names = ("loss", "val_loss", "accuracy", "val_accuracy", "lr")
    return pd.DataFrame({"stage": [1, 2], **{name: [n, n + 1] for n, name in enumerate(names)}})


def test_curves_show_every_epoch_and_mark_a_new_size(tmp_path, figures):  # S10, S44
    refit = epochs().assign(val_loss=np.nan, val_accuracy=np.nan)
    charts.curves(epochs(), tmp_path / "curves.png", "fold 2")
    charts.curves(refit, tmp_path / "curves.png")
    axes = figures[0].axes
    assert figures[0].get_suptitle() == "fold 2"
    labels = [("epoch", "cross-entropy"), ("epoch", "accuracy"), ("epoch", "learning rate")]
    assert labels_of(axes) == labels
    lines = [curves_of(axis)[:-1] for axis in axes]
    assert lines == [[[0, 1], [1, 2]], [[2, 3], [3, 4]], [[4, 5]]]
    assert [axis.lines[-1].get_xdata()[0] for axis in axes] == [1.5] * 3
    assert len(figures[1].axes[0].lines) == 2


def test_the_pair_that_is_confused_most_counts_both_ways_and_is_outlined(tmp_path, figures):
    truth, predicted = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([1, 1, 0, 2, 2, 1, 2])
    charts.confusion("abc", truth, predicted, tmp_path / "confusion.png")
    wrong = figures[0].axes[0]
    assert labels_of([wrong]) == [("predicted class", "true class")]
    assert {(t.get_position(), t.get_text()) for t in wrong.texts} == {
        ((0, 0), "1"),
        ((1, 0), "2"),
        ((2, 1), "2"),
        ((1, 2), "1"),
        ((2, 2), "1"),
    }
    assert [p.get_xy() for p in wrong.patches] == [(1.5, 0.5), (0.5, 1.5)]


# --- Views ----------------------------------------------------------------------------------------


def test_few_views_are_counted_and_many_are_put_into_tenths():
    def bins(agreement, n_views):
        where, names = views.group_agreement(np.array(agreement), np.array(n_views))
        return [names[i] for i in where], names[0]

    shown = ["3 of 3", "1 of 3", "2 of 3", "3 of 3"]
    assert bins([1, 1 / 3, 2 / 3, 1], [3] * 4) == (shown, "1 of 3")
    # 0.29 and 0.57 times 100 are below 29 and 57 in floating point; 63 of 64 is not unanimous
    shown = ["30–40%", "60–70%", "50–60%", "70–80%", "90–99%", "all"]
    assert bins([0.3, 0.6, 0.59, 0.7, 63 / 64, 1], [10, 10, 100, 10, 64, 2]) == (shown, "30–40%")


def test_matrix_shows_what_each_view_says(tmp_path, figures):  # S53
    tops = [[0, 1, 2], [0, 1, 3], [0, 1, 2], [0, 3, 2]]
    some = build(says(tops, classes=4), [0, 3, 1], [2, 4, 4])
    path = views.matrix(some, ["a", "b", "c", "$d$"], tmp_path / "matrix.png")
    axis = figures[0].axes[0]
    image, truth = axis.images
    rows = [[1, 1, 1, 3], [2, 3, 2, 2], [0, 0, -1, -1]]
    assert image.get_array().filled(-1).tolist() == rows
    assert truth.get_array().filled(-1).tolist() == [[3], [1], [0]]
    assert truth.get_extent()[1] < image.get_extent()[0]  # left of the views, white between
    pixels = cv2.imread(str(path))[:, :, ::-1]
    for (row, view), top in np.ndenumerate(rows):
        x, y = axis.transData.transform((view, row))
        colour = [255] * 3 if top < 0 else np.round(np.array(image.cmap(int(top))[:3]) * 255)
        assert pixels[round(len(pixels) - y), round(x)] == pytest.approx(np.array(colour), abs=1)
    assert len({image.cmap(c) for c in range(4)} | {(1.0, 1.0, 1.0, 1.0)}) == 5


def test_matrix_shows_the_most_disputed_only(tmp_path, figures):
    tops = np.zeros((4, 50), int)
    tops[:1, 40] = 1
    tops[:1, 30] = tops[1:, 20] = 2  # as little disputed: in the order of the classes
    tops[:2, 7] = 2, 3
    views.matrix(build(says(tops, classes=4), [0] * 50), range(4), tmp_path / "matrix.png", most=5)
    image = figures[0].axes[0].images[0]
    assert image.get_array()[:3].tolist() == [[2, 3, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0]]
    assert len(image.get_array()) == 5


def test_agreement_adds_up(tmp_path, figures):
    tops = [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 0]]
    views.agreement(build(says(tops, classes=4), [0, 1, 0, 3]), tmp_path / "agreement.png")
    (axis,) = figures[0].axes
    assert texts(axis.texts) == ["100.0%\n1 photo", "66.7%\n3 photos"]
    assert sum(bar.get_height() for bar in axis.patches) == 4
    assert labels_of([axis]) == [("views that agree with the combined prediction", "photos")]


def test_tta_curve_has_a_line_a_member_over_powers_of_two(tmp_path, figures):
    table = votes.curve(random_votes(40, 3, 10))
    views.tta_curve({"a": table, "b": table[:4]}, 8, tmp_path / "tta_curve.png")
    assert texts(figures[0].axes[0].get_xticklabels()) == ["1", "2", "4", "8"]
    assert texts(figures[0].legends[0].get_texts()) == ["a", "b", "used: 8 views"]
    for axis, column in zip(figures[0].axes, ("accuracy", "log_loss"), strict=True):
        assert curves_of(axis)[0] == table[column].tolist()
        assert axis.get_xlabel() == "views per photo"
        assert column.replace("_", "-") in axis.get_ylabel()


def test_calibration_has_a_point_for_each_group_of_photos(tmp_path, figures):
    some = random_votes(60, 3, 1)
    before = calibrate.reliability(some.alone(), some.labels)
    after = calibrate.reliability(calibrate.apply(some.alone(), 2.0), some.labels)
    for second in (after, before):
        charts.calibration(before, second, tmp_path / "calibration.png")
    for figure, tables in zip(figures, ((before, after), (before,)), strict=True):
        drawn = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
        assert [list(line.get_ydata()) for line in drawn] == [list(t["accuracy"]) for t in tables]
        assert_inside(figure)


def test_trade_off_has_a_point_for_each_rule(tmp_path, figures):
    table = votes.trade_off(random_votes(60, 3, 16))
    views.trade_off(table, tmp_path / "trade_off.png")
    adaptive = table["rule"].str.startswith("from")
    for axis, column in zip(figures[0].axes, ("log_loss", "accuracy"), strict=True):
        points = [line for line in axis.lines if line.get_marker() in "os"]
        found = {(line.get_xdata()[0], line.get_ydata()[0]) for line in points}
        assert found == set(zip(table["passes"][adaptive], table[column][adaptive], strict=True))
        assert curves_of(axis)[0] == table[column][~adaptive].tolist()
        assert axis.get_xlabel() == "passes per photo, mean"
        assert axis.get_ylabel() == f"validation {column.replace('_', '-')}"


# --- Texts and ticks ------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "photos", "most"), [(2, 10, 1), (200, 50, 16)])
def test_texts_fit_with_few_and_many_classes_of_long_names(
    tmp_path, figures, classes, photos, most
):
    some = random_votes(photos, classes, most)
    labels = [f"{i} Rolls-Royce Phantom Drophead Coupe Convertible {i}" for i in range(classes)]
    paths = [
        views.matrix(some, labels, tmp_path / "matrix.png"),
        views.agreement(some, tmp_path / "agreement.png"),
        charts.confusion(
            labels, some.labels, some.together().argmax(1), tmp_path / "confusion.png"
        ),
        views.tta_curve({labels[0]: votes.curve(some)}, most, tmp_path / "tta_curve.png"),
        views.trade_off(votes.trade_off(some), tmp_path / "trade_off.png"),
    ]
    assert set(tmp_path.iterdir()) == set(paths)  # no temporary file stays
    for path, figure in zip(paths, figures, strict=True):
        assert cv2.imread(str(path)).shape[0] <= 1300
        assert_inside(figure)


def test_names_are_cut_in_the_middle_and_no_formulas():
    assert names.shorten("Aston Martin Coupe 2012", 16) == "Aston Mart… 2012"
    assert names.shorten("$5 and $6", 20) == r"\$5 and \$6"
    assert names.names(["$5\nand $6"], 20).shown == [r"\$5 and \$6"]
    assert names.names(["\u00e9", "e\u0301", "a b", "a  b", "x", "x"], 20).shown[:5] == [
        *(f"#{n}" for n in range(1, 5)),
        "x",
    ]


def test_what_no_font_shows_is_a_number_that_the_picture_file_explains(tmp_path, figures, recwarn):
    shown = ["Lada", "Жигули", "Café", "a_b^{c}", "<b>", r"\$1\$"]
    numbered = ["轿车", "자동차", "عربة", "מכונית", "รถยนต์", "गाड़ी", "🚗\u200d🚙", "a\x07b"]
    numbered += [f"{'x' * 30}{n}{'y' * 30}" for n in range(2)]  # cut to the same
    labels = ["Lada", "Жигули", "Cafe\u0301", "a_b^{c}", "<b>", "$1$", *numbered]
    some = random_votes(30, len(labels), 4)
    some = replace(some, ids=np.array([f"{n}車.jpg" for n in range(30)]))
    predicted = some.together().argmax(1)
    path = charts.confusion(labels, some.labels, predicted, tmp_path / "confusion.png")
    drawn = texts(figures[0].axes[0].get_xticklabels())
    numbers = [f"#{n}" for n in range(7, len(labels) + 1)]
    assert drawn == [*shown, *numbers]
    with Image.open(path) as picture:
        legend = picture.info[charts.LEGEND]
    assert legend == "; ".join(f"{n}: {name}" for n, name in zip(numbers, numbered, strict=True))
    path = views.matrix(some, labels, tmp_path / "matrix.png")
    assert texts(figures[1].axes[0].get_yticklabels()) == [f"photo #{n + 1}" for n in range(30)]
    with Image.open(path) as picture:
        assert "車.jpg" in picture.info[charts.LEGEND]
    views.tta_curve({"$轿车$": votes.curve(some)}, 4, tmp_path / "tta_curve.png")
    charts.curves(epochs(), tmp_path / "curves.png", "$轿车$")
    assert not [str(w.message) for w in recwarn]


def test_a_font_of_the_machine_is_used_where_it_has_the_letters(tmp_path, figures, recwarn):
    pen = TTGlyphPen(None)
    for corner, move in (((0, 0), pen.moveTo), ((0, 700), pen.lineTo), ((700, 0), pen.lineTo)):
        move(corner)
    pen.closePath()
    blank = TTGlyphPen(None).glyph()
    font = FontBuilder(1000)
    font.setupGlyphOrder([".notdef", "car", "blank"])
    font.setupCharacterMap({ord("轿"): "car", ord("车"): "blank"})
    font.setupGlyf({".notdef": blank, "car": pen.glyph(), "blank": blank})
    font.setupHorizontalMetrics(dict.fromkeys([".notdef", "car", "blank"], (1000, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Drawn Cars", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "cars.ttf")
    known = font_manager.fontManager.ttflist
    for remembered in (names._font_of, names._characters):
        remembered.cache_clear()
    try:
        font_manager.fontManager.addfont(tmp_path / "cars.ttf")
        found = names.names(["轿" * 30, "轿", "轿车", "a轿"], 20)
        assert found.shown == [f"{'轿' * 6}…轿轿轿", "轿", "#3", "a轿"]
        assert found.fonts == ["Drawn Cars"]
        charts.confusion(
            ["轿", "x"], np.array([0, 1]), np.array([1, 1]), tmp_path / "confusion.png"
        )
        assert texts(figures[0].axes[0].get_xticklabels()) == ["轿", "x"]
        assert not [str(w.message) for w in recwarn]
    finally:
        font_manager.fontManager.ttflist = [e for e in known if e.name != "Drawn Cars"]
        font_manager.fontManager._findfont_cached.cache_clear()
        for remembered in (names._font_of, names._characters):
            remembered.cache_clear()


def test_ticks_are_every_round_number():
    assert charts.spread_ticks(10, 40) == list(range(10))
    assert charts.spread_ticks(196, 40) == list(range(0, 196, 5))
    assert charts.spread_ticks(64, 16) == list(range(0, 64, 4))


def test_no_accuracy_beyond_all_of_them_on_an_axis():
    axis = Figure().add_subplot()
    axis.plot([1, 2, 4], [1, 1, 1])
    axis.yaxis.set_major_formatter(views.PERCENT)
    axis.figure.canvas.draw()
    assert axis.get_ylim()[1] > 1  # the mark at 1 is whole
    assert [text for text in texts(axis.get_yticklabels()) if text][-1] == "100%"

"""A look at the data: what is said of it, drawn and listed, and that nothing heavy is imported."""

import html
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from cases import Case, encoded, found, good, jpeg, picture
from drawn import assert_inside, record_figures, texts
from PIL import Image

from carcls.data import photos
from carcls.desk import cli
from carcls.report import dataset, look


def copy(seed: int, **options) -> bytes:
    """Another file of the picture that ``jpeg`` makes of this seed."""
    return encoded(picture(seed), quality=80, **options)


def seen_of(case: Case, **settings) -> look.Look:
    case.cfg = case.cfg.replace(**settings)
    return look.look(case.cfg, case.load())


def test_pairs_and_what_follows_from_them(tmp_path):
    train = {"wrong.jpg": (1, copy(100)), "again.jpg": (1, copy(200))}
    mirrored = encoded(picture(201)[:, ::-1], quality=90)
    test = {"900.jpg": jpeg(900), "901.jpg": mirrored, "902.jpg": copy(900), "903.jpg": jpeg(202)}
    case = Case(tmp_path, train, test)
    seen = seen_of(case)
    rows = look.listed(seen)
    rows = rows[["photo_a", "label_a", "photo_b", "label_b", "mirrored", "finding"]]
    assert rows.to_numpy().tolist() == [
        ["100.jpg", "0", "wrong.jpg", "1", False, "different labels"],
        ["201.jpg", "1", "901.jpg", "", True, "train and test"],
        ["200.jpg", "1", "again.jpg", "1", False, "same label"],
        ["900.jpg", "", "902.jpg", "", False, "both test"],
    ]
    assert seen.known == 1  # 903.jpg has the bytes of a train photo, which the audit says
    (warning,) = [
        line for line in look.lines(seen) if line.startswith("WARNING") and "label" in line
    ]
    assert "100.jpg (0) and wrong.jpg (1)" in warning


@pytest.mark.parametrize(("folds", "seed"), [(1, 1), (2, 2)])
def test_validation_photos_that_training_has_seen_are_counted(tmp_path, folds, seed):
    train = {f"copy{n}.jpg": (0, copy(n)) for n in range(100, 104)}
    seen = seen_of(Case(tmp_path, train, val_fraction=0.4), folds=folds, seed=seed)
    fold = dict(zip(seen.table.frame["id"], seen.table.frame["fold"], strict=True))
    if folds > 1:
        frame = photos.with_folds(seen.table, folds, seed)
        fold = dict(zip(frame["id"], frame["fold"], strict=True))
    apart = sum(fold[f"{n}.jpg"] != fold[f"copy{n}.jpg"] for n in range(100, 104))
    assert 0 < apart == seen.leaked / folds
    assert seen.validated == sum(f in ((0,), (1, 2))[folds - 1] for f in fold.values())
    assert any("flatters" in line for line in look.lines(seen))


def test_without_pairs_nothing_is_drawn_of_them(tmp_path):
    case = Case(tmp_path)
    said = look.write(case.cfg, case.load(), tmp_path / "out")
    lines, pictures = look.read(tmp_path / "out")
    assert lines == said and not any(line.startswith("WARNING") for line in said)
    drawn = {path.name for path, _ in pictures if path}
    assert drawn == {"classes.png", "light.png", "examples.png"}  # all are of one size
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == drawn
    assert sum(path is None and "64×48" in text for path, text in pictures) == 1
    assert len(pd.read_csv(tmp_path / "out" / "similar.csv")) == 0
    (tmp_path / "out" / look.NOTE).write_text("{}")
    assert look.read(tmp_path / "out") == ([], [])


def test_photos_of_one_colour_are_named_and_not_compared(tmp_path):
    grey = {
        f"grey{n}.png": (n % 2, encoded(np.full((48, 64, 3), 90 + n, np.uint8), "PNG"))
        for n in (0, 1)
    }
    seen = seen_of(Case(tmp_path, grey))
    assert seen.pairs.empty
    assert any("grey0.png, grey1.png" in line for line in look.lines(seen))


def test_command_escapes_and_imports_no_network(tmp_path):
    name = "<b>&x.jpg"
    train = {
        name: ("<i>bad</i>", copy(100)),
        "=1+1.jpg": ("<i>bad</i>", copy(101)),
        **good(100, 4, "0"),
    }
    train |= {"odd.jpg": ("0", encoded(Image.fromarray(picture(7)), mode="L"))}
    case = Case(tmp_path, train)
    args = ["look", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    code = (
        f"import sys; from carcls.desk import cli; code = cli.main({args!r}); "
        "print('heavy', *{'keras', 'tensorflow', 'jax'} & set(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].split() == ["heavy"]
    assert "greyscale" in done.stdout and "WARNING" in done.stdout
    page = (tmp_path / "out" / "look.html").read_text()
    assert "&lt;i&gt;bad" in page and "<i>" not in page and "<b>" not in page
    assert page.count("data:image/") == 5  # four, as all sizes are the same, and the audit
    table = pd.read_csv(tmp_path / "out" / "similar.csv")
    assert set(table["photo_b"]) | set(table["photo_a"]) >= {name, "'=1+1.jpg"}
    assert len(found(case.load())) == len(pd.read_csv(tmp_path / "out" / "audit.csv"))


def test_settings_that_change_nothing_are_refused(capsys):
    assert cli.main(["look", "lr=1", "--data", "nowhere"]) != 0
    assert "lr" in capsys.readouterr().err


@pytest.mark.parametrize("count", [3, 40, 396])
def test_names_of_classes_stay_readable(tmp_path, monkeypatch, count):
    figures = record_figures(monkeypatch)
    label = np.repeat(np.arange(count), np.arange(count) % 7 + 1)
    fold = np.where(np.arange(len(label)) % 5, photos.TRAIN, photos.VALIDATION)
    frame = pd.DataFrame({"label": label, "fold": fold})
    names = [f"Chevrolet Silverado 1500 Regular Cab {n} 宝马 $x$" for n in range(count)]
    dataset.classes(frame, names, tmp_path / "classes.png")
    (figure,) = figures
    assert_inside(figure)
    bars = figure.axes if count <= 40 else figure.axes[1:]
    for axis in bars:
        boxes = sorted(tuple(text.get_window_extent().intervaly) for text in axis.get_yticklabels())
        assert all(below[1] <= above[0] + 1 for below, above in pairwise(boxes))
    most = texts(bars[0].texts)[-1 if count > 40 else -count :]
    assert most[0] == str(min(7, count))
    assert sum(len(axis.get_yticklabels()) for axis in bars) == min(count, 24 if count > 40 else 40)


def test_sizes_and_light_are_shares_of_train_and_of_test_photos(tmp_path, monkeypatch):
    figures = record_figures(monkeypatch)
    frame = pd.DataFrame(
        {
            "fold": [photos.TRAIN] * 3 + [photos.VALIDATION] + [photos.TEST] * 2,
            "width": [640, 640, 640, 200, 10, 9000],
            "height": [480, 480, 480, 300, 300, 10],
            "brightness": [10.0, 20, 30, 254, 255, 0],
            "contrast": [50.0, 50, 50, 60, 127, 1],
        }
    )
    assert dataset.sizes(frame, tmp_path / "sizes.png")[0]
    assert dataset.light(frame, tmp_path / "light.png")[0]
    for figure in figures:
        assert_inside(figure)
    for axis in (figures[0].axes[1], *figures[1].axes):
        train = sum(patch.get_height() for patch in axis.patches if hasattr(patch, "get_height"))
        assert train == pytest.approx(1)
    path, text = dataset.sizes(frame[:3], tmp_path / "none.png")
    assert path is None and "640×480" in text


def test_examples_are_of_every_class_or_of_as_many_as_have_room(tmp_path, monkeypatch):
    figures = record_figures(monkeypatch)
    for count, each, shown in ((2, 6, 2), (10, 3, 10), (100, 2, 24)):
        label = np.repeat(np.arange(count), 8)
        frame = pd.DataFrame({"label": [*label, -1], "readable": False, "path": ""})
        path, _ = dataset.examples(frame, range(count), 1, tmp_path / "examples.png")
        titles = [axis.get_title() for axis in figures[-1].axes]
        assert path and len(titles) == each * shown and len(set(titles)) == shown


def test_a_run_shows_the_same(finished):
    lines, pictures = look.read(finished.out)
    page = html.unescape((finished.out / "report.html").read_text())
    assert "== look" in finished.said and lines
    assert all(line in finished.said and line in page for line in lines)
    assert all(text in page and (path is None or path.is_file()) for path, text in pictures)

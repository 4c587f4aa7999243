"""The report: what the curves say, and a page that has every table and picture."""

import html
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import write_photo
from drawn import random_votes

from carcls.config import Config
from carcls.data import audit, photos
from carcls.report import page
from carcls.votes.decide import decide


def history(val_loss, val_accuracy=None, stage=1):
    columns = {"stage": stage, "loss": 1.0, "accuracy": 0.5, "lr": 1e-3}
    accuracy = val_accuracy or np.linspace(0.5, 0.6, len(val_loss))
    return pd.DataFrame({**columns, "val_loss": val_loss, "val_accuracy": accuracy})


@pytest.mark.parametrize(
    ("epochs", "verdict"),
    [
        (history([1.0, 0.8, 0.6, 0.5]), "Under-trained.*38%"),  # S39: 1 - 0.5 / 0.8
        (history([1.0, 0.8, 0.6, 0.5], [0.9, 0.99, 0.99, 0.99]), "neither"),
        (history([1.0, 0.5, 0.6, 0.7]), "Over-fitted.*40%"),  # S40
        (history([0.52, 0.51, 0.505, 0.5]), "neither"),
        (history([1.0, 0.5]), "too few"),
        # Another size
        (pd.concat([history([0.6, 0.5, 0.4]), history([1, 0.99, 0.98], stage=2)]), "neither"),
    ],
)
def test_verdicts(epochs, verdict):
    (found,) = page.verdicts(epochs)
    assert re.search(verdict, found)


def write_report(out, views, names, classes="abc", **result):
    """The report of made-up members on a photo of noise: its files, its text, the decision."""
    seeds = "+".join(f"seed={n}" for n in range(len(names)))
    url = "https://me:t0ps3cret@host/hooks/t0ps3cret?token=t0ps3cret"
    cfg = Config(members=seeds, views=views, boxes="boxes.csv", monitor_url=url)
    votes = random_votes(40, 3, cfg.views.most)
    rows = [("train", "x.jpg", photos.TRAIN, 0), ("test", "y.jpg", photos.TEST, -1)]
    rows += [
        ("train", i, photos.VALIDATION, k) for i, k in zip(votes.ids, votes.labels, strict=True)
    ]
    photo = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    path = str(write_photo(out / "photo.jpg", photo))
    frame = pd.DataFrame(rows, columns=["source", "id", "fold", "label"]).assign(
        path=path, height=24, width=32, readable=True, left=4, top=2, right=28, bottom=22
    )
    findings = pd.DataFrame([], columns=list(audit.AUDIT_COLUMNS))
    table = photos.Table(frame, list(classes), "Id", "Category", [], findings, frame)
    members, histories = [], {"": history([1.0, 0.8, 0.6, 0.5])}
    for name in names:
        folder = out / name
        folder.mkdir()
        member = {"name": name, "folder": folder, "histories": histories}
        members.append(SimpleNamespace(**member, val=votes, test=[votes]))
    decision = decide(cfg, members, None)
    result |= {
        "validation_accuracy": 0.8765,
        "validation_interval_95": [0.7, 0.9],
        "validation_photos": 40,
        "made_by": "those two",
        "source": "0123abcd",
        "versions": {"keras": "3.9.9"},
    }
    files = page.before_training(cfg, table, out)
    files += page.write(cfg, table, members, decision, result, out)
    return files, html.unescape((out / "report.html").read_text()), decision


def test_the_report_has_every_picture_with_its_caption_and_every_table(tmp_path):  # S9, S50
    files, text, decision = write_report(
        tmp_path,
        "4-16",
        ("one", "two"),
        true_accuracy=0.5432,
        pseudo={"chosen": "7 of 9 photos", "reasons": ["better", "no better"]},
        refit={"photos": 1234, "kept": [True, False], "reasons": ["kept", "too far"]},
    )
    pictures = set(tmp_path.rglob("*.png"))
    assert set(files) == {*pictures, tmp_path / "report.html"}
    assert {path.name for path in pictures} == set(page.CAPTIONS)
    assert text.count("data:image/png") == text.count("<figcaption>") == len(pictures)
    for words in (
        "0.8765",  # on validation
        "0.5432",  # on the drawn test photos
        "those two",  # what made the submission
        "7 of 9 photos",
        "Member 2: no better",
        "1,234",
        "Member 2: too far",
        "<th>kind</th>",  # the table of blends
        decision.choice.reason,
        "<h2>Member two</h2>",
        "Under-trained",
        decision.gates[0].reason,
        "first 8, mean",  # the table of views
        "view 3 alone",
        "from 4 up to 16",  # the table of rules
        "16 passes a photo",  # what the adaptive rule saves
        "<th>val_loss</th>",  # the table of epochs
        '"label_smoothing": 0.0',  # the settings
        "0123abcd",
        "3.9.9",
    ):
        assert words in text, words
    assert '"monitor_url": "https://host/…"' in text and "t0ps3cret" not in text
    alone = re.search(r"<table.*?</table>", text, re.DOTALL)[0]  # the table of members
    assert "<td>one</td>" in alone and "<td>two</td>" in alone
    labels = pd.read_csv(tmp_path / "labels.csv")
    assert {"id", "given", "predicted", "probability"} <= set(labels.columns)


def test_the_report_says_nothing_of_what_was_not_done(tmp_path):
    _, text, _ = write_report(tmp_path, "1", ("one",))
    names = {path.name for path in tmp_path.rglob("*.png")}
    assert not names & {"matrix.png", "agreement.png", "tta_curve.png", "trade_off.png"}
    assert not [
        name for name in ("Pseudo-labels", "Refit", "True accuracy", "blend</h2>") if name in text
    ]


def test_labels_that_no_font_shows_are_below_the_pictures_as_text(tmp_path):
    labels = ["轿车", "<script>alert(1)</script>$x$", "c" * 80]
    write_report(tmp_path, "2", ("one",), labels)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(
        r"<figcaption>Validation photos by true class[^<]*<br>#1: 轿车</figcaption>", text
    )
    assert "<script" not in text
    assert pd.read_csv(tmp_path / "labels.csv")["given"].isin(labels).all()

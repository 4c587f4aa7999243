"""The report: what the curves say, and a page that has every table and picture."""

import html
import re
import shutil
import subprocess
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from build_votes import build, says
from conftest import write_photo
from drawn import random_votes

from carcls.config import Config
from carcls.data import audit, photos
from carcls.report import outcome, page, parts, verdicts
from carcls.report.outcome import Outcome
from carcls.votes import pseudo
from carcls.votes.decide import decide
from carcls.votes.votes import Gate


def history(val_loss, val_accuracy=None, stage=1):
    columns = {"stage": stage, "loss": 1.0, "accuracy": 0.5, "lr": 1e-3}
    accuracy = val_accuracy or np.linspace(0.5, 0.6, len(val_loss))
    return pd.DataFrame({**columns, "val_loss": val_loss, "val_accuracy": accuracy})


@pytest.mark.parametrize(
    ("epochs", "verdict"),
    [
        (history([1.0, 0.8, 0.6, 0.5]), "Under-trained.*38%"),  # S39: 1 - 0.5 / 0.8
        (history([1.0, 0.8, 0.6, 0.5], [0.9, 0.99, 0.99, 0.99]), "neither"),
        (history([1.0, 0.5, 0.6, 0.7]), "Overfitted.*40%"),  # S40
        (history([0.5, 0.0009, 0.002, 0.0022]), "neither"),  # all are right, and surely
        (history([0.52, 0.51, 0.505, 0.5]), "neither"),
        (history([1.0, 0.5]), "too few"),
        # Another size
        (pd.concat([history([0.6, 0.5, 0.4]), history([1, 0.99, 0.98], stage=2)]), "neither"),
    ],
)
def test_verdicts(epochs, verdict):
    (found,) = verdicts.judge(epochs)
    assert re.search(verdict, " ".join(found))


def some_votes(views):
    """Votes of which some are wrong, and one is surely so."""
    votes = random_votes(40, 3, views)
    truth = votes.labels.copy()
    votes.labels[:6] = (truth[:6] + 1) % 3
    votes.probs[:, 0] = 1e-5 / 2
    votes.probs[:, 0, truth[0]] = 1 - 1e-5
    return votes


def write_report(out, views, names, classes="abc", votes=None, boxes="boxes.csv", **result):
    """The report of made-up members on a photo of noise: its files, its text, the decision."""
    out.mkdir(exist_ok=True)
    seeds = "+".join(f"seed={n}" for n in range(len(names)))
    url = "https://me:t0ps3cret@host/hooks/t0ps3cret?token=t0ps3cret"
    cfg = Config(members=seeds, views=views, boxes=boxes, monitor_url=url)
    votes = votes or some_votes(cfg.views.most)
    rows = [("train", "x.jpg", photos.TRAIN, 0), ("test", "y.jpg", photos.TEST, -1)]
    rows += [
        ("train", i, photos.VALIDATION, k) for i, k in zip(votes.ids, votes.labels, strict=True)
    ]
    photo = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    path = str(write_photo(out / "photo.jpg", photo))
    frame = pd.DataFrame(rows, columns=["source", "id", "fold", "label"]).assign(
        path=path, height=24, width=32, readable=True, left=4, top=2, right=28, bottom=22
    )
    tiny = [("train", "x.jpg", "tiny", "kept", "")] * bool(boxes)
    findings = pd.DataFrame(tiny, columns=list(audit.AUDIT_COLUMNS))
    table = photos.Table(frame, list(classes), "Id", "Category", [], findings, frame)
    members, histories = [], {"": history([1.0, 0.8, 0.6, 0.5])}
    for name in names:
        folder = out / name
        folder.mkdir(exist_ok=True)
        member = {"name": name, "folder": folder, "histories": histories}
        members.append(SimpleNamespace(**member, val=votes, test=[votes]))
    decision = decide(cfg, members, None, result.get("metric", "accuracy"))
    result = {
        "validation_accuracy": 0.8765,
        "validation_interval_95": [0.7, 0.9],
        "validation_photos": 40,
        "made_by": "those two",
        "source": "0123abcd",
        "versions": {"keras": "3.9.9"},
        "warnings": [],
        **result,
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
    assert {path.name for path in pictures} == set(page.CAPTIONS) - {"calibration.png"}
    drawn = re.findall(r'data-file="(.*?)"[^>]* src="data:image/', text)
    assert sorted(filter(None, drawn)) == sorted(path.name for path in pictures)
    assert text.count("data:image/") == text.count("<figcaption>") == len(drawn)
    for words in (
        "0.8765",  # on validation
        "0.5432",  # on the drawn test photos
        "those two",  # what made the submission
        "7 of 9 photos",
        "Member 2: no better",
        "1,234",
        "Member 2: too far",
        ">kind</th>",  # the table of blends
        decision.choice.reason,
        "member two</h3>",
        "Under-trained",
        decision.gates[0].reason,
        "first 8, mean",  # the table of views
        "view 3 alone",
        "from 4 up to 16",  # the table of rules
        "16 passes a photo",  # what the adaptive rule saves
        ">val_loss</th>",  # the table of epochs
        '"label_smoothing": 0.0',  # the settings
        "0123abcd",
        "3.9.9",
    ):
        assert words in text, words
    assert '"monitor_url": "https://host/…"' in text and "t0ps3cret" not in text
    assert any(
        "<td>one</td>" in table and "<td>two</td>" in table
        for table in re.findall(r"<table.*?</table>", text, re.DOTALL)
    )
    labels = pd.read_csv(tmp_path / "labels.csv")
    assert {"id", "given", "predicted", "probability"} <= set(labels.columns)


def test_the_report_says_nothing_of_what_was_not_done(tmp_path):
    _, text, _ = write_report(tmp_path, "1", ("one",))
    names = {path.name for path in tmp_path.rglob("*.png")}
    assert not names & {"matrix.png", "agreement.png", "tta_curve.png", "trade_off.png"}
    assert not [
        name
        for name in ("Pseudo-labels", "Refit", "True accuracy", "and blend</h3>")
        if name in text
    ]


RIGHT = build(says([[0, 1, 2] * 4] * 4, sure=0.99), [0, 1, 2] * 4)


def test_by_log_loss_the_page_shows_how_sure_the_network_may_be(tmp_path):
    seen = {"metric": "log_loss", "validation_score": 0.4321, "temperature": 1.5}
    seen |= {"validation_interval_95": [0.3, 0.6], "true_log_loss": 0.4567}
    seen |= {"calibration_error": {"before": 0.123, "after": 0.045}}
    _, text, decision = write_report(tmp_path, "4", ("one",), boxes="", **seen)
    assert decision.metric == "log_loss" and 'data-file="calibration.png"' in text
    for shown in ("log-loss", "0.4321", "0.4567", "0.8765", "0.123", "0.045", "1.50"):
        assert shown in text


def test_nothing_is_drawn_of_nothing_and_no_picture_of_an_earlier_run_stays(tmp_path):
    write_report(tmp_path, "4-8", ("one",), pseudo={"chosen": "", "reasons": []})
    (tmp_path / "one" / "fold1").mkdir()
    for path in ("one/fold1/curves.png", "mine.png", "one/mine.png"):
        (tmp_path / path).write_bytes((tmp_path / "errors.png").read_bytes())
    before = {path.name for path in tmp_path.rglob("*.png")}
    assert before >= {"audit.png", "boxes.png", "confusion.png", "errors.png", "disputed.png"}
    files, text, _ = write_report(tmp_path, "4", ("one",), votes=RIGHT, boxes="")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    drawn = {"augmentation.png", "tta_curve.png", "one/curves.png"}
    assert left == drawn | {"mine.png", "one/mine.png"}
    assert {path.relative_to(tmp_path).as_posix() for path in files} == {*drawn, "report.html"}
    for sentence in (
        "All 12 validation photos are predicted rightly.",
        "The audit found nothing.",
        "The votes contradict no label.",
        "On no photo do the views disagree.",
    ):
        assert sentence in text
    errors = pd.read_csv(tmp_path / "errors.csv")
    assert errors.empty and "true_probability" in errors


def hand_made():
    """Five photos of classes x, y, z with two members' votes: 1 is wrong, 3 is more so."""
    one = build(says([[0, 1, 2, 0, 1], [0, 0, 2, 0, 1]], 0.9), [0, 0, 2, 1, 1])
    two = build(says([[0, 1, 2, 0, 1]], 0.8), [0, 0, 2, 1, 1])
    probs = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0, 0, 1], [0.9, 0.05, 0.05], [0, 1, 0]])
    ids = ["0.jpg", "=1+1", "2.jpg", "3.jpg", "4.jpg"]
    frame = pd.DataFrame({"id": ids, "path": [f"/p/{n}" for n in range(5)]})
    return Outcome(["x", "y", "z"], frame, one.labels, probs, [one, two])


def test_every_error_is_listed_with_its_votes_the_worst_first():
    errors = outcome.errors(hand_made())
    assert errors["id"].tolist() == ["3.jpg", "=1+1"]
    worst, other = errors.to_dict("records")
    assert (worst["true"], worst["predicted"], worst["path"]) == ("y", "x", "/p/3")
    assert (worst["probability"], worst["true_probability"]) == (0.9, 0.05)
    assert worst["loss"] == pytest.approx(-np.log(0.05))
    assert (worst["views"], worst["votes_predicted"], worst["votes_true"]) == (3, 3, 0)
    assert (other["views"], other["votes_predicted"], other["votes_true"]) == (3, 2, 1)
    assert (worst["agreement"], other["agreement"]) == (1, pytest.approx(2 / 3))


def test_classes_and_pairs_add_up():
    o = hand_made()
    x, y, z = outcome.by_class(o).to_dict("records")
    assert (x["photos"], x["right"], x["precision"], x["recall"], x["F1"]) == (2, 1, 0.5, 0.5, 0.5)
    assert (x["most often taken for"], z["most often taken for"]) == ("y (1)", "")
    assert (y["photos"], z["F1"]) == (2, 1)
    pairs = outcome.pairs(o)
    found = set(zip(pairs["true"], pairs["predicted"], pairs["examples"], strict=True))
    assert found == {("y", "x", "3.jpg"), ("x", "y", "=1+1")}
    missing = outcome.by_class(
        Outcome(["x", "y", "w", "z"], o.frame, o.truth, np.eye(4)[o.truth], [])
    )
    assert missing.loc[3, ["precision", "recall", "F1"]].isna().all()


def test_errors_csv_is_safe_to_open(tmp_path):
    _, _, decision = write_report(tmp_path, "2", ("one",), ["=cmd()", "b", "c"])
    errors = pd.read_csv(tmp_path / "errors.csv")
    wrong = decision.val_probs.argmax(1) != some_votes(2).labels
    assert len(errors) == wrong.sum() > 0
    assert errors["loss"].is_monotonic_decreasing
    assert set(errors["true"]) | set(errors["predicted"]) == {"'=cmd()", "b", "c"}


UNDER, FINE = history([1.0, 0.8, 0.6, 0.5]), history([0.52, 0.51, 0.505, 0.5])
OPEN = Gate(True, "")


@pytest.mark.parametrize(
    ("wrong", "labels", "epochs", "views", "kinds"),
    [
        (True, 1, UNDER, 2, ["labels", "training", "pair"]),  # what can be mended, in this order
        (True, 0, FINE, 2, ["pair", "labels", "training"]),
        (True, 0, FINE, 1, ["pair", "labels", "training"]),
        (False, 0, UNDER, 2, ["training", "labels", "pair"]),
        (False, 0, FINE, 3, ["views", "labels", "training"]),  # they help: that is new
    ],
)
def test_three_things_worth_knowing_are_chosen_in_their_order(wrong, labels, epochs, views, kinds):
    o = hand_made()
    probs = o.probs if wrong else np.eye(3)[o.truth]
    o = Outcome(o.classes, o.frame.assign(readable=False), o.truth, probs, o.votes)
    listed = pseudo.suspicious(build(says([[1, 0, 2, 1, 1]] * 8, 0.9999), o.truth))
    assert len(listed) == 1
    # The first view is wrong of two photos, which a second and third correct.
    tops = [[0, 1, 2, 0, 1], [0, 0, 2, 1, 1], [0, 0, 2, 1, 1]]
    votes = build(says(tops if views == 3 else tops[:1] * views), o.truth)
    found = verdicts.first_three(o, listed[:labels], {"one": epochs}, OPEN, votes)
    assert [verdict.kind for verdict in found] == kinds


def test_whether_views_help_is_said_by_the_metric_that_decides():
    o = hand_made()
    truth = np.tile([0, 1, 2], 10)
    o = Outcome(o.classes, o.frame, truth, np.eye(3)[truth], o.votes)
    votes = build([says(truth, 0.5), says(truth, 0.95)], truth)  # right before, surer after
    one = {"one": history([0.5])}
    for metric, title in (("accuracy", "surer, not better"), ("log_loss", "Views help")):
        found = verdicts.first_three(o, pd.DataFrame(), one, OPEN, votes, metric)
        assert next(v.title for v in found if v.kind == "views").endswith(title)


def test_the_axis_of_the_score_shows_all_of_it():
    for metric, values in (("accuracy", [0.963, 0.94, 0.98]), ("log_loss", [0.31, 0.2, 0.44])):
        start, end, marks = parts.scale(metric, values)
        assert start <= min(values) <= max(values) <= end
        assert (marks[0], marks[-1]) == (start, pytest.approx(end)) and 3 <= len(marks) <= 7
    assert parts.scale("accuracy", [0.963, 0.94, 0.98])[0] == 0.9
    assert parts.scale("accuracy", [1, 1, 1])[:2] == (0.98, 1)
    assert parts.scale("log_loss", [0, 0, 0])[1] > 0
    result = {"metric": "log_loss", "validation_score": 0.3, "validation_accuracy": 0.9}
    result |= {"validation_interval_95": [0.2, 0.44], "true_log_loss": 0.5, "true_accuracy": 0.8}
    score = parts.score(result)
    assert score["value"] == 0.3 and score["true"] == 0.5
    assert score["known"] == {"log-loss": 0.5, "accuracy": 0.8}
    places = [float(score["at"][name][:-1]) for name in ("low", "value", "high", "true")]
    assert places[0] > 0 and places == sorted(places) and places[-1] < 100


def test_a_report_of_396_classes_can_be_sent_and_names_the_pairs(tmp_path):
    votes = random_votes(900, 396, 2)
    votes.labels[:60] = (votes.labels[:60] + 1) % 396
    classes = [f"Mercedes-Benz Sprinter Van {n}" for n in range(396)]
    _, text, decision = write_report(tmp_path, "2", ("one",), classes, votes)
    assert len(text) < 3_000_000
    wrong = np.flatnonzero(decision.val_probs.argmax(1) != votes.labels)
    assert len(wrong) >= 50
    tables = [part.count("<tr") - 1 for part in re.findall(r"<table.*?</table>", text, re.DOTALL)]
    assert 25 in tables and 396 in tables


EVIL = ["轿车", "<script>alert(1)</script>$x$", "Mercedes-Benz Sprinter Van 2012 " * 4]


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """The folder of a report of labels and warnings that are no plain words."""
    out = tmp_path_factory.mktemp("evil")
    warnings = ['"><img src=x onerror=alert(1)>', "y" * 300]
    said = {"verdict": "keep them"}
    write_report(out, "4", ("one",), EVIL, warnings=warnings, tuned=said, true_accuracy=0.9)
    return out


def test_labels_that_no_font_shows_are_below_the_pictures_as_text(evil):
    text = (evil / "report.html").read_text(encoding="utf-8")
    assert re.search(r"<figcaption>Validation photos by true class[^<]*<br>#1: 轿车", text)
    assert "<script>alert" not in text and "<img src=x" not in text
    assert html.escape(EVIL[1]) in text
    assert pd.read_csv(evil / "labels.csv")["given"].isin(EVIL).all()


def test_the_page_needs_nothing_from_elsewhere_and_can_be_read_aloud(evil):
    text = (evil / "report.html").read_text(encoding="utf-8")
    linked = re.findall(r"""<[^>]* (?:src|href|action)=["']?([^"'\s>]+)""", text)
    assert {link.partition(",")[0] for link in linked if not link.startswith("#")} <= {
        *(f"data:image/{kind};base64" for kind in ("png", "webp")),
        "tune/tune.html",
    }
    assert not re.findall(r"https?://(?!www\.w3\.org/|host/)|url\(|@import", text)
    targets = [link[1:] for link in linked if link.startswith("#")]
    assert targets and all(text.count(f'id="{target}"') == 1 for target in targets)
    levels = [int(level) for level in re.findall(r"<h([1-6])[ >]", text)]
    assert levels[0] == 1 == levels.count(1)
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert not re.findall(r'<img (?!alt="[^"]+")', text)
    assert text.index("onerror") < text.index("<h1")  # warnings come first


@pytest.mark.parametrize("wide", [390, 1280])
def test_nothing_runs_out_of_the_window(evil, tmp_path, wide):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no Chromium on this machine")
    (evil / "frame.html").write_text(FRAME.format(wide=wide))
    flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files"
    words = [*flags.split(), "--window-size=1400,900", "--virtual-time-budget=9000", "--dump-dom"]
    words += [f"--user-data-dir={tmp_path}", (evil / "frame.html").as_uri()]
    done = subprocess.run([chromium, *words], check=True, capture_output=True, text=True)
    assert re.search(r"<p>(.*)</p>", done.stdout)[1] == f"{wide} {wide} buttons"


# A page of that width, as a window may not be so narrow; every part is unfolded.
FRAME = """<iframe src="report.html" style="border:0;width:{wide}px;height:900px"></iframe><script>
document.querySelector('iframe').onload = event => {{
  const page = event.target.contentDocument, told = document.createElement('p');
  page.querySelectorAll('details').forEach(part => {{ part.open = true; }});
  const root = page.documentElement, sorts = page.querySelectorAll('th button').length;
  told.textContent = root.clientWidth + ' ' + root.scrollWidth + (sorts ? ' buttons' : '');
  document.body.append(told);
}};
</script>"""

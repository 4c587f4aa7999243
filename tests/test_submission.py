"""submission.csv: order, columns, label type, what is checked first, what replaces what."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
from cases import NO_FILE, NO_JSON, changes, put_in_place
from conftest import Killed

from carcls import metrics
from carcls.data import photos
from carcls.data.asks import Asks
from carcls.errors import InputError
from carcls.report import submission
from carcls.report.submission import Submission

IDS = ["a.jpg", "b.jpg", "c.jpg"]
PROBS = np.eye(3)[[2, 0, 1]]  # of IDS


LABELS = Asks("labels", ("Name", "Kind"))


def table(classes=(0, 1, 2), ids=("b.jpg", "a.jpg", "c.jpg"), asks=LABELS):
    rows = [("x", 0, photos.TRAIN), ("y", 1, photos.TRAIN), ("z", 2, photos.TRAIN)]
    rows += [("v", 1, photos.VALIDATION), ("w", 2, photos.VALIDATION), ("u", 2, photos.TRAIN)]
    rows += [(ident, -1, photos.TEST) for ident in ids]
    frame = pd.DataFrame(rows, columns=["id", "label", "fold"])
    return photos.Table(frame, list(classes), "Name", "Kind", list(ids), pd.DataFrame(), asks=asks)


def session(folder, run="run", metric="accuracy", **columns):
    """The submission as a session of a run sees it."""
    return Submission(folder / "submission.csv", table(**columns), run, metric)


def facts(folder, name="submission"):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("classes", "rows"),
    [
        ((0, 1, 2), "b.jpg,0\na.jpg,2\nc.jpg,1\n"),
        (("van", "suv", "007"), "b.jpg,van\na.jpg,007\nc.jpg,suv\n"),
        (("=a", "-b", "NA"), "b.jpg,=a\na.jpg,NA\nc.jpg,-b\n"),  # bytes, whatever opens them
    ],
)
def test_rows_are_in_the_samples_order_with_its_columns_and_labels(tmp_path, classes, rows):
    session(tmp_path, classes=classes).offer(IDS, PROBS, "test", 0.5)
    assert (tmp_path / "submission.csv").read_text() == "Name,Kind\n" + rows


@pytest.mark.parametrize(
    ("ids", "probs", "error"),
    [
        (IDS[:2], PROBS[:2], "2 predictions of 2 ids, 3 rows.*1 of them .*c.jpg"),
        ([*IDS[:2], "b.jpg"], PROBS, "3 predictions of 2 ids"),
        ([*IDS, "d.jpg"], PROBS[[0, 1, 2, 0]], "4 predictions"),
        (IDS, PROBS * np.nan, "3 photos .* a.jpg first"),
        (IDS, PROBS * 0.9, "no probabilities: they add up to 0.9000 to 0.9000"),
        (IDS, PROBS * 2 - 1 / 3, "no probabilities: .* the least is -0.3333"),
    ],
)
def test_what_does_not_fit_is_refused_and_an_earlier_file_stays(
    tmp_path, ids, probs, error, capsys
):
    (tmp_path / "submission.csv").write_text("earlier")
    with pytest.raises(InputError, match=error):
        session(tmp_path).offer(ids, probs, "test", 0.5)
    session(tmp_path).offer(ids, probs, "test", 0.5, early=True)  # training goes on
    assert "warning" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["submission.csv"]
    assert (tmp_path / "submission.csv").read_text() == "earlier"


def test_what_made_it_is_beside_it_and_what_others_left_is_kept(tmp_path):
    path, contents = tmp_path / "submission.csv", []
    for number, run in enumerate(("one", "two", "three")):
        session(tmp_path, run).offer(IDS, np.roll(PROBS, number, 0), run, 0.25 * number)
        contents.append(path.read_text())
    session(tmp_path, "three").offer(IDS, PROBS, "four", 0.75)  # a better one of the same run
    assert len(set(contents)) == 3
    kept = [(tmp_path / f"submission.earlier{n}.csv").read_text() for n in (1, 2)]
    assert kept == contents[:2]
    assert not (tmp_path / "submission.earlier3.csv").exists()
    assert facts(tmp_path, "submission.earlier2")["made_by"] == "two"
    now = facts(tmp_path)
    assert (now["made_by"], now["metric"], now["score"]) == ("four", "accuracy", 0.75)
    assert now["rows"] == 3
    (tmp_path / "result.json").write_text("of four")
    path.write_text("by hand")  # nobody's but the user's, whatever is beside it
    session(tmp_path, "three").offer(IDS, PROBS, "four", 0.75)
    assert (tmp_path / "submission.earlier3.csv").read_text() == "by hand"
    assert (tmp_path / "result.earlier3.json").read_text() == "of four"
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("left", "offered", "replaced"),  # keyword arguments of offer
    [
        ({"score": 0.9, "step": 1}, {"score": 0.95}, False),  # of a later step
        ({"score": 0.9, "step": 1}, {"score": 0.95, "early": True}, False),
        ({"score": 0.9, "step": 1}, {"score": 0.8, "step": 1}, True),
        ({"score": 0.9}, {"score": 0.8}, True),  # of a finished step: better founded
        ({"score": 0.9}, {"score": 0.8, "early": True}, False),
        ({"score": 0.9}, {"score": 0.9, "early": True}, True),
    ],
)
def test_only_what_is_better_founded_replaces_an_earlier_session(tmp_path, left, offered, replaced):
    session(tmp_path).offer(IDS, np.roll(PROBS, 1, 0), "left", **left)
    before = (tmp_path / "submission.csv").read_text()
    again = session(tmp_path)
    again.offer(IDS, PROBS, "offered", **offered)
    assert again.made_by == facts(tmp_path)["made_by"] == ("offered" if replaced else "left")
    assert ((tmp_path / "submission.csv").read_text() == before) != replaced
    assert not list(tmp_path.glob("*earlier*"))
    again.offer(IDS, PROBS, "later in this session", 0.1, early=True)
    assert (again.made_by == "later in this session") == replaced


def test_a_kill_between_the_two_files_leaves_a_submission_of_this_run(tmp_path):
    session(tmp_path).offer(IDS, np.roll(PROBS, 1, 0), "before", 0.5)
    old = (tmp_path / "submission.csv").read_bytes()
    session(tmp_path).offer(IDS, PROBS, "after", 0.6)
    (tmp_path / "submission.csv").write_bytes(old)
    session(tmp_path).offer(IDS, PROBS, "after", 0.6)
    assert not list(tmp_path.glob("*earlier*"))


@pytest.mark.parametrize("what", [*NO_JSON, *NO_FILE])
def test_facts_of_another_shape_are_not_believed(tmp_path, what):
    session(tmp_path).offer(IDS, PROBS, "a network", 0.9, step=2)
    path = tmp_path / "submission.csv"
    assert submission.read_facts(path)["made_by"] == "a network"
    left = path.read_text()
    put_in_place(tmp_path / "submission.json", what, NO_JSON.get(what))
    assert submission.read_facts(path) is None
    session(tmp_path).offer(IDS, np.roll(PROBS, 1, 0), "another", 0.1)
    assert facts(tmp_path)["made_by"] == "another"
    assert (tmp_path / "submission.earlier1.csv").read_text() == left


def test_facts_that_were_changed_are_not_believed(tmp_path):
    session(tmp_path).offer(IDS, PROBS, "a network", 0.9, step=2)
    for where, changed in changes(facts(tmp_path)):
        (tmp_path / "submission.json").write_text(json.dumps(changed))
        assert submission.read_facts(tmp_path / "submission.csv") is None, where


def test_a_folder_in_the_place_of_the_submission_is_kept(tmp_path, capsys):
    put_in_place(tmp_path / "submission.csv", "folder")
    session(tmp_path).offer(IDS, PROBS, "a network", 0.9)
    assert (tmp_path / "submission.csv").read_text().startswith("Name,Kind")
    assert len(list(tmp_path.rglob("mine.txt"))) == 1
    assert "submission.csv" in capsys.readouterr().out


def earlier_sets(folder) -> dict[str, str]:
    """The files of each kept submission, by name."""
    found = {path.name: path.read_text() for path in folder.iterdir() if "earlier" in path.name}
    return dict(sorted(found.items()))


def test_a_kill_while_an_earlier_submission_is_kept_leaves_one_whole_set(tmp_path, kill_at):
    def leave_two(folder) -> None:
        """What run one has left, kept as the first, and run two's."""
        folder.mkdir()
        for run in ("one", "two"):
            session(folder, run).offer(IDS, PROBS, run, 0.5)
            (folder / "result.json").write_text(f"of {run}")
            (folder / "report.html").write_text(f"of {run}")

    expected, seen = None, 0
    for moment in [0, *range(1, 300)]:
        folder = tmp_path / str(moment)
        leave_two(folder)
        kill_at(moment)
        was_killed = False
        try:
            session(folder, "three").offer(IDS, np.roll(PROBS, 1, 0), "three", 0.6)
        except Killed:
            was_killed = True
        kill_at(0)
        if was_killed:
            seen += 1
            session(folder, "three").offer(IDS, np.roll(PROBS, 1, 0), "three", 0.6)
        expected = expected or earlier_sets(folder)
        assert len(expected) == 8
        assert earlier_sets(folder) == expected, moment
        assert facts(folder)["made_by"] == "three"
        if moment and not was_killed:
            break
    assert seen > 10


def test_one_class_that_takes_nearly_everything_is_flagged():
    (flag,) = submission.warnings(table(), [1] * 19 + [0])
    assert "class 1 takes 95% of the submission but 25% of the training photos" in flag
    assert submission.warnings(table(), [0, 1, 2] * 5) == []
    assert submission.warnings(table(), [0, 1] * 40) == ["never predicted: class 2"]


@pytest.mark.parametrize(
    ("classes", "photos_of_test", "flagged"),
    [(2, 1, False), (2, 6, False), (2, 20, True), (4, 3, False), (4, 8, True)],
)
def test_few_photos_of_one_class_say_nothing_of_the_network(classes, photos_of_test, flagged):
    rows = [(f"{i}", i % classes, photos.TRAIN) for i in range(4 * classes)]
    frame = pd.DataFrame(rows, columns=["id", "label", "fold"])
    few = photos.Table(frame, list(range(classes)), "Id", "Kind", [], pd.DataFrame())
    assert bool(submission.warnings(few, [0] * photos_of_test)) == flagged


def test_less_log_loss_is_better(tmp_path):
    session(tmp_path, metric="log_loss").offer(IDS, PROBS, "left", 0.5)
    for score, made_by in ((0.9, "left"), (0.4, "offered")):
        again = session(tmp_path, metric="log_loss")
        again.offer(IDS, PROBS, "offered", score, early=True)
        assert again.made_by == facts(tmp_path)["made_by"] == made_by


def test_without_a_network_the_most_frequent_class_is_predicted():
    probs, accuracy = submission.most_frequent(table())
    assert probs.tolist() == [[0.25, 0.25, 0.5]] * 3
    assert accuracy == 0.5
    score = submission.most_frequent(table(), "log_loss")[1]
    assert score == pytest.approx(-(np.log(0.25) + np.log(0.5)) / 2)


def test_accuracy_of_a_submission(tmp_path):
    answers, path = tmp_path / "answers.csv", tmp_path / "submitted.csv"
    true_score = partial(submission.true_score, path, answers, table(), "log_loss")
    answers.write_text("Id,Category\na,1\nb,2\nc,3\n")
    path.write_text("Id,Category\nc,3\nb,2\na,7\n")
    assert true_score() == ("accuracy", pytest.approx(2 / 3))
    answers.write_text("Id,Category\na,NA\nb,nan\nc,\n")
    path.write_text("Id,Category\nc,NA\nb,nan\na,NA\n")
    assert true_score() == ("accuracy", pytest.approx(2 / 3))
    path.write_text("Id,Category\nc,3\nd,2\n")
    with pytest.raises(InputError, match="answers.csv: 2 columns, 3 rows; expected .* 2 test"):
        true_score()


# --- Probabilities --------------------------------------------------------------------------------

THREE = Asks("classes", ("Id", "c", "none", "a"), (2, -1, 0))  # no column for b
P = np.array([[0.2, 0.5, 0.3], [1, 0, 0], [0.25, 0.25, 0.5]])  # of IDS, of a, b, c


def written(folder, asks, probs, classes="abc"):
    session(folder, classes=classes, asks=asks).offer(IDS, probs, "test", 0.5)
    frame = pd.read_csv(folder / "submission.csv")
    assert frame.iloc[:, 0].tolist() == ["b.jpg", "a.jpg", "c.jpg"]
    assert tuple(frame.columns) == asks.columns
    return frame.iloc[:, 1:].to_numpy()


def test_each_column_has_the_probability_of_its_class(tmp_path):
    whole = Asks("classes", ("Id", "prob_b", "prob_a", "prob_c"), (1, 0, 2))
    assert written(tmp_path, whole, P) == pytest.approx(P[[1, 0, 2]][:, [1, 0, 2]], abs=3e-6)


def test_what_has_no_column_is_shared_and_what_no_photo_has_gets_next_to_nothing(tmp_path):
    got = written(tmp_path, THREE, P)
    assert got == pytest.approx(np.array([[0, 0, 1], [0.6, 0, 0.4], [2 / 3, 0, 1 / 3]]), abs=3e-6)
    assert got.sum(1) == pytest.approx(np.ones(3), abs=2e-6)
    assert (got > 9e-7).all()
    nothing = np.eye(3)[[1, 1, 1]]  # all of it is b's
    assert written(tmp_path, THREE, nothing) == pytest.approx(np.full((3, 3), 1 / 3), abs=1e-6)


@pytest.mark.parametrize("index", [0, 1])
def test_the_probability_of_the_positive_class_is_never_0_or_1(tmp_path, index):
    probs = np.array([[0.2, 0.8], [1, 0], [0.123456789, 0.876543211]])
    got = written(tmp_path, Asks("positive", ("Id", "sick"), (index,)), probs, "ab")[:, 0]
    assert got == pytest.approx(probs[[1, 0, 2], index].clip(1e-6, 1 - 1e-6), rel=5e-6)
    assert got.min() > 0 and got.max() < 1


@pytest.mark.parametrize("metric", ["log_loss", "accuracy", "f1_macro", "balanced_accuracy"])
def test_the_true_score_of_probabilities_is_that_of_the_file(tmp_path, metric):
    answers, labels = tmp_path / "answers.csv", np.array([0, 1, 2])
    answers.write_text("Id,Category\nc.jpg,c\na.jpg,a\nb.jpg,b\n")
    asks = Asks("classes", ("Id", "B", "C", "A"), (1, 2, 0))
    probs = np.array([[0.2, 0.5, 0.3], [0.3, 0.6, 0.1], [0.25, 0.25, 0.5]])
    written(tmp_path, asks, probs)
    path, about = tmp_path / "submission.csv", table("abc", asks=asks)
    got = submission.true_score(path, answers, about, metric)
    assert got == (metric, pytest.approx(metrics.value(metric, probs, labels), abs=1e-5))
    answers.write_text("Id,Category\nc.jpg,c\na.jpg,z\nb.jpg,b\n")
    with pytest.raises(InputError, match="'z' is no class of this run"):
        submission.true_score(path, answers, about, metric)


@pytest.mark.parametrize("index", [0, 1])
def test_the_true_auc_of_one_column(tmp_path, index):
    answers, asks = tmp_path / "answers.csv", Asks("positive", ("Id", "sick"), (index,))
    answers.write_text("Id,sick\nc.jpg,1\na.jpg,0\nb.jpg,1\n")
    written(tmp_path, asks, np.array([[0.6, 0.4], [0.1, 0.9], [0.7, 0.3]]), (0, 1))
    about = table((0, 1), asks=asks)
    assert submission.true_score(tmp_path / "submission.csv", answers, about, "auc") == ("auc", 0.5)


def test_macro_f1_of_labels_is_of_labels(tmp_path):
    answers, path = tmp_path / "answers.csv", tmp_path / "submitted.csv"
    answers.write_text("Id,Category\na,1\nb,1\nc,2\n")
    path.write_text("Id,Category\nc,1\nb,1\na,1\n")
    got = submission.true_score(path, answers, table(), "f1_macro")
    assert got == ("f1_macro", pytest.approx((0.8 + 0) / 2))


def test_of_probabilities_a_class_may_be_nowhere_the_most_probable():
    predicted = np.array([0, 1] * 40)
    assert submission.warnings(table(), predicted) == ["never predicted: class 2"]
    assert submission.warnings(table(asks=THREE), predicted) == []

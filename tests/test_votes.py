"""Votes as arithmetic: combining, the tables, the rule for disputed photos. No network."""

from dataclasses import replace

import numpy as np
import pytest
from build_votes import build, says, views
from cases import put_in_place

from carcls.errors import InputError
from carcls.votes import votes
from carcls.votes.votes import Gate, Votes


def test_files_load_as_they_were_saved_and_others_are_named(tmp_path):
    saved = build(says([[0, 1], [0, 2], [0, 1]]), [0, 1], [2, 3], combine="vote")
    saved.save(tmp_path / "votes.npz")
    again = votes.load(tmp_path / "votes.npz")
    assert vars(again).keys() == vars(saved).keys()
    for name, value in vars(saved).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    assert (again.ids, again.combine) == (["0.jpg", "1.jpg"], "vote")
    for content in (b"no", b""):
        (tmp_path / "votes.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"votes\.npz: not a file of votes"):
            votes.load(tmp_path / "votes.npz")


def _other(**arrays):
    return lambda saved: {**saved, **{name: np.array(value) for name, value in arrays.items()}}


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: {name: array for name, array in saved.items() if name != "labels"},
        lambda saved: {**saved, "probs": saved["probs"].astype(float)},
        lambda saved: {**saved, "probs": saved["probs"][0]},
        lambda saved: {**saved, "probs": saved["probs"][:, :1]},
        lambda saved: {**saved, "probs": saved["probs"] * np.float32(np.nan)},
        lambda saved: {**saved, "probs": saved["probs"] + np.float32(np.inf)},
        lambda saved: {**saved, "probs": saved["probs"] * 2},
        lambda saved: {**saved, "probs": saved["probs"] * np.float32(0)},
        lambda saved: {**saved, "probs": 2 / 3 - saved["probs"] * np.float32(1)},
        lambda saved: {**saved, "probs": saved["probs"][:, :, :0]},
        lambda saved: {**saved, "probs": np.float32([[[2, -1, 0]] * 2] * 3)},
        _other(labels=[0, 9]),
        _other(labels=[0.0, 1.0]),
        _other(labels=[0]),
        _other(n_views=[0, 3]),
        _other(n_views=[3, 9]),
        _other(n_views=3),
        _other(ids=[1, 2]),
        _other(ids="ab"),
        _other(ids=["a"]),
        _other(combine="median"),
        _other(combine=[1, 2]),
        _other(ids=[{}, None]),  # pickled
    ],
)
def test_votes_of_another_shape_are_refused(tmp_path, change):
    path, saved = tmp_path / "votes.npz", build(says([[0, 1], [0, 2], [0, 1]]), [0, 1], [2, 3])
    saved.save(path)
    with np.load(path) as file:
        arrays = change({name: file[name] for name in file.files})
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"votes\.npz: not a file of votes"):
        votes.load(path)


@pytest.mark.parametrize("what", ["folder", "pipe", "link to nothing", "link to itself", "array"])
def test_what_is_no_file_of_arrays_is_refused(tmp_path, what):
    path = tmp_path / "votes.npz"
    put_in_place(path, what, b"" if what == "array" else None)
    if what == "array":
        np.save(tmp_path / "array.npy", np.ones(3))
        (tmp_path / "array.npy").replace(path)
    with pytest.raises(InputError, match=r"votes\.npz: not a file of votes"):
        votes.load(path)


def test_combining_by_arithmetic():
    probs = np.array([[[0.9, 0.1]], [[0.4, 0.6]], [[0.4, 0.6]]], np.float32)
    assert build(probs).together()[0] == pytest.approx([1.7 / 3, 1.3 / 3])
    a, b = (0.9 * 0.4 * 0.4) ** (1 / 3), (0.1 * 0.6 * 0.6) ** (1 / 3)
    geometric = build(probs, combine="geometric").together()[0]
    assert geometric == pytest.approx([a / (a + b), b / (a + b)], rel=1e-5)
    assert build(probs, combine="vote").together()[0] == pytest.approx([1 / 3, 2 / 3], abs=1e-5)
    # A tie goes to the higher mean: 0.65 of 1.
    assert build(probs[:2], combine="vote").together()[0].argmax() == 0
    # Only the views that a photo was given count, whatever stands in the others.
    one = replace(build(probs), n_views=np.array([1]))
    assert one.together()[0] == pytest.approx([0.9, 0.1])
    sure = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]])
    assert build(sure, combine="geometric").together()[0].argmax() == 0  # a 0 spoils no mean


def test_the_gate_says_what_is_used():
    some = build(says([[0], [1], [1]]))
    assert some.used(Gate(True, "")).argmax(1) == [1]
    assert some.used(Gate(False, "")).argmax(1) == [0]
    assert some.used(Gate(False, "")).dtype == np.float64


@pytest.mark.parametrize("combine", votes.COMBINE)
def test_the_order_of_photos_changes_nothing(combine):
    probs = np.random.default_rng(0).dirichlet(np.ones(5), (8, 40))
    some = build(probs, combine=combine).as_asked(views("2-8"))
    turned = np.arange(40)[::-1]
    assert (some.take(turned).together() == some.together()[turned]).all()
    assert some.together().sum(1) == pytest.approx(np.ones(40))


def test_joined_votes_have_the_fewest_views_of_a_part():
    a = build(says([[0, 1]] * 4), [0, 1], [2, 4], combine="vote")
    b = build(says([[2]] * 3), [2], combine="vote")
    joined = votes.join([a, b])
    assert (joined.ids, joined.combine) == (["0.jpg", "1.jpg", "0.jpg"], "vote")
    assert joined.probs.shape == (3, 3, 3)
    assert joined.n_views.tolist() == [2, 3, 3]
    assert joined.together().argmax(1).tolist() == joined.labels.tolist() == [0, 1, 2]


def test_a_view_that_was_not_given_says_nothing():
    some = build(says([[0, 1], [0, 1], [2, 1], [2, 0]]), n_views=[2, 4])
    assert some.tops().tolist() == [[0, 1], [0, 1], [-1, 1], [-1, 0]]
    assert some.first_places().tolist() == [[2, 0, 0], [1, 3, 0]]
    assert some.agreement().tolist() == [1, 0.75]


def test_the_table_counts_corrected_and_spoiled():
    # Photo by photo: right both times, corrected by views 1 and 2, spoiled by them, wrong twice.
    some = build(says([[0, 1, 0, 2], [0, 0, 1, 2], [0, 0, 1, 2]]), [0, 0, 0, 0])
    table = votes.tta_table(some).set_index("what")
    assert table.loc["no TTA", "accuracy"] == 0.5
    together = table.loc["first 3, mean", ["accuracy", "corrected", "spoiled", "p"]]
    assert together.tolist() == [0.5, 1, 1, 1]
    assert table.loc["view 1 alone", "views"] == 1
    assert {"first 2, mean", "all 3, geometric", "all 3, vote", "view 2 alone"} <= set(table.index)
    loss = -(2 * np.log(0.8) + 2 * np.log(0.1)) / 4
    assert table.loc["no TTA", "log_loss"] == pytest.approx(loss, rel=1e-5)
    # With two views, ties go to the first class.
    assert votes.curve(some)["accuracy"].tolist() == [0.5, 0.75, 0.5]
    assert votes.doublings(1, 6) == [1, 2, 4, 6]
    assert votes.doublings(3, 3) == votes.doublings(8, 3) == [3]


def test_unanimous_photos_stop_and_a_clear_lead_stops_the_others():  # S59, S60
    tops = np.array([[0] * 16, [0] * 15 + [1], [0, 1] * 8]).T
    assert votes.disputed(says(tops)).tolist() == [False, False, True]
    # By arithmetic: the lead is +0.7 fifteen times and −0.7 once: mean 0.6125, deviation 0.35,
    # error 0.0875, seven of them.
    assert votes.disputed(says(tops), clear=6.9).tolist() == [False, False, True]
    assert votes.disputed(says(tops), clear=7.1).tolist() == [False, True, True]
    # Two views: only whether they agree
    assert votes.disputed(says(tops[:2])).tolist() == [False, False, True]


def test_more_views_go_to_disputed_photos_alone_and_up_to_the_most():
    tops = np.zeros((16, 3), int)
    tops[1, 1] = 1  # view 1 disagrees, all others say 0: stops once the lead is clear
    tops[::2, 2] = 2  # never decided
    whole = build(says(tops), [0] * 3)
    some = whole.as_asked(views("2-16"))
    assert some.n_views[0] == 2 < some.n_views[1] < 16 == some.n_views[2]
    # Views that a photo was not given change nothing.
    scrambled = some.probs.copy()
    scrambled[2:, 0] = says(np.full((14, 1), 2))[:, 0]
    assert (replace(some, probs=scrambled).together() == some.together()).all()
    table = votes.trade_off(whole).set_index("rule")
    assert table.loc["from 2 up to 16", "passes"] == pytest.approx(some.n_views.mean())
    assert table.loc["fixed 16", "share"] == 1
    assert table.loc["from 2 up to 16", "differ"] == 0
    # Of votes with fewer views than the rule has, all; a fixed number is a rule too.
    assert build(says(tops[:8]), [0] * 3).as_asked(views("2-16")).n_views.tolist()[2] == 8
    assert whole.as_asked(views("4")).n_views.tolist() == [4, 4, 4]


def test_a_photo_that_stops_early_on_another_class_is_counted():
    tops = np.ones((16, 2), int)
    tops[:2, 0] = 0  # the first two views agree on what the other fourteen do not say
    whole = build(says(tops), [1, 1])
    rules = votes.trade_off(whole).set_index("rule")
    assert rules.loc["from 2 up to 16", ["passes", "differ"]].tolist() == [2, 1]
    assert rules.loc["fixed 16", "differ"] == 0
    told = votes.describe_saving(whole, views("2-16"))
    assert "2.0 of 16 passes" in told and "1 of 2 photos" in told


def test_a_change_is_judged_by_all_views_of_the_same_photos():
    before, after = build(says([[1, 0]] * 3), [0, 0]), build(says([[1, 0], [0, 0], [0, 0]]), [0, 0])
    change = after.change_from(before)
    assert (change.corrected, change.spoiled, change.helps) == (1, 0, True)
    with pytest.raises(AssertionError):
        Votes(["a", "b"], after.probs, after.labels, after.n_views).change_from(before)

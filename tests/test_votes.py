"""Votes as arithmetic: combining, the tables, the exact test, the gate, the rule for disputed photos. No network."""

import numpy as np
import pytest
from conftest import says

from carcls.errors import InputError
from carcls.votes import votes


def cast(tops, labels, **how):
    probs = says(tops, **how)
    return votes.full([str(i) for i in range(probs.shape[1])], probs, np.array(labels))


def test_files_load_as_they_were_saved_and_others_are_named(tmp_path):
    made = votes.adapt(cast([[0, 1], [0, 2], [0, 1], [0, 1]], [0, 1]), 2, 4)
    made.save(tmp_path / "votes.npz")
    again = votes.load(tmp_path / "votes.npz")
    assert again.ids == ["0", "1"]
    assert (again.probs == made.probs).all()
    assert again.cast.tolist() == [2, 4]
    assert again.labels.tolist() == [0, 1]
    (tmp_path / "votes.npz").write_bytes(b"no")
    with pytest.raises(InputError, match=r"votes\.npz: not a file of votes"):
        votes.load(tmp_path / "votes.npz")


def test_combining_by_arithmetic():
    probs = np.array([[[0.9, 0.1]], [[0.4, 0.6]], [[0.4, 0.6]]], np.float32)
    assert votes.combine(probs)[0] == pytest.approx([1.7 / 3, 1.3 / 3])
    a, b = (0.9 * 0.4 * 0.4) ** (1 / 3), (0.1 * 0.6 * 0.6) ** (1 / 3)
    assert votes.combine(probs, "geometric")[0] == pytest.approx(
        [a / (a + b), b / (a + b)], rel=1e-5
    )
    assert votes.combine(probs, "vote")[0] == pytest.approx([1 / 3, 2 / 3], abs=1e-5)
    # Only the views that were cast count, whatever stands in the others.
    assert votes.combine(probs, "mean", np.array([1]))[0] == pytest.approx([0.9, 0.1])
    assert (
        votes.combine(probs, "vote", np.array([2]))[0].argmax() == 0
    )  # a tie goes to the higher mean: 0.65 of 1
    with pytest.raises(ValueError, match="median"):
        votes.combine(probs, "median")


def test_no_probability_of_zero_spoils_a_geometric_mean():
    probs = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]], np.float32)
    assert votes.combine(probs, "geometric")[0].argmax() == 0


def test_the_paired_test_is_exact():
    change = votes.paired(
        np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 0, 2]), np.array([0, 1, 1, 1, 0])
    )
    assert (change.corrected, change.spoiled) == (1, 1)
    assert votes.Paired(0, 5).p == pytest.approx(2 / 32)  # five coins alike
    assert votes.Paired(0, 5).p_worse == pytest.approx(1 / 32)
    assert votes.Paired(9, 1).p == pytest.approx(2 * 11 / 1024)
    assert votes.Paired(0, 0).p == votes.Paired(0, 0).p_worse == 1
    assert votes.Paired(3, 3).p == 1


def test_wilson_interval():
    low, high = votes.wilson(95, 100)
    assert (round(low, 3), round(high, 3)) == (
        0.888,
        0.978,
    )  # Wilson (1927); Agresti and Coull (1998), table
    assert votes.wilson(0, 10)[0] == 0.0
    assert votes.wilson(10, 10)[1] == pytest.approx(1.0)


def test_the_table_counts_corrected_and_spoiled():
    # Photo by photo: right both times, corrected by views 1 and 2, spoiled by them, wrong both
    # times.
    made = cast([[0, 1, 0, 2], [0, 0, 1, 2], [0, 0, 1, 2]], [0, 0, 0, 0])
    table = votes.tta_table(made).set_index("what")
    assert table.loc["no TTA", "accuracy"] == 0.5
    together = table.loc["first 3, mean"]
    assert (together["accuracy"], together["corrected"], together["spoiled"], together["p"]) == (
        0.5,
        1,
        1,
        1,
    )
    assert table.loc["view 1 alone", "views"] == 1
    assert {"first 2, mean", "all 3, geometric", "all 3, vote", "view 2 alone"} <= set(table.index)
    assert table.loc["no TTA", "log_loss"] == pytest.approx(
        -(2 * np.log(0.8) + 2 * np.log(0.1)) / 4, rel=1e-5
    )
    assert votes.curve(made)["accuracy"].tolist() == [
        0.5,
        0.75,
        0.5,
    ]  # with two views, ties go to the first class
    assert [votes.steps(n) for n in (1, 6, 8)] == [[1], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_the_gate_opens_on_help_and_closes_on_harm_and_on_nothing():  # S57
    wrong = 3
    plain = [1] * wrong + [0] * 17
    helps = cast([plain, [0] * 20, [0] * 20], [0] * 20)
    assert votes.gate("auto", helps).open
    assert "3 corrected, 0 spoiled" in votes.gate("auto", helps).reason
    harms = cast([plain, [1] * 10 + [0] * 10, [1] * 10 + [0] * 10], [0] * 20)
    closed = votes.gate("auto", harms)
    assert not closed.open
    assert "it harms" in closed.reason
    assert "0 corrected, 7 spoiled (p = 0.016)" in closed.reason  # 2 / 2**7
    same = cast([plain, plain, plain], [0] * 20)
    assert "say the same" in votes.gate("auto", same).reason
    assert not votes.gate("auto", same).open
    assert votes.gate("always", harms).open
    assert not votes.gate("never", helps).open
    for mode in ("auto", "always", "never"):
        assert votes.gate(mode, cast([plain], [0] * 20)) == votes.Gate(
            False, "closed: one view per photo"
        )


def test_the_gate_at_equal_accuracy_asks_the_probabilities():
    labels = np.zeros(10, np.int64)
    unsure, sure = says([[0] * 10], sure=0.5), says([[0] * 10], sure=0.9)
    ids = [str(i) for i in range(10)]
    assert votes.gate("auto", votes.full(ids, np.concatenate([unsure, sure]), labels)).open
    assert not votes.gate("auto", votes.full(ids, np.concatenate([sure, unsure]), labels)).open


@pytest.mark.parametrize(("corrected", "spoiled", "is_open"), [(1, 3, True), (0, 5, False)])
def test_the_gate_takes_a_few_more_errors_for_better_probabilities_and_not_many(
    corrected, spoiled, is_open
):
    tops = np.zeros((2, 20), np.int64)
    tops[0, :corrected] = 1
    tops[1, corrected : corrected + spoiled] = 1
    unsure, sure = says(tops[:1], sure=0.55), says(tops[1:], sure=0.95)
    seen = votes.full([str(i) for i in range(20)], np.concatenate([unsure, sure]), np.zeros(20))
    gate = votes.gate("auto", seen)
    assert f"{corrected} corrected, {spoiled} spoiled" in gate.reason
    assert (
        votes.log_loss(seen.combined(), seen.labels)
        < votes.log_loss(seen.probs[0], seen.labels) - 0.03
    )
    assert gate.open == is_open


def test_unanimous_photos_stop_and_a_clear_lead_stops_the_others():  # S59, S60
    clear = [0] * 15 + [1]
    even = [0, 1] * 8
    tops = np.array([[0] * 16, clear, even]).T
    assert votes.disputed(says(tops)).tolist() == [False, False, True]
    # By arithmetic: the lead is +0.7 fifteen times and −0.7 once: mean 0.6125, deviation 0.35,
    # error 0.0875, seven of them.
    assert votes.disputed(says(tops), clear=6.9).tolist() == [False, False, True]
    assert votes.disputed(says(tops), clear=7.1).tolist() == [False, True, True]
    assert votes.disputed(says(tops[:2])).tolist() == [
        False,
        False,
        True,
    ]  # two views: only whether they agree


def test_more_views_go_to_disputed_photos_alone_and_up_to_the_cap():
    tops = np.zeros((16, 3), int)
    tops[1, 1] = 1  # view 1 disagrees, all others say 0: stops once the lead is clear
    tops[::2, 2] = 2  # never decided
    made = votes.adapt(votes.full(list("abc"), says(tops), np.zeros(3)), 2, 16)
    assert made.cast[0] == 2
    assert 2 < made.cast[1] < 16
    assert made.cast[2] == 16
    # Views that were not cast change nothing.
    scrambled = made.probs.copy()
    scrambled[2:, 0] = says(np.full((14, 1), 2))[:, 0]
    again = votes.Votes(made.ids, scrambled, made.labels, made.cast)
    assert (again.combined() == made.combined()).all()
    table = votes.trade_off(
        votes.full(list("abc"), says(tops), np.zeros(3)), firsts=(2,), caps=(8, 16)
    ).set_index("rule")
    assert table.loc["from 2 up to 16", "passes"] == pytest.approx(made.cast.mean())
    assert table.loc["fixed 16", "share"] == 1
    assert table.loc["from 2 up to 16", "differ"] == 0


def test_a_photo_that_stops_early_on_another_class_is_counted():
    tops = np.ones((16, 2), int)
    tops[:2, 0] = 0  # the first two views agree on what the other fourteen do not say
    rules = votes.trade_off(
        votes.full(list("ab"), says(tops), np.ones(2)), firsts=(2,), caps=(16,)
    ).set_index("rule")
    assert rules.loc["from 2 up to 16", ["passes", "differ"]].tolist() == [2, 1]
    assert rules.loc["fixed 16", "differ"] == 0


def test_what_views_take_by_arithmetic():
    assert votes.effort(3, 0, 10, 30) == (1, 2, 3)
    # Up to 2: the same for all. Then 100 test photos get 2 and a share of the rest; none to
    # validate.
    assert votes.effort(2, 4, 0, 100) == pytest.approx([1, 2, 2 + votes.ADDED, 2 + 2 * votes.ADDED])
    # 100 validation photos: all of them, those that the rule asks for, and one more.
    assert votes.effort(2, 4, 100, 0)[2:] == pytest.approx([6 + votes.ADDED, 7 + 2 * votes.ADDED])
    for photos in ((367, 1050), (2334, 6675), (10, 0)):
        assert list(votes.effort(4, 32, *photos)) == sorted(votes.effort(4, 32, *photos))


@pytest.mark.parametrize("how", votes.COMBINE)
def test_the_order_of_photos_changes_nothing(how):
    probs = np.random.default_rng(0).dirichlet(np.ones(5), (8, 40)).astype(np.float32)
    made = votes.adapt(votes.full([str(i) for i in range(40)], probs, np.zeros(40)), 2, 8)
    turned = np.arange(40)[::-1]
    assert (made.rows(turned).combined(how) == made.combined(how)[turned]).all()
    assert made.combined(how).sum(1) == pytest.approx(np.ones(40))

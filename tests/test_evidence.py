"""Is it better? Interval, exact paired test, and the verdict on a change and on a refit."""

import numpy as np
import pytest
from build_votes import says

from carcls.votes import evidence
from carcls.votes.evidence import Change, compare, moved_too_far, wilson


def test_wilson_interval():
    low, high = wilson(95, 100)
    # As the table of Agresti and Coull (1998) has it
    assert (round(low, 3), round(high, 3)) == (0.888, 0.978)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_a_measure_by_hand():
    found = evidence.measure(says([[0] * 8 + [1] * 2], sure=0.97)[0], np.zeros(10, int))
    # Wilson's formula: (0.8 + z²/20 ± z·√(0.016 + z²/400)) / (1 + z²/10), z = 1.96
    loss = -0.8 * np.log(0.97) - 0.2 * np.log(0.015)
    expected = {"accuracy": 0.8, "low": 0.4902, "high": 0.9433, "log_loss": loss}
    assert found == pytest.approx(expected, abs=1e-4)


def change(corrected, spoiled):
    return Change(corrected, spoiled, 0.5, 0.5)


def test_the_paired_test_is_exact():
    assert change(0, 5).p == pytest.approx(2 / 32)  # five coins alike
    assert change(0, 5).p_worse == pytest.approx(1 / 32)
    assert change(9, 1).p == pytest.approx(2 * 11 / 1024)
    assert change(0, 0).p == change(0, 0).p_worse == change(3, 3).p == 1


def predicted(right, sure=0.9, doubt=0.1):
    """(photos, 2) of class 0, which has ``sure`` where right and ``doubt`` elsewhere."""
    first = np.where(right, sure, doubt)
    return np.stack([first, 1 - first], 1)


@pytest.mark.parametrize(
    ("corrected", "spoiled", "sure", "doubt", "verdict"),
    [
        (3, 0, 0.9, 0.1, "better"),
        (0, 0, 0.9, 0.1, "no better"),  # nothing changes
        (2, 0, 0.51, 0.49, "better"),  # more right, log-loss 0.65 → 0.68
        (1, 1, 0.51, 0.49, "no better"),  # as many right, the same higher log-loss
        (0, 1, 0.9, 0.4, "no worse, and surer"),  # fewer right, log-loss 0.65 → 0.35
        (0, 1, 0.9, 0.1, "no better"),  # both worse
        (0, 4, 0.9, 0.4, "no worse, and surer"),  # chance does that 1 time in 16
        (0, 5, 0.9, 0.4, "worse"),  # 1 in 32, at however good a log-loss
    ],
)
def test_a_change_helps_unless_it_harms_if_more_are_right_or_the_loss_is_lower(
    corrected, spoiled, sure, doubt, verdict
):
    before, n = [False] * 5 + [True] * 15, np.arange(20)
    after = (n < corrected) | ((n >= 5) & (n < 20 - spoiled))
    found = compare(predicted(before), predicted(after, sure, doubt), np.zeros(20, int))
    assert (found.corrected, found.spoiled) == (corrected, spoiled)
    assert found.loss_before == pytest.approx(0.6547, abs=1e-4)  # −log of 0.9, 15 of 20; of 0.1
    assert found.helps == (verdict in ("better", "no worse, and surer"))
    assert found.harms == (verdict == "worse")
    assert str(found).startswith(f"{verdict}: of the photos {corrected} corrected, {spoiled} ")


def test_a_sure_mistake_costs_a_finite_loss_and_what_is_not_finite_harms():
    assert evidence.log_loss(np.eye(2)[:1], np.array([1])) == pytest.approx(-np.log(1e-7))
    after = predicted([True] * 20)
    after[3] = np.nan
    assert compare(predicted([False] * 20), after, np.zeros(20, int)).harms


def test_what_is_more_complicated_must_be_better_in_both():
    assert Change(2, 1, 0.5, 0.4).surely_helps
    assert not Change(2, 1, 0.4, 0.5).surely_helps
    assert not Change(1, 1, 0.5, 0.4).surely_helps
    assert not Change(1, 1, 0.5, 0.49995).helps  # a loss that is lower by rounding


@pytest.mark.parametrize(("changed", "refused"), [(0, False), (57, False), (58, True), (100, True)])
def test_a_refit_may_differ_by_twice_the_error_that_was_measured(changed, refused):
    # 80 of 100 right: the error is 0.2888 at most (Wilson, as above), twice that is 0.5777.
    before = predicted(np.arange(100) % 2 == 0)
    after = np.where(np.arange(100)[:, None] < changed, before[:, ::-1], before)
    assert bool(moved_too_far(0.8, 100, before, after)) == refused


def test_a_refit_may_not_say_one_class_of_nearly_all():
    mixed, one = predicted(np.arange(100) >= 50), predicted(np.arange(100) >= 9)
    assert "to one" in moved_too_far(0.5, 100, mixed, one)  # 91 of 100
    assert not moved_too_far(0.5, 100, one, one)  # as before
    assert not moved_too_far(0.5, 100, mixed, predicted(np.arange(100) >= 10))
    assert "not finite" in moved_too_far(0.5, 100, mixed, mixed * np.nan)

"""Is it better? Interval, exact paired test, and the verdict on a change and on a refit."""

import numpy as np
import pytest
from build_votes import says

from carcls import metrics
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
    assert metrics.log_loss(np.eye(2)[:1], np.array([1])) == pytest.approx(-np.log(1e-7))
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


# --- By another metric ----------------------------------------------------------------------------


def rare(right_rare, right_often, sure=0.9, doubt=0.1):
    """(photos, 2) of 12 photos of class 0 and 88 of class 1: so many of each right; the labels."""
    right = np.r_[np.arange(12) < right_rare, np.arange(88) < right_often]
    labels = np.repeat([0, 1], [12, 88])
    of_true = np.where(right, sure, doubt)
    probs = np.where(labels[:, None] == [0, 1], of_true[:, None], 1 - of_true[:, None])
    return probs, labels


def test_a_metric_of_classes_decides_where_accuracy_says_the_opposite():
    (before, labels), (after, _) = rare(2, 86), rare(10, 79)  # 88 of 100 right, then 89
    (worse, _) = rare(2, 88)  # 90 right, all of them frequent
    for metric in ("balanced_accuracy", "f1_macro"):
        assert compare(before, after, labels, metric).helps
        back = compare(after, before, labels, metric)
        assert back.harms
        assert metrics.SHOWN[metric] in str(back)
    assert not compare(after, before, labels).harms  # 88 against 89
    assert compare(after, worse, labels).helps
    assert compare(after, worse, labels, "balanced_accuracy").harms


def test_by_log_loss_only_the_loss_counts():
    before, labels = rare(10, 70, 0.9, 0.1)
    surer, _ = rare(10, 70, 0.9, 0.4)
    more_right, _ = rare(10, 75, 0.6, 0.1)
    assert compare(before, surer, labels, "log_loss").surely_helps
    assert compare(surer, before, labels, "log_loss").harms
    found = compare(before, more_right, labels, "log_loss")
    assert found.corrected == 5 and found.harms and not found.helps
    assert compare(before, more_right, labels).helps
    same = compare(before, before, labels, "log_loss")
    assert not (same.helps or same.harms or same.surely_helps)
    one = compare(before, np.where(np.arange(100)[:, None] == 99, 0.5, before), labels, "log_loss")
    assert one.helps and not one.surely_helps  # it is one photo's
    broken = compare(before, before * np.nan, labels, "log_loss")
    assert broken.harms and not broken.helps


@pytest.mark.parametrize("metric", ["f1_macro", "balanced_accuracy", "auc"])
def test_what_changes_nothing_neither_helps_nor_harms(metric):
    probs, labels = rare(8, 80)
    found = compare(probs, probs, labels, metric)
    assert not (found.helps or found.harms or found.surely_helps)
    one_class = np.zeros(100, int)
    found = compare(probs, probs[::-1], one_class, metric)  # of which AUC says nothing
    assert isinstance(str(found), str) and not found.surely_helps


def test_the_order_of_two_classes_decides_for_auc():
    labels = np.arange(60) % 2
    one = np.linspace(0.5, 0.9, 60)
    ordered = np.where(labels == 1, one + 0.1, one - 0.1)
    before, after = (np.stack([1 - p, p], 1) for p in (one[::-1], ordered))
    found = compare(before, after, labels, "auc")
    assert found.helps and found.surely_helps and found.gain > 0
    assert compare(after, before, labels, "auc").harms


def test_intervals():
    rng = np.random.default_rng(0)
    inside = dict.fromkeys(metrics.NAMES, 0)
    truths = {}
    for number in range(41):
        n = 20_000 if not number else 80
        logits = rng.normal(size=n)
        probs = np.stack([1 / (1 + np.exp(logits)), 1 / (1 + np.exp(-logits))], 1)
        labels = (rng.random(n) < probs[:, 1]).astype(int)
        for metric in metrics.NAMES:
            if not number:  # as good as all photos that there are
                truths[metric] = metrics.value(metric, probs, labels)
                continue
            low, high = evidence.interval(metric, probs, labels)
            assert low < metrics.value(metric, probs, labels) < high
            inside[metric] += low <= truths[metric] <= high
    assert min(inside.values()) >= 34, inside  # of 40; 38 are expected
    again = evidence.interval("f1_macro", probs, labels)
    assert again == evidence.interval("f1_macro", probs, labels)
    measured = evidence.measure(probs, labels, "f1_macro")
    assert list(measured) == ["f1_macro", "low", "high", "accuracy", "log_loss"]
    assert (measured["low"], measured["high"]) == again
    assert np.isfinite(evidence.interval("log_loss", probs[:1], labels[:1])).all()


@pytest.mark.parametrize("metric", ["f1_macro", "balanced_accuracy", "auc"])
def test_photos_without_an_error_do_not_promise_that_there_is_none(metric):
    labels = np.arange(12) % 2
    assert evidence.interval(metric, np.eye(2)[labels], labels) == evidence.wilson(12, 12)

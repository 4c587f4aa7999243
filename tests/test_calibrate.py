"""Temperature: what it finds, that it does no harm out of fold, and how calibration is measured."""

import numpy as np
import pytest

from carcls import metrics
from carcls.votes import calibrate
from carcls.votes.blend import Known


def votes(seed: int, photos=400, classes=5, sharpness=1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels: at sharpness 1 a photo is right as often as it is sure."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(photos, classes))
    true = calibrate.apply(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 1.0)
    labels = np.array([rng.choice(classes, p=p) for p in true])
    return calibrate.apply(true, 1 / sharpness), labels


@pytest.mark.parametrize("seed", range(5))
def test_over_confident_votes_lose_nothing_out_of_fold(seed):
    probs, labels = votes(seed, sharpness=2.5)
    found = calibrate.choose(probs, Known(labels, seed=seed), wanted=True)
    assert metrics.log_loss(found.probs, labels) < metrics.log_loss(probs, labels)
    assert calibrate.error(found.after) < calibrate.error(found.before)
    assert (found.probs.argmax(1) == probs.argmax(1)).all()
    np.testing.assert_allclose(found.probs.sum(1), 1)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_the_sharpness(sharpness):
    probs, labels = votes(7, photos=5000, sharpness=sharpness)
    assert calibrate.fit(probs, labels) == pytest.approx(sharpness, rel=0.1)
    # At the minimum: no other is lower.
    losses = [
        metrics.log_loss(calibrate.apply(probs, calibrate.fit(probs, labels) * factor), labels)
        for factor in (1, 0.95, 1.05)
    ]
    assert losses[0] == min(losses)


def test_it_is_left_out_where_it_does_not_help_out_of_fold_and_where_it_is_not_asked():
    taken = [calibrate.choose(*_known(votes(seed, photos=30)), wanted=True) for seed in range(20)]
    left = [found for found in taken if found.temperature == 1]
    assert 0 < len(left) < 20
    assert all(found.after is found.before for found in left)
    probs, known = _known(votes(0, sharpness=3))
    assert calibrate.choose(probs, known, wanted=False).temperature == 1
    few = calibrate.choose(probs[:9], known.some(np.arange(9)), wanted=True)
    assert few.temperature == 1 and few.probs is not None and "9" in few.reason
    all_right = calibrate.choose(probs, Known(probs.argmax(1)), wanted=True)
    assert all_right.temperature == 1 and "all 400" in all_right.reason  # else it would be sharpest
    one = Known(known.truth, np.zeros(400, int))  # copies of one file
    assert calibrate.choose(probs, one, wanted=True).temperature == 1


def _known(case):
    return case[0], Known(case[1])


def test_a_photo_s_temperature_is_fitted_without_it_and_its_copies(monkeypatch):
    probs, labels = votes(3, photos=60)
    groups = np.arange(60) // 2
    seen, applied = [], []

    def apply(some, _):
        applied.append(some)
        return some

    monkeypatch.setattr(calibrate, "apply", apply)
    monkeypatch.setattr(calibrate, "fit", lambda some, truth: seen.append(some) or 1.0)
    calibrate.out_of_fold(probs, Known(labels, groups))
    assert len(seen) == len(applied) == 5
    of = {tuple(row): group for row, group in zip(probs, groups, strict=True)}
    for learned, judged in zip(seen, applied, strict=True):
        assert not {of[tuple(row)] for row in learned} & {of[tuple(row)] for row in judged}


def test_the_calibration_error_by_hand():
    sure = np.r_[np.full(15, 0.6), np.full(15, 0.9)]
    right = np.r_[np.arange(15) < 9, np.arange(15) < 9]
    probs = np.stack([np.where(right, sure, 1 - sure), np.where(right, 1 - sure, sure)], 1)
    labels = np.zeros(30, int)
    table = calibrate.reliability(probs, labels)
    assert len(table) == 15 and table["photos"].tolist() == [2] * 15
    assert table["confidence"].is_monotonic_increasing
    assert np.average(table["accuracy"], weights=table["photos"]) == pytest.approx(0.6)
    one = calibrate.reliability(probs[15:16], labels[:1])
    assert calibrate.error(one) == pytest.approx(0.1)
    certain = calibrate.reliability(np.eye(2)[np.r_[0, 0, 0, 1]], np.zeros(4, int))
    assert calibrate.error(certain) == pytest.approx(0.25)


def test_a_certain_prediction_stays_finite():
    probs = np.eye(3)[np.r_[0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]]
    labels = np.r_[0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0]
    found = calibrate.choose(probs, Known(labels), wanted=True)
    assert np.isfinite(found.probs).all() and np.isfinite(found.temperature)
    assert calibrate.apply(probs, 5.0).max() < 1

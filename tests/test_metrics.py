"""Each metric is scikit-learn's, of whole predictions and of resampled ones."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as theirs

from carcls import metrics
from carcls.votes import evidence


def case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels: often few photos, ties, missing classes, or one class alone."""
    rng = np.random.default_rng(seed)
    classes, photos = int(rng.integers(2, 7)), int(rng.integers(1, 40))
    probs = rng.integers(1, 4, (photos, classes)) + 1e-3 * rng.random((photos, classes)) * (
        seed % 2
    )
    labels = rng.choice(rng.permutation(classes)[: rng.integers(1, classes + 1)], photos)
    return probs / probs.sum(1, keepdims=True), labels


def expected(metric, probs, labels, weights=None) -> float:
    """What scikit-learn says; weights: how often each photo counts."""
    top, classes = probs.argmax(1), np.arange(probs.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of classes that nobody has
        if metric == "accuracy":
            return theirs.accuracy_score(labels, top, sample_weight=weights)
        if metric == "log_loss":
            return theirs.log_loss(labels, probs, labels=classes, sample_weight=weights)
        if metric == "f1_macro":
            return theirs.f1_score(labels, top, average="macro", sample_weight=weights)
        if metric == "balanced_accuracy":
            return theirs.balanced_accuracy_score(labels, top, sample_weight=weights)
        return theirs.roc_auc_score(labels == 1, probs[:, 1], sample_weight=weights)


@pytest.mark.parametrize("metric", metrics.NAMES)
def test_each_metric_is_that_of_scikit_learn(metric):
    undefined = 0
    for seed in range(60):
        probs, labels = case(seed)
        found = metrics.value(metric, probs, labels)
        if metric == "auc" and len(set(labels == 1)) < 2:
            undefined += np.isnan(found)
            continue
        assert found == pytest.approx(expected(metric, probs, labels), abs=1e-9), seed
    assert undefined or metric != "auc"


@pytest.mark.parametrize("metric", ["f1_macro", "balanced_accuracy", "auc"])
def test_each_resample_is_measured_as_the_photos_that_it_repeats(metric, monkeypatch):
    monkeypatch.setattr(evidence, "BLOCK", 500)  # several blocks
    for seed in range(40, 50):
        probs, labels = case(seed)
        found = evidence._resampled(metric, probs, labels)
        assert found.shape == (evidence.RESAMPLES,)
        counts = evidence._draws(len(labels))
        assert (counts.sum(0) == len(labels)).all()
        for number in (0, 1, 500, 999):
            again = np.repeat(np.arange(len(labels)), counts[:, number])
            value = metrics.value(metric, probs[again], labels[again])
            assert found[number] == pytest.approx(value, abs=1e-9, nan_ok=True)


def test_more_merit_is_better_and_no_number_is_the_worst():
    assert metrics.merit("log_loss", 0.2) > metrics.merit("log_loss", 0.3)
    assert metrics.merit("auc", 0.3) > metrics.merit("auc", 0.2) > metrics.merit("auc", np.nan)
    assert tuple(metrics.SHOWN) == metrics.NAMES

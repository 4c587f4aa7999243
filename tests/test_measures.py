"""What a network is measured by after each epoch equals what its votes are judged by."""

import keras
import numpy as np
import pytest

from carcls import metrics
from carcls.nets import measures
from carcls.votes.cast import softmax


@pytest.mark.parametrize("shift", [0.0, -9.0])  # -9: one of two classes is rare, and seldom sure
@pytest.mark.parametrize("metric", metrics.NAMES)
def test_measures_of_batches_equal_the_metrics(metric, shift):
    rng = np.random.default_rng(0)
    labels = (rng.random(900) < 0.1).astype(int)
    logits = rng.normal(0, 1.5, (900, 2)).astype(np.float32)
    logits[:, 1] += shift + 2 * labels
    found = {measure.name: measure for measure in measures.of(metric, 2)}
    assert set(found) == {"accuracy", metric}
    weights = np.r_[np.ones(800), np.zeros(100)]  # of 0: it only fills a batch
    for part in np.split(np.arange(900), 9):
        batch = np.eye(2)[labels[part]], logits[part], weights[part]
        for measure in found.values():
            measure.update_state(*map(keras.ops.convert_to_tensor, batch))
    probs = softmax(logits[:800])
    for name, measure in found.items():
        value = metrics.value(name, probs, labels[:800])
        assert float(measure.result()) == pytest.approx(value, abs=2e-3)

"""Class weights in the batches of training."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from carcls import config
from carcls.config import Config
from carcls.data.batches import Batches
from carcls.data.photos import Rows
from carcls.errors import ConfigError
from carcls.train.balance import weighted
from carcls.train.job import Job

LEARNED = np.array([0] * 6 + [1] * 3 + [3] * 3)  # nobody learns class 2
BALANCED = Config(class_weights="balanced")


def weights(labels, given=1.0, cfg=BALANCED) -> np.ndarray:
    """Of photos with these labels (photos, 4), which weigh ``given`` before."""
    labels = np.asarray(labels, np.float32)
    given = np.full(len(labels), given, np.float32)
    images = np.zeros((len(labels), 2, 2, 3), np.uint8)
    dataset = tf.data.Dataset.from_tensors((images, labels, given))
    batches = Batches(dataset, 1, len(labels), len(labels), 1, SimpleNamespace())
    rows = Rows(np.arange(len(LEARNED)), LEARNED)
    job = Job("a", SimpleNamespace(), cfg, rows, rows)
    ((_, same, found),) = weighted(batches, job, 4).dataset
    assert np.array_equal(same, labels)
    return np.asarray(found)


def test_each_class_counts_alike_and_the_mean_weight_is_one():
    found = weights(np.eye(4)[LEARNED])
    assert found == pytest.approx([12 / 3 / 6] * 6 + [12 / 3 / 3] * 6)
    assert found.mean() == pytest.approx(1)
    assert weights(np.eye(4)[LEARNED], given=0.0).tolist() == [0] * 12  # what only fills a batch
    assert weights(np.eye(4)[LEARNED], given=1.5) == pytest.approx(1.5 * found)
    assert weights(np.eye(4)[LEARNED], cfg=Config()).tolist() == [1] * 12


def test_a_mixed_photo_has_the_mix_of_the_weights():
    assert weights([[0.75, 0.25, 0, 0]]) == pytest.approx([0.75 * 2 / 3 + 0.25 * 4 / 3])


def test_rare_classes_are_made_up_for_once():
    with pytest.raises(ConfigError, match="oversample=true with class_weights=balanced"):
        config.parse({"oversample": True, "class_weights": "balanced"})

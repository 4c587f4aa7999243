"""Class weights: a photo of a rare class counts more in the loss of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from carcls.data.batches import Batches
from carcls.train.job import Job


def weighted(batches: Batches, job: Job, classes: int) -> Batches:
    """The same batches of training; with class_weights=balanced photos of rare classes weigh more.

    By photos / (classes · photos of the class), of those that the job learns from: a mean of 1.
    Classes that have none do not count. A mixed photo has the mix of the weights that it has of the
    labels. Validation has batches of its own, so that its loss stays as it is.
    """
    if job.cfg.class_weights == "none":
        return batches
    learned = job.learn.labels
    counts = np.bincount(learned, minlength=classes)
    of_class = len(learned) / ((counts > 0).sum() * np.maximum(counts, 1))
    factors = tf.constant(of_class[:, None], tf.float32)  # (classes, 1)

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking takes long
    def weigh(images: Any, labels: Any, weights: Any) -> tuple[Any, Any, Any]:
        return images, labels, weights * tf.matmul(labels, factors)[:, 0]

    return replace(batches, dataset=batches.dataset.map(weigh))

"""What a network is measured by after each epoch: metrics of Keras, on logits."""

from __future__ import annotations

from typing import Any

import keras

from carcls.metrics import Metric

STEP, BINS = 0.01, 4000  # of a difference of logits: −20 to 20


class OfClasses(keras.metrics.Metric):
    """Macro F1 or balanced accuracy of logits, from counts by class; sample weights are counts."""

    def __init__(self, metric: Metric, classes: int) -> None:
        super().__init__(name=metric)
        self.counts = self.add_variable((3, classes), "zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """y_true (B, classes) one-hot or mixed, y_pred logits of the same shape."""
        ops = keras.ops
        said = ops.one_hot(ops.argmax(y_pred, -1), y_pred.shape[-1], dtype="float32")
        true = ops.cast(y_true, "float32")
        found = ops.stack([true, said, true * said])  # (3, B, classes)
        if sample_weight is not None:
            found *= ops.reshape(ops.cast(sample_weight, "float32"), (1, -1, 1))
        self.counts.assign_add(ops.sum(found, 1))

    def result(self) -> Any:
        ops = keras.ops
        true, said, right = (self.counts[n] for n in range(3))
        part, whole = (2 * right, true + said) if self.name == "f1_macro" else (right, true)
        occurs = ops.cast(whole > 0, "float32")
        return ops.sum(part * occurs / ops.where(whole > 0, whole, 1)) / ops.sum(occurs)


class Auc(keras.metrics.Metric):
    """AUC of two classes' logits, by how often each difference of them comes; ties count half.

    Keras's AUC has thresholds of probability, which tell no two photos of a rare class apart.
    """

    def __init__(self) -> None:
        super().__init__(name="auc")
        self.counts = self.add_variable((2, BINS), "zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """y_true (B, 2) one-hot or mixed, y_pred (B, 2) logits."""
        ops = keras.ops
        apart = ops.cast(y_pred[:, 1], "float32") - ops.cast(y_pred[:, 0], "float32")
        bins = ops.clip(ops.floor(apart / STEP) + BINS // 2, 0, BINS - 1)
        found = ops.one_hot(ops.cast(bins, "int32"), BINS, dtype="float32")  # (B, BINS)
        true = ops.cast(y_true, "float32")
        if sample_weight is not None:
            true *= ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        self.counts.assign_add(ops.matmul(ops.transpose(true), found))

    def result(self) -> Any:
        ops = keras.ops
        others, ones = self.counts[0], self.counts[1]
        below = ops.cumsum(others) - others / 2
        return ops.sum(ones * below) / (ops.sum(ones) * ops.sum(others))


def of(metric: Metric, classes: int) -> list[keras.metrics.Metric]:
    """Accuracy, and the metric that decides if it is another one, by its name."""
    found: list[keras.metrics.Metric] = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if metric == "log_loss":  # the loss itself is of smoothed labels
        found.append(keras.metrics.CategoricalCrossentropy(name=metric, from_logits=True))
    elif metric == "auc":
        found.append(Auc())
    elif metric != "accuracy":
        found.append(OfClasses(metric, classes))
    return found

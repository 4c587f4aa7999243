"""What predictions are scored by. Everywhere probs are (photos, classes), each row sums to 1, and
labels (photos,) int64 are the true classes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

TINY = 1e-7  # the least probability that a logarithm is taken of: one 0 alone would decide
Metric = str  # one of NAMES


def losses(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(photos,) float64: −log of the true class's probability, at most −log(TINY)."""
    return -np.log(np.maximum(probs[np.arange(len(labels)), labels], TINY))


def log_loss(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the losses."""
    return float(losses(probs, labels).mean())


def accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Share of the photos whose most probable class is the true one."""
    return float((probs.argmax(1) == labels).mean())


def confusion(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(classes, classes) int64: photos by true and most probable class."""
    n = probs.shape[1]
    return np.bincount(n * labels + probs.argmax(1), minlength=n * n).reshape(n, n)


def f1_macro(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur, as true or as predicted ones, of F1."""
    table = confusion(probs, labels)
    both = table.sum(0) + table.sum(1)
    return float((2 * table.diagonal()[both > 0] / both[both > 0]).mean())


def balanced_accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the true classes of the share of their photos that are right."""
    table = confusion(probs, labels)
    count = table.sum(1)
    return float((table.diagonal()[count > 0] / count[count > 0]).mean())


def auc(probs: np.ndarray, labels: np.ndarray) -> float:
    """Of two classes: how often a photo of the one gets more of it than one of the other.

    NaN where one of them is missing (Mann and Whitney 1947; ties count half).
    """
    from scipy.stats import rankdata  # takes long to import

    ranks, positive = rankdata(probs[:, 1]), labels == 1
    n = int(positive.sum())
    if n in (0, len(labels)):
        return float("nan")
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(labels) - n)))


_VALUES: dict[Metric, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "log_loss": log_loss,
    "f1_macro": f1_macro,
    "balanced_accuracy": balanced_accuracy,
    "auc": auc,
}
NAMES = tuple(_VALUES)
SHOWN = {  # in logs and on pages
    "accuracy": "accuracy",
    "log_loss": "log-loss",
    "f1_macro": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
}


def value(metric: Metric, probs: np.ndarray, labels: np.ndarray) -> float:
    """The metric of these predictions, as competitions give it."""
    return _VALUES[metric](probs, labels)


def merit(metric: Metric, value: float) -> float:
    """The same, so that more is better, and no number is the worst."""
    if math.isnan(value):
        return -math.inf
    return -value if metric == "log_loss" else value


def shown(metric: Metric, value: float) -> str:
    """As "0.9123 macro F1"."""
    return f"{value:.4f} {SHOWN[metric]}"

"""Probabilities that mean what they say: one temperature, fitted on validation photos.

The class stays; softmax(log p / T) makes all probabilities softer (T above 1) or sharper (Guo et
al. 2017, arXiv 1706.04599). Everywhere ``probs`` is (photos, classes) and ``labels`` int (photos,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from carcls.metrics import TINY, log_loss
from carcls.votes import blend
from carcls.votes.blend import Known
from carcls.votes.evidence import wilson

BINS = 15  # of as many photos each, by how sure the prediction is
FOLDS = 5
HOTTEST = 20.0  # the largest temperature, and one over the smallest


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what validation photos say of it."""

    temperature: float  # 1: probabilities stay as they are
    reason: str
    probs: np.ndarray  # of the validation photos: each by a temperature that did not see it
    before: pd.DataFrame  # ``reliability`` without it and with it
    after: pd.DataFrame


def choose(probs: np.ndarray, known: Known, wanted: bool) -> Calibration:
    """The temperature of the lowest log-loss, if out of fold the log-loss is not higher for it."""
    before = reliability(probs, known.truth)
    folds = min(FOLDS, len(known.truth if known.groups is None else np.unique(known.groups)))
    count, reason = len(known.truth), "" if wanted else "none asked"
    if wanted and (folds < 2 or count < blend.LEAST):
        reason = f"none: too few validation photos, {count}"
    elif wanted and (probs.argmax(1) == known.truth).all():  # the sharper, the lower the log-loss
        reason = f"none: all {count} validation photos are right, so none tells how sure to be"
    if reason:
        return Calibration(1.0, reason, probs, before, before)
    found, judged = fit(probs, known.truth), out_of_fold(probs, known)
    losses = log_loss(probs, known.truth), log_loss(judged, known.truth)
    after = reliability(judged, known.truth)
    told = (
        f"temperature {found:.3f} on validation photos, out of fold: log-loss {losses[0]:.4f} → "
        f"{losses[1]:.4f}, calibration error {error(before):.4f} → {error(after):.4f}"
    )
    if losses[1] > losses[0]:
        return Calibration(1.0, f"none: {told}", probs, before, before)
    return Calibration(found, told, judged, before, after)


def fit(probs: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the lowest log-loss on these photos, between 1/HOTTEST and HOTTEST."""
    from scipy.optimize import minimize_scalar  # takes long to import

    def loss(log_temperature: float) -> float:
        return log_loss(apply(probs, math.exp(log_temperature)), labels)

    most = math.log(HOTTEST)
    found = minimize_scalar(loss, bounds=(-most, most), method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))


def apply(probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (photos, classes) float64 at that temperature; at 1 the same array."""
    if temperature == 1:
        return probs
    logits = np.log(np.maximum(probs, TINY)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def out_of_fold(probs: np.ndarray, known: Known) -> np.ndarray:
    """(photos, classes) float64: each photo at a temperature that was fitted without its fold."""
    out = np.empty(probs.shape)
    for rest, fold in blend.split(known.truth, known.groups, known.seed, FOLDS):
        out[fold] = apply(probs[fold], fit(probs[rest], known.truth[rest]))
    return out


def reliability(probs: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """A row a bin of as many photos, the least sure predictions first.

    photos; confidence: mean probability of the predicted class; accuracy: share of them that are
    right, and low and high, its 95 % interval.
    """
    sure, right = probs.max(1), probs.argmax(1) == labels
    rows = []
    for bin_ in np.array_split(np.argsort(sure, kind="stable"), min(BINS, len(labels))):
        low, high = wilson(int(right[bin_].sum()), len(bin_))
        rows.append((len(bin_), sure[bin_].mean(), right[bin_].mean(), low, high))
    return pd.DataFrame(rows, columns=["photos", "confidence", "accuracy", "low", "high"])


def error(table: pd.DataFrame) -> float:
    """Expected calibration error of ``reliability``: how far sureness and accuracy are apart."""
    apart = (table["confidence"] - table["accuracy"]).abs()
    return float(np.average(apart, weights=table["photos"]))

"""Whether one prediction is better than another: the only place where the package judges that.

Everywhere ``probs`` is (photos, classes), each row sums to 1, and ``labels`` (photos,) int64 are
the true classes, of photos that neither prediction was trained on. ``metric`` is the one that
decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import ArrayLike

from carcls import metrics
from carcls.metrics import TINY, Metric

SAME = 1e-4  # what differs by less is the same: rounding depends on a photo's place in its batch
HARM = 0.05  # a change harms where chance alone would make it look so bad less often
ONE_CLASS = 0.9  # no car competition has a larger share of one class, unless its labels say so
RESAMPLES = 1000  # of the photos, for what has no formula; always the same ones
BLOCK = 4_000_000  # numbers of them that are worked on at a time


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, right of n (Wilson 1927)."""
    z = 1.959964
    p, d = right / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / d
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return max(0.0, centre - half), min(1.0, centre + half)


def interval(metric: Metric, probs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """95 % interval of the metric: Wilson's of accuracy, by the standard error of log-loss.

    Of the others: percentiles over resampled photos (the bootstrap of Efron 1979); where none of
    those is below 1, as without an error, Wilson's too.
    """
    n = len(labels)
    if metric == "accuracy":
        return wilson(int((probs.argmax(1) == labels).sum()), n)
    if metric == "log_loss":
        losses = metrics.losses(probs, labels)
        if n < 2:
            return 0.0, -math.log(TINY)  # one photo says nothing
        half = 1.959964 * float(losses.std(ddof=1)) / math.sqrt(n)
        return max(0.0, float(losses.mean()) - half), float(losses.mean()) + half
    values = _resampled(metric, probs, labels)
    values = values[~np.isnan(values)]  # a resample may lack a class
    if (values == 1).all() and len(values):
        return wilson(n, n)
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (0.0, 1.0)
    return float(low), float(high)


def measure(probs: np.ndarray, labels: np.ndarray, metric: Metric = "accuracy") -> dict[str, float]:
    """Columns of a table: the metric, low and high (its 95 % interval), accuracy, log_loss."""
    low, high = interval(metric, probs, labels)
    found = {metric: metrics.value(metric, probs, labels), "low": low, "high": high}
    found.setdefault("accuracy", metrics.accuracy(probs, labels))
    found.setdefault("log_loss", metrics.log_loss(probs, labels))
    return dict(found)


@lru_cache(maxsize=2)
def _draws(n: int) -> np.ndarray:
    """(photos, RESAMPLES) uint8: how often each of n photos is in each resample."""
    rng, draws = np.random.default_rng(0), np.empty((RESAMPLES, n), np.uint8)
    for row in draws:
        row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    return np.ascontiguousarray(draws.T)


def _resampled(metric: Metric, probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(RESAMPLES,) float64: F1, balanced accuracy or AUC of each resample, NaN where undefined."""
    draws = _draws(len(labels))
    of_counts = _auc if metric == "auc" else partial(_of_classes, metric)
    blocks = np.array_split(draws, -(-draws.size // BLOCK), axis=1)
    with np.errstate(invalid="ignore"):
        return np.concatenate([of_counts(block, probs, labels) for block in blocks])


def _of_classes(
    metric: Metric, draws: np.ndarray, probs: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    top, classes = probs.argmax(1), probs.shape[1]
    true = _sums(draws, labels, classes)
    right = _sums(draws * (top == labels)[:, None], labels, classes)
    if metric == "balanced_accuracy":
        whole, part = true, right
    else:
        whole, part = true + _sums(draws, top, classes), 2 * right
    occurs = whole > 0
    return np.where(occurs, part / np.maximum(whole, 1), 0).sum(0) / occurs.sum(0)


def _sums(draws: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """(photos, resamples) → (count, resamples): sums over the photos of each group."""
    order = np.argsort(groups, kind="stable")
    present, first = np.unique(groups[order], return_index=True)
    sums = np.zeros((count, draws.shape[1]))
    sums[present] = np.add.reduceat(draws[order], first, axis=0, dtype=np.int32)
    return sums


def _auc(draws: np.ndarray, probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    order = np.argsort(probs[:, 1], kind="stable")
    values, is_one, draws = probs[order, 1], labels[order] == 1, draws[order]
    others = np.zeros((len(values) + 1, draws.shape[1]), np.int32)
    np.cumsum(draws * ~is_one[:, None], 0, out=others[1:])  # of the first 0, 1, 2, … photos
    ones = draws[is_one].astype(np.int32)
    first, last = (np.searchsorted(values, values[is_one], side) for side in ("left", "right"))
    below = np.einsum("pr,pr->r", ones, others[first] + others[last], dtype=np.float64)
    return below / (2.0 * ones.sum(0) * others[-1])  # ties count half


@dataclass(frozen=True)
class Change:
    """What becomes of the same photos when one prediction replaces another."""

    corrected: int  # photos that were wrong and are right
    spoiled: int  # photos that were right and are wrong
    loss_before: float
    loss_after: float  # not finite if a probability is not
    metric: Metric = "accuracy"
    # Of another metric: before and after, how often chance alone makes it so much worse, and, of
    # log-loss, the standard error of the difference
    before: float = math.nan
    after: float = math.nan
    p_lower: float = 1.0
    error: float = 0.0

    @property
    def p(self) -> float:
        """McNemar's exact test, two-sided: how often chance alone parts the two so far."""
        fewer = min(self.corrected, self.spoiled)
        return min(1.0, 2 * _binomial_tail(fewer, self.corrected + self.spoiled))

    @property
    def p_worse(self) -> float:
        """One-sided: how often chance alone spoils at least so many of the photos that change.

        Of another metric: makes it so much worse.
        """
        if self.metric != "accuracy":
            return self.p_lower
        return _binomial_tail(self.corrected, self.corrected + self.spoiled)

    @property
    def gain(self) -> float:
        """By which the metric is better: of accuracy in photos."""
        if self.metric == "accuracy":
            return self.corrected - self.spoiled
        merits = (metrics.merit(self.metric, value) for value in (self.before, self.after))
        before, after = merits
        return after - before if math.isfinite(before) else 0.0

    @property
    def harms(self) -> bool:
        return self.p_worse < HARM or not math.isfinite(self.loss_after)

    @property
    def helps(self) -> bool:
        """The metric is better or the loss lower, and it does not harm."""
        lowers_loss = self.loss_after < self.loss_before - SAME
        return not self.harms and (self.gain > SAME or lowers_loss)

    @property
    def surely_helps(self) -> bool:
        """Both at once, which is asked of what is more complicated.

        Accuracy alone counts few photos; the loss alone rewards softer probabilities. Where the
        loss is the metric, it has to be lower by more than the standard error.
        """
        return self.gain > max(SAME, self.error) and self.loss_after < self.loss_before

    def __str__(self) -> str:
        verdict = "worse" if self.harms else "no better"
        if self.helps:  # a few photos more that are spoiled may be chance
            verdict = "better" if self.gain > SAME else "no worse, and surer"
        metric = ""
        if self.metric not in ("accuracy", "log_loss"):
            metric = f"{metrics.SHOWN[self.metric]} {self.before:.4f} → {self.after:.4f}, "
        return (
            f"{verdict}: {metric}of the photos {self.corrected} corrected, {self.spoiled} spoiled "
            f"(p = {self.p:.2g}), log-loss {self.loss_before:.4f} → {self.loss_after:.4f}"
        )


def _binomial_tail(k: int, n: int) -> float:
    """P(X ≤ k) of n fair coins."""
    from scipy.special import bdtr  # takes long to import

    return float(bdtr(k, n, 0.5))


def compare(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray, metric: Metric = "accuracy"
) -> Change:
    """Two predictions (photos, classes) of the same photos."""
    was, now = before.argmax(1) == labels, after.argmax(1) == labels
    counts = int((now & ~was).sum()), int((was & ~now).sum())
    losses = [metrics.losses(probs, labels) for probs in (before, after)]
    change = Change(*counts, float(losses[0].mean()), float(losses[1].mean()), metric)
    if metric == "accuracy" or not math.isfinite(change.loss_after):
        return change
    values = [metrics.value(metric, probs, labels) for probs in (before, after)]
    if metric == "log_loss":
        paired = compare_losses(*losses)
        p_lower = paired.p_higher if paired.mean > 0 else 1.0
        return replace(
            change, before=values[0], after=values[1], p_lower=p_lower, error=paired.error
        )
    first, second = (_resampled(metric, probs, labels) for probs in (before, after))
    not_worse = ~(second < first - 1e-9)  # also where it is undefined
    p_lower = float((1 + not_worse.sum()) / (1 + RESAMPLES))
    return replace(change, before=values[0], after=values[1], p_lower=p_lower)


@dataclass(frozen=True)
class Paired:
    """How the log-loss of the same photos differs between two predictions: after less before."""

    n: int  # photos
    mean: float
    error: float  # standard error of the mean; infinite of less than two photos
    p: float  # Wilcoxon's signed-rank test, two-sided
    p_higher: float  # one-sided: how often chance alone makes the photos' losses so much higher

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean."""
        return self.mean - 1.959964 * self.error, self.mean + 1.959964 * self.error

    @property
    def is_surely_higher(self) -> bool:
        """By its mean and by its photos: a few confident errors alone are not enough."""
        return self.mean > 0 and self.p_higher < HARM

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"log-loss {self.mean:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, "
            f"p = {self.p:.2g}, {self.n:,} photos)"
        )


def compare_losses(before: np.ndarray, after: np.ndarray) -> Paired:
    """Losses (photos,) of the same photos by two predictions, photo by photo."""
    from scipy.stats import wilcoxon  # takes long to import

    change = np.asarray(after, float) - np.asarray(before, float)
    n, (mean, error) = len(change), difference(before, after)
    p = p_higher = 1.0
    if n and np.abs(change).max() > 0:
        p = float(wilcoxon(change).pvalue)
        p_higher = float(wilcoxon(change, alternative="greater").pvalue)
    return Paired(n, mean, error, p, p_higher)


def difference(before: ArrayLike, after: ArrayLike) -> tuple[float, float]:
    """By how much (photos,) values differ in the mean, photo by photo, and its standard error."""
    change = np.asarray(after, float) - np.asarray(before, float)
    n = len(change)
    error = float(change.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    return float(change.mean()) if n else 0.0, error


def moved_too_far(accuracy: float, n: int, before: np.ndarray, after: np.ndarray) -> str:
    """Why test predictions of a refitted network may not replace those before it; "" if they may.

    No labelled photo is left to measure a refit on. But networks that are wrong on shares a and b
    of the photos differ on a + b of them at most, so one that differs on more than twice the
    largest error of the first (95 % interval of its accuracy on n photos) is worse. Nor may it put
    nearly all photos into one class where the first did not.
    """
    most = int(2 * (1 - wilson(round(accuracy * n), n)[0]) * len(before))
    was, now = before.argmax(1), after.argmax(1)
    changed = int((was != now).sum())
    told = f"{changed:,} of {len(was):,} test photos change their class"
    if not np.isfinite(after).all():
        return "some probabilities are not finite"
    if changed > most:
        return f"{told}; with an error like the one measured {most:,} may"
    largest_before, largest = (np.bincount(top).max() / len(top) for top in (was, now))
    if largest > ONE_CLASS >= largest_before:
        return f"{told}, nearly all of them to one"
    return ""

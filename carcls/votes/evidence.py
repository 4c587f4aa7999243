"""Whether one prediction is better than another: the only place where the package judges that.

Everywhere ``probs`` is (photos, classes), each row sums to 1, and ``labels`` (photos,) int64 are
the true classes, of photos that neither prediction was trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TINY = 1e-7  # the least probability that a logarithm is taken of: one 0 alone would decide
SAME = 1e-4  # what differs by less is the same: rounding depends on a photo's place in its batch
HARM = 0.05  # a change harms where chance alone would spoil so many photos less often
ONE_CLASS = 0.9  # no car competition has a larger share of one class, unless its labels say so


def accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Share of the photos whose most probable class is the true one."""
    return float((probs.argmax(1) == labels).mean())


def log_loss(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean of −log of the true class's probability, at most −log(TINY) a photo."""
    return float(losses(probs, labels).mean())


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, right of n (Wilson 1927)."""
    z = 1.959964
    p, d = right / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / d
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return max(0.0, centre - half), min(1.0, centre + half)


def measure(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """accuracy, low and high (its 95 % interval) and log_loss, as columns of a table."""
    right, n = int((probs.argmax(1) == labels).sum()), len(labels)
    low, high = wilson(right, n)
    return {"accuracy": right / n, "low": low, "high": high, "log_loss": log_loss(probs, labels)}


@dataclass(frozen=True)
class Change:
    """What becomes of the same photos when one prediction replaces another."""

    corrected: int  # photos that were wrong and are right
    spoiled: int  # photos that were right and are wrong
    loss_before: float
    loss_after: float  # not finite if a probability is not

    @property
    def p(self) -> float:
        """McNemar's exact test, two-sided: how often chance alone parts the two so far."""
        fewer = min(self.corrected, self.spoiled)
        return min(1.0, 2 * _binomial_tail(fewer, self.corrected + self.spoiled))

    @property
    def p_worse(self) -> float:
        """One-sided: how often chance alone spoils at least so many of the photos that change."""
        return _binomial_tail(self.corrected, self.corrected + self.spoiled)

    @property
    def harms(self) -> bool:
        return self.p_worse < HARM or not math.isfinite(self.loss_after)

    @property
    def helps(self) -> bool:
        """Corrects more photos than it spoils or lowers the loss, and does not harm."""
        lowers_loss = self.loss_after < self.loss_before - SAME
        return not self.harms and (self.corrected > self.spoiled or lowers_loss)

    @property
    def surely_helps(self) -> bool:
        """Both at once, which is asked of what is more complicated.

        Accuracy alone counts few photos; the loss alone rewards softer probabilities.
        """
        return self.corrected > self.spoiled and self.loss_after < self.loss_before

    def __str__(self) -> str:
        verdict = "worse" if self.harms else "no better"
        if self.helps:  # a few photos more that are spoiled may be chance
            verdict = "better" if self.corrected > self.spoiled else "no worse, and surer"
        return (
            f"{verdict}: of the photos {self.corrected} corrected, {self.spoiled} spoiled "
            f"(p = {self.p:.2g}), log-loss {self.loss_before:.4f} → {self.loss_after:.4f}"
        )


def _binomial_tail(k: int, n: int) -> float:
    """P(X ≤ k) of n fair coins."""
    from scipy.special import bdtr  # takes long to import

    return float(bdtr(k, n, 0.5))


def compare(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Change:
    """Two predictions (photos, classes) of the same photos."""
    was, now = before.argmax(1) == labels, after.argmax(1) == labels
    corrected, spoiled = int((now & ~was).sum()), int((was & ~now).sum())
    return Change(corrected, spoiled, log_loss(before, labels), log_loss(after, labels))


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
    def is_lower(self) -> bool:
        """By more than the standard error."""
        return self.mean < -self.error

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
    n = len(change)
    error = float(change.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    p = p_higher = 1.0
    if n and np.abs(change).max() > 0:
        p = float(wilcoxon(change).pvalue)
        p_higher = float(wilcoxon(change, alternative="greater").pvalue)
    return Paired(n, float(change.mean()) if n else 0.0, error, p, p_higher)


def losses(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(photos,) float64: −log of the true class's probability, at most −log(TINY)."""
    return -np.log(np.maximum(probs[np.arange(len(labels)), labels], TINY))


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

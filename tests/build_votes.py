"""Votes made by hand: which class each view of each photo puts first, and how surely."""

from dataclasses import dataclass

import numpy as np

from carcls.config import Config
from carcls.votes.votes import Votes


def says(tops, sure=0.8, classes=3) -> np.ndarray:
    """(views, photos) classes → float32 (views, photos, classes) that have ``sure`` of these."""
    tops = np.asarray(tops)
    probs = np.full((*tops.shape, classes), (1 - sure) / (classes - 1), np.float32)
    np.put_along_axis(probs, tops[..., None], sure, axis=-1)
    return probs


def build(probs, labels=None, n_views=None, combine="mean") -> Votes:
    """Votes of these probabilities; every photo has all views if n_views does not say else."""
    probs = np.array(probs, np.float32)
    views, photos = probs.shape[:2]
    n_views = np.full(photos, views) if n_views is None else np.array(n_views)
    probs[np.arange(views)[:, None] >= n_views] = 0
    labels = np.full(photos, -1) if labels is None else np.array(labels)
    ids = [f"{n}.jpg" for n in range(photos)]
    return Votes(ids, probs, labels.astype(np.int64), n_views.astype(np.int64), combine)


def counted(counts: list[dict[int, int]], labels=None, views=0, sure=0.91, classes=10) -> Votes:
    """Votes in which photo n has counts[n][k] views that put class k first."""
    n_views = [sum(count.values()) for count in counts]
    tops = np.zeros((max(views, *n_views), len(counts)), int)
    for photo, count in enumerate(counts):
        tops[: n_views[photo], photo] = np.repeat(list(count), list(count.values()))
    return build(says(tops, sure, classes), labels, n_views)


def views(text: str):
    """The setting views=, as in ``views("4-32")``."""
    return Config(views=text).views


@dataclass(frozen=True)
class Member:
    name: str
    val: Votes
    test: list[Votes]

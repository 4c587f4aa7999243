"""Votes: the probabilities that a network gives every view of every photo, and their arithmetic.

No network is needed here: how views are combined, the rule by which disputed photos get more of
them, and the tables of what more views bring.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carcls import disk, metrics
from carcls.disk import NO_ZIP
from carcls.errors import InputError
from carcls.metrics import TINY, Metric
from carcls.values import Views
from carcls.votes.evidence import Change, compare, measure

COMBINE = ("mean", "geometric", "vote")
ROW_SUM = 1e-2  # rows of half precision miss a sum of 1 by less; logits do not pass


@dataclass(frozen=True)
class Gate:
    """Whether predictions take all views of a photo or the photo alone, and why."""

    open: bool
    reason: str


@dataclass(frozen=True)
class Votes:
    """What a network says of photos, view by view: view 0 is the photo itself, 1 its mirror image.

    combine: mean of the probabilities, geometric mean, or vote: the share of views that put the
    class first, ties broken by the mean.
    """

    ids: list[str]
    # (views, photos, classes) float32: a row sums to 1, or is 0 where the photo lacks that view
    probs: np.ndarray
    labels: np.ndarray  # (photos,) int64, −1 where unknown
    n_views: np.ndarray  # (photos,) int64: how many views, from the first on, a photo was given
    combine: str = "mean"

    def save(self, path: Path) -> None:
        """As .npz with arrays named like the fields; atomic."""
        content = io.BytesIO()
        np.savez(content, **{**vars(self), "ids": np.array(self.ids)})
        disk.make_way(path)
        disk.write_atomic(path, content.getvalue())

    def together(self) -> np.ndarray:
        """(photos, classes) float64: of the views that each photo was given."""
        out = np.zeros(self.probs.shape[1:])
        for n, probs in prefixes(self.probs, self.combine, set(self.n_views.tolist())):
            out[self.n_views == n] = probs[self.n_views == n]
        return out

    def alone(self) -> np.ndarray:
        """(photos, classes) float64: of the photo itself."""
        return self.probs[0].astype(np.float64)

    def used(self, gate: Gate) -> np.ndarray:
        """(photos, classes) float64: together where the gate is open, else alone."""
        return self.together() if gate.open else self.alone()

    def take(self, photos: np.ndarray) -> Votes:
        """Of some photos only: indices or a mask."""
        ids = np.array(self.ids)[photos].tolist()
        some = self.probs[:, photos], self.labels[photos], self.n_views[photos]
        return Votes(ids, *some, self.combine)

    def as_asked(self, views: Views) -> Votes:
        """Votes that have all views, as the rule that gives disputed photos more would ask."""
        seen, *more = doublings(views.first, min(views.most, len(self.probs)))
        n_views = np.full(len(self.ids), seen, np.int64)
        going_on = np.arange(len(self.ids))
        for n in more:
            going_on = going_on[disputed(self.probs[:seen, going_on])]
            n_views[going_on] = seen = n
        return replace(self, n_views=n_views)

    def tops(self) -> np.ndarray:
        """(views, photos) int64: the class that a view puts first; −1 where it was not given."""
        given = np.arange(len(self.probs))[:, None] < self.n_views
        return np.where(given, self.probs.argmax(2), -1)

    def first_places(self) -> np.ndarray:
        """(photos, classes) int64: how many of a photo's views put each class first."""
        tops = self.tops()
        return np.stack([(tops == k).sum(0) for k in range(self.probs.shape[2])], 1)

    def agreement(self) -> np.ndarray:
        """(photos,) float64: share of a photo's views that say what all of them say together."""
        return (self.tops() == self.together().argmax(1)).sum(0) / self.n_views

    def change_from(self, before: Votes, metric: Metric = "accuracy") -> Change:
        """What becomes of the photos, all their views together, when these votes replace others."""
        assert self.ids == before.ids, "votes of other photos"
        return compare(before.together(), self.together(), self.labels, metric)


def load(path: Path) -> Votes:
    """Votes that ``save`` wrote. Raises InputError if the file is not that."""
    try:
        if not path.is_file():
            raise ValueError("no such file")
        with np.load(path) as file:
            probs, labels, n_views = (file[name] for name in ("probs", "labels", "n_views"))
            read = Votes(file["ids"].tolist(), probs, labels, n_views, str(file["combine"]))
        if fault := _fault(read):
            raise ValueError(fault)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        MemoryError,
        *NO_ZIP,
    ) as error:
        raise InputError(f"{path}: not a file of votes ({error})") from None
    return read


def _fault(read: Votes) -> str:
    """What shows that they were not saved by us, or ""."""
    if not isinstance(read.ids, list) or not all(isinstance(ident, str) for ident in read.ids):
        return "ids are no list of names"
    probs, labels, n_views, photos = read.probs, read.labels, read.n_views, len(read.ids)
    if read.combine not in COMBINE:
        return f"combine is {read.combine[:40]!r}"
    if probs.ndim != 3 or probs.dtype != np.float32 or 0 in probs.shape:
        return f"probs are {probs.dtype} {probs.shape}"
    if not all(a.shape == (photos,) and a.dtype == np.int64 for a in (labels, n_views)):
        return "labels or n_views are not one whole number a photo"
    if probs.shape[1] != photos or not ((labels >= -1) & (labels < probs.shape[2])).all():
        return "its arrays are of different photos or classes"
    if not ((n_views >= 1) & (n_views <= len(probs))).all():
        return f"n_views are not from 1 to {len(probs)}"
    sums = probs.sum(2, dtype=np.float64)  # (V, P); NaN and infinities fail here
    given = np.arange(len(probs))[:, None] < n_views
    if not (np.abs(sums - 1)[given] <= ROW_SUM).all() or not (probs[given] >= 0).all():
        return "rows of probs are no probabilities"
    return ""


def join(parts: Sequence[Votes]) -> Votes:
    """Votes of different photos as one, with the fewest views that any part has."""
    if len(parts) == 1:
        return parts[0]
    fewest = min(len(part.probs) for part in parts)
    return Votes(
        [name for part in parts for name in part.ids],
        np.concatenate([part.probs[:fewest] for part in parts], 1),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([np.minimum(part.n_views, fewest) for part in parts]),
        parts[0].combine,
    )


def prefixes(
    probs: np.ndarray, combine: str, counts: Collection[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """For each number n in counts: n and the first n views combined, (photos, classes) float64.

    View by view, as a float64 copy of all probs (views, photos, classes) would be large.
    """
    assert combine in COMBINE, combine
    total = np.zeros(probs.shape[1:])
    for n, view in enumerate(probs[: max(counts, default=0)], 1):
        p = view.astype(np.float64)
        if combine == "geometric":
            p = np.log(np.maximum(p, TINY))
        elif combine == "vote":
            p *= 1e-6
            p[np.arange(len(p)), view.argmax(1)] += 1
        total += p
        if n in counts:
            out = total
            if combine == "geometric":
                out = np.exp((total - total.max(1, keepdims=True)) / n)
            yield n, out / out.sum(1, keepdims=True)


# --- More views for disputed photos ---------------------------------------------------------------

# Standard errors by which the leading class must lead, view by view: with 1.5 more photos end up
# otherwise than with all views, 3 asks for more views in vain (MEASUREMENTS: adaptive views).
CLEAR = 2.0


def disputed(probs: np.ndarray, clear: float = CLEAR) -> np.ndarray:
    """Which photos go on after these views: (views, photos, classes) → bool (photos,).

    A photo stops when its views are unanimous, or when the leader of the mean is ahead of the
    runner-up by ``clear`` standard errors of the lead: a paired sequential test.
    """
    views = len(probs)
    tops = probs.argmax(2)  # (V, P)
    unanimous = (tops == tops[0]).all(0)
    if views < 3:
        return ~unanimous
    mean = probs.mean(0, dtype=np.float64)
    first, second = np.argsort(-mean, axis=1, kind="stable")[:, :2].T
    photo = np.arange(probs.shape[1])
    lead = (probs[:, photo, first] - probs[:, photo, second]).astype(np.float64)  # (V, P)
    error = lead.std(0, ddof=1) / math.sqrt(views)
    return ~unanimous & (lead.mean(0) < clear * error)


def doublings(first: int, most: int) -> list[int]:
    """first, twice as many and so on, up to most: the views of a photo after each round."""
    counts = [min(first, most)]
    while counts[-1] < most:
        counts.append(min(2 * counts[-1], most))
    return counts


# --- Tables, of validation votes that have all views ----------------------------------------------


def tta_table(votes: Votes, metric: Metric = "accuracy") -> pd.DataFrame:
    """Measures of the photo alone, of each view alone, and of the first 1, 2, 4, … views together.

    corrected and spoiled count photos against the photo alone; p is McNemar's exact test.
    """
    plain, views, combine = votes.probs[0], len(votes.probs), votes.combine

    def row(what: str, n: int, probs: np.ndarray) -> dict[str, Any]:
        change = compare(plain, probs, votes.labels)
        paired = {"corrected": change.corrected, "spoiled": change.spoiled, "p": change.p}
        return {"what": what, "views": n, **measure(probs, votes.labels, metric), **paired}

    rows = [row("no TTA", 1, plain)]
    if views > 1:
        for n, probs in prefixes(votes.probs, combine, doublings(2, views)):
            rows.append(row(f"first {n}, {combine}", n, probs))
        for other in (name for name in COMBINE if name != combine):
            probs = replace(votes, combine=other).together()
            rows.append(row(f"all {views}, {other}", views, probs))
        rows += [row(f"view {v} alone", 1, votes.probs[v]) for v in range(1, views)]
    return pd.DataFrame(rows)


def curve(votes: Votes, metric: Metric = "accuracy") -> pd.DataFrame:
    """What ``measure`` gives against the number of views, one row a number."""
    every = prefixes(votes.probs, votes.combine, range(1, len(votes.probs) + 1))
    return pd.DataFrame(
        [{"views": n, **measure(probs, votes.labels, metric)} for n, probs in every]
    )


FIRSTS, CAPS = (2, 4, 8), (8, 16, 32, 64)  # the rules that ``trade_off`` compares


def trade_off(votes: Votes, metric: Metric = "accuracy") -> pd.DataFrame:
    """Passes a photo and metrics of fixed rules and of adaptive ones up to a cap.

    share of the passes of the fixed rule with that cap; differ: photos predicted otherwise by it.
    """
    caps = [cap for cap in (1, 2, 4, *CAPS) if cap <= len(votes.probs)]
    rows = []
    for cap, fixed in prefixes(votes.probs, votes.combine, caps):
        rules = [(f"fixed {cap}", fixed, float(cap))]
        for first in (first for first in FIRSTS if cap in CAPS and first < cap):
            asked = votes.as_asked(Views(first=first, most=cap))
            passes = float(asked.n_views.mean())
            rules.append((f"from {first} up to {cap}", asked.together(), passes))
        for rule, probs, passes in rules:
            row: dict[str, Any] = {"rule": rule, "cap": cap}
            row |= {"passes": passes, "share": passes / cap}
            for name in dict.fromkeys(["accuracy", "log_loss", metric]):
                row[name] = metrics.value(name, probs, votes.labels)
            rows.append(row | {"differ": int((probs.argmax(1) != fixed.argmax(1)).sum())})
    return pd.DataFrame(rows)


def describe_saving(votes: Votes, views: Views) -> str:
    """What the adaptive rule saves on validation votes that have all views, in a sentence."""
    asked, most = votes.as_asked(views), len(votes.probs)
    passes = asked.n_views.mean()
    differ = (asked.together().argmax(1) != votes.together().argmax(1)).sum()
    return (
        f"adaptive: {passes:.1f} of {most} passes a photo ({passes / most:.0%}), {differ} of "
        f"{len(votes.ids)} photos predicted otherwise than with all views"
    )

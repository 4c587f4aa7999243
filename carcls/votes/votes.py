"""Votes as data: what every view of every photo was said to be, and all that follows from it without a network.

Everything here is arithmetic on (view × photo × class) probabilities: how views are combined, the tables, the exact paired
test, the gate of test-time augmentation, and the rule by which disputed photos get more views.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carcls import disk
from carcls.errors import InputError

COMBINE = ("mean", "geometric", "vote")
TINY = 1e-7  # probabilities below it count as it where a logarithm is taken: a 0 would make a single photo decide
# One-sided: a gate closes when chance alone would spoil that many more photos than it corrects less
# often than this.
HARM = 0.05
SAME = 1e-4  # probabilities and losses closer than this are the same: rounding differs with a photo's place in the batch


@dataclass(frozen=True)
class Votes:
    """What one member says of photos, view by view. View 0 is the photo itself, 1 its mirror image."""

    ids: list[str]
    probs: (
        np.ndarray
    )  # (views, photos, classes) float32; each row that was cast sums to 1, the others are 0
    labels: np.ndarray  # (photos,) int64, −1 where unknown
    cast: np.ndarray  # (photos,) int64: how many views, from the first on, this photo was given

    def save(self, path: Path) -> None:
        """As .npz with arrays ids, probs, labels and cast; atomic."""
        part = path.with_name("." + path.stem + ".part.npz")
        with part.open("wb") as file:
            np.savez(
                file, ids=np.array(self.ids), probs=self.probs, labels=self.labels, cast=self.cast
            )
            disk.flush(file)
        part.replace(path)

    def combined(self, how: str = "mean") -> np.ndarray:
        """(photos, classes) float64 of the views that each photo was given."""
        return combine(self.probs[: self.cast.max()], how, self.cast)

    def used(self, gate: Gate, how: str = "mean") -> np.ndarray:
        """(photos, classes) float64: of all views where the gate is open, else of the photo itself."""
        return self.combined(how) if gate.open else self.probs[0].astype(np.float64)

    def rows(self, chosen: np.ndarray) -> Votes:
        """Of some photos only: indices or a mask."""
        ids = np.array(self.ids)[chosen].tolist()
        return Votes(ids, self.probs[:, chosen], self.labels[chosen], self.cast[chosen])


def full(ids: list[str], probs: np.ndarray, labels: np.ndarray) -> Votes:
    """Votes in which every photo was given every view."""
    return Votes(
        ids, probs, np.asarray(labels, np.int64), np.full(probs.shape[1], probs.shape[0], np.int64)
    )


def load(path: Path) -> Votes:
    """Votes that ``save`` wrote. Raises InputError if the file is not that."""
    try:
        with np.load(path) as file:
            return Votes(file["ids"].tolist(), file["probs"], file["labels"], file["cast"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a file of votes ({error})") from error


def combine(probs: np.ndarray, how: str = "mean", cast: np.ndarray | None = None) -> np.ndarray:
    """(views, photos, classes) → (photos, classes) float64, rows summing to 1.

    mean: of probabilities. geometric: the mean of logarithms, normalised. vote: the share of views that put the
    class first; ties are broken by the mean. cast (photos,): how many of the views count, all if None.
    """
    counts = {len(probs)} if cast is None else set(cast.tolist())
    done = dict(prefixes(probs, how, counts))
    if cast is None:
        return done[len(probs)]
    out = np.zeros(probs.shape[1:])
    for n, so_far in done.items():
        out[cast == n] = so_far[cast == n]
    return out


def prefixes(
    probs: np.ndarray, how: str, counts: Collection[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """For each number n in counts: n and ``combine`` of the first n views, (photos, classes), in one pass."""
    if how not in COMBINE:
        raise ValueError(f"combine={how!r}: expected one of {', '.join(COMBINE)}")
    total = np.zeros(probs.shape[1:])
    # View by view: with 64 views of 6,675 photos a float64 copy of everything would be large.
    for n, view in enumerate(probs, 1):
        p = view.astype(np.float64)
        if how == "geometric":
            p = np.log(np.maximum(p, TINY))
        elif how == "vote":
            p *= 1e-6
            p[np.arange(len(p)), view.argmax(1)] += 1
        total += p
        if n in counts:
            out = np.exp((total - total.max(1, keepdims=True)) / n) if how == "geometric" else total
            yield n, out / out.sum(1, keepdims=True)


# --- Measures -------------------------------------------------------------------------------------


def log_loss(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean of −log of the true class's probability, at most −log(TINY) a photo; probs (photos, classes), labels (photos,)."""
    return float(-np.log(np.maximum(probs[np.arange(len(labels)), labels], TINY)).mean())


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): right of n."""
    z = 1.959964
    p, d = right / n, 1 + z * z / n
    centre, half = (
        (p + z * z / (2 * n)) / d,
        z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d,
    )
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Paired:
    """The same photos before and after: how many became right, how many wrong."""

    corrected: int
    spoiled: int

    @property
    def p(self) -> float:
        """McNemar's exact test, two-sided: how often chance alone parts corrected and spoiled at least this far."""
        n, least = self.corrected + self.spoiled, min(self.corrected, self.spoiled)
        return min(1.0, 2 * _binomial_tail(least, n))

    @property
    def p_worse(self) -> float:
        """One-sided: how often chance alone would spoil at least this many of the photos that changed."""
        return _binomial_tail(self.corrected, self.corrected + self.spoiled)


def _binomial_tail(k: int, n: int) -> float:
    """P(X ≤ k) of n fair coins."""
    from scipy.special import bdtr

    return float(bdtr(k, n, 0.5))


def paired(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Paired:
    """Two predictions (photos,) of class indices against the labels (photos,)."""
    was, now = before == labels, after == labels
    return Paired(int((now & ~was).sum()), int((was & ~now).sum()))


# --- Tables ---------------------------------------------------------------------------------------


def steps(views: int) -> list[int]:
    """1, 2, 4, … up to the number of views, which is always in."""
    return sorted({2**k for k in range(views.bit_length()) if 2**k <= views} | {views})


def tta_table(votes: Votes, how: str = "mean") -> pd.DataFrame:
    """Validation accuracy without TTA, of each view alone, and of the first 1, 2, 4, … views together (S57, S61).

    corrected and spoiled count photos against no TTA; p is McNemar's exact test. Needs labels and complete votes.
    """
    plain = votes.probs[0].argmax(1)
    views = len(votes.probs)
    rows = [_row("no TTA", 1, votes.probs[0], plain, votes.labels)]
    rows += [
        _row(f"first {n}, {how}", n, probs, plain, votes.labels)
        for n, probs in prefixes(votes.probs, how, steps(views)[1:])
    ]
    if views > 1:
        others = [other for other in COMBINE if other != how]
        rows += [
            _row(f"all {views}, {other}", views, combine(votes.probs, other), plain, votes.labels)
            for other in others
        ]
        rows += [
            _row(f"view {v} alone", 1, votes.probs[v], plain, votes.labels) for v in range(1, views)
        ]
    return pd.DataFrame(rows)


def _row(
    name: str, views: int, probs: np.ndarray, plain: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    right = int((probs.argmax(1) == labels).sum())
    low, high = wilson(right, len(labels))
    change = paired(plain, probs.argmax(1), labels)
    return {
        "what": name,
        "views": views,
        "accuracy": right / len(labels),
        "low": low,
        "high": high,
        "log_loss": log_loss(probs, labels),
        "corrected": change.corrected,
        "spoiled": change.spoiled,
        "p": change.p,
    }


def curve(votes: Votes, how: str = "mean") -> pd.DataFrame:
    """Validation accuracy and its 95 % interval against the number of views, one row a number (S55, S58)."""
    rows = []
    for n, probs in prefixes(votes.probs, how, range(1, len(votes.probs) + 1)):
        right = int((probs.argmax(1) == votes.labels).sum())
        low, high = wilson(right, len(votes.labels))
        rows.append(
            {
                "views": n,
                "accuracy": right / len(votes.labels),
                "low": low,
                "high": high,
                "log_loss": log_loss(probs, votes.labels),
            }
        )
    return pd.DataFrame(rows)


# --- The gate -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gate:
    """Whether test-time augmentation is used, and why."""

    open: bool
    reason: str


def gate(mode: str, votes: Votes, how: str = "mean") -> Gate:
    """Judge the views of each photo together against the photo alone, on validation (S57, S64).

    Open where it is not worse: it corrects more photos than it spoils, or as many or slightly fewer at a lower
    log-loss (``HARM``: the exact one-sided test does not call it harm). Closed otherwise, and where nothing can
    change because all views say the same or there is one alone. mode: auto, always or never.
    """
    views = int(votes.cast.max())
    if views == 1:
        return Gate(False, "closed: one view per photo")
    plain, together = votes.probs[0], votes.combined(how)
    change = paired(plain.argmax(1), together.argmax(1), votes.labels)
    loss, before = log_loss(together, votes.labels), log_loss(plain, votes.labels)
    upto = "" if votes.cast.min() == views else "up to "
    seen = (
        f"{upto}{views} views against the photo alone on {len(votes.labels)} validation photos: {change.corrected} corrected, "
        f"{change.spoiled} spoiled (p = {change.p:.2g}), log-loss {before:.4f} → {loss:.4f}"
    )
    if mode == "never":
        return Gate(False, f"closed: tta=never; {seen}")
    if mode == "always":
        return Gate(True, f"open: tta=always; {seen}")
    if np.abs(votes.probs[:, votes.cast == views] - plain[votes.cast == views]).max() < SAME:
        return Gate(
            False, f"closed: all {views} views say the same of every photo, so they cannot help"
        )
    if change.p_worse < HARM:
        return Gate(False, f"closed: it harms; {seen}")
    if change.corrected > change.spoiled:
        return Gate(True, f"open: it corrects more than it spoils; {seen}")
    if loss < before - SAME:
        return Gate(
            True,
            f"open: accuracy is not worse by this evidence and the probabilities are better; {seen}",
        )
    return Gate(
        False,
        f"closed: it corrects no more than it spoils and the probabilities are no better; {seen}",
    )


# --- More views for disputed photos ---------------------------------------------------------------

# Standard errors by which the leading class must lead, view by view. On 367 validation photos of
# cars10 and three Lite0 networks (accuracy 0.80, 0.75, 0.72; first round 4, cap 32) with 2 the rule
# asked for 7.2, 7.2 and 7.5 views a photo and predicted 0, 1 and 1 photos otherwise than 32 views
# for all; 3 asked for 8.2 to 8.9 with the same differences, 1.5 for 6.2 to 6.4 with 0, 1 and 3.
CLEAR = 2.0
# Of the views that the rule may add it is expected to ask for that share: 0.11 to 0.13 on those
# networks.
ADDED = 0.15


def disputed(probs: np.ndarray, clear: float = CLEAR) -> np.ndarray:
    """Which photos go on after these views: (views, photos, classes) → bool (photos,) (S59, S60).

    A photo stops when all its views put the same class first, or when the leader of the mean is ahead of the runner-up by
    ``clear`` standard errors of the lead over the views: a paired sequential test.
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


def next_round(views: int, cap: int) -> int:
    """How many views a disputed photo has after the round that follows: twice as many, at most the cap."""
    return min(2 * views, cap)


def adapt(votes: Votes, first: int, cap: int, clear: float = CLEAR) -> Votes:
    """What the adaptive rule would have asked for, from votes that have all views: the same photos with fewer ``cast``."""
    cap = min(cap, len(votes.probs))
    cast = np.full(len(votes.ids), min(first, cap), np.int64)
    on = np.arange(len(votes.ids))
    views = min(first, cap)
    while views < cap and len(on):
        on = on[disputed(votes.probs[:views, on], clear)]
        views = next_round(views, cap)
        cast[on] = views
    return Votes(votes.ids, votes.probs, votes.labels, cast)


def said(first: int, cap: int) -> str:
    """Such as ``8 views`` or ``8 to 32 views``."""
    return f"{first} to {cap} views" if cap else f"{first} view{'s' * (first > 1)}"


def effort(first: int, cap: int, val: int, test: int) -> tuple[float, ...]:
    """What 1, 2, … views, up to the most that are set, are expected to take: in views of all ``val`` + ``test`` photos.

    Without the adaptive rule (``cap`` 0), and up to ``first``, as many. With it test photos get what it asks for, and validation
    photos that, all views, and one more before both are timed (``members.cast_votes``).
    """
    found = []
    for views in range(1, max(first, cap) + 1):
        asked = first + ADDED * (views - first)
        adaptive = (val * (1 + views + asked) + test * asked) / max(1, val + test)
        found.append(adaptive if cap and views > first else float(views))
    return tuple(found)


def trade_off(
    votes: Votes,
    how: str = "mean",
    firsts: tuple[int, ...] = (2, 4, 8),
    caps: tuple[int, ...] = (8, 16, 32, 64),
) -> pd.DataFrame:
    """Passes, accuracy and agreement of fixed and adaptive rules, from validation votes with all views.

    share: passes as a share of the fixed rule with the same cap. differ: photos predicted otherwise than by that.
    """
    rows = []
    for cap in [1, 2, 4, *caps]:
        if cap > len(votes.probs):
            continue
        fixed = combine(votes.probs[:cap], how)
        rules: list[tuple[str, np.ndarray, np.ndarray]] = [
            (f"fixed {cap}", fixed, np.full(len(votes.ids), cap))
        ]
        if cap in caps:
            for first in firsts:
                if first < cap:
                    some = adapt(votes, first, cap)
                    rules.append((f"from {first} up to {cap}", some.combined(how), some.cast))
        for name, probs, cast in rules:
            right = int((probs.argmax(1) == votes.labels).sum())
            rows.append(
                {
                    "rule": name,
                    "cap": cap,
                    "passes": float(cast.mean()),
                    "share": float(cast.mean()) / cap,
                    "accuracy": right / len(votes.labels),
                    "log_loss": log_loss(probs, votes.labels),
                    "differ": int((probs.argmax(1) != fixed.argmax(1)).sum()),
                }
            )
    return pd.DataFrame(rows)

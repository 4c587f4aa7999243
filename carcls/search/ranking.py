"""What the trainings of a search say: who goes on, whether small sizes predict large ones, who won.

A candidate is dropped on evidence, photo by photo, and not by a difference that one photo makes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from carcls.search import plan
from carcls.search.trial import Outcome
from carcls.votes import evidence
from carcls.votes.evidence import Paired

RESAMPLES = 2000  # of candidates, for the interval of τ
FEW = 6  # candidates: with fewer, even one order in a hundred is not rare


@dataclass(frozen=True)
class Ranked:
    """Candidates by number, the lowest log-loss first, and why those that stay behind do."""

    going_on: list[int]
    order: list[int]  # all that did not diverge
    reasons: dict[int, str]


def rank(measured: Mapping[int, Outcome]) -> Ranked:
    """Who goes on after a rung: of those not surely worse than the best, the best third of all.

    By log-loss whatever the metric: it tells more of few photos than any count of them.
    """
    ended = [n for n in measured if not measured[n].diverged]
    order = sorted(ended, key=lambda n: (measured[n].loss, n))
    reasons = {n: f"diverged: {o.diverged}" for n, o in measured.items() if o.diverged}
    best = order[0] if order else -1
    equal = []  # not surely worse than the best
    tests: dict[int, Paired] = {}
    for n in order:
        tests[n] = evidence.compare_losses(_losses(measured[best]), _losses(measured[n]))
        if tests[n].is_surely_higher:
            reasons[n] = f"worse than candidate {best}: {tests[n]}"
        else:
            equal.append(n)
    going_on = equal[: plan.kept(len(measured))]
    for n in equal[len(going_on) :]:
        reasons[n] = f"not among the best third; not surely worse either (p = {tests[n].p:.2g})"
    return Ranked(going_on, order, reasons)


def _losses(outcome: Outcome) -> np.ndarray:
    return np.array(outcome.losses)


# --- Did small predict large? ---------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Kendall's τ between the log-losses of the same candidates in two rungs (Kendall 1938)."""

    n: int  # candidates
    tau: float
    low: float  # 95 % interval, by resampling the candidates
    high: float

    @property
    def predicts(self) -> bool | None:
        """Whether the smaller size ranked as the larger one; None: it cannot be said."""
        return True if self.low > 0 else False if self.high < 0 else None

    def __str__(self) -> str:
        said = {True: "ranked alike", False: "ranked the other way round", None: "cannot be told"}
        interval = f"95 % interval {self.low:.2f} to {self.high:.2f}, {self.n} candidates"
        if self.n < FEW:
            interval = f"{self.n} candidates are too few for an interval"
        return f"{said[self.predicts]}: Kendall's τ = {self.tau:.2f} ({interval})"


def agreement(smaller: Sequence[float], larger: Sequence[float]) -> Agreement:
    """Of the log-losses of the same candidates at two sizes; -1 to 1 where there are too few."""
    n = len(smaller)
    # Of each two candidates which one is better, -1, 0 or 1: (2, n, n).
    order = np.sign([np.subtract.outer(losses, losses) for losses in (smaller, larger)])

    def tau(which: np.ndarray) -> float:
        small, large = order[:, which[:, None], which]
        comparable = float(np.sqrt(np.abs(small).sum() * np.abs(large).sum()))
        return float((small * large).sum()) / comparable if comparable else float("nan")

    found = tau(np.arange(n))
    if n < FEW or np.isnan(found):
        return Agreement(n, found, -1.0, 1.0)
    rng = np.random.default_rng(0)
    low, high = np.nanpercentile(
        [tau(rng.integers(0, n, n)) for _ in range(RESAMPLES)], (2.5, 97.5)
    )
    return Agreement(n, found, float(low), float(high))


# --- The verdict ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Whether the winner of a search is better than the settings as they are.

    Two things part settings that are equally good: which photos judge them, and their seeds.
    """

    winner: int  # the candidate that did best on the photos that choose; 0: there was none
    why: str = ""  # there is nothing to compare, or the winner is none
    change: float = math.nan  # log-loss on photos kept apart, the winner's less the base's
    photos: int = 0  # kept apart
    photo_error: float = math.inf  # standard error of the change: other photos
    seed_error: float = math.inf  # other seeds; infinite where nothing had two
    freedom: int = 0  # degrees of freedom of seed_error
    by_seed: list[float] = field(default_factory=list)  # the change with each seed
    accuracies: tuple[float, float] = (math.nan, math.nan)  # base's and winner's, apart

    @property
    def half(self) -> float:
        """Half of the 95 % interval of the change.

        By Student's t, with the degrees of freedom of two errors together (Welch, Satterthwaite).
        """
        from scipy.special import stdtrit  # takes long to import

        photos, seeds = self.photo_error**2, self.seed_error**2
        if not self.freedom or not photos + seeds:
            return 0.0 if self.freedom else math.inf
        freedom = seeds**2 / self.freedom + photos**2 / max(self.photos - 1, 1)
        quantile = stdtrit((photos + seeds) ** 2 / freedom, 0.975)
        return float(quantile * math.sqrt(photos + seeds))

    @property
    def is_taken(self) -> bool:
        """All of the interval is below 0.

        The winner is the best of three, so that noise is taken in up to 5 % of searches, not 2.5 %
        (simulated: ``tests/test_tune.py``).
        """
        return not self.why and self.change + self.half < 0

    def __str__(self) -> str:
        if math.isnan(self.change):
            return f"keep the settings as they are: {self.why}"
        sure = "nothing tells how much a seed changes, as none of them ended two"
        if self.freedom:
            sure = (
                f"± {self.half:.4f} (95 % interval; standard error "
                f"{self.photo_error:.4f} by the {self.photos:,} photos, {self.seed_error:.4f} by "
                "the seeds)"
            )
        told = (
            f"candidate {self.winner} against the settings as they are, on photos kept apart: "
            f"log-loss {self.change:+.4f} {sure}; by seed "
            f"{', '.join(f'{change:+.4f}' for change in self.by_seed)}; accuracy "
            f"{self.accuracies[0]:.4f} → {self.accuracies[1]:.4f}"
        )
        if self.is_taken:
            return f"take what was found: {told}"
        why = self.why or "chance alone, of photos and seeds, could be all of it"
        return f"keep the settings as they are, as {why}: {told}"


def verdict(last: Mapping[tuple[int, int], Outcome]) -> Verdict:
    """Of the last rung: (candidate, seed) → outcome. Candidate 0 is the base.

    The winner is chosen on the photos that have chosen so far, and compared with the base on those
    kept apart, over the seeds that all have: time may have cut off the last ones.
    """
    ended = {key: outcome for key, outcome in last.items() if not outcome.diverged}
    seeds = {n: {seed for number, seed in ended if number == n} for n, _ in ended}
    if 0 not in seeds:
        what = "their trainings diverged" if last else "no other candidate was left"
        return Verdict(0, f"{what} in the last rung")
    common = sorted(set.intersection(*seeds.values()))
    if len(seeds) < 2 or not common:
        return Verdict(0, "no other candidate ended the last rung")

    def mean_loss(n: int) -> float:
        return float(np.mean([ended[n, seed].loss for seed in common]))

    winner = min((n for n in seeds if n), key=mean_loss)
    of = [[ended[n, seed] for seed in common] for n in (0, winner)]
    before, after = (np.array([outcome.apart_losses for outcome in some]) for some in of)
    change, error = evidence.difference(before.mean(0), after.mean(0))
    variance, freedom = _between_seeds(ended)
    was, now = (float(np.mean([outcome.apart_right for outcome in some])) for some in of)
    best = mean_loss(winner) < mean_loss(0)
    return Verdict(
        winner,
        "" if best else "none was better than they are on the photos that choose",
        change,
        before.shape[1],
        error,
        math.sqrt(2 * variance / len(common)),  # of the base's mean and the winner's
        freedom,
        (after - before).mean(1).tolist(),
        (was, now),
    )


def _between_seeds(ended: Mapping[tuple[int, int], Outcome]) -> tuple[float, int]:
    """Variance of the log-loss, photos kept apart, between seeds of the same settings.

    Pooled over all candidates; with its degrees of freedom, and infinite with none.
    """
    losses: dict[int, list[float]] = {}
    for (number, _), outcome in ended.items():
        losses.setdefault(number, []).append(float(np.mean(outcome.apart_losses)))
    freedom = sum(len(some) - 1 for some in losses.values())
    squares = sum(len(some) * float(np.var(some)) for some in losses.values())
    return (squares / freedom, freedom) if freedom else (math.inf, 0)

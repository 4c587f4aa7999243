"""What a search has found, read from its folder: a row a trial, who went on, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from carcls.search import ranking, space, trial
from carcls.search.book import BASE, Book, Rung
from carcls.search.ranking import Agreement, Verdict
from carcls.search.space import Point
from carcls.search.trial import Outcome


@dataclass(frozen=True)
class Climb:
    """A rung, with what its trainings measured and why candidates stayed behind."""

    rung: Rung
    outcomes: Mapping[tuple[int, int], Outcome]  # by candidate and seed
    reasons: Mapping[int, str]  # by candidate that did not go on

    @property
    def loss(self) -> dict[int, float]:
        """Candidate → mean log-loss over its seeds; without those that diverged."""
        found: dict[int, list[float]] = {}
        for (number, _), outcome in self.outcomes.items():
            if not outcome.diverged:
                found.setdefault(number, []).append(outcome.loss)
        return {number: float(np.mean(losses)) for number, losses in found.items()}


@dataclass(frozen=True)
class Findings:
    """All that a search has found."""

    book: Book
    seconds: float  # of the search, all sessions
    proposer: str  # who proposed the candidates
    points: Mapping[int, Point]  # settings of each candidate, as far as the space has them
    climbs: list[Climb]
    importance: Mapping[str, float]  # {} where it is not known
    verdict: Verdict

    @property
    def taken(self) -> int:
        """The candidate whose settings the search recommends; 0: those as they are."""
        return self.verdict.winner if self.verdict.is_taken else BASE

    @property
    def training_seconds(self) -> float:
        """Of all trials; the rest of ``seconds`` is the search's own, or was lost by a kill."""
        return sum(o.seconds for climb in self.climbs for o in climb.outcomes.values())

    def agreements(self) -> list[tuple[Rung, Rung, Agreement]]:
        """Of each rung and the next one: whether the smaller size ranked as the larger one."""
        found = []
        for small, large in zip(self.climbs, self.climbs[1:], strict=False):
            both = sorted(set(small.loss) & set(large.loss))
            pairs = [small.loss[n] for n in both], [large.loss[n] for n in both]
            found.append((small.rung, large.rung, ranking.agreement(*pairs)))
        return found

    def table(self) -> pd.DataFrame:
        """A row a trial: candidate, rung, settings, what it measured, and what became of it."""
        rows: list[dict[str, Any]] = []
        for number, climb in enumerate(self.climbs, 1):
            for (candidate, seed), outcome in climb.outcomes.items():
                height, width = climb.rung.size
                apart = outcome.apart_losses, outcome.apart_right
                rows.append(
                    {
                        "candidate": candidate,
                        "rung": number,
                        "height": height,
                        "width": width,
                        "epochs": climb.rung.epochs,
                        "seed": seed,
                        **self.points[candidate],
                        "log_loss": outcome.loss,
                        "accuracy": outcome.accuracy,
                        "photos": len(outcome.losses),
                        "apart_log_loss": _mean(apart[0]),
                        "apart_accuracy": _mean(apart[1]),
                        "apart_photos": len(apart[0]),
                        "seconds": round(outcome.seconds, 1),
                        "seconds_per_epoch": round(outcome.epoch_seconds, 2),
                        "stayed_behind": climb.reasons.get(candidate, ""),
                    }
                )
        return pd.DataFrame(rows)


def _mean(values: list[Any]) -> float:
    return float(np.mean(values)) if values else float("nan")


def read(book: Book, proposer: Any) -> Findings:
    """What the search in that folder has found; proposer: a propose.Proposer."""
    state = book.state()
    climbs = []
    for number, rung in enumerate(state.rungs, 1):
        outcomes = {}
        for candidate, seed in book.trials(rung):
            outcome = trial.read(book.folder_of(candidate, number, rung, seed))
            if outcome is not None:
                outcomes[candidate, seed] = outcome
        reasons: dict[int, str] = {}
        if not rung.is_last:
            one = {candidate: outcome for (candidate, _), outcome in outcomes.items()}
            reasons = dict(ranking.rank(one).reasons)
            following = state.rungs[number].numbers if number < len(state.rungs) else []
            for candidate in one:
                if candidate not in following:
                    reasons.setdefault(candidate, "no time for more at the next size")
                else:
                    reasons.pop(candidate, None)
        climbs.append(Climb(rung, outcomes, reasons))
    last = climbs[-1].outcomes if climbs[-1].rung.is_last else {}
    points = {n: book.point_of(n) for n in state.rungs[0].numbers}
    known = {
        n: (points[n], None if outcome.diverged else outcome.loss)
        for (n, _), outcome in climbs[0].outcomes.items()
        if space.has(book.space, points[n])
    }
    return Findings(
        book,
        state.spent,
        proposer.name,
        points,
        climbs,
        proposer.importance(known),
        ranking.verdict(last),
    )

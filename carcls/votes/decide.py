"""From the members' votes to the probabilities of the submission: gates, a blend, a temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd

from carcls.config import Config
from carcls.errors import ConfigError
from carcls.metrics import Metric
from carcls.votes import blend, calibrate
from carcls.votes.calibrate import Calibration
from carcls.votes.evidence import SAME, compare
from carcls.votes.votes import CAPS, Gate, Votes, describe_saving, trade_off, tta_table


class Voter(Protocol):
    """A member of the ensemble, as far as votes are concerned."""

    @property
    def name(self) -> str: ...

    @property
    def val(self) -> Votes:
        """Of validation photos, with all views, and of test photos by each of its networks."""

    @property
    def test(self) -> Sequence[Votes]: ...


@dataclass(frozen=True)
class Decision:
    """What validation photos say, and what follows for the test photos."""

    gates: list[Gate]  # of each member
    choice: blend.Choice
    calibration: Calibration
    alone: pd.DataFrame  # blend.members_table
    test_probs: np.ndarray  # (photos, classes)
    ids: list[str]  # of the test photos
    known: blend.Known  # labels of the validation photos, and the metric that decided

    def apply(self, votes: Sequence[Sequence[Votes]]) -> np.ndarray:
        """Votes of each member's networks on any photos → (photos, classes) float64.

        Validation has judged blend and temperature on votes of one network a member, so each fold
        gets them before the folds are averaged: the log-loss of a mean is no higher than the mean
        of the log-losses. A member to which the blend gives no weight may come without votes.
        """
        some = next(filter(None, votes))
        folds = []
        for one_each in zip(*(of_member or some for of_member in votes), strict=True):
            used = [one.used(gate) for one, gate in zip(one_each, self.gates, strict=True)]
            blended = self.choice.blend.apply(np.stack(used))
            folds.append(calibrate.apply(blended, self.temperature))
        return np.asarray(np.mean(folds, 0))

    @property
    def val_probs(self) -> np.ndarray:
        """(photos, classes) of the validation photos: neither blend nor temperature saw them."""
        return self.calibration.probs

    @property
    def temperature(self) -> float:
        """Of the blend's probabilities; 1: as they are."""
        return self.calibration.temperature

    @property
    def metric(self) -> Metric:
        return self.known.metric

    @property
    def score(self) -> float:
        """The metric of val_probs."""
        return self.known.score(self.val_probs)

    @property
    def made_by(self) -> str:
        """In a few words, for submission.json."""
        opened, n = sum(gate.open for gate in self.gates), len(self.gates)
        warmth = f", temperature {self.temperature:.2f}" if self.temperature != 1 else ""
        if n == 1:
            return f"one member, test-time augmentation {'on' if opened else 'off'}{warmth}"
        kind = self.choice.blend.kind
        return f"{n} members, blend {kind}, test-time augmentation on in {opened} of {n}{warmth}"


def decide(
    cfg: Config, members: Sequence[Voter], groups: np.ndarray | None, metric: Metric = "accuracy"
) -> Decision:
    """Members' votes → gates, blend, temperature (where log-loss decides) and test probabilities.

    groups (photos,) int or None: validation photos of one group are the same file and stay
    together. Of fewer members than cfg has, the best one alone is taken: more are to come.
    Raises ConfigError where votes do not belong together.
    """
    first = members[0]
    ids, truth = first.test[0].ids, first.val.labels
    assert first.val.combine == cfg.tta_combine, "votes are combined as the settings say"
    gates, probs = [], []
    for member in members:
        same_test = all(votes.ids == ids for votes in member.test)
        if member.val.ids != first.val.ids or not same_test:
            raise ConfigError(
                f"member {member.name}: its votes are of other photos than those of {first.name}"
            )
        val = member.val.as_asked(cfg.views)
        gates.append(gate(cfg.tta, val, metric))
        probs.append(val.used(gates[-1]))
    names, val_probs = [member.name for member in members], np.stack(probs)
    known = blend.Known(truth, groups, cfg.seed, metric)
    alone = blend.members_table(names, val_probs, known)
    complete = len(names) == len(cfg.members)
    kind = cfg.blend if complete else "best"
    choice = blend.choose(kind, val_probs, names, known)
    if not complete:
        reason = f"the best of {len(names)} of {len(cfg.members)} members"
        choice = replace(choice, reason=reason)
    calibration = calibrate.choose(choice.val_probs, known, wanted=metric == "log_loss")
    decision = Decision(gates, choice, calibration, alone, np.empty(0), ids, known)
    return replace(decision, test_probs=decision.apply([member.test for member in members]))


def gate(mode: str, votes: Votes, metric: Metric = "accuracy") -> Gate:
    """Judge all views of a validation photo together against the photo alone; mode as tta=."""
    most = int(votes.n_views.max())
    if most == 1:
        return Gate(False, "closed: one view a photo")
    plain, given = votes.probs[0], votes.n_views == most
    change = compare(plain, votes.together(), votes.labels, metric)
    if mode == "auto" and np.abs(votes.probs[:most, given] - plain[given]).max() < SAME:
        return Gate(False, f"closed: all {most} views say the same of every photo")
    is_open = change.helps if mode == "auto" else mode == "always"
    why = "" if mode == "auto" else f"tta={mode}; "
    views = f"{most} views" if given.all() else f"up to {most} views"
    seen = f"{views} against the photo alone on {len(votes.labels)} validation photos: {change}"
    return Gate(is_open, f"{'open' if is_open else 'closed'}: {why}{seen}")


def describe(
    cfg: Config, members: Sequence[Voter], decision: Decision, every: bool = False
) -> list[str]:
    """The tables and what was decided, as lines of the log.

    every: also each view alone, and what fixed and adaptive rules cost.
    """
    lines: list[str] = []
    for member, gate in zip(members, decision.gates, strict=True):
        table = tta_table(member.val, decision.metric)
        lines.append(f"member {member.name}")
        lines += _text(table if every else table[~table["what"].str.startswith("view ")])
        if every and len(member.val.probs) >= min(CAPS):
            lines += _text(trade_off(member.val, decision.metric))
        lines.append(f"TTA gate {gate.reason}")
        if cfg.asked_views.adaptive:
            lines.append(describe_saving(member.val, cfg.views))
    if len(members) > 1:
        lines += ["members alone", *_text(decision.alone)]
        lines += ["blends, cross-validated", *_text(decision.choice.table)]
        lines.append(f"blend {decision.choice.blend.kind}: {decision.choice.reason}")
    if decision.metric == "log_loss":
        lines.append(f"calibration: {decision.calibration.reason}")
    return lines


def _text(table: pd.DataFrame) -> list[str]:
    shown = table.to_string(index=False, float_format=lambda x: f"{x:.4f}")
    return ["  " + line for line in shown.splitlines()]

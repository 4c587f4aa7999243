"""From the members' votes to the probabilities of the submission: gates, then a blend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd

from carcls.config import Config
from carcls.errors import ConfigError
from carcls.votes import blend
from carcls.votes.evidence import SAME, compare
from carcls.votes.votes import Gate, Votes, describe_saving, trade_off, tta_table


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
    alone: pd.DataFrame  # blend.members_table
    test_probs: np.ndarray  # (photos, classes)
    ids: list[str]  # of the test photos

    @property
    def val_probs(self) -> np.ndarray:
        """(photos, classes) of the validation photos, by a blend that did not see them."""
        return self.choice.val_probs

    @property
    def accuracy(self) -> float:
        """Of val_probs."""
        return self.choice.accuracy

    @property
    def made_by(self) -> str:
        """In a few words, for submission.json."""
        opened, n = sum(gate.open for gate in self.gates), len(self.gates)
        if n == 1:
            return f"one member, test-time augmentation {'on' if opened else 'off'}"
        kind = self.choice.blend.kind
        return f"{n} members, blend {kind}, test-time augmentation on in {opened} of {n}"


def decide(cfg: Config, members: Sequence[Voter], groups: np.ndarray | None) -> Decision:
    """Members' votes → gates, blend and test probabilities.

    groups (photos,) int or None: validation photos of one group are the same file and stay
    together. Of fewer members than cfg has, the best one alone is taken: more are to come.
    Raises ConfigError where votes do not belong together.
    """
    first = members[0]
    ids, truth = first.test[0].ids, first.val.labels
    assert first.val.combine == cfg.tta_combine, "votes are combined as the settings say"
    gates, probs, test = [], [], []
    for member in members:
        same_test = all(votes.ids == ids for votes in member.test)
        if member.val.ids != first.val.ids or not same_test:
            raise ConfigError(
                f"member {member.name}: its votes are of other photos than those of {first.name}"
            )
        val = member.val.as_asked(cfg.views)
        gates.append(gate(cfg.tta, val))
        probs.append(val.used(gates[-1]))
        # Its networks count alike.
        test.append(np.mean([votes.used(gates[-1]) for votes in member.test], 0))
    names, val_probs = [member.name for member in members], np.stack(probs)
    alone = blend.members_table(names, val_probs, truth)
    complete = len(names) == len(cfg.members)
    kind = cfg.blend if complete else "best"
    choice = blend.choose(kind, val_probs, truth, names, groups, cfg.seed)
    if not complete:
        reason = f"the best of {len(names)} of {len(cfg.members)} members"
        choice = replace(choice, reason=reason)
    return Decision(gates, choice, alone, choice.blend.apply(np.stack(test)), ids)


def gate(mode: str, votes: Votes) -> Gate:
    """Judge all views of a validation photo together against the photo alone; mode as tta=."""
    most = int(votes.n_views.max())
    if most == 1:
        return Gate(False, "closed: one view a photo")
    plain, given = votes.probs[0], votes.n_views == most
    change = compare(plain, votes.together(), votes.labels)
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
        table = tta_table(member.val)
        lines.append(f"member {member.name}")
        lines += _text(table if every else table[~table["what"].str.startswith("view ")])
        if every and len(member.val.probs) >= 4:
            lines += _text(trade_off(member.val))
        lines.append(f"TTA gate {gate.reason}")
        if cfg.asked_views.adaptive:
            lines.append(describe_saving(member.val, cfg.views))
    if len(members) > 1:
        lines += ["members alone", *_text(decision.alone)]
        lines += ["blends, cross-validated", *_text(decision.choice.table)]
        lines.append(f"blend {decision.choice.blend.kind}: {decision.choice.reason}")
    return lines


def _text(table: pd.DataFrame) -> list[str]:
    shown = table.to_string(index=False, float_format=lambda x: f"{x:.4f}")
    return ["  " + line for line in shown.splitlines()]

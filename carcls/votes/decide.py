"""From the members' votes to the probabilities of the submission: gates, members alone, blend. No network is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from carcls.config import Config
from carcls.errors import ConfigError
from carcls.network import Member, as_test
from carcls.votes import blend, votes
from carcls.votes.votes import Gate, Votes


@dataclass(frozen=True)
class Decision:
    """What validation said, and what follows for the test photos."""

    gates: list[Gate]
    tta: list[pd.DataFrame]  # votes.tta_table of each member
    curves: dict[str, pd.DataFrame]
    trade_offs: list[pd.DataFrame]  # votes.trade_off of each member
    adaptive: list[
        dict[str, float]
    ]  # what the adaptive rule saved on validation, by member; empty where it is off
    alone: pd.DataFrame  # blend.members_table
    choice: blend.Choice
    val_probs: np.ndarray  # (photos, classes), nested where the blend was chosen on the same photos
    test_probs: np.ndarray  # (photos, classes)
    ids: list[str]  # of the test photos

    @property
    def accuracy(self) -> float:
        """On validation; where the blend was chosen there, of the nested choices."""
        return self.choice.nested_accuracy

    @property
    def made_by(self) -> str:
        """In a few words, for submission.json."""
        opened = sum(gate.open for gate in self.gates)
        if len(self.gates) == 1:
            return f"one member, test-time augmentation {'on' if opened else 'off'}"
        kind, n = self.choice.blend.kind, len(self.gates)
        return f"{n} members, blend {kind}, test-time augmentation on in {opened} of {n}"


def decide(cfg: Config, members: list[Member], groups: np.ndarray | None) -> Decision:
    """groups (photos,) int or None: validation photos of one group are the same file and stay together.

    Of fewer members than cfg has, the best one alone is taken: more are to come. Raises ConfigError where votes do not belong together.
    """
    how = cfg.tta_combine
    val = [as_test(cfg, member.val) for member in members]
    gates = [votes.gate(cfg.tta, seen, how) for seen in val]
    for member in members:
        tests = {tuple(cast.ids) for cast in (*member.test, members[0].test[0])}
        if member.val.ids != members[0].val.ids or len(tests) > 1:
            raise ConfigError(
                f"member {member.name}: its votes are of other photos than those of {members[0].name}"
            )
    truth = members[0].val.labels
    probs = np.stack([seen.used(gate, how) for seen, gate in zip(val, gates, strict=True)])
    test = np.stack(
        [
            np.mean([cast.used(gate, how) for cast in member.test], 0)
            for member, gate in zip(members, gates, strict=True)
        ]
    )
    names = [member.name for member in members]
    choice = _blend(cfg, probs, truth, names, groups)
    return Decision(
        gates=gates,
        tta=[votes.tta_table(member.val, how) for member in members],
        curves={member.name: votes.curve(member.val, how) for member in members},
        trade_offs=[votes.trade_off(member.val, how) for member in members],
        adaptive=[_saved(member, v, how) for member, v in zip(members, val, strict=True)]
        if cfg.tta_cap and cfg.tta != "never"
        else [],
        alone=blend.members_table(names, probs, truth),
        choice=choice,
        val_probs=choice.nested_probs,
        test_probs=choice.blend.apply(test),
        ids=members[0].test[0].ids,
    )


def _saved(member: Member, adapted: Votes, how: str) -> dict[str, float]:
    """The adaptive rule against the fixed one with the same cap, on the validation photos."""
    cap = len(member.val.probs)
    fixed, seconds = member.val.combined(how).argmax(1), member.seconds
    return {
        "cap": cap,
        "passes": float(adapted.cast.mean()),
        "passes_share": float(adapted.cast.mean()) / cap,
        "seconds_fixed": seconds["validation_votes"],
        "seconds_adaptive": seconds["adaptive_validation_votes"],
        "seconds_share": seconds["adaptive_validation_votes"]
        / max(1e-9, seconds["validation_votes"]),
        "photos": len(fixed),
        "differ": int((adapted.combined(how).argmax(1) != fixed).sum()),
    }


def lines(decision: Decision, every: bool = False) -> list[str]:
    """The tables and what was decided, as text for the log; every: also each view alone, and the trade-off of rules."""
    out: list[str] = []
    for number, (gate, table) in enumerate(zip(decision.gates, decision.tta, strict=True)):
        out += [
            f"member {decision.alone['name'][number]}",
            *_text(table if every else table[~table["what"].str.startswith("view ")]),
            *(
                _text(decision.trade_offs[number])
                if every and len(decision.trade_offs[number]) > 2
                else []
            ),
        ]
        out.append(f"TTA gate {gate.reason}")
        if decision.adaptive:
            out.append(saved_line(decision.adaptive[number]))
    if len(decision.gates) > 1:
        out += [
            "members alone",
            *_text(decision.alone),
            "blends, cross-validated",
            *_text(decision.choice.table),
        ]
        out.append(f"blend {decision.choice.blend.kind}: {decision.choice.reason}")
    return out


def saved_line(a: dict[str, float]) -> str:
    """What the adaptive rule saved, as a sentence."""
    return (
        f"adaptive: {a['passes']:.1f} of {a['cap']:.0f} passes a photo ({a['passes_share']:.0%}), "
        f"{a['seconds_adaptive']:.1f} of {a['seconds_fixed']:.1f} s ({a['seconds_share']:.0%}), "
        f"{a['differ']} of {a['photos']} photos predicted otherwise than with all views"
    )


def _text(table: pd.DataFrame) -> list[str]:
    shown: Any = table.to_string(index=False, float_format=lambda x: f"{x:.4f}")
    return ["  " + line for line in shown.splitlines()]


def _blend(
    cfg: Config, probs: np.ndarray, truth: np.ndarray, names: list[str], groups: np.ndarray | None
) -> blend.Choice:
    """Chosen by validation, or as set; what was fitted is judged out of fold either way."""
    set_to = cfg.blend if len(names) == len(cfg.members) else "best"
    if len(names) == 1 or set_to == "auto":
        return blend.choose(probs, truth, cfg.seed, names, groups)
    if set_to in blend.KINDS:
        made = blend.fit(set_to, probs, truth, cfg.seed)
        judged = blend.crossvalidate(set_to, probs, truth, groups, cfg.seed)
    else:
        made = blend.Blend("manual", blend.parse_weights(set_to, len(names)))
        judged = made.apply(probs)
    accuracy = float((judged.argmax(1) == truth).mean())
    weights = "" if made.weights is None else "/".join(f"{w:.3g}" for w in made.weights)
    table = pd.DataFrame(
        [
            {
                "kind": made.kind,
                "accuracy": accuracy,
                "log_loss": votes.log_loss(judged, truth),
                "weights": weights,
            }
        ]
    )
    return blend.Choice(
        made,
        table,
        judged,
        accuracy,
        [],
        f"blend={set_to}, as set"
        if set_to == cfg.blend
        else f"the best of {len(names)} of {len(cfg.members)} members",
    )

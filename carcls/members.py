"""One member of the ensemble: its networks, one a fold, trained, and their votes kept as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carcls import inputs, photos, pseudo, votes
from carcls.config import Config, ConfigError
from carcls.runtime import Runtime
from carcls.votes import Votes

# A better-founded prediction of the test photos than there was: (ids, probabilities, what made it, validation accuracy).
Submit = Callable[[list[str], np.ndarray, str, float], None]


@dataclass(frozen=True)
class Member:
    """What is known of a member once its votes are cast. Everything here is in the files of its folder."""

    name: str
    folder: Path
    val: Votes  # of validation photos; with folds, of all train photos, each by the network that did not see it
    test: tuple[Votes, ...]  # one a network
    history: pd.DataFrame  # epochs of all its networks
    seconds: dict[str, float]  # of training, and of votes by kind


def make(cfg: Config, number: int, rt: Runtime, table: photos.Table, place: inputs.Place, events: Any,
         submit: Submit | None) -> tuple[Member, list[Any]]:  # fmt: skip
    """Train member ``number`` (from 0) and let it vote; returns it and its networks with their best weights.

    ``submit``, if given, gets test predictions as soon as there are some: after the first epoch and each stage.
    """
    from carcls import train, tta  # keras, whose backend runtime.setup has chosen by now

    mine = cfg.of_members()[number]
    folder = place.out / f"member{number + 1}"
    parts = photos.folds(table, cfg.folds, cfg.seed) if cfg.folds > 1 else [table]
    seconds = dict.fromkeys(("training", *VOTES), 0.0)

    def ready(net: Any, stage: Any, what: str, accuracy: float) -> None:
        assert submit is not None
        cast, _ = tta.vote(mine, rt, net, table.test, place, 1, stage=stage)
        submit(cast.ids, cast.probs[0], f"member {number + 1}: {what}, one view", accuracy)

    nets = []
    for k, (part, inside) in enumerate(zip(parts, _folders(cfg, folder), strict=True)):
        inside.mkdir(parents=True, exist_ok=True)
        if len(parts) > 1:
            print(f"fold {k + 1}/{len(parts)}  {len(part.train)} photos to train, {len(part.val)} to validate")
        trained = train.fit(mine, rt, part, place, inside, events, ready if submit and not k else None)
        seconds["training"] += trained.seconds
        for kind, took in cast_votes(mine, rt, trained.model, part, place, inside).items():
            seconds[kind] += took
        nets.append(trained.model)
    note(folder, seconds, "")
    return load(cfg, number, place.out), nets


VOTES = ("validation_votes", "adaptive_validation_votes", "test_votes")


def cast_votes(cfg: Config, rt: Runtime, net: Any, table: photos.Table, place: inputs.Place, folder: Path
               ) -> dict[str, float]:  # fmt: skip
    """A network's votes on validation and test photos, as files of the folder; returns the seconds of each of VOTES."""
    from carcls import tta

    views, cap = (1, 0) if cfg.tta == "never" else (cfg.tta_views, cfg.tta_cap)
    # Validation gets every view that a test photo may get: the tables and the gate need them.
    seen, fixed = tta.vote(cfg, rt, net, table.val, place, max(views, cap))
    seen.save(folder / "votes_validation.npz")
    # With the adaptive rule once more under it, to know what it saves in seconds.
    adaptive = tta.vote(cfg, rt, net, table.val, place, views, cap)[1] if cap else 0.0
    asked, test = tta.vote(cfg, rt, net, table.test, place, views, cap)
    asked.save(folder / "votes_test.npz")
    return dict(zip(VOTES, (fixed, adaptive, test), strict=True))


def note(folder: Path, seconds: dict[str, float], inside: str) -> None:
    """member.json: where in the folder the votes that count are, and what they cost; written last."""
    inputs.write_atomic(folder / "member.json", json.dumps({"votes": inside, "seconds": seconds}, indent=2) + "\n")


def load(cfg: Config, number: int, out: Path) -> Member:
    """A member from the files that ``make`` left in the run folder. Raises inputs.InputError if one is missing."""
    folder = out / f"member{number + 1}"
    try:
        about = json.loads((folder / "member.json").read_text())
        places = [inside / about["votes"] for inside in _folders(cfg, folder)]
        history = [pd.read_csv(inside / "history.csv") for inside in dict.fromkeys([*_folders(cfg, folder), *places])]
        seconds = {key: float(value) for key, value in about["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise inputs.InputError(f"{folder}: not what a member of a finished run leaves ({error})") from None
    val = [votes.load(inside / "votes_validation.npz") for inside in places]
    test = tuple(votes.load(inside / "votes_test.npz") for inside in places)
    return Member(name(cfg, number), folder, join(val), test, pd.concat(history, ignore_index=True), seconds)


def _folders(cfg: Config, folder: Path) -> list[Path]:
    """Of a member's networks."""
    return [folder / f"fold{k + 1}" for k in range(cfg.folds)] if cfg.folds > 1 else [folder]


def go_on(cfg: Config, number: int, rt: Runtime, table: photos.Table, place: inputs.Place, events: Any, net: Any,
          chosen: pseudo.Chosen) -> pseudo.Kept:  # fmt: skip
    """Continue a member's network on train photos and pseudo-labels; its new votes count if validation is not worse."""
    from carcls import train

    mine = cfg.of_members()[number]
    stage = mine.stages[-1].model_copy(update={"epochs": cfg.pseudo_epochs})
    mine = mine.replace(stages=(stage.model_dump(),), lr=mine.lr * cfg.pseudo_lr, unfreeze="all", pseudo=False)
    before = load(cfg, number, place.out)
    inside = before.folder / "pseudo"
    inside.mkdir(parents=True, exist_ok=True)
    extended = pseudo.extend(table.train, table.test, chosen)
    frame = pd.concat([extended, table.val, table.test], ignore_index=True)
    trained = train.fit(mine, rt, replace(table, frame=frame), place, inside, events, start=net)
    took = cast_votes(mine, rt, trained.model, table, place, inside)
    kept = pseudo.keep(before.val, votes.load(inside / "votes_validation.npz"), cfg.tta_combine)
    if kept.kept:
        took["training"] = before.seconds["training"] + trained.seconds
        note(before.folder, took, "pseudo")
    return kept


def groups(frame: pd.DataFrame, ids: list[str]) -> np.ndarray:
    """(photos,) int: the group of identical files of each of these train photos; frame as in photos.Table or photos.csv."""
    train = frame[frame["fold"] != photos.TEST]
    return train.set_index("id")["group"].loc[ids].to_numpy()


def name(cfg: Config, number: int) -> str:
    """``1 efficientnet_lite_b0 seed=2``: its number, network, and what sets it apart."""
    rest = [f"{k}={v}" for k, v in cfg.members[number].items() if k != "backbone"]
    return " ".join([str(number + 1), cfg.of_members()[number].backbone, *rest])


def join(parts: list[Votes]) -> Votes:
    """Votes of different photos as one."""
    views = {len(part.probs) for part in parts}
    if len(views) > 1:
        raise ConfigError(f"votes with {views} views cannot be joined")
    return Votes([i for part in parts for i in part.ids], np.concatenate([part.probs for part in parts], 1),
                 np.concatenate([part.labels for part in parts]), np.concatenate([part.cast for part in parts]))  # fmt: skip

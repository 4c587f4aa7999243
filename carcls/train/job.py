"""A network to be made: a member, one of its folds, or one that goes on with more photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from carcls import record
from carcls.config import FILE_SETTINGS, POLICIES, TRAINING_SETTINGS, Config
from carcls.data import boxes
from carcls.data.photos import Rows
from carcls.disk import user_path
from carcls.metrics import Metric
from carcls.nets import weights
from carcls.record import Facts


@dataclass(frozen=True)
class Job:
    """What to train, on which photos, from which weights, and in which share of the time."""

    name: str  # for the log: "member 1 efficientnet_lite_b0 seed=2"
    folder: Path  # what it leaves
    cfg: Config  # of this network alone
    learn: Rows  # photos to train on
    check: Rows  # photos to validate on; empty in a refit
    start: Path | None = None  # weights to go on from; None: what cfg.weights says
    share: float = 1.0  # of the time that is left when it begins

    def facts(self, frame: pd.DataFrame, metric: Metric = "accuracy") -> Facts:
        """What the network will be made from: settings, photos, first weights and the code.

        metric: that chooses the epoch, whatever the setting leaves open.
        """
        settings = self.cfg.model_dump(mode="json", include=set(TRAINING_SETTINGS - FILE_SETTINGS))
        start = self.start or weights.find_weights(self.cfg.backbone, self.cfg)
        policy = self.cfg.augment
        if policy not in POLICIES:
            policy = f"policy {record.digest_of(user_path(policy))[:16]}"
        return {
            **settings,
            "metric": metric,
            "augment": policy,
            "the photos": record.rows(
                *self.photos(frame, self.learn), *self.photos(frame, self.check)
            ),
            "the first weights": record.digest_of(start) if start else "",
            "OpenCV": record.opencv(),
            "the package's code": record.source_hash(),
        }

    def photos(self, frame: pd.DataFrame, rows: Rows) -> list[Any]:
        """Columns that tell these photos from others: ids, labels, bytes, and boxes if any."""
        some = frame.iloc[rows.rows]
        cut = boxes.of(some).T if self.cfg.boxes else ()
        return [some["id"], rows.labels, some["digest"], *cut]


def member_name(cfg: Config, number: int) -> str:
    """``1 efficientnet_lite_b0 seed=2``: its number, network, and what sets it apart."""
    rest = [f"{key}={value}" for key, value in cfg.members[number].items() if key != "backbone"]
    return " ".join([str(number + 1), cfg.member_cfgs()[number].backbone, *rest])


def planned(cfg: Config) -> list[dict[str, Any]]:
    """The members' networks for whoever watches: names, and stages as [height, width, epochs]."""
    return [
        {
            "name": network_name(cfg, number, fold),
            "stages": [[stage.height, stage.width, stage.epochs] for stage in member.stages],
        }
        for number, member in enumerate(cfg.member_cfgs())
        for fold in range(cfg.folds)
    ]


def network_name(cfg: Config, number: int, fold: int) -> str:
    """Of a member's network, or of that of one of its folds; both counted from 0."""
    part = f", fold {fold + 1} of {cfg.folds}" if cfg.folds > 1 else ""
    return f"member {member_name(cfg, number)}{part}"

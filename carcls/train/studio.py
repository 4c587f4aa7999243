"""What a training works with, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import keras

from carcls.data.cache import PhotoCache
from carcls.data.photos import Rows, Table
from carcls.machine import Machine
from carcls.metrics import Metric
from carcls.record import Facts
from carcls.train.events import Events

BEST, LAST, HISTORY = "best.weights.h5", "last.weights.h5", "history.csv"

# What a network is good for so far: network, size, what it is, the metric of validation photos.
Announce = Callable[[keras.Model, tuple[int, int], str, float], None]


class Studio(Protocol):
    """What a training needs of the session."""

    machine: Machine
    table: Table
    metric: Metric  # that chooses the best epoch
    events: Events

    def photos(self, size: tuple[int, int], fit: str) -> PhotoCache: ...

    def spoiled(self, *parts: Rows) -> Facts: ...


@dataclass(frozen=True)
class Trained:
    """What a training has come to. Its files are in the job's folder."""

    size: tuple[int, int]  # of the last stage that was trained
    seconds: float  # in all sessions, validation included, without what was announced
    rows: list[dict[str, Any]]  # of its history
    net: keras.Model | None = None  # where it was trained in this session


def in_scope(rt: Machine, make: Callable[[], Any]) -> Any:
    """With several GPUs, variables must be made inside the strategy's scope."""
    if rt.strategy is None:
        return make()
    with rt.strategy.scope():
        return make()

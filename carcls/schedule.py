"""Learning rate and augmentation strength as pure functions of progress, 0..1 over the whole run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from carcls.config import Config

NAMES = ("cosine", "piecewise", "constant", "exponential", "plateau")
# Share of the decaying part at which each level of "piecewise" begins, and the level.
_STEPS = ((0.85, 0.01), (0.60, 0.1), (0.0, 1.0))
# 0.95 per epoch leaves 0.6 of the rate after ten epochs: too slow (S38). This is what is left after the run.
_FLOOR = 0.01


def factor(name: str, progress: float, warmup: float = 0.0) -> float:
    """Share of the peak learning rate (0..1) at ``progress`` (0..1 of the whole run, all stages together).

    A line from 0 to 1 over the first ``warmup`` share of the run, then the named curve over all the rest.
    ``plateau`` is 1 throughout, without warm-up: a callback lowers it as validation asks. Raises ValueError.
    """
    if name not in NAMES:
        raise ValueError(f"schedule={name!r}: expected one of {', '.join(NAMES)}")
    if not 0 <= progress <= 1 or not 0 <= warmup < 1:
        raise ValueError(f"progress {progress} must be in 0..1 and warmup {warmup} in 0..1, below 1")
    if name == "plateau":
        return 1.0
    if progress < warmup:
        return progress / warmup
    rest = min(1.0, (progress - warmup) / (1 - warmup))
    if name == "cosine":
        return (1 + math.cos(math.pi * rest)) / 2
    if name == "exponential":
        return math.pow(_FLOOR, rest)
    if name == "piecewise":
        return next(level for start, level in _STEPS if rest >= start)
    return 1.0


def table(cfg: Config, steps: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Learning rate of every training step of the run, float32, shape (steps,). Raises ValueError.

    Taken in the middle of each step, so that the first is not 0 and cosine's last is nearly 0.
    """
    if steps < 1:
        raise ValueError(f"{steps} steps: at least one training step is needed")
    factors = [factor(cfg.schedule, (step + 0.5) / steps, cfg.warmup) for step in range(steps)]
    return np.asarray(cfg.lr * np.array(factors), np.float32)


def strength(cfg: Config, progress: float) -> float:
    """Augmentation strength at ``progress`` (0..1 of the run): a line from strength to strength_end (S20)."""
    if not 0 <= progress <= 1:
        raise ValueError(f"progress {progress} must be in 0..1")
    return cfg.strength + (cfg.strength_end - cfg.strength) * progress

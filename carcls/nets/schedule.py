"""Learning rate and augmentation strength as pure functions of progress, 0..1 over the run."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from carcls.config import Config
from carcls.nets import registry

# Share of the peak rate after a share of what follows the warm-up. "exponential" leaves a hundredth
# at the end of the run, however long it is: 0.95 an epoch would leave 0.6 after ten epochs.
CURVES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    "piecewise": lambda share: 1.0 if share < 0.60 else 0.1 if share < 0.85 else 0.01,
    "exponential": lambda share: math.pow(0.01, share),
    "constant": lambda share: 1.0,
}
GRID = 1024  # steps of the curve that the optimiser looks up; a warm-up of 10 % has 102 of them


def factor(name: str, progress: float, warmup: float = 0.0) -> float:
    """Share of the peak learning rate, 0..1: a line from 0 in the warm-up, then the named curve.

    ``warmup`` is a share of the run. "plateau" is 1 throughout, without warm-up: a callback lowers
    the rate as validation asks.
    """
    assert 0 <= progress <= 1, progress
    if name == "plateau":
        return 1.0
    if progress < warmup:
        return progress / warmup
    return CURVES[name](min(1.0, (progress - warmup) / (1 - warmup)))


def curve(cfg: Config) -> np.ndarray:
    """Share of the peak learning rate at progress 0, 1/GRID, … 1: float32 (GRID + 1,)."""
    shares = [factor(cfg.schedule, i / GRID, cfg.warmup) for i in range(GRID + 1)]
    return np.array(shares, np.float32)


def rate_at(cfg: Config, progress: float) -> float:
    """The learning rate at that progress, as the optimiser looks it up, for logs."""
    return cfg.lr * float(np.interp(progress * GRID, np.arange(GRID + 1), curve(cfg)))


def strength(cfg: Config, progress: float) -> float:
    """Augmentation strength, 0..1: a line from its start to its end in the last epoch."""
    assert 0 <= progress <= 1, progress
    return cfg.strength.start + (cfg.strength.end - cfg.strength.start) * progress


def doubt(cfg: Config) -> str:
    """What is unusual in a pretrained transformer's learning rate, as a line; "": nothing."""
    if (
        registry.find(cfg.backbone).patch == 1
        or cfg.weights == "none"
        or cfg.unfreeze == "head"
        or not cfg.optimizer.startswith("adam")
        or cfg.lr <= 2e-4
    ):
        return ""
    return (
        f"lr={cfg.lr:g} for backbone={cfg.backbone}: pretrained transformers are usually trained "
        f"at lr=1e-4 or less with {cfg.optimizer}, and with depth_decay=0.7; not measured here"
    )

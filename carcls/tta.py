"""Test-time augmentation: the probabilities of every view of every photo, kept as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carcls import inputs, pipeline
from carcls.config import Config, ConfigError
from carcls.runtime import Runtime


@dataclass(frozen=True)
class Votes:
    """What a model says of photos, view by view."""

    ids: list[str]
    probs: np.ndarray  # (views, photos, classes) float32, each row sums to 1; view 0 is the photo itself

    def mean(self, views: int | None = None) -> np.ndarray:
        """(photos, classes): the mean of the first views, of all if None."""
        return self.probs[:views].mean(0)

    def save(self, path: Path) -> None:
        """As .npz with arrays ids and probs, atomically."""
        part = path.with_name("." + path.stem + ".part.npz")
        np.savez_compressed(part, ids=np.array(self.ids), probs=self.probs)
        part.replace(path)


def load(path: Path) -> Votes:
    """Votes that ``save`` wrote. Raises inputs.InputError if the file is not that."""
    try:
        with np.load(path) as file:
            return Votes(file["ids"].tolist(), file["probs"])
    except (OSError, ValueError, KeyError) as error:
        raise inputs.InputError(f"{path}: not a file of votes ({error})") from error


def vote(cfg: Config, rt: Runtime, model: Any, frame: pd.DataFrame, place: inputs.Place) -> Votes:
    """Every photo of the frame through the model, once per view."""
    last = cfg.stages[-1]
    size = (last.height, last.width)
    cache = pipeline.PhotoCache(frame, *size, cfg.fit, cfg.cache_share, place.scratch)
    labels = frame["label"].to_numpy()
    batches = pipeline.make_batches(
        cfg, cache, np.arange(len(frame)), labels, size, model.output_shape[-1], views=cfg.tta_views, static=rt.xla
    )
    logits = batches.collect(model.predict(batches.dataset, steps=batches.steps, verbose=0))
    if logits.shape[1] != len(frame):
        raise AssertionError(f"{logits.shape[1]} photos predicted of {len(frame)}")
    return Votes(frame["id"].tolist(), softmax(logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    """(..., classes) → float32 probabilities. In float64, as float16 logits overflow."""
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


def check_views(cfg: Config, frame: pd.DataFrame, place: inputs.Place) -> None:
    """Raise ConfigError if two test-time views are the same pixels: passes that do not differ add nothing (S52).

    Looks at up to eight photos of the frame, before anything is trained. It looks at pixels because a network may
    say the same of different views, and that is no fault of theirs.
    """
    last = cfg.stages[-1]
    few = frame[frame["readable"]].head(8)
    cache = pipeline.PhotoCache(few, last.height, last.width, cfg.fit, cfg.cache_share, place.scratch)
    labels = few["label"].to_numpy()
    batches = pipeline.make_batches(
        cfg.replace(batch=len(few)),
        cache,
        np.arange(len(few)),
        labels,
        (last.height, last.width),
        2,
        views=cfg.tta_views,
    )
    images = np.concatenate([images.numpy() for images, _, _ in batches.dataset])
    check_distinct(batches.collect(images.reshape(len(images), -1)))


def check_distinct(views: np.ndarray) -> None:
    """views (views, photos, pixels): raise ConfigError if two of them are equal for all photos."""
    first: dict[bytes, int] = {}
    for number, view in enumerate(views):
        twin = first.setdefault(view.tobytes(), number)
        if twin != number:
            raise ConfigError(
                f"test-time views {twin} and {number} are identical for all of {len(view)} photos, so averaging them "
                "cannot help; raise tta_strength or set tta_views=1"
            )

"""Test-time augmentation: views of photos through a network. What follows from them is in votes.py."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd

from carcls import machine as runtime
from carcls.config import Config, Stage
from carcls.data import batches as pipeline
from carcls.data import files as inputs
from carcls.errors import ConfigError
from carcls.machine import Runtime
from carcls.nets.model import restore, state
from carcls.votes import votes
from carcls.votes.votes import Votes


def vote(
    cfg: Config,
    rt: Runtime,
    model: Any,
    frame: pd.DataFrame,
    place: inputs.Place,
    views: int,
    cap: int = 0,
    stage: Stage | None = None,
    cache: pipeline.PhotoCache | None = None,
) -> tuple[Votes, float]:
    """Every photo of the frame through the model, once for each of so many views; also returns the seconds it took.

    The photos have the stage's size, the last one's if None; cache holds them decoded, if they are already.

    With a cap above views, photos that are still disputed get more, in rounds (``votes.disputed``). A round
    batches views of different photos together, so that what is saved is time, and photos are decoded once.
    """
    stage = stage or cfg.stages[-1]
    size = (stage.height, stage.width)
    cache = cache or photo_cache(cfg, frame, place, stage)
    labels = frame["label"].to_numpy()
    classes = model.output_shape[-1]

    batch = cfg.batch

    def passes(rows: np.ndarray, numbers: range) -> np.ndarray:
        nonlocal batch
        while True:
            mine = cfg.replace(batch=batch)
            made = pipeline.make_batches(
                mine, cache, rows, labels[rows], size, classes, views=numbers, rt=rt
            )
            logits = predict(rt, model, made)
            if logits is not None:
                return softmax(made.collect(logits))  # (views, rows, classes)
            batch = rt.batch_size(made.batch // 2)
            print(
                f"out of memory while predicting {made.batch} photos at a time; going on with {batch}",
                flush=True,
            )

    start = time.perf_counter()
    cap = max(views, cap)
    probs = np.zeros((cap, len(frame), classes), np.float32)
    on = np.arange(len(frame))
    probs[:views] = passes(on, range(views))
    cast = np.full(len(frame), views, np.int64)
    while views < cap:
        on = on[votes.disputed(probs[:views, on])]
        if not len(on):
            break
        after = votes.next_round(views, cap)
        probs[views:after, on] = passes(on, range(views, after))
        cast[on] = views = after
    made = Votes(frame["id"].tolist(), probs[: cast.max()], labels.astype(np.int64), cast)
    return made, time.perf_counter() - start


def predict(rt: Runtime, model: Any, made: pipeline.Batches) -> np.ndarray | None:
    """(steps × B, classes) logits; None if memory did not suffice and a smaller batch is possible, else that error.

    The weights are the same after it in any case. With several processes it raises: one alone cannot change the batch.
    """
    kept = state(model, optimizer=False) if rt.backend == "jax" else None
    try:
        return model.predict(made.dataset, steps=made.steps, verbose=0)
    except runtime.memory_errors() as error:
        if not runtime.is_out_of_memory(error) or made.batch <= len(rt.devices) or rt.processes > 1:
            raise
        if kept:
            restore(model, kept)
        return None


def photo_cache(
    cfg: Config, frame: pd.DataFrame, place: inputs.Place, stage: Stage
) -> pipeline.PhotoCache:
    """The frame's photos for predicting at the stage's size."""
    return pipeline.PhotoCache(
        frame, stage.height, stage.width, cfg.fit, cfg.cache_share, place.scratch
    )


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
    cache = pipeline.PhotoCache(
        few, last.height, last.width, cfg.fit, cfg.cache_share, place.scratch
    )
    labels = few["label"].to_numpy()
    batches = pipeline.make_batches(
        cfg.replace(batch=len(few)),
        cache,
        np.arange(len(few)),
        labels,
        (last.height, last.width),
        2,
        views=range(max(cfg.tta_views, cfg.tta_cap)),
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

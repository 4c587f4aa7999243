"""Views of photos through a network, which gives votes."""

from __future__ import annotations

from typing import Any

import numpy as np

from carcls import memory
from carcls.config import Config
from carcls.data.batches import Looks, make_batches
from carcls.data.cache import PhotoCache
from carcls.data.photos import Rows
from carcls.errors import ConfigError, TrainingDiverged
from carcls.machine import Machine
from carcls.nets.model import restore, state
from carcls.train.steps import StepTimes
from carcls.values import Views
from carcls.votes.votes import Votes, disputed, doublings


def cast_votes(
    net: Any, cache: PhotoCache, rows: Rows, views: Views, cfg: Config, machine: Machine
) -> Votes:
    """Every photo of the rows through the network, once for each of its views.

    All get the first views. Photos that are still disputed get more, in rounds, up to the most. A
    round batches views of different photos together, so that what is saved is time.
    """
    probs = np.zeros((views.most, len(rows), net.output_shape[-1]), np.float32)
    n_views = np.zeros(len(rows), np.int64)
    going_on, seen = np.arange(len(rows)), 0
    for after in doublings(views.first, views.most):
        if seen:
            going_on = going_on[disputed(probs[:seen, going_on])]
        if not len(going_on):
            break
        asked, looks = rows.take(going_on), Looks(range(seen, after))
        probs[seen:after, going_on], cfg = _look(net, cache, asked, looks, cfg, machine)
        n_views[going_on] = seen = after
    ids = [cache.ids[row] for row in rows.rows]
    return Votes(ids, probs[:seen], rows.labels.astype(np.int64), n_views, cfg.tta_combine)


def _look(
    net: Any, cache: PhotoCache, rows: Rows, looks: Looks, cfg: Config, machine: Machine
) -> tuple[np.ndarray, Config]:
    """Probabilities (views, photos, classes) float32, and settings whose batch fits into memory."""
    # With JAX a failed prediction may have given away the weights' memory; hence a copy.
    weights = state(net, optimizer=False) if machine.backend == "jax" else None
    while True:
        batches = make_batches(cache, rows, net.output_shape[-1], looks, cfg, machine)
        try:
            # It raises a stop that was asked for, and tells how far this is.
            watching = [StepTimes(batches.steps, batches.batch)]
            logits = net.predict(
                batches.dataset, steps=batches.steps, callbacks=watching, verbose=0
            )
        except memory.errors() as error:
            smallest = batches.batch <= len(machine.devices)
            # One of several processes cannot change the batch alone.
            if not memory.ran_out(error) or smallest or machine.processes > 1:
                raise
        else:
            if not np.isfinite(logits).all():
                bad = (~np.isfinite(logits)).any(1).sum()
                raise TrainingDiverged(
                    f"{bad} of {len(logits)} predictions are no numbers",
                    "try a lower lr or precision=float32",
                )
            return softmax(batches.collect(logits)), cfg
        if weights:
            restore(net, weights)
        cfg = cfg.replace(batch=machine.batch_size(batches.batch // 2))
        told = f"out of memory while predicting {batches.batch} photos at a time"
        print(f"{told}; going on with {cfg.batch}", flush=True)


def softmax(logits: np.ndarray) -> np.ndarray:
    """(..., classes) → float32 probabilities. In float64, as float16 logits overflow."""
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


def check_views_differ(cache: PhotoCache, rows: Rows, cfg: Config) -> None:
    """Raise ConfigError if two test-time views are the same pixels: such passes add nothing.

    Looks at the pixels of the first eight photos, as a network may say the same of different views.
    """
    few = rows.take(np.arange(min(8, len(rows))))
    looks = Looks(range(cfg.asked_views.most))
    batches = make_batches(cache, few, 2, looks, cfg.replace(batch=len(few)))
    images = np.concatenate([images.numpy() for images, _, _ in batches.dataset])
    first: dict[bytes, int] = {}
    for number, view in enumerate(batches.collect(images.reshape(len(images), -1))):
        twin = first.setdefault(view.tobytes(), number)
        if twin != number:
            raise ConfigError(
                f"test-time views {twin} and {number} are identical for all of {len(few)} photos, "
                "so averaging them cannot help; raise strength or set views=1"
            )

"""BN's first statistics, from the photos that a network is to learn."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from carcls.data.batches import Epochs, make_batches
from carcls.nets import model
from carcls.train.timing import Timed

# Photos at a time, by their pixels: all of their features are kept meanwhile, and a few small ones
# take as long as many (MEASUREMENTS: BN's first statistics, by larger batches).
PIXELS, FEWEST, MOST = 8 * 288 * 384, 8, 64
TIME_SHARE = 0.02  # of the time left that this may take


def rebase(trainer: Timed) -> None:
    """Start BN from the statistics of some photos, augmented as for the first stage."""
    cfg, stage, timekeeper = trainer.job.cfg, trainer.job.cfg.stages[0], trainer.time
    at_a_time = min(max(PIXELS // (stage.height * stage.width), FEWEST), MOST)
    few = cfg.replace(batch=min(len(trainer.job.learn), cfg.bn_photos, at_a_time))
    steps = -(-cfg.bn_photos // few.batch)
    first = Epochs(0, range(1), lambda epoch: cfg.strength.start, steps)
    # Without the machine: every process looks at the same photos.
    cache = trainer.s.photos(stage.size, cfg.fit)
    batches = make_batches(cache, trainer.job.learn, trainer.classes, first, few)
    seen, began = 0, time.monotonic()

    def in_time() -> Iterator[np.ndarray]:
        nonlocal seen
        for images, _, _ in batches.dataset:
            if seen and timekeeper.is_limited:
                spent = timekeeper.agree(time.monotonic() - began)
                if spent > TIME_SHARE * timekeeper.left():
                    return
            seen += len(images)
            yield images.numpy()

    count = model.rebase_batch_norms(trainer.net, in_time())
    if count:
        print(f"batch norm {count} layers start from the statistics of {seen} train photos")

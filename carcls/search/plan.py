"""How a search spends its time: which sizes, how many candidates, how many epochs.

Successive halving by thirds (Jamieson and Talwalkar, arXiv 1502.07943), in which the rungs are
photo sizes: each keeps about a third of its candidates for the next, larger size. All photos for
few epochs rank candidates better than few photos for many (EcoNAS, arXiv 2001.01233). The shares
and counts below were chosen, not compared (MEASUREMENTS: a search at small sizes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]  # height, width in px

KEPT = 3  # one of so many candidates goes on
EPOCHS = 2  # of a rung: each is a whole schedule, and a rung goes on from the one before
MOST = 40  # candidates: more flatter their winner more than they improve it
LEAST = 4  # with fewer there is nothing to search
FINALISTS, SEEDS = 3, 2  # of the last rung, beside the base; trainings of each
SLACK = 1.05  # of the time that was asked for, in which the last training may end
FINAL_SHARE = 0.45  # of the time is for the last rung
FINAL_EPOCHS = 3  # at least, at the size that the last rung takes
LADDER = (0.4, 0.5, 0.63, 0.8, 1.0)  # sides of the rungs' photos, as shares of the largest ones'
SMALLEST, STEP = 32, 16  # px


@dataclass(frozen=True)
class Pace:
    """Measured seconds of a training: what it takes in any case, and by what it looks at."""

    fixed: float  # building, tracing, voting
    per_pixel: float  # of one pixel of each photo, in one epoch

    def cost(self, size: Size, epochs: int) -> float:
        """Seconds of a training at a size."""
        return self.fixed + epochs * self.per_pixel * size[0] * size[1]


def ladder(largest: Size, patch: int = 1) -> list[Size]:
    """Sizes from small to the largest, each once, of about its shape.

    patch: px of which a network takes multiples; of one that takes any, multiples of ``STEP``.
    """
    step = patch if patch > 1 else STEP
    sizes = []
    for share in LADDER[:-1]:
        height = round(largest[0] * share / step) * step
        width = round(height * largest[1] / largest[0] / step) * step
        if SMALLEST <= height <= largest[0] and SMALLEST <= width <= largest[1]:
            sizes.append((height, width))
    return list(dict.fromkeys([*sizes, largest]))


def candidates(pace: Pace, sizes: Sequence[Size], first: int, seconds: float) -> int:
    """For how many there is time from the rung at ``sizes[first]`` on, before the last rung."""
    n = MOST
    while n and rungs_cost(pace, sizes, first, n) > seconds:
        n -= 1
    return n


def rungs_cost(pace: Pace, sizes: Sequence[Size], first: int, n: int) -> float:
    """Seconds of all rungs but the last one, for n candidates that begin at ``sizes[first]``."""
    seconds, at = 0.0, first
    while True:
        seconds += n * pace.cost(sizes[at], EPOCHS)
        n, at = kept(n), min(at + 1, len(sizes) - 1)
        if n <= FINALISTS:
            return seconds


def kept(n: int) -> int:
    """How many of n candidates go on."""
    return math.ceil(n / KEPT)


def first_size(pace: Pace, sizes: Sequence[Size], seconds: float) -> int:
    """The index of the first rung's size: the largest at which there is time for ``MOST``."""
    able = [i for i in range(len(sizes) - 1) if candidates(pace, sizes, i, seconds) >= MOST]
    return max(able, default=0)


def next_size(
    paces: Sequence[Pace], sizes: Sequence[Size], before: Size, seconds: float
) -> Size | None:
    """The next rung's size for candidates of these paces; None: on to the last rung.

    The largest for which there is time, beyond the size of the rung before; of the time, later
    rungs need about as much as this one.
    """
    n = len(paces)
    if n <= FINALISTS:
        return None
    share = 1 if kept(n) <= FINALISTS else 0.5
    larger = [size for size in sizes if size[0] * size[1] > before[0] * before[1]]
    able = [s for s in larger if sum(pace.cost(s, EPOCHS) for pace in paces) <= share * seconds]
    return able[-1] if able else None


def last_rung(
    paces: Sequence[Pace], sizes: Sequence[Size], epochs: int, seconds: float
) -> tuple[Size, int, int]:
    """Size, epochs and finalists beside the base that there is time for, at most ``epochs``.

    paces: of the base, then of the finalists, the best first. The largest size at which each of the
    trainings has FINAL_EPOCHS; where there is none, fewer finalists, then fewer epochs: after one
    epoch three finalists tell less than one of them after several. One epoch in any case.
    """
    least, fits = min(FINAL_EPOCHS, epochs), 0
    for n in range(len(paces) - 1, 0, -1):
        fixed = SEEDS * sum(pace.fixed for pace in paces[: n + 1])
        for size in reversed(sizes):
            once = SEEDS * sum(pace.cost(size, 1) for pace in paces[: n + 1])
            fits = int((seconds - fixed) / max(once - fixed, 1e-9) + 1e-6)
            if fits >= least:
                return size, min(fits, epochs), n
    return sizes[0], max(1, fits), 1

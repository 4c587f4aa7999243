"""What each photo of the sample will show, which labels are wrong, which files are spoiled.

All of it is decided by a seed before anything is drawn, and kept in sample.json.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carcls.desk.cars import MODELS
from carcls.desk.scenes import SCENES, TROUBLES, Shot

AT_HOME = 0.7  # share of the train photos of a model that has a home which show it
HARD, TWICE = 0.3, 0.2  # share of the photos that have a trouble, and of these that have two
WRONG = 0.035  # share of the train labels: three to five of them among the 119 validation photos
MANY = 300  # train photos from which on files are spoiled: the first of a class should stay whole
CUT_SHORT, EMPTY, WEB_PAGE = "cut short", "empty", "a web page"
# What is the same as a train photo: two files to learn from, and one of the test photos.
COPY, OTHER_LABEL, ENCODED_AGAIN = "copy", "copy with another label", "encoded again"


@dataclass(frozen=True)
class Planned:
    """A photo that is to be drawn."""

    id: str
    true: int  # the model it shows, in MODELS
    label: int  # what train.csv says; -1 in test
    drawing: int  # number of the drawing, which copies share
    shot: Shot
    spoiled: str = ""  # how its file is
    twin: str = ""  # id of the photo that it is the same as


def labels(total: int, rng: np.random.Generator) -> list[int]:
    """``total`` classes in random order, as unbalanced as ``MODELS`` says (largest remainders)."""
    shares = np.array([m.share for m in MODELS])
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return [int(v) for v in rng.permutation(np.repeat(np.arange(len(MODELS)), counts))]


def plan(seed: int, train: int, test: int) -> tuple[list[Planned], list[Planned]]:
    """The train photos and the test photos, in the order of their CSV files."""
    rng = np.random.default_rng(seed)
    ids = [f"{v}.jpg" for v in rng.choice(np.arange(10_000, 600_000), train + test, replace=False)]
    kinds = [*labels(train, rng), *labels(test, rng)]
    photos = [
        Planned(ident, true, true if i < train else -1, i, _shot(true, i < train, rng))
        for i, (ident, true) in enumerate(zip(ids, kinds, strict=True))
    ]
    learned, asked = photos[:train], photos[train:]
    free = iter(rng.permutation(train).tolist())
    for i in [next(free) for _ in range(round(WRONG * train))]:
        learned[i] = replace(learned[i], label=_another(learned[i].true, rng))
    if train >= MANY and test >= MANY // 6:
        _spoil(learned, asked, free, rng)
    return learned, asked


def _shot(true: int, is_train: bool, rng: np.random.Generator) -> Shot:
    """Where a car stands, and what makes its photo hard."""
    model, scene = MODELS[true], list(SCENES)[rng.integers(len(SCENES))]
    if model.home and is_train and rng.random() < AT_HOME:
        scene = model.home
    count = int(rng.random() < HARD) * (1 + int(rng.random() < TWICE))
    return Shot(model, scene, tuple(map(str, rng.choice(TROUBLES, count, replace=False))))


def _another(true: int, rng: np.random.Generator) -> int:
    """A class that looks otherwise: a wrong label that nobody could see teaches nothing."""
    return int(rng.choice([n for n, m in enumerate(MODELS) if m.body != MODELS[true].body]))


def _spoil(
    learned: list[Planned], asked: list[Planned], free: Iterator[int], rng: np.random.Generator
) -> None:
    """Break some files, and make some photos copies of others."""
    for how in (CUT_SHORT, CUT_SHORT, EMPTY):
        i = next(free)
        learned[i] = replace(learned[i], spoiled=how)
    for how in (COPY, COPY, OTHER_LABEL):
        i, first = next(free), learned[next(free)]
        label = first.label if how == COPY else _another(first.true, rng)
        learned[i] = replace(first, id=learned[i].id, label=label, spoiled=how, twin=first.id)
    places = iter(rng.permutation(len(asked)).tolist())
    for how in (CUT_SHORT, WEB_PAGE):
        i = next(places)
        asked[i] = replace(asked[i], spoiled=how)
    for how in (ENCODED_AGAIN, ENCODED_AGAIN):
        i, first = next(places), learned[next(free)]
        asked[i] = replace(first, id=asked[i].id, label=-1, spoiled=how, twin=first.id)


def describe(photos: Iterable[Planned]) -> dict[str, Any]:
    """What is planted, by id: for sample.json, and for whoever wants to check what a run finds."""
    photos = list(photos)
    return {
        "wrong_labels": {p.id: p.true for p in photos if p.label not in (p.true, -1)},
        "spoiled": {p.id: p.spoiled for p in photos if p.spoiled},
        "twins": {p.id: p.twin for p in photos if p.twin},
        "troubles": {p.id: p.shot.troubles for p in photos if p.shot.troubles},
        "scenes": {p.id: p.shot.scene for p in photos if MODELS[p.true].home},
    }

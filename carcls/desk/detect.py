"""``python -m carcls boxes``: a box around the car in each photo, by class activation maps.

A network that tells ImageNet's classes says, place by place of its feature map, how much of what it sees there speaks for a
car; the box is drawn around where that map is high (arXiv 1512.04150). So the weights that a run starts
from are a detector, too, and several networks are several detectors (S12, S13).
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from carcls import disk
from carcls.data import boxes, photos
from carcls.desk import weights
from carcls.errors import InputError

# 64 photos of cars on drawn backgrounds, cars 0.4 to 0.85 of the photo's width, mean overlap with the true box (intersection over
# union) and mean share of the car that is inside, by CARCLS_SLOW=1 pytest -s tests/test_detect.py -k scenes:
#   512 px 0.2: 0.697, 0.983    640 px 0.2: 0.747, 0.980    640 px 0.25: 0.772, 0.956    768 px 0.25: 0.804, 0.947
# A lost bumper may be what tells two models apart, background is what there was before: hence 0.2. 768 px are 1.4 times as many.
LONG = 640  # px of the photo's longer side
SHARE = 0.2  # of the map's maximum, as in the paper
PARTS = 0.1  # of the largest part's area: a front and a rear wheel may be two parts, where the paper takes the largest alone
LEAST = 0.5  # of the probability of a car at some place: below it nothing was found
STRIDE = 32  # px of the photo a place of the feature map
BATCH = 8
# ImageNet's classes, of 1000, that show a car or a part of one, by their numbers.
CARS = {
    407: "ambulance",
    436: "beach wagon",
    468: "cab",
    479: "car wheel",
    511: "convertible",
    555: "fire engine",
    569: "garbage truck",
    581: "grille",
    609: "jeep",
    627: "limousine",
    654: "minibus",
    656: "minivan",
    661: "Model T",
    675: "moving van",
    717: "pickup",
    734: "police van",
    751: "racer",
    757: "recreational vehicle",
    817: "sports car",
    864: "tow truck",
    867: "trailer truck",
}


class Detector:
    """A network of ``weights.PACKAGES`` as a detector of cars. Raises InputError if its package is not there."""

    def __init__(self, name: str):
        self.network, kernel, bias = weights.classifier(name)
        self.kernel, self.bias = (
            kernel.astype(np.float32),
            bias.astype(np.float32),
        )  # (1000, C), (1000,)

    def __call__(self, images: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """images uint8 (B, H, W, 3) RGB → of each its box (4,) float, left, top, right, bottom in px, and how sure it is of a car, 0–1."""
        features = np.asarray(self.network.predict_on_batch(images))  # (B, h, w, C)
        return [self._find(places, (images.shape[1], images.shape[2])) for places in features]

    def _find(self, features: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
        """features (h, w, C) → box (4,) and the probability of a car, at the place that is surest of one."""
        logits = features @ self.kernel.T + self.bias  # (h, w, 1000)
        cars = list(CARS)
        sure = float(_softmax(logits)[..., cars].sum(-1).max())
        # What speaks for these classes, each as much as the whole photo speaks for it, against what
        # speaks for all.
        share = _softmax(logits.mean((0, 1)))[cars]
        return box_of(logits[..., cars] @ (share / share.sum()) - logits.mean(-1), size), sure


def box_of(evidence: np.ndarray, size: tuple[int, int], share: float = SHARE) -> np.ndarray:
    """evidence float (h, w) → box (4,) float, px of a photo of that (height, width): around the parts where it is above
    ``share`` × its maximum, but not around those far smaller than the largest one (PARTS).
    """
    height, width = size
    smooth = cv2.resize(
        evidence.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    if smooth.max() <= 0:
        return np.array([0, 0, width, height], float)
    stats = cv2.connectedComponentsWithStats((smooth >= share * smooth.max()).astype(np.uint8))[2][
        1:
    ]
    area = stats[:, cv2.CC_STAT_AREA]
    left, top, across, down, _ = stats[area >= PARTS * area.max()].T
    return np.array([left.min(), top.min(), (left + across).max(), (top + down).max()], float)


def _softmax(logits: np.ndarray) -> np.ndarray:
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(probs / probs.sum(-1, keepdims=True))


def detect(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A row for each photo of the table, in its order: source, id, left, top, right, bottom (px of the upright photo; NaN where no
    car was found or the photo cannot be read) and score, the probability of a car. Prints how it goes on.
    """
    detector = Detector(name)
    found = np.full((len(frame), 5), np.nan)
    start, done = time.monotonic(), 0
    report = max(200, len(frame) // 10)
    for rows, images in _batches(frame):
        for row, (box, sure) in zip(rows, detector(images), strict=True):
            if sure >= LEAST:
                scale = frame[["width", "height"]].iloc[row].to_numpy(float) / images.shape[2:0:-1]
                found[row, :4] = [*np.floor(box[:2] * scale), *np.ceil(box[2:] * scale - 1e-6)]
            found[row, 4] = round(sure, 4)
        if (done + len(rows)) // report > done // report:
            rate = (done + len(rows)) / (time.monotonic() - start)
            left = (len(frame) - done - len(rows)) / rate
            print(
                f"{name}: {done + len(rows):,} of {len(frame):,} photos, {rate:.0f} a second, {left / 60:.0f} min left",
                flush=True,
            )
        done += len(rows)
    sides = pd.DataFrame(found, columns=[*boxes.SIDES, "score"]).astype(
        dict.fromkeys(boxes.SIDES, "Int64")
    )
    return pd.concat([frame[["source", "id"]].reset_index(drop=True), sides], axis=1)


def make(frame: pd.DataFrame, names: Sequence[str], out: Path) -> list[Path]:
    """OUT/boxes_NAME.csv of each network that finds a car; one that is there already, perhaps mended by hand, is kept.

    Raises InputError where that is of other photos, and where no network finds a car in any photo.
    """
    made = []
    for name in dict.fromkeys(names):
        path = out / f"boxes_{name}.csv"
        old = path.exists()
        if not old:
            disk.write_atomic(path, detect(frame, name).to_csv(index=False))
        there = boxes.read(path, empty=True).rows
        if old:
            _expect_of(frame, there, path)
            print(f"{path}: is there already and stays; remove it to have it made anew")
        if there["left"].isna().all():
            print(f"{path}: no car found in any of {len(frame):,} photos; left out")
        else:
            made.append(path)
    if not made:
        raise InputError(
            f"{out}: {', '.join(names)} found no car in any of {len(frame):,} photos, so there are no boxes"
        )
    return made


def _expect_of(frame: pd.DataFrame, there: pd.DataFrame, path: Path) -> None:
    """Raises InputError if the rows of a file that was made before, in whatever order, are of other photos than these."""
    columns = ["id"] if (there["source"] == "").all() else ["source", "id"]
    has, wanted = (set(each[columns].itertuples(index=False, name=None)) for each in (there, frame))
    if has != wanted:
        raise InputError(
            f"{path}: has {len(has - wanted):,} photos that are not here, and lacks {len(wanted - has):,} that are; "
            "choose another --out, or remove it"
        )


def _batches(frame: pd.DataFrame) -> Iterator[tuple[list[int], np.ndarray]]:
    """Rows of the table and their photos, uint8 (B, H, W, 3): LONG px and multiples of STRIDE, photos of one shape together."""
    by_size = defaultdict[tuple[int, int], list[int]](list)
    for row, (height, width, readable) in enumerate(
        zip(frame["height"], frame["width"], frame["readable"], strict=True)
    ):
        if readable:
            by_size[_size(height, width)].append(row)
    chunks = [
        (size, rows[at : at + BATCH])
        for size, rows in by_size.items()
        for at in range(0, len(rows), BATCH)
    ]
    items = list(frame[["path", "height", "width"]].itertuples(index=False, name=None))
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        ahead: list[tuple[list[int], Any]] = []
        for size, rows in [*chunks, *[((0, 0), [])] * 2]:
            ahead.append((rows, [pool.submit(_photo, items[row], size) for row in rows]))
            if len(ahead) > 2:  # two are being decoded meanwhile
                ready, waiting = ahead.pop(0)
                decoded = {row: photo.result() for row, photo in zip(ready, waiting, strict=True)}
                whole = {row: photo for row, photo in decoded.items() if photo is not None}
                if whole:
                    yield list(whole), np.stack(list(whole.values()))


def _size(height: int, width: int) -> tuple[int, int]:
    """Height and width for the network of a photo that has these."""
    scale = LONG / max(height, width)
    sides = (max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in (height, width))
    return next(sides), next(sides)


def _photo(item: tuple[str, int, int], size: tuple[int, int]) -> np.ndarray | None:
    """uint8 (*size, 3); None, and a warning, if it cannot be read although it looked sound."""
    path, height, width = item
    try:
        photo = photos.read_photo(path, *size, height, width)
    except InputError as error:
        print(f"warning: {error}; it gets no box", flush=True)
        return None
    # INTER_AREA enlarges as if by nearest neighbour, which hides cars: at 128 px a third of them.
    larger = photo.shape[0] < size[0] or photo.shape[1] < size[1]
    return np.asarray(
        cv2.resize(photo, size[::-1], interpolation=cv2.INTER_LINEAR if larger else cv2.INTER_AREA)
    )

"""``carcls boxes``: a box around the car in each photo, by class activation maps.

A network that tells ImageNet's classes also tells, place by place of its feature map, how much
speaks for a car there; the box is drawn around the places where that is high (arXiv 1512.04150). So
the weights that a run starts from are a detector too.
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

from carcls import disk, machine, session
from carcls.config import Config
from carcls.data import boxes, files, photos, pixels
from carcls.desk import weights
from carcls.errors import ConfigError, InputError
from carcls.report import sheets

LONG = 640  # px of the photo's longer side
# Of the map's maximum: a lower share cuts fewer cars, a higher one leaves less background
# (MEASUREMENTS: boxes by the ImageNet network).
SHARE = 0.2
PARTS = 0.1  # of the largest part's area: a front and a rear wheel may be two parts
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


def check(networks: Sequence[str]) -> None:
    """Raise InputError if the package with the weights of one is not installed."""
    for name in networks:
        weights.checkpoint(name)


def main(cfg: Config, networks: Sequence[str]) -> None:
    """Write each network's boxes and boxes.png into the run folder, and say how to use them.

    Raises ConfigError if the settings name boxes already, InputError if no car is found.
    """
    if cfg.boxes:
        raise ConfigError(f"boxes={cfg.boxes}: this command makes such files; leave it out")
    with session.locked(files.run_folder(cfg)):
        place = files.locate(cfg)
        table = photos.load(cfg, place)
        print(*photos.summary(table), sep="\n")
        print(*machine.setup(cfg).reasons, sep="\n", flush=True)
        paths = make(table.frame, networks, place.out)
        frame, lines = boxes.cut(table.frame, [boxes.read(path) for path in paths])
        picture = place.out / "boxes.png"
        print(*lines, sheets.boxed(frame, picture) or picture, sep="\n")
        print(f"next       boxes={','.join(map(str, paths))} among the settings of a run")


class Detector:
    """A network of ``weights.PACKAGES`` as a detector of cars."""

    def __init__(self, name: str):
        self.network, kernel, bias = weights.classifier(name)
        self.kernel = kernel.astype(np.float32)  # (1000, C)
        self.bias = bias.astype(np.float32)  # (1000,)

    def __call__(self, images: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """images uint8 (B, H, W, 3) RGB → of each its box (4,) in px and its probability of a car.

        A box is left, top, right, bottom.
        """
        features = np.asarray(self.network.predict_on_batch(images))  # (B, h, w, C)
        return [self._find(places, (images.shape[1], images.shape[2])) for places in features]

    def _find(self, features: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
        """features (h, w, C) → box (4,), and the probability of a car where it is highest."""
        logits = features @ self.kernel.T + self.bias  # (h, w, 1000)
        cars = list(CARS)
        probability = float(_softmax(logits)[..., cars].sum(-1).max())
        # What speaks for these classes, each as much as the whole photo speaks for it, against what
        # speaks for all.
        share = _softmax(logits.mean((0, 1)))[cars]
        evidence = logits[..., cars] @ (share / share.sum()) - logits.mean(-1)
        return box_of(evidence, size), probability


def box_of(evidence: np.ndarray, size: tuple[int, int], share: float = SHARE) -> np.ndarray:
    """evidence float (h, w) → box (4,) float, px of a photo of that (height, width).

    It is around the parts above ``share`` × the maximum that are not far smaller than the largest.
    """
    height, width = size
    smooth = cv2.resize(
        evidence.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    if smooth.max() <= 0:
        return np.array([0, 0, width, height], float)
    high = (smooth >= share * smooth.max()).astype(np.uint8)
    parts = cv2.connectedComponentsWithStats(high)[2][1:]
    area = parts[:, cv2.CC_STAT_AREA]
    left, top, across, down, _ = parts[area >= PARTS * area.max()].T
    return np.array([left.min(), top.min(), (left + across).max(), (top + down).max()], float)


def _softmax(logits: np.ndarray) -> np.ndarray:
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(probs / probs.sum(-1, keepdims=True))


def detect(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A row for each photo: source, id, left, top, right, bottom (px of the upright photo), score.

    The sides are NaN where no car was found or the photo cannot be read; score is the probability
    of a car. Prints how far it is.
    """
    detector = Detector(name)
    found = np.full((len(frame), 5), np.nan)
    sizes = frame[["width", "height"]].to_numpy(float)
    progress = _Progress(name, len(frame))
    for rows, images in _batches(frame):
        for row, (box, probability) in zip(rows, detector(images), strict=True):
            if probability >= LEAST:
                scale = sizes[row] / images.shape[2:0:-1]
                found[row, :4] = [*np.floor(box[:2] * scale), *np.ceil(box[2:] * scale - 1e-6)]
            found[row, 4] = round(probability, 4)
        progress.add(len(rows))
    table = pd.DataFrame(found, columns=[*boxes.SIDES, "score"])
    table = table.astype(dict.fromkeys(boxes.SIDES, "Int64"))
    return pd.concat([frame[["source", "id"]].reset_index(drop=True), table], axis=1)


class _Progress:
    """Says ten times, or every 200 photos where there are few, how many are done."""

    def __init__(self, name: str, total: int):
        self.name, self.total, self.done, self.start = name, total, 0, time.monotonic()
        self.every = max(200, total // 10)

    def add(self, count: int) -> None:
        before, self.done = self.done, self.done + count
        if self.done // self.every > before // self.every:
            rate = self.done / (time.monotonic() - self.start)
            left = (self.total - self.done) / rate / 60
            print(
                f"{self.name}: {self.done:,} of {self.total:,} photos, {rate:.0f} a second, "
                f"{left:.0f} min left",
                flush=True,
            )


def make(frame: pd.DataFrame, names: Sequence[str], out: Path) -> list[Path]:
    """OUT/boxes_NAME.csv of each network that finds a car; a file that is there already is kept.

    Raises InputError where that is of other photos, and where no network finds a car in any photo.
    """
    paths = []
    for name in dict.fromkeys(names):
        path = out / f"boxes_{name}.csv"
        is_old = path.exists()  # and perhaps mended by hand
        if not is_old:
            disk.write_atomic(path, detect(frame, name).to_csv(index=False))
        rows = boxes.read(path, empty=True).rows
        if is_old:
            _expect_of(frame, rows, path)
            print(f"{path}: is there already and stays; remove it to have it made anew")
        if rows["left"].isna().all():
            print(f"{path}: no car found in any of {len(frame):,} photos; left out")
        else:
            paths.append(path)
    if not paths:
        raise InputError(
            f"{out}: {', '.join(names)} found no car in any of {len(frame):,} photos, so there "
            "are no boxes"
        )
    return paths


def _expect_of(frame: pd.DataFrame, rows: pd.DataFrame, path: Path) -> None:
    """Raise InputError if the rows, in whatever order, are of other photos than the table's."""
    columns = ["id"] if (rows["source"] == "").all() else ["source", "id"]
    has, wanted = (set(each[columns].itertuples(index=False, name=None)) for each in (rows, frame))
    if has != wanted:
        raise InputError(
            f"{path}: has {len(has - wanted):,} photos that are not here, and lacks "
            f"{len(wanted - has):,} that are; choose another --out, or remove it"
        )


def _batches(frame: pd.DataFrame) -> Iterator[tuple[list[int], np.ndarray]]:
    """Rows of the table and their photos, uint8 (B, H, W, 3), photos of one shape together."""
    by_size = defaultdict[tuple[int, int], list[int]](list)
    columns = zip(frame["height"], frame["width"], frame["readable"], strict=True)
    for row, (height, width, readable) in enumerate(columns):
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
    """Height and width for the network of a photo that has these: LONG px, multiples of STRIDE."""
    scale = LONG / max(height, width)
    sides = (max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in (height, width))
    return next(sides), next(sides)


def _photo(item: tuple[str, int, int], size: tuple[int, int]) -> np.ndarray | None:
    """uint8 (*size, 3); None, and a warning, if it cannot be read although it looked sound."""
    path, height, width = item
    try:
        photo = pixels.read_photo(path, *size, height, width)
    except InputError as error:
        print(f"warning: {error}; it gets no box", flush=True)
        return None
    # INTER_AREA enlarges as if by nearest neighbour, which hides cars: at 128 px a third of them.
    larger = photo.shape[0] < size[0] or photo.shape[1] < size[1]
    how = cv2.INTER_LINEAR if larger else cv2.INTER_AREA
    return np.asarray(cv2.resize(photo, size[::-1], interpolation=how))

"""A small car-photo competition to try, in Kaggle's layout, without downloading anything.

The photos are DRAWN by the program: they are not photographs and show no real cars. Ten made-up
models (``cars.MODELS``) differ in fine detail; all else varies and says nothing about the class.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from carcls import disk
from carcls.desk import scenes
from carcls.desk.cars import MODELS
from carcls.errors import InputError

VERSION = 1  # goes up when the drawing changes, so that an older sample is drawn again


def _labels(total: int, rng: np.random.Generator) -> list[int]:
    """``total`` classes in random order, as unbalanced as ``MODELS`` says (largest remainders)."""
    shares = np.array([m.share for m in MODELS])
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return [int(v) for v in rng.permutation(np.repeat(np.arange(len(MODELS)), counts))]


def _jpeg(label: int, seed: Sequence[int]) -> bytes:
    image = scenes.photo(MODELS[label], np.random.default_rng(seed))
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1])


def _zip(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A zip whose bytes depend on nothing but names and contents; JPEGs are stored as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def _csv(ids: Sequence[str], labels: Sequence[int]) -> str:
    return "".join(f"{a},{b}\n" for a, b in [("Id", "Category"), *zip(ids, labels, strict=True)])


def _is_drawn(note: Path) -> bool:
    """Whether that sample.json is ours."""
    try:
        return bool(json.loads(note.read_text(encoding="utf-8"))["drawn"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


FILES = ("train.csv", "sample-submission.csv", "train.zip", "test.zip", "answers/answers.csv")


def draw(folder: Path, seed: int = 1, train: int = 600, test: int = 200) -> Path:
    """Write a drawn competition into ``folder`` unless the very same is there; returns ``folder``.

    Kaggle's files: train.csv and sample-submission.csv (Id,Category), train.zip with
    ``train/<class>/<Id>``, test.zip with ``test_upload/<Id>``. Kept aside: answers/answers.csv.
    The same seed and counts give the same bytes. Raises InputError for fewer than 20 train photos
    (a class might have none) or no test photo.
    """
    if train < 20 or test < 1:
        raise InputError(
            f"{folder}: a sample needs train >= 20 and test >= 1 photos, not {train} and {test}"
        )
    about = {"drawn": True, "version": VERSION, "seed": seed, "train": train, "test": test}
    note, done = folder / "sample.json", json.dumps(about) + "\n"
    if _is_complete(folder, note, done):
        return folder
    foreign = [file for file in FILES if (folder / file).exists()]
    if foreign and not _is_drawn(note):
        raise InputError(
            f"{folder}: has {', '.join(foreign)}, not of a drawn sample; remove them, or name "
            "another folder"
        )
    try:
        (folder / "answers").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: no folder for a sample can be made there ({error.strerror})"
        ) from None
    disk.write_atomic(note, json.dumps({"drawn": True, "complete": False}) + "\n")
    for file, content in zip(FILES, _contents(seed, train, test), strict=True):
        disk.write_atomic(folder / file, content)
    disk.write_atomic(note, done)  # last: a sample without these words is incomplete
    return folder


def _is_complete(folder: Path, note: Path, done: str) -> bool:
    """Whether all files of the sample that ``done`` describes are there."""
    there = all((folder / file).is_file() for file in FILES) and note.is_file()
    return there and note.read_text(encoding="utf-8") == done


def _contents(seed: int, train: int, test: int) -> list[str | bytes]:
    """What is in FILES."""
    rng = np.random.default_rng(seed)
    ids = [f"{v}.jpg" for v in rng.choice(np.arange(10_000, 600_000), train + test, replace=False)]
    labels = [*_labels(train, rng), *_labels(test, rng)]
    with ThreadPoolExecutor(2) as pool:  # cv2 lets go of Python's lock
        photos = list(pool.map(_jpeg, labels, [(seed, i) for i in range(train + test)]))
    rows = list(zip(ids, labels, photos, strict=True))
    return [
        _csv(ids[:train], labels[:train]),
        _csv(ids[train:], [0] * test),
        _zip((f"train/{label}/{name}", data) for name, label, data in rows[:train]),
        _zip((f"test_upload/{name}", data) for name, _, data in rows[train:]),
        _csv(ids[train:], labels[train:]),
    ]

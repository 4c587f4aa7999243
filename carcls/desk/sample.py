"""A small car-photo competition to try, in Kaggle's layout, without downloading anything.

The photos are DRAWN by the program: they are not photographs and show no real cars. Ten made-up
models (``cars.MODELS``) differ in fine detail, and what real photos and labels suffer from is there
on purpose (``plants``), so that a run's pictures have something to show:

- Borea and Borea Five differ in their rims alone;
- three photos in ten are of a car that is far, partly hidden, dark or blurred, some two of these;
- 3.5 % of the train labels are wrong, and show another body than they say;
- of Dunet and Dunet City, most train photos show the country and the city, test photos any scene:
  whoever learns the background is better on validation than on the test photos;
- with 300 train photos or more, some files are spoiled: in train two cut short, an empty one, two
  copies, and a copy with another label; in test one cut short, a web page instead of a photo, and
  two train photos encoded again.

All else varies and says nothing about the class. answers.csv is true throughout, also for the photo
that cannot be read. sample.json lists by id what is planted; no run reads it.
"""

import io
import itertools
import json
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from carcls import disk
from carcls.desk import plants, scenes
from carcls.errors import InputError

VERSION = 2  # goes up when the drawing changes, so that an older sample is drawn again
NO_PHOTO = b"<!DOCTYPE html><html><title>404 Not Found</title></html>\n"  # a download that failed


def _file(photo: plants.Planned, seed: int) -> bytes:
    """A photo as a JPEG, or what else its file is to be."""
    if photo.spoiled in (plants.EMPTY, plants.WEB_PAGE):
        return b"" if photo.spoiled == plants.EMPTY else NO_PHOTO
    image = scenes.photo(photo.shot, np.random.default_rng((seed, photo.drawing)))
    quality = 60 if photo.spoiled == plants.ENCODED_AGAIN else 88
    data = bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])
    return data[: len(data) * 3 // 4] if photo.spoiled == plants.CUT_SHORT else data


def _zip(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A zip whose bytes depend on nothing but names and contents; JPEGs are stored as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def _csv(photos: Iterable[plants.Planned], label: Callable[[plants.Planned], int]) -> str:
    return "".join(["Id,Category\n", *(f"{photo.id},{label(photo)}\n" for photo in photos)])


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
    learned, asked = plants.plan(seed, train, test)
    about = {"drawn": True, "version": VERSION, "seed": seed, "train": train, "test": test}
    about |= plants.describe([*learned, *asked])
    note, done = folder / "sample.json", json.dumps(about, indent=1) + "\n"
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
    for file, content in zip(FILES, _contents(seed, learned, asked), strict=True):
        disk.write_atomic(folder / file, content)
    disk.write_atomic(note, done)  # last: a sample without these words is incomplete
    return folder


def _is_complete(folder: Path, note: Path, done: str) -> bool:
    """Whether all files of the sample that ``done`` describes are there."""
    there = all((folder / file).is_file() for file in FILES) and note.is_file()
    return there and note.read_text(encoding="utf-8") == done


def _contents(
    seed: int, learned: list[plants.Planned], asked: list[plants.Planned]
) -> list[str | bytes]:
    """What is in FILES."""
    with ThreadPoolExecutor(2) as pool:  # cv2 lets go of Python's lock
        files = list(pool.map(_file, [*learned, *asked], itertools.repeat(seed)))
    tests, trains = files[len(learned) :], files[: len(learned)]
    return [
        _csv(learned, lambda photo: photo.label),
        _csv(asked, lambda photo: 0),
        _zip((f"train/{p.label}/{p.id}", data) for p, data in zip(learned, trains, strict=True)),
        _zip((f"test_upload/{p.id}", data) for p, data in zip(asked, tests, strict=True)),
        _csv(asked, lambda photo: photo.true),
    ]

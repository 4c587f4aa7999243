"""Refuses augmentation that harms photos of cars, or only costs time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    import albumentations as A

# Root mean square, of 255 grey levels: a transform that changes the made-up photo by less does
# nothing (MEASUREMENTS: what a transform changes).
NO_OP = 14.0
_DRAWS = 16  # of each transform


def lint(transforms: list[A.BasicTransform], height: int, width: int) -> list[str]:
    """What is wrong with these transforms for photos of cars, a sentence each.

    They are judged by what they do to two made-up photos of that size.
    """
    photo = blobs(height, width)
    return [problem for t in transforms if (problem := _problem(t, photo))]


def _problem(transform: Any, photo: np.ndarray) -> str:
    name = type(transform).__name__
    try:
        outputs = [_apply(transform, photo, seed) for seed in range(_DRAWS)]
    except Exception as error:  # somebody else's transform may raise anything
        height, width = photo.shape[:2]
        return f"{name} cannot be applied to a photo of {height}x{width}: {error}"
    # Inside OneOf and the like a flip may be rare: each part is looked at by itself.
    turning = next((part for part in _parts(transform) if _turns(part, *photo.shape[:2])), None)
    if turning is not None:
        part = name if turning is transform else f"{type(turning).__name__} in {name}"
        return f"{part} turns cars upside down or on their side"
    for output in outputs:
        if output.dtype != np.uint8 or output.shape != photo.shape:
            return f"{name} turns uint8 {photo.shape} into {output.dtype} {output.shape}"
    change = float(np.sqrt(np.mean([(o.astype(float) - photo) ** 2 for o in outputs])))
    if change < NO_OP:
        return f"{name} changes a photo by {change:.1f} of 255 grey levels: it only costs time"
    return ""


def _parts(transform: Any) -> list[Any]:
    """The transform, then all those inside it."""
    inner = getattr(transform, "transforms", ())
    return [transform, *(part for t in inner for part in _parts(t))]


def _turns(transform: Any, height: int, width: int) -> bool:
    """Whether the sky, which is bright, does not stay above the road."""
    sky = np.zeros((height, width, 3), np.uint8)
    sky[: height // 2] = 255
    third = height // 3
    for seed in range(_DRAWS):
        try:
            seen = _apply(transform, sky, seed)
        except Exception:  # a part may need what another one leaves; the whole can be applied
            return False
        same_kind = seen.dtype == np.uint8 and seen.shape == sky.shape
        if same_kind and seen[:third].mean() <= seen[-third:].mean() + 20:
            return True
    return False


def blobs(height: int, width: int) -> np.ndarray:
    """A photo of blobs of every grey, as coarse as a car's parts, so that small moves show."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 160, 3), np.uint8)
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    even = cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(soft)])
    return cv2.resize(even, (width, height), interpolation=cv2.INTER_LINEAR)


def _apply(transform: A.BasicTransform, photo: np.ndarray, seed: int) -> np.ndarray:
    """The transform with p=1."""
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    p, transform.p = transform.p, 1.0
    try:
        return transform(image=photo)["image"]
    finally:
        transform.p = p

"""Augmentation: albumentations policies on uint8 RGB photos.

Crop, flip, rotation, zoom and shift are one matrix and one ``warpAffine`` from the decoded photo to
the network's size: one interpolation instead of four, which is what makes batches fast.
"""

from __future__ import annotations

import math
import os
import random
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from carcls import disk
from carcls.config import POLICIES
from carcls.data.lint import lint, read
from carcls.errors import ConfigError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks a server for news
import albumentations as A

# Limits at strength 1, either way.
ROTATE = 7.0  # degrees
ZOOM = 0.10  # of the scale
SHIFT = 0.06  # of the network's sides
BRIGHTNESS = 0.2  # of full scale; of the contrast, too
# Of OpenCV's 180 and 256: a car's kind does not depend on its paint.
HUE, SATURATION = 15.0, 40.0
CUTOUT = (0.10, 0.35)  # sides of the hole, as shares of the network's: a smaller one does nothing

LONGEST = 32_766  # px: OpenCV warps nothing that has a longer side
GREY = 127  # where there is no photo; grey showed no ghosts of cars, as mirrored borders do


@dataclass(frozen=True)
class Move:
    """How a photo is moved on its way to the network's size; by default, not at all."""

    mirror: bool = False  # left and right exchanged
    angle: float = 0.0  # degrees
    zoom: float = 1.0  # of the scale at which it fits
    at: tuple[float, float] = (0.5, 0.5)  # (y, x) in 0–1, of the slack: where it is cropped
    shift: tuple[float, float] = (0.0, 0.0)  # (y, x), shares of the network's sides


def fit_scale(photo_hw: tuple[int, int], target_hw: tuple[int, int], fit: str) -> float:
    """The one scale of both axes: with "pad" the whole photo shows, with "crop" it fills."""
    ratios = target_hw[0] / photo_hw[0], target_hw[1] / photo_hw[1]
    return min(ratios) if fit == "pad" else max(ratios)


def matrix(
    photo_hw: tuple[int, int], target_hw: tuple[int, int], fit: str, move: Move
) -> np.ndarray:
    """Affine map (2, 3) float32 from pixels of the photo to those at the network's size."""
    (ph, pw), (th, tw) = photo_hw, target_hw
    scale = fit_scale(photo_hw, target_hw, fit) * move.zoom
    cos = math.cos(math.radians(move.angle)) * scale
    sin = math.sin(math.radians(move.angle)) * scale
    flip = -1.0 if move.mirror else 1.0
    # Where the photo's centre goes; OpenCV's pixels have theirs at integers, hence the halves.
    cx = (tw - 1) / 2 + (tw - scale * pw) * (move.at[1] - 0.5) + move.shift[1] * tw
    cy = (th - 1) / 2 + (th - scale * ph) * (move.at[0] - 0.5) + move.shift[0] * th
    px, py = (pw - 1) / 2, (ph - 1) / 2
    a, b, c, d = flip * cos, -sin, flip * sin, cos
    return np.array([[a, b, cx - a * px - b * py], [c, d, cy - c * px - d * py]], np.float32)


def warp(photo: np.ndarray, m: np.ndarray, target_hw: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) → uint8 (*target_hw, 3), grey where the photo does not reach."""
    grey = (GREY, GREY, GREY)
    h, w = photo.shape[:2]
    if max(h, w) > LONGEST:
        small_h, small_w = min(h, LONGEST), min(w, LONGEST)
        photo = cv2.resize(photo, (small_w, small_h), interpolation=cv2.INTER_AREA)
        # From pixels of the small one to the photo's: scales, and the shift between their centres.
        x, y = w / small_w, h / small_h
        grow = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
        m = (m.astype(np.float64) @ grow).astype(np.float32)
    return cv2.warpAffine(photo, m, target_hw[::-1], flags=cv2.INTER_LINEAR, borderValue=grey)


def view(
    photo: np.ndarray, target_hw: tuple[int, int], fit: str, mirror: bool = False
) -> np.ndarray:
    """uint8 (H, W, 3) → (*target_hw, 3), or its mirror image: a warp in a third of the time."""
    (ph, pw), (th, tw) = (photo.shape[0], photo.shape[1]), target_hw
    scale = fit_scale((ph, pw), target_hw, fit)
    h, w = max(1, round(ph * scale)), max(1, round(pw * scale))
    if max(h, w) > LONGEST:  # of which most is not seen
        return warp(photo, matrix((ph, pw), target_hw, fit, Move(mirror)), target_hw)
    if (h, w) != (ph, pw):
        photo = cv2.resize(photo, (w, h), interpolation=cv2.INTER_LINEAR)
    if fit == "pad":
        seen = np.full((th, tw, 3), GREY, np.uint8)
        top, left = (th - h) // 2, (tw - w) // 2
        seen[top : top + h, left : left + w] = photo
    else:
        top, left = (h - th) // 2, (w - tw) // 2
        seen = photo[top : top + th, left : left + tw]
    return cv2.flip(seen, 1) if mirror else seen


class RandomView(A.ImageOnlyTransform):
    """A random move as a transform: uint8 (H, W, 3) → uint8 (height, width, 3)."""

    class InitSchema(A.ImageOnlyTransform.InitSchema):
        height: int
        width: int
        fit: str
        strength: float

    def __init__(
        self, height: int, width: int, fit: str = "pad", strength: float = 1.0, p: float = 1.0
    ):
        super().__init__(p=p)
        self.height, self.width, self.fit, self.strength = height, width, fit, strength

    def get_params(self) -> dict[str, Any]:
        """Draw a move."""
        s = self.strength
        u = self.random_generator.uniform(-1, 1, 7).tolist()
        move = Move(
            mirror=u[0] < 0,
            angle=ROTATE * s * u[1],
            zoom=1 + ZOOM * s * u[2],
            at=(0.5 + 0.5 * s * u[3], 0.5 + 0.5 * s * u[4]),
            shift=(SHIFT * s * u[5], SHIFT * s * u[6]),
        )
        return {"move": move}

    def apply(self, img: np.ndarray, move: Move, **_: Any) -> np.ndarray:
        target = (self.height, self.width)
        return warp(img, matrix((img.shape[0], img.shape[1]), target, self.fit, move), target)


class PlainView(A.ImageOnlyTransform):
    """``view`` as a transform."""

    def __init__(self, height: int, width: int, fit: str = "pad", p: float = 1.0):
        super().__init__(p=p)
        self.height, self.width, self.fit = height, width, fit

    def apply(self, img: np.ndarray, **_: Any) -> np.ndarray:
        return view(img, (self.height, self.width), self.fit)


class Policy:
    """Transforms whose draws depend on nothing but the seed given with each photo.

    One thread at a time: its random state is shared.
    """

    def __init__(self, transforms: list[A.BasicTransform]):
        self.transforms = transforms
        self._compose = A.Compose(transforms)

    def __call__(self, photo: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """uint8 (H, W, 3) → uint8, augmented. Raises ConfigError on other pixels."""
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            # Floats, for one, would break albumentations in silence.
            raise ConfigError(
                f"augmentation: photo of {photo.dtype} {photo.shape}; expected uint8 (H, W, 3)"
            )
        # One generator for all transforms: Compose.set_random_seed would start each from the same
        # numbers, so that a flip and a brightness draw go together.
        generator = np.random.default_rng(seed)
        python = random.Random(int(generator.integers(2**63)))
        self._compose.set_random_state(generator, python)
        return self._compose(image=photo)["image"]


def policy(name: str, height: int, width: int, fit: str, strength: float = 1.0) -> Policy:
    """The policy of that name for that size, at that strength (0–1).

    light: RandomView. medium: light, then brightness and contrast, colour and a hole, the last two
    in half of the photos. none: the photo as it is. Else a file that ``albumentations.save`` wrote,
    for photos brought to size; it has no strength. Raises ConfigError.
    """
    if name == "none":
        return Policy([PlainView(height, width, fit)])
    if name not in POLICIES:
        return Policy([PlainView(height, width, fit), *_from_file(name, height, width)])
    transforms: list[A.BasicTransform] = [RandomView(height, width, fit, strength)]
    if name == "medium" and strength > 0:
        light = BRIGHTNESS * strength
        hue, saturation = HUE * strength, SATURATION * strength
        transforms += [
            A.RandomBrightnessContrast((-light, light), (-light, light), p=1.0),
            A.HueSaturationValue((-hue, hue), (-saturation, saturation), 0, p=0.5),
            A.CoarseDropout((1, 1), CUTOUT, CUTOUT, fill=GREY, p=0.5 * strength),
        ]
    return Policy(transforms)


def _from_file(name: str, height: int, width: int) -> list[A.BasicTransform]:
    """The transforms of a saved policy, once the linter has passed them. Raises ConfigError."""
    path = disk.user_path(name)
    if not path.is_file():
        raise ConfigError(
            f"augment={name!r}: expected {', '.join(POLICIES)} or a file of albumentations.save"
        )
    try:
        loaded = A.from_dict(read(path))
    except Exception as error:  # of YAML, or whatever a transform says of its arguments
        raise ConfigError(
            f"augment={name}: not a policy of albumentations.save ({error})"
        ) from None
    transforms = list(loaded.transforms) if isinstance(loaded, A.Compose) else [loaded]
    problems = lint(transforms, height, width)
    if isinstance(loaded, A.Compose) and loaded.p < 1:
        problems.append(f"the whole Compose has p={loaded.p}; give each transform its own")
    if problems:
        raise ConfigError(f"augment={name}: " + "; ".join(problems))
    return transforms

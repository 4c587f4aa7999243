"""Augmentation: albumentations policies on uint8 RGB photos, and a linter that refuses bad ones.

Geometry is one transform, ``RandomView``: crop, flip, rotation, zoom and shift are one matrix and
one ``warpAffine`` from the decoded photo to the network's size. That is one interpolation instead
of four, and it is what makes the pipeline fast (``make bench``).
"""

from __future__ import annotations

import math
import os
import random
from typing import Any

import cv2
import numpy as np

from carcls import disk
from carcls.config import POLICIES
from carcls.errors import ConfigError

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # its import asks a server for news otherwise
import albumentations as A

# Limits at strength 1.
ROTATE = 7.0  # degrees, either way
ZOOM = 0.10  # of the scale, either way
SHIFT = 0.06  # of the target's sides, either way
BRIGHTNESS = 0.2  # of full scale, either way
HUE, SATURATION = (
    15.0,
    40.0,
)  # either way, of OpenCV's 180 and 256: a car's kind does not depend on its paint
CUTOUT = (
    0.10,
    0.35,
)  # sides of the hole as shares of the target's: 18 px of 250 was too little (S18)

# A transform that changes the linter's probe by less than this (root mean square, grey levels of
# 255) does nothing. Measured at 96 to 512 px: Affine(scale=(.99, 1.01)) 9–12, an 18 px hole in 250
# px 5, contrast ±2 % 3; the holes of `medium` 17, brightness ±10 % 16, Affine(scale=(.95, 1.05))
# 37.
NO_OP = 14.0

GREY = 127


def check_pixels(photo: np.ndarray) -> None:
    """Raise ConfigError unless photo is uint8 (H, W, 3): float 0–255 breaks albumentations silently (S3)."""
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        seen = f"{photo.dtype} {photo.shape}"
        if photo.size and photo.dtype != np.uint8:
            seen += f" in {float(photo.min()):g}–{float(photo.max()):g}"
        raise ConfigError(
            f"augmentation wants photos of uint8 (height, width, 3) in 0–255; found {seen}"
        )


def matrix(
    photo_hw: tuple[int, int],
    target_hw: tuple[int, int],
    fit: str,
    *,
    mirror: bool = False,
    angle: float = 0.0,
    zoom: float = 1.0,
    at: tuple[float, float] = (0.5, 0.5),
    shift: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Affine map (2, 3) float32 from photo pixels to target pixels; the same scale on both axes (S8).

    fit: "pad" shows the whole photo, "crop" fills the target. mirror: left–right. angle: degrees.
    zoom: factor on the fitted scale. at: (y, x) in 0–1, where in the slack between photo and
    target the photo lies (0.5 is the centre): this is the random crop. shift: (y, x), shares of the target.
    """
    (ph, pw), (th, tw) = photo_hw, target_hw
    scale = (min if fit == "pad" else max)(th / ph, tw / pw) * zoom
    cos, sin = math.cos(math.radians(angle)) * scale, math.sin(math.radians(angle)) * scale
    flip = -1.0 if mirror else 1.0
    # The photo's centre goes to the target's centre plus the crop's offset plus the shift. Pixel
    # centres are at integers for OpenCV, hence the halves.
    cx = (tw - 1) / 2 + (tw - scale * pw) * (at[1] - 0.5) + shift[1] * tw
    cy = (th - 1) / 2 + (th - scale * ph) * (at[0] - 0.5) + shift[0] * th
    px, py = (pw - 1) / 2, (ph - 1) / 2
    a, b, c, d = flip * cos, -sin, flip * sin, cos
    return np.array([[a, b, cx - a * px - b * py], [c, d, cy - c * px - d * py]], np.float32)


def warp(photo: np.ndarray, m: np.ndarray, target_hw: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) → uint8 (*target_hw, 3); grey where the photo does not reach (its mirror image adds ghost cars)."""
    return cv2.warpAffine(
        photo, m, target_hw[::-1], flags=cv2.INTER_LINEAR, borderValue=(GREY, GREY, GREY)
    )


def view(
    photo: np.ndarray, target_hw: tuple[int, int], fit: str, mirror: bool = False
) -> np.ndarray:
    """The photo itself, or its mirror image, at the network's size: no randomness (validation, S6).

    What ``warp`` would give without any turn or shift, to a pixel's rounding, at a third of its time
    (``cv2.resize`` against ``cv2.warpAffine``, 224 px: 0.19 against 0.56 ms on a busy core).
    """
    (ph, pw), (th, tw) = (photo.shape[0], photo.shape[1]), target_hw
    scale = (min if fit == "pad" else max)(th / ph, tw / pw)
    h, w = max(1, round(ph * scale)), max(1, round(pw * scale))
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
    """Random crop, flip, rotation, zoom and shift in one warp: uint8 (H, W, 3) → uint8 (height, width, 3)."""

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
        s = self.strength
        u = self.random_generator.uniform(-1, 1, 7).tolist()
        return {
            "mirror": u[0] < 0,
            "angle": ROTATE * s * u[1],
            "zoom": 1 + ZOOM * s * u[2],
            "at": (0.5 + 0.5 * s * u[3], 0.5 + 0.5 * s * u[4]),
            "shift": (SHIFT * s * u[5], SHIFT * s * u[6]),
        }

    def apply(
        self,
        img: np.ndarray,
        mirror: bool,
        angle: float,
        zoom: float,
        at: Any,
        shift: Any,
        **_: Any,
    ) -> np.ndarray:
        target = (self.height, self.width)
        m = matrix(
            (img.shape[0], img.shape[1]),
            target,
            self.fit,
            mirror=mirror,
            angle=angle,
            zoom=zoom,
            at=at,
            shift=shift,
        )
        return warp(img, m, target)


class Policy:
    """Transforms whose draws depend on nothing but the seed given with each photo.

    Not safe for two threads at once (the random state is shared): make one per thread.
    """

    def __init__(self, transforms: list[A.BasicTransform]):
        self.transforms = transforms
        self._compose = A.Compose(transforms)

    def __call__(self, photo: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """uint8 (H, W, 3) → uint8, augmented. Raises ConfigError on other pixels."""
        check_pixels(photo)
        # Compose.set_random_seed would start every transform from the same numbers, so that a
        # flip and a brightness draw go together; one generator for all of them does not.
        generator = np.random.default_rng(seed)
        python = random.Random(int(generator.integers(2**63)))
        self._compose.set_random_state(generator, python)
        return self._compose(image=photo)["image"]


def policy(name: str, height: int, width: int, fit: str, strength: float = 1.0) -> Policy:
    """The training policy of that name at that strength.

    light: RandomView. medium: light, then brightness and contrast, colour at p=0.5, and cut-out at p=0.5 (S19).
    none: the photo itself. A path: a policy saved by ``albumentations.save``, after the photo is
    brought to size; strength does not change it, and it is linted. Raises ConfigError on an unknown name or a refused policy.
    """
    place = RandomView(height, width, fit, strength)
    if name in ("light", "none"):
        return Policy([place] if name == "light" else [_Place(height, width, fit)])
    if name == "medium":
        transforms: list[A.BasicTransform] = [place]
        if strength > 0:
            limit = BRIGHTNESS * strength
            transforms += [
                A.RandomBrightnessContrast((-limit, limit), (-limit, limit), p=1.0),
                A.HueSaturationValue(
                    (-HUE * strength, HUE * strength),
                    (-SATURATION * strength, SATURATION * strength),
                    0,
                    p=0.5,
                ),
                A.CoarseDropout((1, 1), CUTOUT, CUTOUT, fill=GREY, p=0.5 * strength),
            ]
        return Policy(transforms)
    path = disk.user_path(name)
    if not path.is_file():
        raise ConfigError(
            f"augment={name!r}: expected {', '.join(POLICIES)} or a file saved by albumentations.save"
        )
    try:
        loaded = A.load(path, data_format="yaml" if path.suffix in (".yaml", ".yml") else "json")
    except Exception as error:  # YAML's errors, whatever a transform says of its arguments: here it becomes a sentence
        raise ConfigError(
            f"augment={name}: not a policy saved by albumentations.save ({error})"
        ) from None
    transforms = list(loaded.transforms) if isinstance(loaded, A.Compose) else [loaded]
    problems = lint(transforms, height, width)
    if isinstance(loaded, A.Compose) and loaded.p < 1:
        problems.append(f"the whole Compose has p={loaded.p}; give each transform its own")
    if problems:
        raise ConfigError(f"augment={name}: " + "; ".join(problems))
    return Policy([_Place(height, width, fit), *transforms])


class _Place(A.ImageOnlyTransform):
    """``view`` as a transform."""

    def __init__(self, height: int, width: int, fit: str = "pad", p: float = 1.0):
        super().__init__(p=p)
        self.height, self.width, self.fit = height, width, fit

    def apply(self, img: np.ndarray, **_: Any) -> np.ndarray:
        return view(img, (self.height, self.width), self.fit)


def lint(transforms: list[A.BasicTransform], height: int, width: int) -> list[str]:
    """What is wrong with a policy for car photos, one sentence each; an empty list if nothing is.

    Judged by what each transform does to two made-up photos. Refused: turning a car on its roof or side (S22), changing next to
    nothing while still costing time (S21), and output other than uint8 of the same size.
    """
    probe = _probe(height, width)
    sky = np.zeros_like(probe)  # above, the road below
    sky[: height // 2] = 255
    problems = []
    for transform in transforms:
        name = type(transform).__name__
        try:
            outputs = [_apply_always(transform, probe, seed) for seed in range(16)]
        except (
            Exception
        ) as error:  # somebody else's transform may raise anything; here it becomes a sentence
            problems.append(f"{name} cannot be applied to a photo of {height}x{width}: {error}")
            continue
        # Inside OneOf and the like a flip may be rare: each part is looked at by itself.
        turning = next((part for part in _parts(transform) if _turns(part, sky)), None)
        if turning is not None:
            which = name if turning is transform else f"{type(turning).__name__} in {name}"
            problems.append(
                f"{which} turns cars upside down or on their side; use HorizontalFlip and small rotations"
            )
            continue
        wrong = [o for o in outputs if o.dtype != np.uint8 or o.shape != probe.shape]
        if wrong:
            problems.append(
                f"{name} turns uint8 {probe.shape} into {wrong[0].dtype} {wrong[0].shape}"
            )
            continue
        change = float(np.sqrt(np.mean([(o.astype(float) - probe) ** 2 for o in outputs])))
        if change < NO_OP:
            problems.append(
                f"{name} changes a photo by {change:.1f} of 255 grey levels: it only costs time"
            )
    return problems


def _parts(transform: Any) -> list[Any]:
    """The transform, then all those inside it."""
    return [
        transform,
        *(part for inner in getattr(transform, "transforms", ()) for part in _parts(inner)),
    ]


def _turns(transform: Any, sky: np.ndarray) -> bool:
    third = len(sky) // 3
    for seed in range(16):
        try:
            seen = _apply_always(transform, sky, seed)
        except (
            Exception
        ):  # a part may be made for what another one leaves; the whole can be applied
            return False
        alike = seen.dtype == np.uint8 and seen.shape == sky.shape
        if alike and seen[:third].mean() <= seen[-third:].mean() + 20:
            return True
    return False


def _probe(height: int, width: int) -> np.ndarray:
    """A photo of blobs of every grey, as coarse as a car's parts whatever the size, so that small moves show."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 160, 3), np.uint8)
    blobs = cv2.merge([cv2.equalizeHist(c) for c in cv2.split(cv2.GaussianBlur(noise, (0, 0), 3))])
    return cv2.resize(blobs, (width, height), interpolation=cv2.INTER_LINEAR)


def _apply_always(transform: A.BasicTransform, photo: np.ndarray, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    transform.set_random_state(generator, random.Random(seed))
    p, transform.p = transform.p, 1.0
    try:
        return transform(image=photo)["image"]
    finally:
        transform.p = p

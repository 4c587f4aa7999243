"""Augmentation: geometry by arithmetic, draws that depend on the seed alone."""

import random
import re
from dataclasses import astuple, replace

import albumentations as A
import numpy as np
import pytest

from carcls.data import augment
from carcls.data.augment import Move
from carcls.data.lint import blobs
from carcls.errors import ConfigError


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_view_of_the_same_size_is_the_photo_itself():
    photo = noise(20, 30)
    assert (augment.view(photo, (20, 30), "pad") == photo).all()
    assert (augment.view(photo, (20, 30), "crop", mirror=True) == photo[:, ::-1]).all()


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("target", [(64, 96), (80, 60)])
def test_view_is_the_warp_without_turn_or_shift(fit, target):
    photo = blobs(75, 141)
    for mirror in (False, True):
        m = augment.matrix((75, 141), target, fit, Move(mirror=mirror))
        warped = augment.warp(photo, m, target).astype(int)
        seen = augment.view(photo, target, fit, mirror)
        assert seen.shape == warped.shape
        inner = np.s_[4:-4, 4:-4]
        apart = np.abs(seen - warped)[inner].mean()
        for moved in (np.roll(warped, 2, 0), np.roll(warped, 2, 1), warped[:, ::-1]):
            assert apart < 0.4 * np.abs(seen - moved)[inner].mean()


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_a_circle_stays_a_circle(fit):  # S8
    y, x = np.mgrid[:100, :200]
    inside = (y - 50) ** 2 + (x - 100) ** 2 < 30**2
    photo = np.where(inside, 255, 0).astype(np.uint8)[..., None].repeat(3, 2)
    seen = augment.view(photo, (96, 96), fit)[..., 0] > 127
    height, width = np.ptp(np.nonzero(seen.any(1))) + 1, np.ptp(np.nonzero(seen.any(0))) + 1
    assert abs(height - width) <= 1
    assert abs(height - {"pad": 60 * 0.48, "crop": 60 * 0.96}[fit]) <= 2


@pytest.mark.parametrize(
    ("photo_hw", "at", "target", "move", "seen"),
    [
        ((60, 80), (20, 50), (60, 80), Move(shift=(0.1, -0.25)), (26, 30)),  # 6 px down, 20 left
        # Twice as wide as the target: cropped in the middle, and at its right end.
        ((60, 160), (20, 100), (60, 80), Move(at=(0.5, 0.5)), (20, 100 - 40)),
        ((60, 160), (20, 100), (60, 80), Move(at=(0.5, 1.0)), (20, 100 - 80)),
        ((61, 61), (30, 50), (61, 61), Move(angle=90), (50, 30)),
        ((61, 61), (30, 50), (61, 61), Move(zoom=0.5), (30, 40)),
    ],
)
def test_moves_are_where_arithmetic_puts_them(photo_hw, at, target, move, seen):
    (height, width), (y, x) = photo_hw, at
    photo = np.full((height, width, 3), 60, np.uint8)
    photo[y - 1 : y + 2, x - 1 : x + 2] = 255  # a white dot
    moved = augment.warp(photo, augment.matrix(photo_hw, target, "crop", move), target)
    bright = np.nonzero(moved[..., 0] > 130)
    assert [part.mean() for part in bright] == pytest.approx(seen, abs=0.6)


def test_draws_depend_on_the_seed_alone():
    photo = noise(50, 70)
    one, other = (augment.policy("medium", 40, 56, "crop") for _ in range(2))
    other(photo, (9, 9))  # what was drawn before does not matter
    assert (one(photo, (1, 2)) == other(photo, (1, 2))).all()
    seen = {one(photo, (1, n)).tobytes() for n in range(20)}
    assert len(seen) == 20


def test_a_random_view_draws_each_of_its_moves_by_itself_over_the_whole_range():  # S2
    place = augment.RandomView(40, 60, "crop", strength=0.5)
    place.set_random_state(np.random.default_rng(0), random.Random(0))
    limits = (1, augment.ROTATE, augment.ZOOM, 0.5, 0.5, augment.SHIFT, augment.SHIFT)
    rows = []
    for _ in range(400):
        mirror, angle, zoom, at, shift = astuple(place.get_params()["move"])
        rows.append([mirror - 0.5, angle, zoom - 1, at[0] - 0.5, at[1] - 0.5, *shift])
    drawn = np.array(rows) / limits
    assert drawn.shape == (400, 7)
    assert drawn.max(0) == pytest.approx([0.5] * 7, abs=0.04)
    assert drawn.min(0) == pytest.approx([-0.5] * 7, abs=0.04)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(7)).max() < 0.2


@pytest.mark.parametrize(
    "move",
    [{"mirror": True}, {"angle": 5.0}, {"zoom": 1.1}, {"at": (0.2, 0.5)}, {"shift": (0.0, 0.1)}],
    ids=str,
)
def test_a_random_view_makes_each_move_that_is_drawn(move):
    photo = noise(60, 80)
    place = augment.RandomView(40, 60, "crop")
    still = Move(zoom=1.05)  # so that both axes have slack to crop
    assert (place.apply(photo, replace(still, **move)) != place.apply(photo, still)).any()


def test_flips_and_brightness_are_drawn_independently():
    """Compose.set_random_seed starts each transform from the same numbers: they go together."""
    photo = np.full((40, 60, 3), 100, np.uint8)
    photo[:, :20] = 140
    policy = augment.policy("medium", 40, 60, "pad")
    flipped, bright = [], []
    for n in range(200):
        seen = policy(photo, (n,)).astype(float)
        flipped.append(seen[:, 50:].mean() > seen[:, :10].mean())
        bright.append(seen.mean())
    bright = np.array(bright)
    means = [bright[np.array(flipped) == side].mean() for side in (True, False)]
    assert 60 < sum(flipped) < 140
    assert abs(means[0] - means[1]) < 0.5 * bright.std()


def test_strength_zero_leaves_only_the_flip():
    photo = noise(40, 60)
    policy = augment.policy("medium", 40, 60, "pad", strength=0.0)
    for n in range(10):
        seen = policy(photo, (n,))
        assert (seen == photo).all() or (seen == photo[:, ::-1]).all()


def test_cars_are_never_upside_down():
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[:20] = 255  # sky
    policy = augment.policy("medium", 40, 60, "crop")
    seen = [policy(photo, (n,)) for n in range(50)]
    assert all(photo[:10].mean() > photo[-10:].mean() + 50 for photo in seen)


@pytest.mark.parametrize(
    ("shape", "kind"), [((8, 8, 3), "float32"), ((8, 8), "uint8"), ((3, 8, 8), "uint8")]
)
def test_other_pixels_are_refused(shape, kind):  # S3
    with pytest.raises(ConfigError, match=re.escape(f"{kind} {shape}")):
        augment.policy("light", 8, 8, "pad")(np.zeros(shape, kind), (1,))


def test_what_views_are_drawn_from_always_acts():  # S56: else some views would be the photo itself
    transforms = augment.policy("light", 96, 96, "pad", 0.5).transforms
    assert [transform.p for transform in transforms] == [1.0]


def test_a_policy_from_a_file_is_linted_and_used(tmp_path):
    A.save(A.Compose([A.HorizontalFlip(p=1.0)]), tmp_path / "mine.json")
    photo = noise(40, 60)
    policy = augment.policy(str(tmp_path / "mine.json"), 40, 60, "pad")
    assert (policy(photo, (1,)) == photo[:, ::-1]).all()
    A.save(A.Compose([A.VerticalFlip(p=1.0)]), tmp_path / "bad.json")
    with pytest.raises(ConfigError, match="bad.json: VerticalFlip"):
        augment.policy(str(tmp_path / "bad.json"), 40, 60, "pad")
    for kind, texts in (("json", ("{", "{}", "[1]")), ("yaml", ("a: [b", "\x00"))):
        for text in texts:
            (tmp_path / f"broken.{kind}").write_text(text)
            with pytest.raises(ConfigError, match=f"broken.{kind}: not a policy"):
                augment.policy(str(tmp_path / f"broken.{kind}"), 40, 60, "pad")
    with pytest.raises(ConfigError, match="augment='strong'"):
        augment.policy("strong", 40, 60, "pad")


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("shape", [(6, 40_000), (40_000, 6), (1, 65_535)])
def test_a_photo_longer_than_opencv_warps(shape, fit):
    """Dark at its start and light at its end, where a mirror image and the middle show."""
    axis = int(shape[1] > shape[0])
    slope = np.linspace(0, 255, max(shape)).astype(np.uint8)
    photo = np.broadcast_to(np.expand_dims(slope, (1 - axis, 2)), (*shape, 3))
    target = (48, 64)
    asis, mirrored = (augment.view(photo, target, fit, mirror) for mirror in (False, True))
    assert (asis[:, ::-1] == mirrored).mean() > 0.99
    if fit == "crop":
        assert np.abs(asis.astype(int) - 127).max() < 3  # what is in the middle
    else:
        seen = asis[23, :, 0] if axis else asis[:, 31, 0]
        assert (np.diff(seen.astype(int)) >= 0).all() and seen[0] < 10 and seen[-1] > 245
    for strength in (0.0, 1.0):
        drawn = augment.policy("light", *target, fit, strength)(photo, (3,))
        assert drawn.shape == (*target, 3) and (fit == "pad" or drawn.std() < 40)

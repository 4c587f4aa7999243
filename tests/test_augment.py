"""Augmentation: geometry by arithmetic, draws that depend on the seed alone, and the linter."""

import random
import re

import albumentations as A
import numpy as np
import pytest

from carcls.data import augment
from carcls.errors import ConfigError


def dots(height: int, width: int, at: list[tuple[int, int]]) -> np.ndarray:
    """Grey photo with a white 3 × 3 dot at each (y, x)."""
    photo = np.full((height, width, 3), 60, np.uint8)
    for y, x in at:
        photo[y - 1 : y + 2, x - 1 : x + 2] = 255
    return photo


def brightest(photo: np.ndarray) -> tuple[float, float]:
    """Centre of mass of what is clearly brighter than the grey."""
    y, x = np.nonzero(photo[..., 0] > 130)
    return y.mean(), x.mean()


def test_view_of_the_same_size_is_the_photo_itself():
    photo = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert (augment.view(photo, (20, 30), "pad") == photo).all()
    assert (augment.view(photo, (20, 30), "crop", mirror=True) == photo[:, ::-1]).all()


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("target", [(64, 96), (80, 60)])
def test_view_is_the_warp_without_turn_or_shift(fit, target):
    photo = augment._probe(75, 141)
    for mirror in (False, True):
        warped = augment.warp(
            photo, augment.matrix((75, 141), target, fit, mirror=mirror), target
        ).astype(int)
        seen = augment.view(photo, target, fit, mirror)
        assert seen.shape == warped.shape
        inner = np.s_[4:-4, 4:-4]
        apart = np.abs(seen - warped)[inner].mean()
        for moved in (np.roll(warped, 2, 0), np.roll(warped, 2, 1), warped[:, ::-1]):
            assert apart < 0.4 * np.abs(seen - moved)[inner].mean()


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_a_circle_stays_a_circle(fit):  # S8
    y, x = np.mgrid[:100, :200]
    photo = (
        np.where((y - 50) ** 2 + (x - 100) ** 2 < 30**2, 255, 0)
        .astype(np.uint8)[..., None]
        .repeat(3, 2)
    )
    seen = augment.view(photo, (96, 96), fit)[..., 0] > 127
    height, width = np.ptp(np.nonzero(seen.any(1))) + 1, np.ptp(np.nonzero(seen.any(0))) + 1
    assert abs(height - width) <= 1
    assert abs(height - {"pad": 60 * 0.48, "crop": 60 * 0.96}[fit]) <= 2


def test_shift_and_crop_move_each_axis_by_its_own_amount():
    photo = dots(60, 80, [(20, 50)])
    m = augment.matrix((60, 80), (60, 80), "pad", shift=(0.1, -0.25))  # 6 px down, 20 px left
    assert brightest(augment.warp(photo, m, (60, 80))) == pytest.approx((26, 30), abs=0.2)
    # A photo twice as wide as the target, cropped at its left end: x stays, and at its right end: x
    # moves by 80.
    wide = dots(60, 160, [(20, 100)])
    for at, x in ((1.0, 100 - 80), (0.5, 100 - 40)):
        m = augment.matrix((60, 160), (60, 80), "crop", at=(0.5, at))
        assert brightest(augment.warp(wide, m, (60, 80))) == pytest.approx((20, x), abs=0.2)


def test_rotation_and_zoom_are_about_the_centre():
    photo = dots(61, 61, [(30, 50)])
    m = augment.matrix((61, 61), (61, 61), "pad", angle=90)
    assert brightest(augment.warp(photo, m, (61, 61))) == pytest.approx((50, 30), abs=0.3)
    m = augment.matrix((61, 61), (61, 61), "pad", zoom=0.5)
    assert brightest(augment.warp(photo, m, (61, 61)))[1] == pytest.approx(40, abs=0.6)


def test_draws_depend_on_the_seed_alone():
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    one, other = (augment.policy("medium", 40, 56, "crop") for _ in range(2))
    other(photo, (9, 9))  # what was drawn before does not matter
    assert (one(photo, (1, 2)) == other(photo, (1, 2))).all()
    seen = {one(photo, (1, n)).tobytes() for n in range(20)}
    assert len(seen) == 20


def test_a_random_view_draws_each_of_its_moves_by_itself_over_the_whole_range():  # S2
    place = augment.RandomView(40, 60, "crop", strength=0.5)
    place.set_random_state(np.random.default_rng(0), random.Random(0))
    limits = {
        "angle": (augment.ROTATE, 0),
        "zoom": (augment.ZOOM, 1),
        "at": (0.5, 0.5),
        "shift": (augment.SHIFT, 0),
    }
    rows = []
    for _ in range(400):
        params = place.get_params()
        moves = [
            (np.atleast_1d(params[name]) - middle) / limit
            for name, (limit, middle) in limits.items()
        ]
        rows.append(np.concatenate([[params["mirror"] - 0.5], *moves]))
    drawn = np.array(rows)
    assert drawn.shape == (400, 7)
    assert drawn.max(0) == pytest.approx([0.5] * 7, abs=0.04)
    assert drawn.min(0) == pytest.approx([-0.5] * 7, abs=0.04)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(7)).max() < 0.2


@pytest.mark.parametrize(
    "move",
    [
        {"mirror": True},
        {"angle": 5.0},
        {"zoom": 1.1},
        {"at": (0.2, 0.5)},
        {"at": (0.5, 0.2)},
        {"shift": (0.1, 0.0)},
        {"shift": (0.0, 0.1)},
    ],
    ids=str,
)
def test_a_random_view_makes_each_move_that_is_drawn(move):
    photo = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    place = augment.RandomView(40, 60, "crop")
    still = {"mirror": False, "angle": 0.0, "zoom": 1.0, "at": (0.5, 0.5), "shift": (0.0, 0.0)}
    # Both axes have slack to crop, as the photo is shown larger.
    assert (
        place.apply(photo, **still | {"zoom": 1.05} | move)
        != place.apply(photo, **still | {"zoom": 1.05})
    ).any()


def test_flips_and_brightness_are_drawn_independently():
    """Compose.set_random_seed starts every transform from the same numbers; then these two would go together."""
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
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    policy = augment.policy("medium", 40, 60, "pad", strength=0.0)
    for n in range(10):
        seen = policy(photo, (n,))
        assert (seen == photo).all() or (seen == photo[:, ::-1]).all()


def test_cars_are_never_upside_down():
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[:20] = 255  # sky
    policy = augment.policy("medium", 40, 60, "crop")
    assert all(
        s[:10].mean() > s[-10:].mean() + 50 for s in (policy(photo, (n,)) for n in range(50))
    )


@pytest.mark.parametrize(
    ("photo", "said"),
    [
        (np.full((8, 8, 3), 200.0, np.float32), "float32.*in 200–200"),  # S3
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\)"),
    ],
)
def test_other_pixels_are_refused(photo, said):
    with pytest.raises(ConfigError, match=said):
        augment.policy("light", 8, 8, "pad")(photo, (1,))


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (A.VerticalFlip(), "VerticalFlip turns cars upside down"),  # S22
        (A.RandomRotate90(), "upside down"),
        (A.Rotate((180, 180)), "upside down"),
        (A.OneOf([A.VerticalFlip(p=1), A.HorizontalFlip(p=1)]), "upside down"),
        (A.RandomCrop(500, 500), "cannot be applied to a photo of 128x160"),
        (A.Affine(scale=(0.99, 1.01)), "Affine changes a photo by .* it only costs time"),  # S21
        (
            A.CoarseDropout((1, 1), (18 / 250, 18 / 250), (18 / 250, 18 / 250)),
            "only costs time",
        ),  # S18
        (A.ToFloat(), "into float32"),
        (A.Resize(50, 50), r"into uint8 \(50, 50, 3\)"),
        (
            A.OneOf([A.VerticalFlip(), *[A.HorizontalFlip()] * 40]),
            "VerticalFlip in OneOf turns cars upside down",
        ),
    ],
)
def test_the_linter_refuses(transform, said):
    problems = augment.lint([transform], 128, 160)
    assert len(problems) == 1
    assert re.search(said, problems[0])


def test_the_linter_passes_what_the_policies_use():
    for name in ("light", "medium"):
        transforms = augment.policy(name, 128, 160, "crop").transforms
        assert augment.lint(transforms, 128, 160) == []


def test_the_linter_passes_steps_that_alone_would_not_do():
    steps = A.Sequential([A.Resize(400, 500), A.RandomCrop(300, 400), A.Resize(128, 160)])
    assert augment.lint([steps], 128, 160) == []


def test_what_views_are_drawn_from_always_acts():  # S56: else some views would be the photo itself
    assert [
        transform.p for transform in augment.policy("light", 96, 96, "pad", 0.5).transforms
    ] == [1.0]


def test_a_policy_from_a_file_is_linted_and_used(tmp_path):
    A.save(A.Compose([A.HorizontalFlip(p=1.0)]), tmp_path / "mine.json")
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    policy = augment.policy(str(tmp_path / "mine.json"), 40, 60, "pad")
    assert (policy(photo, (1,)) == photo[:, ::-1]).all()
    A.save(A.Compose([A.VerticalFlip(p=1.0)]), tmp_path / "bad.json")
    with pytest.raises(ConfigError, match="bad.json: VerticalFlip"):
        augment.policy(str(tmp_path / "bad.json"), 40, 60, "pad")
    for name, text in (
        ("json", "{"),
        ("json", "{}"),
        ("json", "[1]"),
        ("yaml", "a: [b"),
        ("yaml", "\x00"),
    ):
        (tmp_path / f"broken.{name}").write_text(text)
        with pytest.raises(ConfigError, match=f"broken.{name}: not a policy"):
            augment.policy(str(tmp_path / f"broken.{name}"), 40, 60, "pad")
    with pytest.raises(ConfigError, match="augment='strong'.*light, medium, none"):
        augment.policy("strong", 40, 60, "pad")

"""The linter of policies: what it refuses, and what it lets pass."""

import re

import albumentations as A
import pytest

from carcls.data import augment
from carcls.data.lint import lint

HOLE = (18 / 250, 18 / 250)


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (A.VerticalFlip(), "VerticalFlip turns cars upside down"),  # S22
        (A.RandomRotate90(), "upside down"),
        (A.Rotate((180, 180)), "upside down"),
        (A.OneOf([A.VerticalFlip(), *[A.HorizontalFlip()] * 40]), "VerticalFlip in OneOf turns"),
        (A.RandomCrop(500, 500), "cannot be applied to a photo of 128x160"),
        (A.Affine(scale=(0.99, 1.01)), "Affine changes .* it only costs time"),  # S21
        (A.CoarseDropout((1, 1), HOLE, HOLE), "only costs time"),  # S18
        (A.ToFloat(), "into float32"),
        (A.Resize(50, 50), r"into uint8 \(50, 50, 3\)"),
    ],
)
def test_the_linter_refuses(transform, said):
    problems = lint([transform], 128, 160)
    assert len(problems) == 1
    assert re.search(said, problems[0])


def test_the_linter_passes_what_the_policies_use():
    for name in ("light", "medium"):
        transforms = augment.policy(name, 128, 160, "crop").transforms
        assert lint(transforms, 128, 160) == []


def test_the_linter_passes_steps_that_alone_would_not_do():
    steps = A.Sequential([A.Resize(400, 500), A.RandomCrop(300, 400), A.Resize(128, 160)])
    assert lint([steps], 128, 160) == []

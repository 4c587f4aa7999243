"""The linter of policies: what it refuses, and what it lets pass."""

import re
import threading
import time

import albumentations as A
import pytest

from carcls.data import augment
from carcls.data.lint import lint, read

WIDE = A.RandomScale((500, 600))
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
        (WIDE, "cannot be applied to a photo of 128x160"),
        (A.OneOf([WIDE, *[A.ColorJitter()] * 40]), "RandomScale"),
        (A.OneOf([A.PadIfNeeded(50_000, 50)]), "min_height is 50,000"),
        (A.GaussianBlur((99_999, 99_999)), "GaussianBlur: blur_limit is 99,999"),
        (A.CoarseDropout((10**7, 10**7)), "CoarseDropout: num_holes_range is 10,000,000"),
        (A.Sequential([A.HorizontalFlip()] * 1500), "1,501 transforms"),
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


class Slow(A.HorizontalFlip):
    def apply(self, img, **_):
        time.sleep(0.2)
        return img


def test_the_linter_waits_for_no_transform(monkeypatch):
    monkeypatch.setattr("carcls.data.lint._SECONDS", 0.3)
    start = time.monotonic()
    (problem,) = lint([A.ColorJitter((0.5, 0.5)), Slow(), A.ColorJitter()], 32, 32)
    assert "Slow takes more than" in problem
    assert time.monotonic() - start < 2 and "_judge" not in str(threading.enumerate())
    assert not lint([A.PlanckianJitter(temperature_limit=(3000, 15_000))], 32, 32)


def nested(start: str, join: str) -> str:
    """YAML of 30 levels, each of which has the one before it twice: a thousand million parts."""
    lines = [
        f"a0: &a0 {start}",
        *(f"a{n}: &a{n} {join.replace('_', f'*a{n - 1}')}" for n in range(1, 30)),
    ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text", [nested("[x]", "[_, _]"), nested("{x: 1}", "{<<: [_, _]}"), "a: &a [*a]", "#" * 200_000]
)
def test_a_policy_file_is_no_larger_than_it_looks(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected|references"):
        read(path)


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_a_policy_file_is_read(tmp_path, kind):
    policy = A.Compose([A.HorizontalFlip(p=0.25), A.Affine(rotate=(-5, 5))])
    A.save(policy, tmp_path / f"a.{kind}", kind)
    assert A.from_dict(read(tmp_path / f"a.{kind}")).to_dict() == policy.to_dict()

"""Shared by all tests: settings that must be there before the first import, small photos and competitions."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import warnings
from pathlib import Path

with warnings.catch_warnings():
    # Warnings are errors in our tests; those that other packages raise while they are imported are
    # not ours: matplotlib calls deprecated names of pyparsing, keras-cv's tensorflow-datasets those
    # of pkg_resources.
    warnings.simplefilter("ignore")
    import keras  # noqa: F401  # likewise
    import keras_cv  # noqa: F401  # imported for its warnings, once, here
    import matplotlib.pyplot  # noqa: F401  # likewise

import cv2
import numpy as np
import pandas as pd
import pytest
import small

CARS10 = Path(__file__).parents[2] / "shared" / "data" / "cars10"


@pytest.fixture(scope="session")
def cars10() -> Path:
    if not CARS10.is_dir():
        pytest.skip("the photos of cars10 are not beside the repository")
    return CARS10


def write_photo(path: Path, photo: np.ndarray) -> Path:
    """RGB uint8 (H, W, 3) to a file of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
    return path


def easy_photo(
    label: int, rng: np.random.Generator, height: int = 48, width: int = 64
) -> np.ndarray:
    """A noisy photo whose class shows in its colour."""
    photo = rng.integers(0, 60, (height, width, 3))
    photo[..., label % 3] += 120 + 30 * (label // 3)
    return photo.clip(0, 255).astype(np.uint8)


def says(tops, sure: float = 0.8, classes: int = 3) -> np.ndarray:
    """(views, photos) classes → votes (views, photos, classes) float32 that put them first with that probability."""
    tops = np.asarray(tops)
    probs = np.full((*tops.shape, classes), (1 - sure) / (classes - 1), np.float32)
    np.put_along_axis(probs, tops[..., None], sure, axis=2)
    return probs


@pytest.fixture
def competition(tmp_path: Path) -> Path:
    return easy_competition(tmp_path / "competition", 36, 10)


def easy_competition(root: Path, train: int, test: int) -> Path:
    """Three easy classes, so many train and test photos, unpacked, in the competition's layout."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(train):
        write_photo(root / "train" / str(n % 3) / f"{100 + n}.png", easy_photo(n % 3, rng))
        rows.append((f"{100 + n}.png", n % 3))
    for n in range(test):
        write_photo(root / "test_upload" / f"{900 + n}.png", easy_photo(n % 3, rng))
    pd.DataFrame(rows, columns=["Id", "Category"]).to_csv(root / "train.csv", index=False)
    sample = pd.DataFrame({"Id": [f"{900 + n}.png" for n in reversed(range(test))], "Category": 0})
    sample.to_csv(root / "sample-submission.csv", index=False)
    return root


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A backbone of two small convolutions with BN, so that a whole run takes seconds."""
    from carcls.nets import registry as backbones

    entry = backbones.Backbone("tiny", "keras", small.tiny, "x / 127.5 - 1", None, "tests")
    monkeypatch.setitem(backbones.REGISTRY, "tiny", entry)
    return "tiny"

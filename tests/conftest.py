"""Shared by all tests: what must be set before the first import, small photos, and a tiny run."""

import contextlib
import gc
import io
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, partialmethod
from pathlib import Path

with warnings.catch_warnings():
    # Warnings are errors in our tests; those that other packages raise while they are imported are
    # not ours: matplotlib calls deprecated names of pyparsing, keras-cv's tensorflow-datasets those
    # of pkg_resources.
    warnings.simplefilter("ignore")
    import keras
    import keras_cv  # noqa: F401  # imported for its warnings, once, here
    import matplotlib.pyplot  # noqa: F401  # likewise

import cv2
import numpy as np
import pandas as pd
import pytest
import small
import tensorflow as tf
from recorder import Recorder

from carcls import config, run
from carcls.config import Config
from carcls.nets import registry
from carcls.report import look, page

# What the imports have made stays to the end: a collection need not walk through it each time.
gc.freeze()

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


@pytest.fixture
def competition(tmp_path: Path) -> Path:
    return easy_competition(tmp_path / "competition", 36, 10)


def easy_competition(root: Path, train: int, test: int) -> Path:
    """Three easy classes, so many photos, unpacked, in the competition's layout."""
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
    """The network of ``small``, so that a whole run takes seconds."""
    monkeypatch.setitem(registry.REGISTRY, "tiny", small.ENTRY)
    return "tiny"


# What makes a run tiny: 27 photos to train, 9 to check, 10 to predict.
TINY = {
    "backbone": "tiny",
    "weights": "none",
    "stages": "32x48x2,48x64x2",
    "batch": 8,
    "lr": 0.02,
    "views": 4,
    "val_fraction": 0.25,
}


@pytest.fixture
def cfg(competition: Path, tmp_path: Path, tiny: str) -> Config:
    """Of a tiny run into a folder of its own."""
    return config.parse({**TINY, "data": str(competition), "out": str(tmp_path / "out")})


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report and no pictures, which take half of a tiny run's time."""
    for module, name in ((page, "before_training"), (page, "write"), (look, "write")):
        monkeypatch.setattr(module, name, lambda *_: [])


@pytest.fixture
def brief(cfg: Config, without_pictures: None, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Of a run of one step a network, which is not traced: that takes longer than the step.

    For what happens before, between and after trainings.
    """
    eagerly = property(lambda net: True, lambda net, value: None)
    monkeypatch.setattr(keras.Model, "run_eagerly", eagerly)
    return cfg.replace(stages="32x48x1", batch=64)


class IdleSteps:
    """Steps that compute nothing; batches, callbacks, states and votes around them are as ever."""

    logs = {"loss": 1.0, "accuracy": 0.5}  # noqa: RUF012

    def took(self, kind: str, images: tf.Tensor) -> None:
        """A step with images (B, H, W, 3) is over; kind: train, test or predict."""

    def train(self, net: keras.Model, iterator: Iterator) -> dict[str, float]:
        self.took("train", next(iterator)[0])
        net.optimizer.iterations.assign_add(1)
        return self.logs

    def test(self, net: keras.Model, iterator: Iterator) -> dict[str, float]:
        self.took("test", next(iterator)[0])
        return self.logs

    def predict(self, net: keras.Model, data: list) -> tf.Tensor:
        images = data[0][0]
        self.took("predict", images)
        return tf.reduce_mean(tf.cast(images, tf.float32), (1, 2))  # a class shows in its colour

    def replace_real_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def make(net: keras.Model, kind: str, force: bool = False) -> None:
            setattr(net, f"{kind}_function", partial(getattr(self, kind), net))

        for kind in ("train", "test", "predict"):
            function = partialmethod(make, kind)
            monkeypatch.setattr(keras.Model, f"make_{kind}_function", function)
        monkeypatch.setattr(keras.Model, "get_metrics_result", lambda net: self.logs)


@dataclass(frozen=True)
class Finished:
    cfg: Config
    out: Path
    said: str  # the log


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A tiny run, to be read only."""
    folder, said = tmp_path_factory.mktemp("finished"), io.StringIO()
    data = easy_competition(folder / "competition", 36, 10)
    # Nobody listens there, and nothing else changes.
    settings = {**TINY, "monitor_url": "http://127.0.0.1:1"}
    cfg = config.parse({**settings, "data": str(data), "out": str(folder / "out")})
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setitem(registry.REGISTRY, "tiny", small.ENTRY)
        run(cfg)
    return Finished(cfg, folder / "out", said.getvalue())


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A server for what is posted to its ``url``; it takes what comes to the paths of the tests."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    recorder = Recorder()
    recorder.answers = {"": {}, "/": {}, "/publish/epoch/end/": {}}
    yield recorder
    recorder.close()


class Killed(BaseException):
    """Whoever cleans up after it is killed, too."""


@pytest.fixture
def kill_at(monkeypatch):
    """Sets the number of the moment, before or after an operation on files, when all ends."""
    moment, left = [0], [0]

    def kills(function):
        def wrapper(*args, **named):
            result = None
            for does in (False, True):
                left[0] -= 1
                if moment[0] and left[0] <= 0:
                    if hasattr(result, "close"):
                        result.close()
                    raise Killed
                result = result if does else function(*args, **named)
            return result

        return wrapper

    monkeypatch.setattr(os, "fsync", lambda file: None)  # slow, and no power is cut here
    owners = {Path: ("open", "replace", "rename", "unlink", "mkdir"), os: ("fsync",)}
    for owner, operations in (owners | {np: ("savez",)}).items():
        for name in operations:
            monkeypatch.setattr(owner, name, kills(getattr(owner, name)))

    def set_to(number: int) -> None:
        moment[0] = left[0] = number

    return set_to

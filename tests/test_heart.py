"""The heart of a run, watched from outside: what the network sees, and which weights go where.

Two tiny runs. ``progress`` trains through two sizes, is stopped in the second one and goes on in
another session; what validation says is scripted, so that the best epoch is never the last.
``ensemble`` has two members, files that are there twice, and votes that are scripted, so that views
of some photos agree and of others do not.
Of the package's insides it knows only the names in ``small_network`` and ``without_pictures``.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pandas as pd
import pytest
import small
import tensorflow as tf
from conftest import write_photo
from sklearn.linear_model import LogisticRegression

from carcls import Config, run

SMALL, LARGE = (32, 48), (48, 72)  # sizes in training; the files have the large one
RATE = 0.02
SETTINGS = {"backbone": "watched", "weights": "none", "batch": 8, "lr": RATE}


# --- All that is known of the package's insides --------------------------------------------------


def small_network(patch: pytest.MonkeyPatch) -> None:
    """The network "watched" is one that trains in seconds."""
    from carcls.nets import registry

    entry = registry.Backbone("watched", "keras", small.tiny, "x / 127.5 - 1", None, "tests")
    patch.setitem(registry.REGISTRY, "watched", entry)


def without_pictures(patch: pytest.MonkeyPatch) -> None:
    """No report and no pictures, which would take most of the time."""
    from carcls.report import page

    for name in ("before_training", "write"):
        patch.setattr(page, name, lambda *_: [])


# --- Photos that tell where they come from -------------------------------------------------------


def drawn(level: int) -> np.ndarray:
    """(48, 72, 3): red grows to the right, green downwards, blue is the photo's own level."""
    rows, columns = np.indices(LARGE)
    red, green = (np.rint(255 * part / (part.max())) for part in (columns, rows))
    return np.stack([red, green, np.full(LARGE, level)], axis=2).astype(np.uint8)


def level_of(image: np.ndarray) -> int:
    """Which photo that is: grey borders do not reach the middle."""
    return int(image[image.shape[0] // 2, image.shape[1] // 2, 2])


def mirrored(image: np.ndarray) -> bool:
    middle = image[image.shape[0] // 2, :, 0].astype(int)
    return bool(middle[len(middle) // 3] > middle[2 * len(middle) // 3])


def angle(image: np.ndarray) -> float:
    """Degrees by which a photo was turned, either way, by the slope of its green."""
    height, width = image.shape[0] // 3, image.shape[1] // 3
    part = image[height : 2 * height, width : 2 * width, 1].astype(float)
    down, right = (np.diff(part, axis=axis).mean() for axis in (0, 1))
    return float(np.degrees(np.arctan2(abs(right), down)))


def competition(root: Path, train: list[int], test: list[int]) -> str:
    """Photos of these levels, classes in turn; a level that comes twice is the same file twice."""
    rows, label = [], {level: n % 3 for n, level in enumerate(dict.fromkeys(train))}
    for n, level in enumerate(train):
        write_photo(root / "train" / str(label[level]) / f"{100 + n}.png", drawn(level))
        rows.append((f"{100 + n}.png", label[level]))
    for n, level in enumerate(test):
        write_photo(root / "test_upload" / f"{900 + n}.png", drawn(level))
    pd.DataFrame(rows, columns=["Id", "Category"]).to_csv(root / "train.csv", index=False)
    asked = pd.DataFrame({"Id": [f"{900 + n}.png" for n in range(len(test))], "Category": 0})
    asked.to_csv(root / "sample-submission.csv", index=False)
    return str(root)


# --- Watching ------------------------------------------------------------------------------------

Weights = list[np.ndarray]
Images = list[np.ndarray]


@dataclass
class Epoch:
    """An epoch of any network, as Keras went through it."""

    start: Weights
    rate: float  # of learning, at its start
    trained: Images = field(default_factory=list)
    validated: Images = field(default_factory=list)  # without those that only fill a batch
    end: Weights | None = None  # None: it was stopped before


@dataclass
class Prediction:
    weights: Weights
    after: int  # epochs that had been trained by then
    images: Images = field(default_factory=list)


class Interrupted(Exception):  # noqa: N818  # nothing is wrong
    pass


class Watch(keras.callbacks.Callback):
    """Notes every epoch and prediction of a run, and says what validation and prediction find.

    scores: accuracy and loss of validation by the number of the epoch, from 0, the last ones for
    all later epochs. logits: image → (3,). stop: the run is interrupted when that epoch begins.
    """

    def __init__(
        self,
        scores: list[tuple[float, float]] | None = None,
        logits: Callable[[np.ndarray], list[float]] | None = None,
        stop: int = -1,
    ):
        super().__init__()
        self.scores, self.logits, self.stop = scores, logits, stop
        self.epochs: list[Epoch] = []
        self.predictions: list[Prediction] = []
        self.into: Images = []  # of the epoch or prediction that is going on

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if len(self.epochs) == self.stop:
            raise Interrupted
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.epochs.append(Epoch(weights_of(self.model), rate))
        self.into = self.epochs[-1].trained

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs[-1].end = weights_of(self.model)

    def step(self, data: Any) -> None:
        """Note the images of a step, without those of weight 0."""

        def note(images: np.ndarray, weights: np.ndarray) -> None:
            self.into += list(images[weights > 0].copy())

        weights = data[2] if len(data) > 2 else tf.ones(tf.shape(data[0])[:1])
        tf.numpy_function(note, [data[0], weights], [])

    @contextmanager
    def watching(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            small_network(patch)
            without_pictures(patch)
            self._hook(patch)
            yield

    def _hook(self, patch: pytest.MonkeyPatch) -> None:
        model = keras.Model
        fit, evaluate, predict = model.fit, model.evaluate, model.predict

        def watched_fit(net: Any, *args: Any, callbacks: Any = None, **named: Any) -> Any:
            return fit(net, *args, callbacks=[self, *(callbacks or [])], **named)

        def watched_evaluate(net: Any, *args: Any, **named: Any) -> Any:
            self.into = self.epochs[-1].validated
            found = evaluate(net, *args, **named)
            if self.scores:
                accuracy, loss = self.scores[min(len(self.epochs), len(self.scores)) - 1]
                found = {**found, "accuracy": accuracy, "loss": loss}
            return found

        def watched_predict(net: Any, *args: Any, **named: Any) -> Any:
            self.predictions.append(Prediction(weights_of(net), len(self.epochs)))
            before, self.into = self.into, self.predictions[-1].images
            found = predict(net, *args, **named)
            if self.logits:
                found = np.array([self.logits(image) for image in self.into], np.float32)
            self.into = before
            return found

        patch.setattr(model, "fit", watched_fit)
        patch.setattr(model, "evaluate", watched_evaluate)
        patch.setattr(model, "predict", watched_predict)
        for name in ("train_step", "test_step", "predict_step"):
            patch.setattr(model, name, self._noted(getattr(model, name), name == "predict_step"))

    def _noted(self, real: Any, every: bool) -> Any:
        """every: also what only fills a batch, as all of it has a row in what ``predict`` gives."""

        def step(net: Any, data: Any) -> Any:
            parts = data if isinstance(data, tuple) else (data,)
            self.step(parts[:1] if every else parts)
            return real(net, data)

        return step


def weights_of(net: Any) -> Weights:
    return [weight.copy() for weight in net.get_weights()]


def same(one: Weights, other: Weights) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def head(weights: Weights) -> np.ndarray:
    """Of the output layer, the only one that is no convolution."""
    return [weight for weight in weights if weight.ndim == 2][-1]


# --- One training through two sizes, in two sessions ---------------------------------------------

# Accuracy and loss on validation: the second epoch of each size is the best one.
# Then nothing is better: after two such epochs the plateau lowers the rate, after two more again.
# Early stopping counts from the fourth epoch on, whose loss is its mark.
FIRST = [(0.5, 1.0), (0.7, 0.8), (0.6, 0.9)]
SECOND = [(0.6, 0.7), (0.8, 0.5), (0.7, 0.6)]
STOP = len(FIRST) + 5  # epochs of the first session: the plateau and early stopping have counted 1
ALL = len(FIRST) + 7
BEST_FIRST, BEST = 1, len(FIRST) + 1
TRAIN, TEST = list(range(4, 148, 4)), list(range(160, 200, 4))


@dataclass
class Trained:
    watch: Watch
    out: Path

    @property
    def epochs(self) -> list[Epoch]:
        return self.watch.epochs

    @property
    def last_predictions(self) -> list[Prediction]:
        return [seen for seen in self.watch.predictions if seen.after == len(self.epochs)]


@pytest.fixture(scope="module")
def progress(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("progress")
    stages = ",".join(f"{h}x{w}x{n}" for (h, w), n in ((SMALL, 3), (LARGE, 9)))
    cfg = Config(
        **SETTINGS,
        data=competition(folder / "data", TRAIN, TEST),
        out=str(folder / "out"),
        stages=stages,
        members="seed=2",
        schedule="plateau",
        patience=3,
        strength="1-0",
        views=2,
        val_fraction=0.3,
    )
    watch = Watch(FIRST + SECOND, stop=STOP)
    with watch.watching():
        with pytest.raises(Interrupted):
            run(cfg)
        watch.stop = -1
        run(cfg)
    return Trained(watch, folder / "out")


def test_each_stage_trains_and_validates_at_its_own_size(progress):
    expected = [SMALL] * len(FIRST) + [LARGE] * (len(progress.epochs) - len(FIRST))
    for images in ("trained", "validated"):
        seen = [{image.shape[:2] for image in getattr(epoch, images)} for epoch in progress.epochs]
        assert seen == [{size} for size in expected]


def test_the_best_weights_and_no_others_go_on_to_the_next_size(progress):
    first = progress.epochs[: len(FIRST)]
    border = progress.epochs[len(FIRST)].start
    assert same(border, first[BEST_FIRST].end)
    assert not same(border, first[-1].end)
    assert not same(border, first[0].start)
    for before, after in pairwise(first):
        assert same(before.end, after.start)  # within a size they are the last ones


def test_the_best_epoch_of_the_last_size_predicts_and_is_kept(progress):
    best = progress.epochs[BEST].end
    assert not same(best, progress.epochs[-1].end)
    assert len(progress.last_predictions) >= 2  # validation photos and test photos
    for seen in progress.last_predictions:
        assert same(seen.weights, best)
    kept = set()

    def note(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            kept.add(item[()].tobytes())

    with h5py.File(progress.out / "member1" / "best.weights.h5") as file:
        file.visititems(note)
    assert {weight.tobytes() for weight in best} <= kept


def test_a_resumed_training_goes_on_from_its_last_epoch(progress):
    last, after = progress.epochs[STOP - 1], progress.epochs[STOP]
    assert STOP - 1 != BEST
    assert same(after.start, last.end)
    assert not same(after.start, progress.epochs[BEST].end)


def test_a_resumed_training_has_not_forgotten_how_long_nothing_was_better(progress):
    rates = [epoch.rate / RATE for epoch in progress.epochs]
    assert rates == pytest.approx([1.0] * (len(FIRST) + 4) + [0.3] * 2 + [0.09])
    assert len(progress.epochs) == ALL


def test_augmentation_weakens_over_the_whole_run_and_not_in_each_stage_anew(progress):
    strongest = [max(map(angle, epoch.trained)) for epoch in progress.epochs]
    assert strongest[0] > 5  # degrees
    planned = np.linspace(1, 0, 3 + 9)[: len(strongest)]
    # Of 24 draws the largest is hardly ever below 0.7 of what it may be.
    for found, expected in zip(np.array(strongest) / strongest[0], planned, strict=True):
        assert 0.7 * expected <= found <= 1.2 * expected


def test_validation_and_the_first_view_see_photos_as_they_are(progress):
    for epoch in progress.epochs:
        seen = {level_of(image): image for image in epoch.validated}
        assert len(seen) == len(epoch.validated)  # each once
        assert seen.keys() == {level_of(image) for image in progress.epochs[0].validated}
        for level, image in seen.items():
            if image.shape[:2] == LARGE:  # that of the files: not a pixel may differ
                np.testing.assert_array_equal(image, drawn(level))
            else:
                height, width = image.shape[:2]
                plain = tf.image.resize(drawn(level), (height, width), "area").numpy()
                assert np.abs(image - plain).mean() < 1.5  # shrunk another way, but not moved
    val = {level_of(image) for image in progress.epochs[0].validated}
    views = defaultdict(set)
    for seen in progress.last_predictions:
        for image in seen.images:
            views[level_of(image)].add(image.tobytes())
    assert views.keys() == val | set(TEST)
    for level, seen in views.items():
        assert seen == {drawn(level).tobytes(), drawn(level)[:, ::-1].tobytes()}


# --- Two members, files that are there twice, photos that views agree on or not ------------------

PAIRS = [level for level in range(4, 124, 6) for _ in range(2)]
AGREED, DISPUTED = list(range(130, 190, 12)), list(range(136, 190, 12))


def scripted(image: np.ndarray) -> list[float]:
    """Logits: a disputed photo's turn with the mirror image, of an agreed one's the lead alone."""
    level = level_of(image)
    if level in DISPUTED:
        return [2.0, 0.0, 0.0] if mirrored(image) else [0.0, 2.0, 0.0]
    if level in AGREED:
        return [4.0 if np.array_equal(image, drawn(level)) else 0.1, 0.0, 0.0]
    return [np.sin(level), np.cos(level), np.sin(3 * level)]


@dataclass
class Fitted:
    learned: np.ndarray  # (photos, features)
    asked: np.ndarray


@dataclass
class Ensemble:
    sessions: dict[int, Watch]  # by the number of views that every photo gets
    fitted: list[Fitted]  # the classifiers of the blend


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    folder = tmp_path_factory.mktemp("ensemble")
    data = competition(folder / "data", PAIRS, AGREED + DISPUTED)
    cfg = Config(
        **SETTINGS,
        data=data,
        out=str(folder / "out"),
        members="seed=1+seed=2",
        stages="48x72x1",
        val_fraction=0.5,
        blend="logistic",
        views="2-8",
    )
    found = Ensemble({}, [])
    fit, asked = LogisticRegression.fit, LogisticRegression.predict_proba
    learned: dict[int, np.ndarray] = {}

    def watched_fit(self: Any, features: Any, *args: Any, **named: Any) -> Any:
        learned[id(self)] = np.array(features)
        return fit(self, features, *args, **named)

    def watched_proba(self: Any, features: Any) -> Any:
        found.fitted.append(Fitted(learned[id(self)], np.array(features)))
        return asked(self, features)

    for views in (2, 4):
        found.sessions[views] = Watch(logits=scripted)
        with found.sessions[views].watching(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(LogisticRegression, "fit", watched_fit)
            patch.setattr(LogisticRegression, "predict_proba", watched_proba)
            run(cfg.replace(views=f"{views}-8"))
    return found


def test_members_of_different_seeds_start_from_different_weights(ensemble, progress):
    one, two = (head(epoch.start) for epoch in ensemble.sessions[2].epochs)
    assert one.shape == two.shape
    assert not np.isclose(one, two).any(axis=None)
    # And the seed is all that they come from: seed=2 gives the same, whether a member came before.
    np.testing.assert_array_equal(two, head(progress.epochs[0].start))


def test_no_classifier_of_the_blend_is_asked_for_a_file_that_it_has_learned(ensemble):
    def close(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        return np.abs(rows[:, None] - others[None]).max(axis=2) < 1e-6

    whole = max(ensemble.fitted, key=lambda one: len(one.learned)).learned
    # Every file is there twice, and the same is said of both.
    assert (close(whole, whole).sum(axis=1) == 2).all()
    assert sum(len(one.learned) < len(whole) for one in ensemble.fitted) >= 5  # folds
    for one in ensemble.fitted:
        assert not close(one.asked, one.learned).any()


@pytest.mark.parametrize("views", [2, 4])
def test_only_photos_whose_views_disagree_get_more_of_them(ensemble, views):
    seen = defaultdict(lambda: defaultdict(set))  # of each network, of each photo
    for prediction in ensemble.sessions[views].predictions:
        network = seen[head(prediction.weights).tobytes()]
        for image in prediction.images:
            network[level_of(image)].add(image.tobytes())
    assert len(seen) == 2
    for network in seen.values():
        assert [len(network[level]) for level in AGREED] == [views] * len(AGREED)
        assert [len(network[level]) for level in DISPUTED] == [8] * len(DISPUTED)


# --- Views that do not differ --------------------------------------------------------------------


def test_a_run_refuses_views_that_are_identical_before_it_trains(tmp_path):
    # So weak that only the mirror is left of 62 random views: on eight photos two are the same.
    cfg = Config(
        **SETTINGS,
        data=competition(tmp_path / "data", TRAIN[:24], TEST[:3]),
        out=str(tmp_path / "out"),
        stages="48x72x1",
        views=64,
        strength="0.000000002",
        val_fraction=0.34,
    )
    watch = Watch(stop=0)
    with watch.watching(), pytest.raises(ValueError, match="views .* are identical"):
        run(cfg)
    assert not watch.epochs

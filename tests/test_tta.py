"""Views through a network: identical ones refused, probabilities, disputed photos asked again."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from carcls import config
from carcls.config import Config
from carcls.data import augment, photos
from carcls.data import files as inputs
from carcls.errors import ConfigError
from carcls.machine import Runtime
from carcls.nets import model
from carcls.votes import cast as tta
from carcls.votes import votes


def test_softmax_in_half_precision_does_not_overflow():
    probs = tta.softmax(np.array([[[60000.0, 0.0], [0.0, 0.0]]], np.float16))
    assert probs.tolist() == [[[1.0, 0.0], [0.5, 0.5]]]


@pytest.fixture
def ready(competition, tmp_path, tiny):
    """A run's settings, its photos and an untrained network."""
    cfg = config.parse(
        {
            "data": str(competition),
            "out": str(tmp_path / "out"),
            "weights": "none",
            "backbone": tiny,
            "stages": "48x64x1",
            "batch": 8,
            "tta_views": 4,
        }
    )
    place = inputs.locate(cfg)
    rt = Runtime("tensorflow", ("cpu",), "float32", xla=False, fast_layers=True)
    keras.utils.set_random_seed(1)
    return cfg, rt, model.build(cfg, rt, 3)[0], photos.load(cfg, place).train, place


def test_neither_batch_size_nor_order_of_photos_changes_probabilities(ready):  # S51
    cfg, rt, net, frame, place = ready
    cast, _ = tta.vote(cfg, rt, net, frame, place, 4)
    assert cast.probs.shape == (4, len(frame), 3)
    assert cast.ids == frame["id"].tolist()
    assert np.ptp(cast.probs, axis=0).max() > 1e-4  # the views do differ
    other, _ = tta.vote(cfg.replace(batch=5), rt, net, frame, place, 4)
    assert np.abs(other.probs - cast.probs).max() < 1e-5  # float32 sums in another order
    turned, _ = tta.vote(cfg, rt, net, frame.iloc[::-1].reset_index(drop=True), place, 4)
    assert np.abs(turned.probs[:, ::-1] - cast.probs).max() < 1e-5


def test_a_prediction_that_runs_out_of_memory_goes_on_with_half_the_photos(
    ready, monkeypatch, capsys
):
    cfg, rt, net, frame, place = ready
    whole, _ = tta.vote(cfg, rt, net, frame, place, 4)
    predict, seen = net.predict, []

    def exhausted(dataset, **options):
        seen.append(len(next(iter(dataset))[0]))
        if seen[-1] > 2:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return predict(dataset, **options)

    monkeypatch.setattr(net, "predict", exhausted)
    cast, _ = tta.vote(cfg, rt, net, frame, place, 4)
    assert np.abs(cast.probs - whole.probs).max() < 1e-5
    assert seen == [8, 4, 2]
    assert capsys.readouterr().out == (
        "out of memory while predicting 8 photos at a time; going on with 4\n"
        "out of memory while predicting 4 photos at a time; going on with 2\n"
    )
    with pytest.raises(tf.errors.ResourceExhaustedError):  # four devices need four photos
        tta.vote(cfg, replace(rt, devices=("cpu",) * 4), net, frame, place, 4)
    monkeypatch.setattr(net, "predict", lambda *a, **k: np.zeros(3)[5])
    with pytest.raises(IndexError):
        tta.vote(cfg, rt, net, frame, place, 4)


def test_adaptive_votes_are_the_fixed_ones_where_they_were_cast(ready, monkeypatch):
    cfg, rt, net, frame, place = ready
    fixed, _ = tta.vote(cfg, rt, net, frame, place, 8)
    turn = np.random.default_rng(0).permutation(len(frame))[:5]
    # Five photos are disputed after the first round, the first two of them after the second.
    rounds = iter([np.isin(np.arange(len(frame)), turn), np.arange(5) < 2])
    monkeypatch.setattr(votes, "disputed", lambda probs: next(rounds))
    some, _ = tta.vote(cfg, rt, net, frame, place, 2, 8)
    assert sorted(some.cast.tolist()) == [2] * (len(frame) - 5) + [4] * 3 + [8] * 2
    for v in range(8):
        on = some.cast > v
        assert np.abs(some.probs[v, on] - fixed.probs[v, on]).max() < 1e-5
        assert (some.probs[v, ~on] == 0).all()


def test_identical_views_are_an_error():  # S52
    views = np.random.default_rng(0).integers(0, 256, (4, 5, 30), np.uint8)
    tta.check_distinct(views)
    views[3, 0] = views[1, 0]
    tta.check_distinct(views)  # one photo may look alike, such as a symmetric one
    views[3] = views[1]
    with pytest.raises(ConfigError, match="views 1 and 3 are identical for all of 5 photos"):
        tta.check_distinct(views)


def test_views_are_checked_on_pixels_before_training(competition, tmp_path, monkeypatch):
    cfg = Config(data=str(competition), out=str(tmp_path / "out"), stages="48x64x1", tta_views=4)
    place = inputs.locate(cfg)
    val = photos.load(cfg, place).val
    tta.check_views(cfg, val, place)
    monkeypatch.setattr(
        augment, "policy", lambda *a: lambda photo, seed: augment.view(photo, (48, 64), "pad")
    )
    with pytest.raises(ConfigError, match="views 0 and 2 are identical"):
        tta.check_views(cfg, val, place)

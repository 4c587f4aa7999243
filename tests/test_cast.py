"""Views through a network: identical ones refused, probabilities, disputed photos asked again."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from build_votes import views

from carcls import config, machine
from carcls.data import augment, files, photos
from carcls.data.cache import PhotoCache
from carcls.errors import ConfigError
from carcls.nets import model
from carcls.votes import cast
from carcls.votes.cast import cast_votes


def test_softmax_in_half_precision_does_not_overflow():
    probs = cast.softmax(np.array([[[60000.0, 0.0], [0.0, 0.0]]], np.float16))
    assert probs.tolist() == [[[1.0, 0.0], [0.5, 0.5]]]


@pytest.fixture
def ready(competition, tmp_path, tiny):
    """An untrained network, the photos and which of them, settings, a machine."""
    settings = {"weights": "none", "backbone": tiny, "stages": "48x64x1", "batch": 8, "views": 4}
    paths = {"data": str(competition), "out": str(tmp_path / "out")}
    cfg = config.parse({**settings, **paths})
    table = photos.load(cfg, files.locate(cfg))
    keras.utils.set_random_seed(1)
    net, _ = model.build(cfg, machine.ONE_DEVICE, 3, 1)
    cache = PhotoCache(table.frame, (48, 64), cfg.fit, tmp_path)
    return net, cache, table.rows(photos.TRAIN), cfg, machine.ONE_DEVICE


def test_neither_batch_size_nor_order_of_photos_changes_probabilities(ready):  # S51
    net, cache, rows, cfg, one = ready
    votes = cast_votes(net, cache, rows, views("4"), cfg, one)
    assert votes.probs.shape == (4, len(rows), 3)
    assert votes.ids == [cache.ids[row] for row in rows.rows]
    assert votes.labels.tolist() == rows.labels.tolist()
    assert votes.combine == cfg.tta_combine
    assert np.ptp(votes.probs, axis=0).max() > 1e-4  # the views do differ
    other = cast_votes(net, cache, rows, views("4"), cfg.replace(batch=5), one)
    assert np.abs(other.probs - votes.probs).max() < 1e-5  # float32 sums in another order
    turned = cast_votes(net, cache, rows.take(np.arange(len(rows))[::-1]), views("4"), cfg, one)
    assert np.abs(turned.probs[:, ::-1] - votes.probs).max() < 1e-5


def test_a_prediction_that_runs_out_of_memory_goes_on_with_half_the_photos(ready, monkeypatch):
    net, cache, rows, cfg, one = ready
    whole = cast_votes(net, cache, rows, views("4"), cfg, one)
    predict, seen = net.predict, []

    def exhausted(dataset, **options):
        seen.append(len(next(iter(dataset))[0]))
        if seen[-1] > 2:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return predict(dataset, **options)

    monkeypatch.setattr(net, "predict", exhausted)
    votes = cast_votes(net, cache, rows, views("4"), cfg, one)
    assert np.abs(votes.probs - whole.probs).max() < 1e-5
    assert seen == [8, 4, 2]
    four = replace(one, devices=("cpu",) * 4)  # they need four photos
    with pytest.raises(tf.errors.ResourceExhaustedError):
        cast_votes(net, cache, rows, views("4"), cfg, four)
    monkeypatch.setattr(net, "predict", lambda *a, **k: np.zeros(3)[5])
    with pytest.raises(IndexError):
        cast_votes(net, cache, rows, views("4"), cfg, one)


def test_adaptive_votes_are_the_fixed_ones_where_a_photo_was_given_the_view(ready, monkeypatch):
    net, cache, rows, cfg, one = ready
    fixed = cast_votes(net, cache, rows, views("8"), cfg, one)
    turn = np.random.default_rng(0).permutation(len(rows))[:5]
    # Five photos are disputed after the first round, the first two of them after the second.
    rounds = iter([np.isin(np.arange(len(rows)), turn), np.arange(5) < 2])
    monkeypatch.setattr(cast, "disputed", lambda probs: next(rounds))
    some = cast_votes(net, cache, rows, views("2-8"), cfg, one)
    assert sorted(some.n_views.tolist()) == [2] * (len(rows) - 5) + [4] * 3 + [8] * 2
    for v in range(8):
        given = some.n_views > v
        assert np.abs(some.probs[v, given] - fixed.probs[v, given]).max() < 1e-5
        assert (some.probs[v, ~given] == 0).all()
    # No photo is disputed: no array is kept for views that nobody has looked at.
    monkeypatch.setattr(cast, "disputed", lambda probs: np.zeros(probs.shape[1], bool))
    assert cast_votes(net, cache, rows, views("2-8"), cfg, one).probs.shape[0] == 2


def test_views_of_the_same_pixels_are_an_error(ready, monkeypatch):  # S52
    _, cache, rows, cfg, _ = ready
    cast.check_views_differ(cache, rows, cfg)
    asis = lambda *a: lambda photo, seed: augment.view(photo, (48, 64), "pad")  # noqa: E731
    monkeypatch.setattr(augment, "policy", asis)
    with pytest.raises(ConfigError, match="views 0 and 2 are identical for all of 8 photos"):
        cast.check_views_differ(cache, rows, cfg)
    cast.check_views_differ(cache, rows, cfg.replace(tta="never"))  # they are not used

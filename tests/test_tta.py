"""Votes: probabilities by view, identical views refused, files that load again."""

import numpy as np
import pytest

from carcls import augment, inputs, photos, tta
from carcls.config import Config, ConfigError


def test_softmax_in_half_precision_does_not_overflow():
    probs = tta.softmax(np.array([[[60000.0, 0.0], [0.0, 0.0]]], np.float16))
    assert probs.tolist() == [[[1.0, 0.0], [0.5, 0.5]]]


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
    monkeypatch.setattr(augment, "policy", lambda *a: lambda photo, seed: augment.view(photo, (48, 64), "pad"))
    with pytest.raises(ConfigError, match="views 0 and 2 are identical"):
        tta.check_views(cfg, val, place)


def test_votes_load_as_they_were_saved(tmp_path):
    votes = tta.Votes(["a", "b"], np.array([[[1, 0], [0.5, 0.5]], [[0, 1], [0, 1]]], np.float32))
    votes.save(tmp_path / "votes.npz")
    again = tta.load(tmp_path / "votes.npz")
    assert again.ids == ["a", "b"]
    assert (again.probs == votes.probs).all()
    assert again.mean().tolist() == [[0.5, 0.5], [0.25, 0.75]]
    assert again.mean(1).tolist() == [[1, 0], [0.5, 0.5]]
    (tmp_path / "votes.npz").write_bytes(b"no")
    with pytest.raises(inputs.InputError, match="votes.npz: not a file of votes"):
        tta.load(tmp_path / "votes.npz")

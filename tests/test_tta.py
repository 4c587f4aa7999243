"""Votes: probabilities by view, identical views refused, files that load again."""

import numpy as np
import pytest

from carcls import inputs, tta
from carcls.config import ConfigError


def test_softmax_in_half_precision_does_not_overflow():
    probs = tta.softmax(np.array([[[60000.0, 0.0], [0.0, 0.0]]], np.float16))
    assert probs.tolist() == [[[1.0, 0.0], [0.5, 0.5]]]


def test_identical_views_are_an_error():  # S52
    probs = np.random.default_rng(0).dirichlet(np.ones(3), (4, 5)).astype(np.float32)
    tta.check_distinct(probs)
    probs[3] = probs[1]
    with pytest.raises(ConfigError, match="views 1 and 3 give identical predictions for all 5 photos"):
        tta.check_distinct(probs)


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

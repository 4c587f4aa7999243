"""Learning rate and strength: arithmetic at known points, and what holds everywhere."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carcls.config import Config
from carcls.nets import schedule

NAMES = (*schedule.CURVES, "plateau")
SHARE = st.floats(0, 1)


def test_the_setting_names_every_schedule():
    assert set(get_args(Config.model_fields["schedule"].annotation)) == set(NAMES)


@pytest.mark.parametrize(
    ("name", "progress", "warmup", "expected"),
    [
        ("cosine", 0.25, 0.0, 0.853553),
        ("cosine", 0.55, 0.1, 0.5),  # the middle of what follows the warm-up
        ("cosine", 1.0, 0.1, 0.0),
        ("piecewise", 0.599, 0.0, 1.0),
        ("piecewise", 0.60, 0.0, 0.1),
        ("piecewise", 0.849, 0.0, 0.1),
        ("piecewise", 0.85, 0.0, 0.01),
        ("piecewise", 0.79, 0.5, 1.0),  # 58 % of the part after the warm-up
        ("exponential", 0.5, 0.0, 0.1),
        ("plateau", 0.05, 0.1, 1.0),
        ("cosine", 0.05, 0.1, 0.5),  # warm-up is a line from 0
        ("constant", 0.1, 0.1, 1.0),
    ],
)
def test_known_points(name, progress, warmup, expected):
    assert schedule.factor(name, progress, warmup) == pytest.approx(expected, abs=1e-6)


@given(st.sampled_from(NAMES), st.floats(0, 0.99), SHARE, SHARE)
def test_a_share_of_the_peak_that_rises_in_the_warmup_and_never_after(name, warmup, a, b):
    early, late = sorted((a, b))
    first, second = (schedule.factor(name, p, warmup) for p in (early, late))
    assert 0 <= first <= 1
    if late < warmup:
        assert first <= second
    if early >= warmup:
        assert first >= second - 1e-12


@pytest.mark.parametrize("name", ["cosine", "piecewise", "exponential"])
def test_the_rate_falls_by_a_hundred_at_the_end_of_the_run_and_not_before(name):  # S38
    cfg = Config(schedule=name, lr=2e-3, warmup=0.1)
    points = [schedule.factor(name, i / schedule.GRID, 0.1) for i in range(schedule.GRID + 1)]
    assert schedule.curve(cfg) == pytest.approx(points)
    rates = np.array([schedule.rate_at(cfg, (step + 0.5) / 50) for step in range(50)])
    assert rates.max() == pytest.approx(2e-3, rel=0.06)
    assert 0 < rates[-1] <= 2.2e-5
    assert rates[25] >= 2e-4
    assert 0 < rates[0] < rates[4]


@given(SHARE)
def test_strength_falls_from_start_to_end(progress):  # S20
    cfg = Config(strength="0.8-0.2")
    assert schedule.strength(cfg, progress) == pytest.approx(0.8 - 0.6 * progress)


@pytest.mark.parametrize(
    ("change", "is_said"),
    [
        ({}, True),
        ({"optimizer": "adamw", "lr": 3e-4}, True),
        ({"lr": 2e-4}, False),
        ({"optimizer": "sgd"}, False),
        ({"weights": "none"}, False),
        ({"unfreeze": "head"}, False),
        ({"backbone": "hgnetv2_b4"}, False),
    ],
)
def test_a_rate_that_is_unusual_for_a_pretrained_transformer_is_said(change, is_said):
    said = schedule.doubt(Config(**{"backbone": "siglip_base_384", **change}))
    assert bool(said) == is_said
    assert not said or f"lr={change.get('lr', 1e-3):g} " in said

"""Learning rate and strength: arithmetic at known points, and what holds everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carcls import schedule
from carcls.config import Config

SHARE = st.floats(0, 1)
WARMUP = st.floats(0, 0.99)


@pytest.mark.parametrize(
    ("name", "progress", "warmup", "expected"),
    [
        ("cosine", 0.0, 0.0, 1.0),
        ("cosine", 0.25, 0.0, 0.853553),
        ("cosine", 0.55, 0.1, 0.5),  # the middle of what follows the warm-up
        ("cosine", 1.0, 0.1, 0.0),
        ("piecewise", 0.599, 0.0, 1.0),
        ("piecewise", 0.60, 0.0, 0.1),
        ("piecewise", 0.849, 0.0, 0.1),
        ("piecewise", 0.85, 0.0, 0.01),
        ("piecewise", 0.79, 0.5, 1.0),  # 58 % of the part after the warm-up
        ("exponential", 0.5, 0.0, 0.1),
        ("exponential", 1.0, 0.3, 0.01),
        ("constant", 1.0, 0.1, 1.0),
        ("plateau", 0.7, 0.1, 1.0),
        ("cosine", 0.05, 0.1, 0.5),  # warm-up is a line from 0
        ("piecewise", 0.0, 0.1, 0.0),
        ("constant", 0.1, 0.1, 1.0),
    ],
)
def test_known_points(name: str, progress: float, warmup: float, expected: float) -> None:
    assert schedule.factor(name, progress, warmup) == pytest.approx(expected, abs=1e-6)


@given(st.sampled_from(schedule.NAMES), SHARE, WARMUP)
def test_factor_is_a_share_of_the_peak(name: str, progress: float, warmup: float) -> None:
    assert 0 <= schedule.factor(name, progress, warmup) <= 1


@given(st.sampled_from(schedule.NAMES), st.floats(0, 0.9), SHARE, SHARE)
def test_rises_in_the_warmup_and_never_after(name: str, warmup: float, a: float, b: float) -> None:
    early, late = sorted((a, b))
    first, second = (schedule.factor(name, p, warmup) for p in (early, late))
    if late < warmup:
        assert first <= second
    if early >= warmup:
        assert first >= second - 1e-12


@pytest.mark.parametrize("name", ["cosine", "piecewise", "exponential"])
def test_curve_spans_the_whole_run(name: str) -> None:
    """However many steps a run has, the rate falls by 100× at its end and not before (S38)."""
    for steps in (50, 5000):
        rates = schedule.table(Config(schedule=name, lr=2e-3, warmup=0.1), steps)
        assert rates.shape == (steps,)
        assert rates.dtype == np.float32
        assert rates.max() == pytest.approx(2e-3, rel=0.06)
        assert 0 < rates[-1] <= 2.2e-5
        assert rates[int(0.5 * steps)] >= 2e-4
        assert 0 < rates[0] < rates[steps // 10]


def test_table_is_the_middle_of_each_step() -> None:
    rates = schedule.table(Config(schedule="cosine", lr=1.0, warmup=0.5), 4)
    assert rates == pytest.approx([0.25, 0.75, 0.853553, 0.146447], abs=1e-6)
    assert schedule.table(Config(schedule="constant", lr=0.5, warmup=0), 1).tolist() == [0.5]


@given(SHARE)
def test_strength_falls_from_start_to_end(progress: float) -> None:
    cfg = Config(strength=0.8, strength_end=0.2)
    assert schedule.strength(cfg, progress) == pytest.approx(0.8 - 0.6 * progress)
    assert schedule.strength(cfg, 1) <= schedule.strength(cfg, progress) + 1e-12


@pytest.mark.parametrize(
    "call",
    [
        lambda: schedule.factor("cosinus", 0.5),
        lambda: schedule.factor("cosine", 1.1),
        lambda: schedule.factor("cosine", float("nan")),
        lambda: schedule.factor("cosine", 0.5, 1.0),
        lambda: schedule.table(Config(), 0),
        lambda: schedule.strength(Config(), -0.1),
    ],
)
def test_bad_arguments_are_refused(call) -> None:
    with pytest.raises(ValueError, match=r"expected one of|must be in|at least one training step"):
        call()

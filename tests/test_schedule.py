"""Learning rate and strength: arithmetic at known points, and what holds everywhere."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carcls.config import Config
from carcls.nets import schedule

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
    cfg = Config(schedule=name, lr=2e-3, warmup=0.1)
    assert schedule.curve(cfg) == pytest.approx(
        [schedule.factor(name, i / schedule.GRID, 0.1) for i in range(1025)]
    )
    for steps in (50, 5000):
        course = schedule.Course(0, 0.0, 1 / steps)
        rates = np.array(
            [course.rate(cfg, step) for step in range(0, steps, steps // 50)]
            + [course.rate(cfg, steps - 1)]
        )
        assert rates.max() == pytest.approx(2e-3, rel=0.06)
        assert 0 < rates[-1] <= 2.2e-5
        assert rates[25] >= 2e-4
        assert 0 < rates[0] < rates[5]


def test_a_rate_is_that_of_the_middle_of_its_step() -> None:
    cfg = Config(schedule="cosine", lr=1.0, warmup=0.5)
    rates = [schedule.Course(10, 0.0, 0.25).rate(cfg, 10 + step) for step in range(5)]
    assert rates == pytest.approx([0.25, 0.75, 0.853553, 0.146447, 0.0], abs=1e-5)
    assert (
        schedule.Course(0, 0.0, 1.0).rate(Config(schedule="constant", lr=0.5, warmup=0), 0) == 0.5
    )


# Plans


# 20 steps of 0.5 s and 1.5 s and a second to validate make epochs of 11 s and 31 s. Early
# predictions: 1.5 s after the first epoch, 1.5 s between the stages, at the first one's size.
COSTS = schedule.Costs(
    train=(10.0, 30.0), check=(1.0, 1.0), view=(2.0, 5.0), early=(1.5, 4.0), steps=20, end=6.0
)
WITH_RESERVE = 1 / (1 - schedule.RESERVE)


@pytest.mark.parametrize(
    ("left", "epochs", "views", "steps"),
    [
        (1000, (5, 6), 8, None),
        (290, (5, 6), 8, None),  # 1.5 + 1.5 + 5 * 11 + 6 * 31 + 40 + 6
        (289.9, (5, 6), 8, 19),
        (276, (5, 6), 8, 18),
        (260, (5, 5), 8, None),  # 17 steps of 5+6 epochs would take less
        (259, (5, 5), 8, None),
        (258, (5, 5), 8, 19),
        (120, (2, 3), 4, 15),  # 8 views would take a third of it
        (60, (1, 1), 2, 19),
        (40, (1, 1), 2, 9),
        (29, (1, 1), 1, 6),
        (25, (2, 0), 2, 11),
        (
            23,
            (1, 0),
            2,
            None,
        ),  # 1.5 + 11 + 4 + 6: predicted at the first stage's size, where views cost less
        (22.5, (1, 0), 2, None),
        (22, (1, 0), 2, 19),
        (19, (1, 0), 2, 13),  # half a second a step, a second to validate
        (10, (1, 0), 1, 0),  # no time to train
        (-5, (1, 0), 1, 0),
    ],
)
def test_plan_by_arithmetic(left: float, epochs: tuple, views: int, steps: int | None) -> None:
    plan = schedule.make_plan((5, 6), 8, COSTS, left * WITH_RESERVE)
    assert (plan.epochs, plan.views, plan.steps) == (epochs, views, steps)


@given(
    st.floats(-10, 2000),
    st.lists(st.integers(1, 9), min_size=2, max_size=2),
    st.sampled_from([1, 2, 8, 32]),
    st.integers(1, 40),
)
@example(163.0, [1, 1], 32, 1)  # all epochs, and more than half of the views
def test_a_plan_fills_the_time_and_never_takes_longer(
    left: float, configured: list, views: int, steps: int
) -> None:
    costs = dataclasses.replace(COSTS, steps=steps)
    plan = schedule.make_plan(tuple(configured), views, costs, left * WITH_RESERVE)
    assert all(0 <= n <= most for n, most in zip(plan.epochs, configured, strict=True))
    assert 1 <= plan.views <= views
    kept = schedule.make_plan(
        tuple(configured), views, costs, left * WITH_RESERVE, fewer_views=False
    )
    assert kept.views == views
    if plan.steps == 0:  # not even a step and one view
        assert left < 1.5 + 10 / steps + 1 + 2 + 6 + 1e-6
        return
    spent = schedule.seconds(plan, costs)
    assert spent <= left + 1e-6
    if plan.steps:  # another step of each epoch would not fit
        assert (
            schedule.seconds(dataclasses.replace(plan, steps=plan.steps + 1), costs) > left - 1e-3
        )
    if plan.epochs[1] and plan != schedule.Plan(tuple(configured), views):
        assert left - spent < 31.001  # less is left over than one epoch takes


def test_small_epochs_are_trained_too() -> None:
    """With a few steps in an epoch a quarter of it may be none."""
    few = dataclasses.replace(COSTS, steps=1)
    assert schedule.make_plan((2, 4), 1, few, 150) == schedule.Plan((2, 3), 1)
    resumed = schedule.replan(schedule.Plan((2, 4), 1), 0, 1, few, 100)
    assert (resumed.epochs, resumed.steps) == ((2, 2), None)


def test_views_take_what_the_adaptive_rule_takes() -> None:
    plain = schedule.make_plan((5, 6), 8, COSTS, 275 * WITH_RESERVE)
    assert (plain.steps, plain.views) == (18, 8)  # 15 s too little for eight views of 5 s
    cheap = dataclasses.replace(COSTS, effort=(1, 2, 2.5, 3, 3.5, 4, 4.5, 5))
    assert schedule.make_plan((5, 6), 8, cheap, 275 * WITH_RESERVE) == schedule.Plan(
        (5, 6), 8
    )  # they take 25 s
    dear = dataclasses.replace(cheap, effort=(1, 2, 2.5, 3, 20, 21, 22, 23))
    assert schedule.make_plan((5, 6), 8, dear, 330 * WITH_RESERVE) == schedule.Plan((5, 6), 4)


def test_views_that_are_set_anew_fit_what_is_left() -> None:
    plan = schedule.Plan((5, 6), 4)
    # After four epochs of the second stage: 2 * 31 + 6 s, and 5 s a view.
    for left, views in ((1000, 16), (148, 16), (147, 8), (75, 2), (30, 1)):
        assert schedule.views(plan, 16, 1, 4, COSTS, left * WITH_RESERVE) == views
    assert (
        schedule.views(plan, 16, 2, 0, COSTS, 86.1 * WITH_RESERVE) == 16
    )  # training is over: they may take it all


def test_the_last_stage_comes_before_many_views() -> None:
    costs = dataclasses.replace(COSTS, view=(0.5, 8.0))
    plan = schedule.make_plan((5, 6), 8, costs, 80 * WITH_RESERVE)
    assert plan.epochs[1]
    assert plan.views == 2
    assert schedule.make_plan((5, 6), 8, costs, 30 * WITH_RESERVE).epochs[1] == 0


def test_a_plan_made_anew_goes_on_from_where_it_is_and_reaches_its_end() -> None:
    cfg = Config(strength=1.0, strength_end=0.2)
    plan = schedule.Plan((5, 6), 8)
    assert [plan.progress_at(g) for g in range(12)] == pytest.approx([g / 11 for g in range(12)])
    assert [plan.strength_at(cfg, g) for g in range(11)] == pytest.approx(np.linspace(1, 0.2, 11))
    assert (
        schedule.replan(plan, 1, 2, COSTS, (4 * 31 + 40 + 6) * 1.011) is plan
    )  # it may use most of the reserve up

    short = schedule.replan(plan, 1, 2, COSTS, (4 * 16 + 40 + 6) * WITH_RESERVE)
    assert (short.epochs, short.steps) == ((5, 6), 10)
    assert short.progress_at(7) == pytest.approx(7 / 11)
    assert short.progress_at(11) == pytest.approx(1.0)
    assert short.strength_at(cfg, 10) == pytest.approx(0.2)
    shorter = schedule.replan(
        short, 1, 3, COSTS, (7 + 40 + 6) * WITH_RESERVE
    )  # less than a quarter of three epochs
    assert (shorter.epochs, shorter.steps) == ((5, 4), 4)
    assert shorter.progress_at(9) == pytest.approx(1.0)

    slow = schedule.replan(plan, 1, 4, COSTS, (2 * 22 + 2 + 40 + 6) * WITH_RESERVE)
    assert (slow.epochs, slow.steps) == ((5, 6), 14)
    assert slow.progress_at(9) == pytest.approx(9 / 11)
    assert slow.progress_at(10) == pytest.approx(10 / 11)
    fast = schedule.replan(
        slow, 1, 5, COSTS, 100, most=(5, 6)
    )  # a stall costs no more than it must
    assert (fast.epochs, fast.steps) == ((5, 6), None)
    assert (
        schedule.replan(slow, 1, 5, COSTS, 22 + 46 + 2, most=(5, 6)) is slow
    )  # for a second or two it is not made anew
    assert (
        schedule.replan(slow, 1, 5, COSTS, 100) is slow
    )  # nor in another session, as long as it fits
    few = schedule.Plan((1, 1), 2, steps=3)  # timed in a slow moment
    assert schedule.replan(few, 0, 1, COSTS, 1000, most=(5, 6)).epochs == (5, 6)
    assert (
        schedule.replan(few, 1, 1, COSTS, 1000, most=(5, 6)) is few
    )  # its learning rate has come to its end

    assert schedule.replan(plan, 0, 3, COSTS, 0.0).epochs == (3, 0)  # predictions come first
    assert schedule.replan(plan, 1, 6, COSTS, 0.0) is plan  # nothing is left to take away


def test_a_slow_epoch_counts_for_all_to_come_and_a_fast_one_by_half_for_its_stage() -> None:
    slow = COSTS.at_pace(2.0, stage=0)
    assert (slow.train, slow.check, slow.view, slow.early) == ((20, 60), (2, 2), (4, 10), (3, 8))
    fast = COSTS.at_pace(0.5, stage=0)
    assert (fast.train, fast.check, fast.view, fast.early) == (
        (7.5, 30),
        (0.75, 1),
        COSTS.view,
        COSTS.early,
    )
    assert slow.end == fast.end == COSTS.end
    assert slow.steps == COSTS.steps


@given(st.floats(-10, 400), st.integers(1, 5))
def test_a_plan_made_anew_never_takes_longer_than_it_must(left: float, done: int) -> None:
    plan = schedule.Plan((5, 6), 8, steps=15)
    new = schedule.replan(plan, 0, done, COSTS, left)
    assert schedule.seconds(new, COSTS, 0, done) <= max(
        left, schedule.seconds(schedule.Plan((done, 0), 8), COSTS, 0, done)
    )
    assert new.epochs[0] >= done


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
        lambda: schedule.strength(Config(), -0.1),
    ],
)
def test_bad_arguments_are_refused(call) -> None:
    with pytest.raises(ValueError, match=r"expected one of|must be in"):
        call()

"""Time as one number: its arithmetic, and runs by a clock that a test moves."""

import json
import math
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import IdleSteps
from hypothesis import given
from hypothesis import strategies as st
from killed import stopped_after

from carcls import jobs, run
from carcls.config import Config
from carcls.data import files, photos
from carcls.errors import ConfigError
from carcls.report import page
from carcls.train import clock, trainer
from carcls.train.clock import Ahead, Clock, Pace
from carcls.values import Views
from carcls.votes import votes

# --- Arithmetic -----------------------------------------------------------------------------------


def test_the_limit_is_what_is_set_or_a_kernels_session():
    cfg = Config()
    assert clock.start(cfg, False, "gpu", 100.0).left() == math.inf
    assert not clock.start(cfg, False, "gpu", 100.0).is_limited
    assert clock.start(cfg, True, "gpu", 100.0).end == 100 + 0.95 * 12 * 3600
    assert clock.start(cfg, True, "tpu", 0.0).end == 0.95 * 9 * 3600
    assert clock.start(cfg.replace(budget_minutes=3), True, "gpu", 7.0).end == 7 + 180
    assert clock.start(cfg.replace(budget_minutes=0), False, "cpu", 7.0).is_limited
    phases = cfg.replace(pseudo=1, refit_epochs=1, budget_minutes=3)
    assert clock.start(phases, False, "cpu", 0.0).reports == 3


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """Kaggle's editor, an hour after its session began, and /proc of its machine."""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setattr(time, "monotonic", lambda: 50_000.0)
    (tmp_path / "1").mkdir()
    ticks = 1000 * os.sysconf("SC_CLK_TCK")
    before = "S 0 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0"
    (tmp_path / "1" / "stat").write_text(f"1 (run (a) sh) {before} {ticks} 1 1\n")
    (tmp_path / "uptime").write_text("4600.25 1.0\n")
    return tmp_path


def test_in_kaggles_editor_time_counts_from_when_the_session_began(editor, monkeypatch):
    cfg, began = Config(), 49_990.0
    limit = clock.start(cfg, True, "gpu", began, editor)
    assert limit.end == pytest.approx(50_000 - 3600.25 + 0.95 * 12 * 3600)
    assert limit.start == began and "the session began, 1:00:00 ago" in limit.limit
    budget = clock.start(cfg.replace(budget_minutes=90), True, "gpu", began, editor)
    assert budget.left() == pytest.approx(30 * 60 - 0.25)
    assert "90 minutes, as set (from when the session began" in budget.limit
    with pytest.raises(ConfigError, match="budget_minutes=60: over.*1:00:00 ago; .*more than 60"):
        clock.start(cfg.replace(budget_minutes=60), True, "gpu", began, editor)
    assert clock.start(cfg.replace(budget_minutes=0), True, "gpu", began, editor).left() < 0
    assert not clock.start(cfg, False, "gpu", began, editor).is_limited
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    limit = clock.start(cfg, True, "gpu", began, editor)
    assert limit.end == began + 0.95 * 12 * 3600 and "this run began" in limit.limit


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("uptime", "900.0 1.0"),  # of the container, where ticks count from the machine's start
        ("uptime", "1005.0 1.0"),  # the first process is younger than this run
        ("uptime", "99999.0 1.0"),  # older than a session can be
        ("uptime", ""),
        ("1/stat", "1 (sh) S"),
        ("1/stat", None),
    ],
)
def test_a_session_whose_age_is_not_sure_counts_from_this_run(editor, file, text):
    if text is None:
        (editor / file).unlink()
    else:
        (editor / file).write_text(text)
    limit = clock.start(Config(), True, "gpu", 49_990.0, editor)
    assert limit.end == 49_990 + 0.95 * 12 * 3600 and "this run began" in limit.limit


def test_a_deadline_keeps_time_for_the_reports_and_shares_the_rest(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    limit = Clock(1000.0, 1100.0)
    whole = 100 - clock.REPORT
    assert limit.deadline(1.0) == 1000 + whole - clock.PER_NETWORK
    assert limit.deadline(0.25) == 1000 + whole / 4 - clock.PER_NETWORK
    assert Clock(1000.0, 1100.0, reports=2).deadline(1.0) == limit.deadline(1.0) - clock.REPORT
    assert Clock(1000.0, 1000.0).deadline(1.0) < 1000
    assert Clock(1000.0).deadline(0.5) == math.inf


@given(st.integers(1, 8), st.integers(0, 56), *[st.integers(0, 500)] * 2, st.floats(-1e3, 1e6))
def test_views_are_the_most_that_there_is_time_for(first, more, check, test, photos):
    asked = Views(first=first, most=first + more)
    views = clock.affordable(asked, check, test, photos)
    assert 1 <= views.first <= views.most <= asked.most
    assert views.first == min(first, views.most)
    assert views.most == 1 or clock.passes(views, check, test) <= photos
    if views != asked:
        one_more = Views(first=min(first, views.most + 1), most=views.most + 1)
        assert clock.passes(one_more, check, test) > photos


def test_validation_photos_get_all_views_and_test_photos_what_is_asked_for():
    assert clock.passes(Views(first=8, most=8), 10, 100) == 880
    assert 10 * 32 + 100 * 4 < clock.passes(Views(first=4, most=32), 10, 100) < 110 * 32


SECONDS = st.floats(1e-4, 100)
AHEAD = st.integers(1, 4).flatmap(
    lambda n: st.builds(
        Ahead,
        pace=st.builds(
            Pace,
            st.lists(SECONDS, min_size=n, max_size=n),
            st.lists(SECONDS, min_size=n, max_size=n),
            SECONDS,
        ),
        epochs=st.lists(st.floats(0.05, 30), min_size=n, max_size=n),
        steps=st.integers(1, 500),
        early=st.floats(0, 100),
        votes=st.floats(10, 1000),
        one_view=st.floats(0, 10),
    )
)


@given(AHEAD, st.floats(-10, 1e5), st.floats(0, 1e5))
def test_the_share_is_the_largest_whose_steps_and_checks_fit(ahead, left, more):
    share, least = ahead.share(left, left + more), ahead.training(0.0)
    assert (share == 0) == (left < least + ahead.early + ahead.one_view)
    assert 0 <= share <= 1
    if share:
        kept = min(ahead.votes, max(clock.VOTES_SHARE * (left + more), ahead.one_view))
        room = max(least, left - ahead.early - kept)
        assert ahead.training(share) <= room
        assert share == 1 or ahead.training(share + 1e-6) > room or ahead.training() > room


@given(st.floats(0.05, 40), st.integers(1, 300), st.floats(0, 1), st.integers(0, 5))
def test_a_stage_shrinks_by_the_share_and_stands_for_all_of_its_plan(planned, steps, share, first):
    leg = clock.next_leg(1, first, planned, steps, share)
    assert 1 <= leg.steps <= steps
    assert leg.epochs == max(1, math.ceil(planned * share - 1e-6))
    assert leg.epochs * leg.worth == pytest.approx(planned)  # so that progress reaches its end
    assert leg.total == first + leg.epochs
    wanted = planned * share * steps
    assert abs(leg.epochs * leg.steps - wanted) <= max(1, leg.epochs / 2) + 1e-6 * steps


def test_a_whole_plan_is_left_as_it_is_and_no_share_is_one_step():
    whole, least = (clock.next_leg(0, 0, 4.0, 9, share) for share in (1.0, 0.0))
    assert (whole.epochs, whole.steps, whole.worth) == (4, 9, 1.0)
    assert (least.epochs, least.steps, least.worth) == (1, 1, 4.0)


def test_a_slow_epoch_slows_the_other_sizes_and_a_fast_one_does_not_speed_them_up():
    pace = Pace([1.0, 2.0], [3.0, 4.0], 0.5)
    assert pace.by(0, 2.0, 9.0) == Pace([2.0, 4.0], [9.0, 8.0], 1.0)
    assert pace.by(1, 1.0, 1.0) == Pace([1.0, 1.0], [3.0, 1.0], 0.5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1.0]),
        ({"members": "seed=1+seed=2"}, [1 / 2, 1.0]),
        ({"folds": 3}, [1 / 3, 1 / 2, 1.0]),
        ({"members": "seed=1+seed=2", "folds": 2}, [1 / 4, 1 / 3, 1 / 2, 1.0]),
        ({"members": "seed=1+seed=2/stages=32x48x4,48x64x4", "views": 1}, [1 / 3, 1.0]),
    ],
    ids=str,
)
def test_networks_share_the_time_by_their_work(settings, expected, cfg, monkeypatch):
    cfg = cfg.replace(**settings)
    table = photos.load(cfg, files.locate(cfg))
    s = SimpleNamespace(cfg=cfg, table=table, place=SimpleNamespace(out=Path()))
    shares = [job.share for member in jobs.members(s) for job in member]
    assert shares == pytest.approx(expected, rel=0.05)


# --- Runs by a clock that only training and predicting move ---------------------------------------


class Ticker(IdleSteps):
    """A clock: a step takes so many seconds for each megapixel of its photos."""

    def __init__(self) -> None:
        self.now = 1e6
        self.training, self.looking = 30.0, 10.0
        self.slower = {}  # height of photos → factor in training that is no measuring
        self.is_real = False

    def took(self, kind, images) -> None:
        height = images.shape[1]
        slower = self.slower.get(height, 1) if kind == "train" and self.is_real else 1
        seconds = self.training if kind == "train" else self.looking
        self.now += seconds * slower * float(np.prod(images.shape[:3])) / 1e6


@pytest.fixture
def ticker(monkeypatch, without_pictures):
    ticker, fit = Ticker(), keras.Model.fit
    monkeypatch.setattr(time, "monotonic", lambda: ticker.now)
    monkeypatch.setattr(trainer, "monotonic", lambda: ticker.now)
    ticker.replace_real_ones(monkeypatch)

    def watched(net, *args, **named):
        ticker.is_real = "epochs" in named
        return fit(net, *args, **named)

    def write(*_):
        ticker.now += clock.REPORT
        return []

    monkeypatch.setattr(keras.Model, "fit", watched)
    monkeypatch.setattr(page, "write", write)
    return ticker


# By that clock a step of 3 photos takes 0.14 and 0.28 s, an epoch of 9 steps 1.4 and 2.9 s with its
# validation, and all of this 13 s.
@pytest.fixture
def cfg3(cfg):
    return cfg.replace(batch=3, stages="32x48x2,48x64x3")


def history(target: Path, folder: str = "member1") -> pd.DataFrame:
    return pd.read_csv(target.parent / folder / "history.csv")


def views_of(target: Path, which: str = "test") -> int:
    return len(votes.load(target.parent / "member1" / f"votes_{which}.npz").probs)


def passes(table: pd.DataFrame) -> list[float]:
    """Over the 27 train photos, by stage."""
    return (table.groupby("stage")["photos"].sum() / 27).tolist()


def test_a_run_ends_in_its_time_and_every_size_keeps_its_share(cfg3, ticker, capsys):
    began = ticker.now
    target = run(cfg3.replace(budget_minutes=24 / 60))
    assert 24 - clock.PER_NETWORK - 2 < ticker.now - began <= 24
    offers = re.findall(r"submission submission.csv: (.*);", capsys.readouterr().out)
    assert offers[0] == "the most frequent class"  # before anything is trained
    assert offers[-1].startswith("one member")
    table = history(target)
    small, large = passes(table)
    assert large / small == pytest.approx(3 / 2, rel=0.25)
    assert 2 < small + large < 4
    assert table["lr"].iloc[-1] < 0.02 * 0.05  # the schedule is shortened, not cut off


@pytest.mark.parametrize("minutes", [0, 0.01, 0.05])
def test_no_time_at_all_gives_the_most_frequent_class_and_says_so(cfg, ticker, capsys, minutes):
    target = run(cfg.replace(budget_minutes=minutes))
    assert pd.read_csv(target)["Category"].nunique() == 1
    assert len(pd.read_csv(target)) == 10
    assert "WARNING: no network was trained" in capsys.readouterr().out
    result = json.loads((target.parent / "result.json").read_text())
    assert result["made_by"] == "the most frequent class"
    told = (target.parent / "progress.jsonl").read_text().splitlines()
    end = json.loads(told[-1])
    assert (end["kind"], end["made_by"]) == ("end", result["made_by"])
    assert end["validation_score"] == result["validation_score"]
    assert not (target.parent / "member1" / "history.csv").exists()
    if minutes == 0:  # more time is another session of the same run
        run(cfg.replace(stages="32x48x1"))
        assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "seconds", "networks"),
    [
        (
            {"members": "seed=1+seed=2", "val_fraction": 0.4, "blend": "average"},
            40,
            ["member1", "member2"],
        ),
        ({"refit_epochs": 2}, 45, ["member1", "member1/refit"]),
        ({"folds": 2}, 40, ["member1/fold1", "member1/fold2"]),
        ({"patience": 1, "stages": "32x48x6,48x64x6"}, 35, ["member1"]),
        ({"mix": "mixup:0.2", "ema": 0.5, "unfreeze": "staged"}, 24, ["member1"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_all_networks_have_their_share_of_the_time(cfg3, ticker, settings, seconds, networks):
    began = ticker.now
    target = run(cfg3.replace(**settings, budget_minutes=seconds / 60))
    assert ticker.now - began <= seconds
    for folder in networks:
        table = history(target, folder)
        assert len(table)
        if not settings.get("patience"):
            assert table["lr"].iloc[-1] < 0.1 * table["lr"].max() or len(table) < 3


def test_networks_without_time_are_left_out_and_what_there_is_counts(cfg3, ticker, capsys):
    began = ticker.now
    target = run(cfg3.replace(folds=3, budget_minutes=26 / 60))
    assert ticker.now - began <= 26
    result = json.loads((target.parent / "result.json").read_text())
    folds = len(list((target.parent / "member1").glob("fold*/votes_test.npz")))
    assert 1 <= folds < 3
    assert result["validation_photos"] == 12 * folds
    # With time for it what is missing is trained, and what is there is kept.
    capsys.readouterr()
    run(cfg3.replace(folds=3))
    assert capsys.readouterr().out.count("\nnetwork  ") == 3 - folds
    result = json.loads((target.parent / "result.json").read_text())
    assert result["validation_photos"] == 36


def test_a_refit_without_time_leaves_the_member_as_it_is(cfg3, ticker):
    began = ticker.now
    target = run(cfg3.replace(refit_epochs=2, stages="32x48x1", budget_minutes=25 / 60))
    assert ticker.now - began <= 25
    result = json.loads((target.parent / "result.json").read_text())
    assert result["refit"]["kept"] == [False]
    assert "refit" not in result["made_by"]


def test_training_that_turns_out_slow_is_shortened_and_predictions_have_their_time(cfg3, ticker):
    ticker.slower = {48: 3.0}  # than was measured before training
    began = ticker.now
    target = run(cfg3.replace(stages="32x48x2,48x64x6", budget_minutes=40 / 60))
    assert 30 < ticker.now - began <= 40
    assert 1 < passes(history(target))[1] < 5
    assert views_of(target) == 4


def test_fewer_views_are_cast_where_they_do_not_fit_and_more_where_there_is_time(
    cfg3, ticker, capsys
):
    ticker.looking = 100.0  # 0.3 s a view of a photo
    cfg = cfg3.replace(stages="48x64x1", views="2-16")
    began = ticker.now
    target = run(cfg.replace(budget_minutes=50 / 60))
    assert ticker.now - began <= 50
    few = views_of(target, "validation")
    assert 1 <= few < 16
    run(cfg.replace(budget_minutes=0.1))
    assert views_of(target, "validation") == few  # what is there is taken
    capsys.readouterr()
    run(cfg.replace(budget_minutes=60))
    said = capsys.readouterr().out
    assert "training   done before" in said
    assert views_of(target, "validation") == 16


@pytest.mark.parametrize("minutes", [None, 0.0, 60.0])
def test_a_shortened_run_that_was_stopped_goes_on_with_another_limit(cfg3, ticker, capsys, minutes):
    cfg3 = cfg3.replace(stages="48x64x4")
    with stopped_after(1):
        run(cfg3.replace(budget_minutes=24 / 60))
    stopped = history(Path(cfg3.out) / "submission.csv")
    assert len(stopped) == 1
    capsys.readouterr()
    began = ticker.now
    target = run(cfg3.replace(budget_minutes=minutes))
    table, said = history(target), capsys.readouterr().out
    assert "resumed    after 1 epochs" in said
    assert table.iloc[:1].equals(stopped)
    if minutes == 0:
        assert len(table) == 1
        assert ticker.now - began < 10  # what is there votes, once
        assert views_of(target) == 1
        assert "WARNING" not in said
    else:  # all that was not done yet, to the end of the schedule
        assert 2 < passes(table)[0] < 4
        rates = table["lr"].tolist()[1:]
        assert rates == sorted(rates, reverse=True)
        assert 0 < rates[-1] < 0.02 * 0.05
        assert rates[0] > 0.02 * 0.2
        assert views_of(target) == 4


def test_a_training_that_time_has_shortened_is_taken_and_said(cfg3, ticker, capsys):
    cfg3 = cfg3.replace(stages="48x64x4", views=1)
    run(cfg3.replace(budget_minutes=18 / 60))
    capsys.readouterr()
    run(cfg3)
    said = capsys.readouterr().out
    assert "training   done before" in said
    assert "of 4 passes" in said

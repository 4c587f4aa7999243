"""Time budgets: a run ends in its time with a valid submission, and says what it gave up for it."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
import small
import tensorflow as tf

from carcls import config
from carcls import network as members
from carcls import record as steps
from carcls.config import Config
from carcls.desk import watch
from carcls.nets import schedule
from carcls.report import charts as figures
from carcls.report import page as report
from carcls.spine import run
from carcls.train import loop as train
from carcls.train import watchers as callbacks
from carcls.votes import votes


@pytest.fixture
def cfg(competition, tmp_path, tiny, monkeypatch) -> Config:
    monkeypatch.setattr(figures, "augmentation", lambda *_: None)
    monkeypatch.setattr(report, "write", lambda *_: [])
    return config.parse(
        {
            "data": str(competition),
            "out": str(tmp_path / "out"),
            "weights": "none",
            "backbone": tiny,
            "stages": "32x48x2,48x64x4",
            "batch": 8,
            "lr": 0.02,
            "tta_views": 4,
            "val_fraction": 0.25,
        }
    )


def costs(monkeypatch, **changes) -> None:
    """What measuring finds: as if an epoch took seconds. What a session really takes is nothing against it."""
    usual = {"train": (6.0, 20.0), "check": (0.0, 0.0), "view": (0.5, 1.0), "early": (0.0, 0.0)}

    def measure(self):
        self._compile(0)
        return schedule.Costs(**{"steps": self._whole(), **usual, **changes})

    monkeypatch.setattr(train._Training, "_measure", measure)


def killed_after_an_epoch(monkeypatch, cfg) -> None:
    """A run whose session ends once the first epoch is kept."""
    save = steps.States.save

    def kill(self, number, *rest):
        save(self, number, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as here, pytest.raises(KeyboardInterrupt):
        here.setattr(steps.States, "save", kill)
        run(cfg)


@pytest.mark.parametrize("minutes", [0.0, 0.01])
def test_an_absurd_budget_gives_a_valid_submission_and_says_what_it_skipped(cfg, minutes, capsys):
    target = run(cfg.replace(budget_minutes=minutes))
    said = capsys.readouterr().out
    assert pd.read_csv(target)["Category"].nunique() == 1
    assert len(pd.read_csv(target)) == 10
    assert "skipped    training, test-time augmentation and the report" in said
    assert "WARNING: no network was trained: every row is the most frequent class, 0" in said
    about = json.loads((target.parent / "submission.json").read_text())
    assert about["made_by"] == "the most frequent class: no time to train a network"
    found, _ = watch.summary(target.parent)  # what `make watch` says of such a kernel
    assert "most frequent class" in " ".join(found)


def test_a_short_budget_plans_fewer_epochs_steps_and_views(cfg, monkeypatch, capsys):
    monkeypatch.setattr(callbacks.Pace, "on_epoch_end", lambda *_: None)
    costs(monkeypatch)
    target = run(cfg.replace(budget_minutes=1.6))
    said = capsys.readouterr().out
    assert "plan       2+3 epochs instead of 2+4 epochs of 3 steps, 4 views: " in said
    history = pd.read_csv(target.parent / "member1" / "history.csv")
    assert history["stage"].tolist() == [1, 1, 2, 2, 2]
    assert history["photos"].tolist() == [24] * 5
    assert history["lr"].iloc[-1] < 0.02 * 0.05  # the schedule was shortened, not cut off

    costs(monkeypatch, train=(6.0, 200.0), view=(30.0, 60.0))
    run(cfg.replace(budget_minutes=1.0, out=cfg.out + "2", resume=False))
    said = capsys.readouterr().out
    assert "2+0 epochs instead of 2+4 epochs of 3 steps, 1 view instead of 4 views" in said
    folder = target.parent.parent / "out2"
    assert (
        pd.read_csv(folder / "member1" / "history.csv")[["height", "width"]].to_numpy().tolist()
        == [[32, 48]] * 2
    )
    assert len(votes.load(folder / "member1" / "votes_test.npz").probs) == 1
    assert config.load(folder / "config.json").tta_views == 1
    assert json.loads((folder / "member1" / "member.json").read_text())["stage"]["height"] == 32

    costs(monkeypatch, train=(600.0, 2000.0), steps=30)
    run(cfg.replace(budget_minutes=1.0, out=cfg.out + "3"))
    assert (
        "plan       1+0 epochs of 2 steps instead of 2+4 epochs of 30 steps, 4 views"
        in capsys.readouterr().out
    )


def test_a_slow_epoch_shortens_the_plan_and_time_is_kept_for_predictions(cfg, monkeypatch, capsys):
    costs(monkeypatch, train=(6.0, 0.3))
    begin = callbacks.Pace.on_epoch_begin
    monkeypatch.setattr(
        callbacks.Pace,
        "on_epoch_begin",
        lambda self, epoch, logs=None: (
            begin(self, epoch, logs),
            setattr(self, "also", lambda: 10.0 * (self.stage == 1)),
        ),
    )
    target = run(cfg.replace(budget_minutes=1.0))
    said = capsys.readouterr().out
    assert "plan       2+4 epochs, 4 views" in said
    assert " instead of 2+4 epochs: this one took 10" in said
    history = pd.read_csv(target.parent / "member1" / "history.csv")
    trained = len(history) - 2
    assert 1 <= trained < 4
    assert f"plan       2+{trained} epochs" in said
    assert history["epoch"].tolist() == [1, 2, *range(1, trained + 1)]
    assert len(votes.load(target.parent / "member1" / "votes_test.npz").probs) == 4


def test_shortened_epochs_are_gone_on_with_as_they_were_planned(cfg, monkeypatch, capsys):
    costs(monkeypatch, train=(2000.0, 2000.0), view=(50.0, 100.0))
    monkeypatch.setattr(callbacks.Pace, "on_epoch_end", lambda *_: None)
    cfg = cfg.replace(budget_minutes=183.0, mixup=0.2, batch=4)
    whole = run(cfg)
    save, calls = steps.States.save, []

    def killed(self, number, *rest):
        save(self, number, *rest)
        calls.append(number)
        if len(calls) == 4:  # in the middle of the second stage
            raise KeyboardInterrupt

    monkeypatch.setattr(steps.States, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(cfg.replace(out=cfg.out + "2"))
    monkeypatch.setattr(steps.States, "save", save)
    capsys.readouterr()
    again = run(cfg.replace(out=cfg.out + "2"))
    said = capsys.readouterr().out
    assert "resumed    after 4 epochs, 2 of them in stage 2/2" in said
    assert "plan       2+4 epochs of 5 steps instead of 2+4 epochs of 6 steps, 4 views: " in said
    for name in ("votes_validation.npz", "votes_test.npz"):
        assert (whole.parent / "member1" / name).read_bytes() == (
            again.parent / "member1" / name
        ).read_bytes()
    same = ["lr", "loss", "val_loss", "photos"]
    histories = [
        pd.read_csv(path.parent / "member1" / "history.csv")[same] for path in (whole, again)
    ]
    pd.testing.assert_frame_equal(*histories)
    assert histories[0]["photos"].tolist() == [20] * 6
    run(cfg.replace(budget_minutes=None))
    assert (
        "member1: trained with 4.4 of 6 passes over the photos, as an earlier budget planned it"
        in capsys.readouterr().out
    )

    # Without its budget a killed run goes on with whole epochs.
    calls.clear()
    monkeypatch.setattr(steps.States, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(cfg.replace(out=cfg.out + "3"))
    monkeypatch.setattr(steps.States, "save", save)
    target = run(cfg.replace(out=cfg.out + "3", budget_minutes=None))
    history = pd.read_csv(target.parent / "member1" / "history.csv")
    assert history["photos"].tolist() == [20] * 4 + [24] * 2
    assert history["lr"].iloc[-1] < 0.02 * 0.02


def test_memory_that_runs_out_leaves_as_many_photos_in_a_plan(cfg, monkeypatch, capsys):
    costs(monkeypatch, train=(2000.0,), check=(0.0,), view=(50.0,), early=(0.0,))
    monkeypatch.setattr(callbacks.Pace, "on_epoch_end", lambda *_: None)
    fit, begun = keras.Model.fit, []

    class Memory(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2 and len(begun) == 1:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    def less(self, dataset, **named):
        begun.append(1)
        return fit(self, dataset, **{**named, "callbacks": [*named["callbacks"], Memory()]})

    monkeypatch.setattr(keras.Model, "fit", less)
    target = run(cfg.replace(budget_minutes=121.0, batch=4, stages="32x48x4"))
    said = capsys.readouterr().out
    assert "memory     out of it with batches of 4: going on with 2" in said
    assert pd.read_csv(target.parent / "member1" / "history.csv")["photos"].tolist() == [20] * 4


def test_a_stage_that_stops_early_gives_its_time_to_the_next():
    measured = schedule.Costs((100.0, 100.0), (0.0, 0.0), (0.5, 1.0), (0.0, 0.0), steps=10)
    for stopped, epochs in ((True, (4, 6)), (False, (4, 3))):
        pace = callbacks.Pace(
            schedule.Plan((4, 3), 1),
            0,
            measured,
            time.monotonic() + 700,
            lambda: 100.0,
            most=(4, 6),
        )
        pace.set_model(SimpleNamespace(stop_training=stopped))
        pace.on_epoch_begin(0)
        pace.on_epoch_end(0)
        assert pace.plan.epochs == epochs
        assert pace.plan.steps is None


def test_a_plan_made_from_a_slow_moment_gets_longer(cfg, monkeypatch, capsys):
    costs(monkeypatch, train=(60.0,), check=(0.0,), view=(0.5,), early=(0.0,))
    target = run(cfg.replace(budget_minutes=2.0, stages="32x48x5"))
    said = capsys.readouterr().out
    assert "plan       2 epochs of 2 steps instead of 5 epochs of 3 steps" in said
    assert " instead of 2 epochs of 2 steps: this one took" in said
    assert "plan       5 epochs instead of" in said
    history = pd.read_csv(target.parent / "member1" / "history.csv")
    rates = history["lr"].tolist()
    assert history["photos"].iloc[0] == 16
    assert len(history) == 5
    assert rates == sorted(
        rates, reverse=True
    )  # it goes on from where it is, and falls over more epochs
    assert rates[-1] < 0.01 * 0.02


def test_members_share_the_time_and_those_without_are_left_out(cfg, monkeypatch, capsys):
    costs(monkeypatch)
    shares = []

    def share(self, networks):
        shares.append(networks)
        return schedule.TimeLeft(time.monotonic() + (200 if networks == 2 else -1))

    monkeypatch.setattr(schedule.Budget, "share", share)
    target = run(cfg.replace(budget_minutes=7.0, members="seed=1+seed=2", val_fraction=0.4))
    assert shares == [2, 1]
    assert "skipped    member 2: no time to train" in capsys.readouterr().out
    result = json.loads((target.parent / "result.json").read_text())
    assert [m["name"] for m in result["members"]] == ["1 tiny seed=1"]


def test_folds_without_time_are_left_out_and_the_others_count(cfg, monkeypatch, capsys):
    costs(monkeypatch)
    monkeypatch.setattr(
        schedule.Budget,
        "share",
        lambda self, networks: schedule.TimeLeft(time.monotonic() + (200 if networks > 1 else -1)),
    )
    cfg = cfg.replace(budget_minutes=9.0, folds=3, stages="32x48x1", tta_views=2)
    target = run(cfg)
    said = capsys.readouterr().out
    assert "skipped    folds 3 to 3: no time to train" in said
    result = json.loads((target.parent / "result.json").read_text())
    assert result["validation_photos"] == 24  # of the folds that there are
    assert json.loads((target.parent / "submission.json").read_text())["made_by"].startswith(
        "one member"
    )
    run(
        cfg.replace(budget_minutes=None)
    )  # without a budget what is missing is trained, and what is there is kept
    said = capsys.readouterr().out
    assert said.count("\nnetwork  ") == 1
    assert json.loads((target.parent / "result.json").read_text())["validation_photos"] == 36


def test_members_are_not_compared_over_folds_that_one_of_them_lacks(cfg, monkeypatch, capsys):
    make, asked = members.make, []

    def two_folds(*args):
        asked.append(args[1])
        made = make(*args)
        half = len(made.test) - 1
        return replace(made, test=made.test[:half], val=made.val.rows(np.arange(12 * half)))

    monkeypatch.setattr(members, "make", two_folds)
    old = Path(cfg.out) / "member2" / members.NOTE  # of an earlier run, with all its folds
    old.parent.mkdir(parents=True)
    old.touch()
    target = run(cfg.replace(folds=3, stages="32x48x1", tta_views=2, members="seed=1+seed=2"))
    said = capsys.readouterr().out
    assert asked == [0]
    assert (
        "skipped    other members: members are compared photo by photo, and of the first there are only 2 of 3 folds"
        in said
    )
    assert not old.exists()
    assert json.loads((target.parent / "result.json").read_text())["validation_photos"] == 24


def test_a_refit_has_its_share_of_the_time_and_is_skipped_without(cfg, monkeypatch, capsys):
    costs(monkeypatch)
    shares = []

    def share(self, networks):
        shares.append(networks)
        return schedule.TimeLeft(time.monotonic() + (200 if len(shares) == 1 else -1))

    monkeypatch.setattr(schedule.Budget, "share", share)
    target = run(cfg.replace(budget_minutes=7.0, refit_epochs=2))
    pixels = 2 * 32 * 48 + 4 * 48 * 64
    assert shares == [pytest.approx(1 + 2 / 0.75 * 48 * 64 / pixels), 1]  # 36 photos against 27
    assert "member 1: skipped: no time to train on all photos" in capsys.readouterr().out
    result = json.loads((target.parent / "result.json").read_text())
    assert result["refit"]["kept"] == [False]
    assert result["made_by"].startswith("one member")
    assert "refit" not in result["made_by"]


def test_a_run_that_goes_on_without_its_budget_has_all_its_views(cfg, monkeypatch, capsys):
    costs(monkeypatch, view=(12.0, 12.0))
    cfg = cfg.replace(stages="32x48x2")
    killed_after_an_epoch(monkeypatch, cfg.replace(budget_minutes=1.0))
    assert re.search(", (1 view|[23] views) instead of 4 views", capsys.readouterr().out)
    target = run(cfg)
    assert "resumed    after 1 epochs" in capsys.readouterr().out
    assert len(votes.load(target.parent / "member1" / "votes_test.npz").probs) == 4


def test_views_that_are_set_anew_are_cast_by_a_session_that_goes_on_in_a_budget(
    cfg, monkeypatch, capsys
):
    costs(monkeypatch)
    cfg = cfg.replace(stages="32x48x2", budget_minutes=60.0)
    killed_after_an_epoch(monkeypatch, cfg)
    target = run(cfg.replace(tta_views=2, tta_cap=6))
    said = capsys.readouterr().out
    assert "resumed    after 1 epochs" in said
    assert "epochs, 2 to 6 views: " in said
    assert len(votes.load(target.parent / "member1" / "votes_validation.npz").probs) == 6
    assert config.load(target.parent / "config.json").tta_cap == 6


def test_more_views_do_not_cut_a_training_that_goes_on_short(cfg, monkeypatch, capsys):
    costs(monkeypatch, view=(1.0, 1.0))
    cfg = cfg.replace(stages="32x48x2", budget_minutes=1.0)
    killed_after_an_epoch(monkeypatch, cfg)
    run(cfg.replace(tta_views=64))
    assert "2 epochs, 32 views instead of 64 views: " in capsys.readouterr().out


def test_views_that_were_planned_are_kept_unless_they_are_set_anew(cfg, monkeypatch, capsys):
    costs(monkeypatch, view=(14.0, 14.0))
    cfg = cfg.replace(stages="32x48x2", budget_minutes=1.0)

    def views(cfg) -> int:
        return len(votes.load(run(cfg).parent / "member1" / "votes_test.npz").probs)

    planned = views(cfg)
    assert planned < 4
    assert views(cfg.replace(budget_minutes=60.0)) == planned
    assert views(cfg.replace(budget_minutes=None)) == 4
    assert views(cfg.replace(budget_minutes=60.0)) == 4  # what was cast without a limit is there
    assert views(cfg.replace(budget_minutes=60.0, tta_views=5)) == 5


def test_views_are_as_many_as_the_clock_allows_whatever_was_planned(cfg, monkeypatch, capsys):
    """A training of another session is there, and little time."""
    from carcls.train import clock as timing

    target = run(cfg.replace(stages="32x48x2"))
    note = target.parent / "member1" / "steps.json"
    note.write_text(
        json.dumps({"training": json.loads(note.read_text())["training"]})
    )  # killed before it voted
    capsys.readouterr()
    monkeypatch.setattr(timing, "predicted", lambda *_: 10.0)  # seconds a photo
    run(cfg.replace(stages="32x48x2", budget_minutes=10.0))
    said = capsys.readouterr().out
    assert "training   done before" in said
    assert re.search(r"views      4 views take 760 s, and there are [45]\d\d s\n", said)
    assert re.search(r"views      [23] views instead of 4 views\n", said)
    views = len(votes.load(target.parent / "member1" / "votes_test.npz").probs)
    assert views in (2, 3)
    run(cfg.replace(stages="32x48x2", budget_minutes=0.5))  # what is there is taken
    assert "votes      on test photos cast before" in capsys.readouterr().out
    assert len(votes.load(target.parent / "member1" / "votes_test.npz").probs) == views
    run(cfg.replace(stages="32x48x2", budget_minutes=99.0))  # time for all of them
    assert len(votes.load(target.parent / "member1" / "votes_test.npz").probs) == 4
    run(
        cfg.replace(stages="32x48x2", tta_views=5, budget_minutes=99.0)
    )  # asked for anew, with time for it
    assert "number of views is made anew: tta_views 4 → 5" in capsys.readouterr().out
    assert len(votes.load(target.parent / "member1" / "votes_test.npz").probs) == 5
    capsys.readouterr()
    # Nine validation photos with all views and those of the rule, ten test photos with the latter:
    # 10 s each.
    run(cfg.replace(stages="32x48x2", tta_views=2, tta_cap=16, budget_minutes=10.0))
    assert re.search(
        r"views      2 to 16 views take 2309 s, and there are [45]\d\d s\n",
        said := capsys.readouterr().out,
    )
    assert re.search(r"views      (2 to 3|2) views instead of 2 to 16 views\n", said)


def test_measuring_changes_nothing(cfg, tmp_path, capsys):
    weights = str(small.saved(tmp_path / "tiny.weights.h5"))
    cfg = cfg.replace(
        stages="32x48x1,48x64x1", ema=0.9, unfreeze="staged", weights=weights, refit_epochs=1
    )
    plain = run(cfg)
    timed = run(cfg.replace(budget_minutes=60.0, out=cfg.out + "2"))
    said = capsys.readouterr().out
    assert "plan       1+1 epochs, 4 views" in said
    assert "plan       1 epochs, 4 views" in said  # of the refit, without validation photos
    for file in ("votes_test.npz", "refit/votes_test.npz"):
        probs = [votes.load(path.parent / "member1" / file).probs for path in (plain, timed)]
        assert (probs[0] == probs[1]).all()
    assert not list(timed.parent.rglob(".*.part*"))


def test_fewer_views_than_the_cap_are_a_lower_cap_until_none_are_left_to_add():
    cfg = Config(tta_views=4, tta_cap=32)
    assert members.with_views(cfg, 32) is cfg
    fewer = [members.with_views(cfg, views) for views in (16, 5, 4, 2)]
    assert [(made.tta_views, made.tta_cap) for made in fewer] == [(4, 16), (4, 5), (4, 0), (2, 0)]


def test_the_session_of_a_kernel_is_the_budget(monkeypatch):
    cfg = Config()
    assert schedule.budget(cfg, False, "cpu", 0.0) is None
    assert schedule.budget(cfg, True, "gpu", 100.0).end == 100 + 0.95 * 12 * 3600
    assert schedule.budget(cfg, True, "tpu", 0.0).end == 0.95 * 9 * 3600
    assert schedule.budget(cfg.replace(budget_minutes=3.0), True, "gpu", 0.0).end == 180
    assert members.with_views(cfg, 8) is cfg


def test_out_of_memory_halves_the_batch_and_training_goes_on(cfg, monkeypatch, capsys):
    fit = keras.Model.fit
    seen = []

    def small_memory(self, dataset, **named):
        images = next(iter(dataset))[0]
        seen.append(images.shape)
        if len(images) * images.shape[1] * images.shape[2] > 8 * 32 * 48:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return fit(self, dataset, **named)

    monkeypatch.setattr(keras.Model, "fit", small_memory)
    target = run(cfg.replace(schedule="constant", warmup=0))
    said = capsys.readouterr().out
    assert [shape[0] for shape in seen] == [
        8,
        8,
        4,
    ]  # stage 1, stage 2, and again from the state after stage 1
    assert "memory     out of it with batches of 8: going on with 4, learning rate 1.00e-02" in said
    history = pd.read_csv(target.parent / "member1" / "history.csv")
    assert history["stage"].tolist() == [1, 1, 2, 2, 2, 2]
    assert history["lr"].tolist() == pytest.approx(
        [0.02] * 2 + [0.01] * 4
    )  # the same for each photo

    # In the middle of a stage the schedule goes on from where it was: the rest is half the rate,
    # and twice the steps.
    epochs = []

    def less_and_less(self, dataset, **named):
        epochs.append(named.get("initial_epoch", 0))
        if len(epochs) == 1:
            named["callbacks"] = [*named["callbacks"], Memory()]
        return fit(self, dataset, **named)

    class Memory(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(keras.Model, "fit", less_and_less)
    target = run(cfg.replace(stages="32x48x6", out=cfg.out + "4"))
    assert epochs == [0, 2]
    rates = pd.read_csv(target.parent / "member1" / "history.csv")["lr"].tolist()
    course = schedule.Course(0, 0.0, 1 / 6)
    ends = [
        course.rate(cfg, epoch + 0.5) for epoch in range(6)
    ]  # of the epochs, were there no steps in them
    assert rates == pytest.approx([*ends[:2], *(rate / 2 for rate in ends[2:])], rel=0.2, abs=1e-3)
    assert rates[-1] < 1e-4

    def no_memory(self, *_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(keras.Model, "fit", no_memory)
    with pytest.raises(
        tf.errors.ResourceExhaustedError
    ):  # at a batch of one there is nothing left to try
        run(cfg.replace(out=cfg.out + "2", batch=2))
    assert "going on with 1" in capsys.readouterr().out

"""Training one network: too little memory, BN's first statistics, settings that change the loop."""

import gc
import json
import os
from pathlib import Path

import keras
import pandas as pd
import pytest
import small
import tensorflow as tf
from conftest import IdleSteps, easy_competition
from tensorflow.python.framework import ops

from carcls import run
from carcls.config import Config
from carcls.errors import Stopped
from carcls.nets import model, schedule
from carcls.train import loop, rebase, trainer

pytestmark = pytest.mark.usefixtures("without_pictures")
TOO_LITTLE = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


def history(target) -> pd.DataFrame:
    return pd.read_csv(target.parent / "member1" / "history.csv")


def test_out_of_memory_halves_the_batch_and_training_goes_on(brief, monkeypatch):
    fit, batches = keras.Model.fit, []

    def small_memory(self, dataset, **named):
        shape = next(iter(dataset))[0].shape
        batches.append(shape[0])
        if shape[0] * shape[1] * shape[2] > 16 * 32 * 48:
            raise TOO_LITTLE
        return fit(self, dataset, **named)

    monkeypatch.setattr(keras.Model, "fit", small_memory)
    settings = {"schedule": "constant", "warmup": 0, "batch": 16, "stages": "32x48x1,48x64x1"}
    table = history(run(brief.replace(**settings)))
    assert batches == [16, 16, 8]  # stage 1, stage 2, and again from the state after stage 1
    assert table["stage"].tolist() == [1, 2]
    assert table["lr"].tolist() == pytest.approx([0.02, 0.01])  # the same for each photo


def test_out_of_memory_within_a_stage_leaves_the_schedule_where_it_was(cfg, monkeypatch, capsys):
    fit, begun = keras.Model.fit, []

    class Memory(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2 and len(begun) == 1:
                raise TOO_LITTLE

    def less(self, dataset, **named):
        begun.append(named["initial_epoch"])
        return fit(self, dataset, **{**named, "callbacks": [*named["callbacks"], Memory()]})

    monkeypatch.setattr(keras.Model, "fit", less)
    IdleSteps().replace_real_ones(monkeypatch)  # the schedule alone is looked at
    cfg = cfg.replace(stages="32x48x6")
    rates = history(run(cfg))["lr"].tolist()
    assert begun == [0, 2]
    # At the end of each epoch, a last step away from it; then half, for half of the photos a step.
    ends = [schedule.rate_at(cfg, (epoch + 1) / 6) for epoch in range(6)]
    expected = [*ends[:2], *(rate / 2 for rate in ends[2:])]
    assert rates == pytest.approx(expected, abs=2e-3)
    assert rates[-1] < 1e-4


def test_at_a_batch_of_one_there_is_nothing_left_to_try(cfg, monkeypatch):
    def no_memory(*_, **__):
        raise TOO_LITTLE

    monkeypatch.setattr(keras.Model, "fit", no_memory)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        run(cfg.replace(batch=2))


@pytest.fixture
def rebased(cfg, tmp_path, monkeypatch):
    """Runs with weights and 45 photos to train → the batches that BN was rebased on."""
    data = easy_competition(tmp_path / "more", 60, 10)
    weights = str(small.saved(tmp_path / "tiny.weights.h5"))
    seen = []

    def enough(_):
        raise Stopped("enough")

    def rebase(net, batches):
        seen.append([batch.shape for batch in batches])
        return 2

    monkeypatch.setattr(model, "rebase_batch_norms", rebase)
    monkeypatch.setattr(trainer, "measure", enough)

    def shapes(**settings) -> list:
        base = {"data": str(data), "weights": weights, "budget_minutes": 60}
        with pytest.raises(Stopped):
            run(cfg.replace(**base | settings))
        return seen

    return shapes


def test_bn_takes_its_first_statistics_from_some_photos_as_training_sees_them(rebased, monkeypatch):
    assert rebased(batch=5, bn_photos=32) == [[(32, 32, 48, 3)]]  # no more than asked
    monkeypatch.setattr(rebase, "PIXELS", 12 * 32 * 48)  # as of larger photos
    assert rebased(batch=5, bn_photos=32)[-1] == [(12, 32, 48, 3)] * 3


@pytest.mark.parametrize(
    "settings",
    [{"bn_photos": 0}, {"freeze_bn": True}, {"unfreeze": "head"}, {"weights": "none"}],
    ids=str,
)
def test_bn_keeps_its_statistics_where_nothing_is_to_be_kept_or_it_does_not_train(
    rebased, settings
):
    assert rebased(**settings) == []


def test_bn_looks_at_fewer_photos_where_time_is_short(rebased, monkeypatch):
    monkeypatch.setattr(rebase, "TIME_SHARE", 0.0)
    monkeypatch.setattr(rebase, "MOST", 8)
    assert rebased(batch=32) == [[(8, 32, 48, 3)]]


def test_settings_that_change_the_loop_train_too(cfg: Config):
    more = {"optimizer": "sgd", "schedule": "plateau", "unfreeze": "staged", "patience": 1}
    more |= {"ema": 0.9, "mix": "mixup:0.2", "label_smoothing": 0.1, "fit": "crop"}
    more |= {"stages": "32x48x1,48x64x1", "refit_epochs": 1}
    # With a limit, which is far: steps are measured before, and the network is as it was after it.
    target = run(cfg.replace(**more, augment="medium", tensorboard=True, budget_minutes=60))
    result = json.loads((target.parent / "result.json").read_text())
    assert len(result["refit"]["kept"]) == 1
    logs = target.parent / "member1" / "tensorboard"
    assert list(logs.rglob("events.out.tfevents.*"))  # S45


def test_weights_by_way_of_memory_are_as_keras_writes_them(tmp_path):
    net = small.tiny((None, None, 3))
    net.compile("adam")
    content = loop._InMemory()
    net.save_weights(content)
    (tmp_path / "a.weights.h5").write_bytes(content.getbuffer())
    other = small.tiny((None, None, 3))
    other.load_weights(tmp_path / "a.weights.h5")
    for mine, theirs in zip(net.weights, other.weights, strict=True):
        assert (mine.numpy() == theirs.numpy()).all()


def test_nothing_of_a_run_stays_in_the_process(cfg):
    runs = 12 if os.environ.get("CARCLS_SLOW") else 1
    before, sizes = set(ops.gradient_registry.list()), []
    for n in range(runs):
        run(cfg.replace(out=f"{cfg.out}{n}", stages="32x48x1"))
        gc.collect()
        sizes.append(float(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6)
    assert not [n for n in set(ops.gradient_registry.list()) - before if n.startswith("Custom")]
    if runs > 4:  # the first ones fill caches
        assert (sizes[-1] - sizes[3]) / (runs - 4) < 1

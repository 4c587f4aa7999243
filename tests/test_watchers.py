"""What watches a training, on a model of a few numbers."""

import csv
import io
import json
import math
import os
import signal
from contextlib import suppress
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from carcls import stops
from carcls.config import Config
from carcls.errors import Stopped, TrainingDiverged
from carcls.metrics import SHOWN
from carcls.nets.model import numbers, restore
from carcls.train import clock, progress, steps, watchers
from carcls.train.clock import Leg
from carcls.train.events import Events
from carcls.train.progress import Progress
from carcls.train.state import History, States
from carcls.train.steps import StepTimes

CFG = Config(stages="32x64x4,64x64x2")
STEPS = 4  # of an epoch
X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 32)


def model(ema: float = 0.0) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8,)), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    net = keras.Sequential(layers)
    optimizer = keras.optimizers.SGD(0.1, use_ema=bool(ema), ema_momentum=ema or 0.99)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(optimizer, loss, metrics=["accuracy"], run_eagerly=True)
    return net


def fit(net, *callbacks, epochs: int = 2) -> dict[str, list[float]]:
    options = {"batch_size": 8, "epochs": epochs, "verbose": 0, "shuffle": False}
    return net.fit(X, Y, callbacks=list(callbacks), validation_data=(X, Y), **options).history


def play(net, *callbacks, logs) -> int:
    """Epochs of such validation accuracy and loss, after epoch e all weights are e; returns how
    many were run."""
    net.stop_training = False
    for callback in callbacks:
        callback.set_model(net)
        callback.on_train_begin()
    for epoch, (accuracy, loss) in enumerate(logs):
        net.set_weights([np.full_like(w, epoch) for w in net.get_weights()])
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, {"val_accuracy": accuracy, "val_loss": loss})
        if net.stop_training:
            return epoch + 1
    return len(logs)


def leg(stage: int) -> Leg:
    epochs = CFG.stages[stage].epochs
    return Leg(stage, 0, epochs, epochs, STEPS, 1.0, 0.0 if stage else 2.0 * 64 * 64)


# Of 8 photos a step; nothing is waited for.
FEEDS = (
    SimpleNamespace(batch=8, waited=lambda first, ends: 0.0),
    SimpleNamespace(batch=4, steps=3),
)


def rate(step: int) -> float:
    return 0.1 / (step + 1)


@pytest.fixture
def events(tmp_path) -> Events:
    return Events(tmp_path / "progress.jsonl")


@pytest.fixture
def history(tmp_path) -> History:
    return History(tmp_path / "history.csv", [])


# --- Progress and history -------------------------------------------------------------------------


def test_one_line_one_event_and_one_row_an_epoch(events, history, capsys):
    net = model()
    first = fit(net, Progress(CFG, leg(0), rate, FEEDS, events.send, history), epochs=4)
    fit(net, Progress(CFG, leg(1), rate, FEEDS, events.send, history), epochs=2)
    said, rows = capsys.readouterr().out, history.rows
    assert "\r" not in said
    said = said.splitlines()
    assert len(said) == len(rows) == 6
    # The rate is that of the epoch's last step: 0.1 / 8.
    assert said[1].startswith("stage 1/2 32x64  epoch 2/4  lr 1.25e-02  loss ")
    assert said[4].startswith("stage 2/2 64x64  epoch 1/2  lr 2.50e-02  loss ")
    assert said[5].endswith("  0:00 left")
    for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert [row[key] for row in rows[:4]] == first[key]
    scores = list(zip(first["val_accuracy"], np.negative(first["val_loss"]), strict=True))
    best = [not n or score > max(scores[:n]) for n, score in enumerate(scores)]
    assert [row["best"] for row in rows[:4]] == best
    assert [line.count("*") for line in said] == [row["best"] for row in rows]
    with history.path.open() as file:
        table = list(csv.DictReader(file))
    assert [row["stage"] + row["epoch"] for row in table] == ["11", "12", "13", "14", "21", "22"]
    assert float(table[3]["val_loss"]) == first["val_loss"][3]
    sent = [json.loads(line) for line in events.path.read_text().splitlines()]
    assert [event["val_loss"] for event in sent[:4]] == first["val_loss"]
    assert [(event["kind"], event["photos"]) for event in sent] == [("epoch", 32)] * 6


def test_time_left_and_speed_count_pixels_not_epochs(events, history, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(watchers.time, "monotonic", lambda: now[0])
    progress = Progress(CFG, leg(0), rate, FEEDS, events.send, history)
    progress.on_epoch_begin(0)
    for step, seconds in enumerate([10, 1, 1, 1]):  # the first step takes 9 s more: it traces
        now[0] += seconds
        progress.on_train_batch_end(step, {"loss": 1.0})
    now[0] += 2  # validation
    progress.on_epoch_end(0, {"val_loss": math.nan, "val_accuracy": 0.5})
    progress.on_epoch_end(1, {"loss": 1.0})  # no validation photos
    first, second = history.rows
    assert (first["images_per_s"], first["seconds"]) == (8, 15)
    # An epoch takes 4 + 2 s without tracing: 3 more here, 2 later of twice the pixels, which trace.
    assert first["left_s"] == 3 * 6 + 2 * 12 + 9
    assert first["best"] and not second["best"]
    said = capsys.readouterr().out.splitlines()
    assert ["val loss nan  val acc 0.5000*" in line for line in said] == [True, False]
    assert "val acc" not in said[1]


def test_a_step_is_told_where_nothing_was_sent_for_a_minute(tmp_path, history, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(steps.time, "monotonic", lambda: now[0])
    events = Events(tmp_path / "progress.jsonl")

    def play(kind: str, times: StepTimes, count: int, **logs) -> None:
        for batch in range(count):
            now[0] += 25
            getattr(times, f"on_{kind}_batch_end")(batch, logs)

    with steps.told(events, "member 1", "train"):
        progress = Progress(CFG, leg(0), rate, FEEDS, events.send, history)
        with steps.told(events, "member 2", "test votes"):
            votes = StepTimes(9, 10)
    progress.on_epoch_begin(0)
    now[0] += 100  # to compile the first step, from which no speed is known
    play("train", progress, 4, loss=1.5, accuracy=math.nan)
    progress.on_test_begin()
    play("test", progress, 3)
    progress.on_epoch_end(0, {})
    votes.on_epoch_begin(0)
    play("predict", votes, 3)
    alone = StepTimes(9, 10)  # nobody is told
    now[0] += 1000
    play("predict", alone, 3)
    sent = [json.loads(line) for line in events.path.read_text().splitlines()]
    kinds = ["step", "step", "epoch", "step"]
    assert [(event["kind"], event["at"] > 0) for event in sent] == [(kind, True) for kind in kinds]
    for event in sent:
        del event["id"], event["at"], event["kind"]
    train, check, _, vote = sent
    where = {"network": "member 1", "stage": 1, "epoch": 1}
    counted = {"what": "train", "done": 2, "steps": 4, "images_per_s": 0.3}
    # 100 s an epoch: 3.5 of them here, and as many pixels as 4 more later.
    seen = {"loss": 1.5, "accuracy": None, "left_s": 750.0}
    assert train == where | counted | seen
    assert check == where | {"what": "validation", "done": 2, "steps": 3, "images_per_s": 0.2}
    told = {"network": "member 2", "what": "test votes", "images_per_s": 0.4}
    assert vote == told | {"done": 3, "steps": 9}


@pytest.mark.parametrize(("waiting", "is_said"), [(None, False), (0.02, False), (0.42, True)])
def test_waiting_for_photos_is_said_where_it_is_much(events, history, capsys, waiting, is_said):
    asked = []
    feed = SimpleNamespace(batch=8, waited=lambda *args: asked.append(args) or waiting)
    progress = Progress(CFG, leg(0), rate, (feed, None), events.send, history)
    progress.on_epoch_begin(2)
    for step in range(STEPS):
        progress.on_train_batch_end(step, {"loss": 1.0})
    progress.on_epoch_end(2, {"loss": 1.0})
    assert ("42% waiting" in capsys.readouterr().out) == is_said
    assert asked == [(2 * STEPS, progress.ends)] and [*progress.ends] == [*range(STEPS)]
    assert json.loads(events.path.read_text())["waiting"] == waiting
    assert "waiting" not in history.rows[0]  # a history read back is the same


def test_a_bar_on_a_terminal_is_rare_and_cleared(events, history, monkeypatch):
    screen, now = io.StringIO(), [0.0]
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr(watchers.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("COLUMNS", "60")
    progress = Progress(CFG, leg(0), rate, FEEDS, events.send, history)
    progress.on_train_begin()
    progress.on_epoch_begin(0)
    for step in range(4):
        now[0] += 0.1
        progress.on_train_batch_end(step, {"loss": 1.0, "accuracy": 0.5})
    progress.on_test_begin()
    progress.on_epoch_end(0, {})
    _, half, whole, checking, line = screen.getvalue().split("\r\x1b[K")
    assert half.startswith("stage 1/2 32x64 epoch 1/4 [##########..........] 2/4")
    assert "[####################] 4/4" in whole and checking.endswith("validating")
    assert all(len(drawn) < 60 for drawn in (half, whole, checking))
    assert line.startswith("stage 1/2 32x64  epoch 1/4  lr ")


def test_seconds_as_people_read_them():
    seconds = (0.4, -1, 59.6, 3725)
    assert [clock.show(each) for each in seconds] == ["0:00", "0:00", "1:00", "1:02:05"]


# --- Checkpoints ----------------------------------------------------------------------------------


def checkpoint(folder, before: int = 0) -> watchers.Checkpoint:
    states = States(folder / "state")
    return watchers.Checkpoint(states, lambda epoch: {"facts": {}, "epoch": epoch}, before)


def test_the_best_state_by_accuracy_then_loss_and_the_last_one(tmp_path):
    net, kept = model(), checkpoint(tmp_path, before=10)
    logs = [(0.5, 1.0), (0.7, 2.0), (0.7, 1.5), (0.7, 1.5), (math.nan, 0.1), (0.6, 0.1)]
    play(net, kept, logs=logs)
    assert kept.kept() == {"best": (0.7, -1.5), "best_epoch": 3}
    assert {path.name for path in kept.states.folder.glob("*.npz")} == {"13.npz", "16.npz"}
    assert kept.states.load({})["epoch"] == kept.note["epoch"] == 6
    for which, value in (("last", 5), ("best", 2)):
        restore(net, kept.states.arrays(which))
        assert all((w == value).all() for w in net.get_weights())
    again = checkpoint(tmp_path, before=16)  # a session that goes on
    again.restore(kept.kept())
    play(net, again, logs=[(0.65, 0.1)])
    assert again.best == (0.7, -1.5)


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("f1_macro", (0.4, 0.6, 0.5), 2),
        ("log_loss", (0.4, 0.6, 0.5), 1),
        ("auc", (0.5, 0.5, 0.5), 3),
    ],
)
def test_another_metric_chooses_the_epoch_and_has_a_column(
    metric, values, best, tmp_path, events, history, capsys
):
    """It does because the network is compiled with it."""
    kept = checkpoint(tmp_path)
    progress = Progress(CFG, leg(0), rate, FEEDS, events.send, history)
    for callback in (kept, progress):
        callback.set_model(model())
    for epoch, value in enumerate(values):
        logs = {"val_accuracy": 1 - value, "val_loss": 3.0 - epoch, f"val_{metric}": value}
        for callback in (kept, progress):
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, logs)
    assert kept.best_epoch == best
    assert [row[f"val_{metric}"] for row in history.rows] == list(values)
    assert watchers.score(max(history.rows, key=watchers.rank)) == values[best - 1]
    starred = [n + 1 for n, row in enumerate(history.rows) if row["best"]]
    assert starred[-1] == best
    assert f"{SHOWN[metric]} {values[0]:.4f}*" in capsys.readouterr().out
    assert list(history.rows[0]).count(f"val_{metric}") == 1


def test_an_epoch_without_a_number_counts_until_there_is_a_better_one(tmp_path):
    kept = checkpoint(tmp_path)
    play(model(), kept, logs=[(math.nan, math.nan), (0.1, math.nan), (0.1, 3.0), (0.1, math.nan)])
    assert kept.best_epoch == 3


def test_without_validation_the_last_epoch_is_the_best(tmp_path):
    kept = checkpoint(tmp_path)
    kept.set_model(model())
    for epoch in range(2):
        kept.on_epoch_end(epoch, {"loss": 1.0})
        assert kept.best_epoch == epoch + 1


# --- Averaged weights -----------------------------------------------------------------------------


class Spy(keras.callbacks.Callback):
    """Weights after each training step and inside validation."""

    def on_train_begin(self, logs=None):
        self.trained, self.tested = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.trained.append(trained(self.model))

    def on_test_batch_end(self, batch, logs=None):
        self.tested.append(trained(self.model))


def trained(net) -> list[np.ndarray]:
    return [numbers(weight) for weight in net.trainable_variables]


def assert_close(a, b) -> None:
    for v, w in zip(a, b, strict=True):
        np.testing.assert_allclose(v, w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_scaled", [False, True])
def test_the_average_is_validated_and_saved_and_training_goes_on_raw(tmp_path, is_scaled):
    plain, net = model(), model(ema=0.5)
    if is_scaled:  # as in mixed_float16
        optimizer = keras.optimizers.LossScaleOptimizer(net.optimizer, initial_scale=1.0)
        net.compile(optimizer, net.loss, metrics=["accuracy"], run_eagerly=True)
    without, spy, averaged, kept = Spy(), Spy(), watchers.AveragedWeights(), checkpoint(tmp_path)
    fit(plain, without)
    history = fit(net, kept, averaged, spy)
    for a, b in zip(without.trained, spy.trained, strict=True):  # the average changes no step
        assert_close(a, b)
    expected = spy.trained[0]
    for step in spy.trained[1:]:
        expected = [0.5 * e + 0.5 * w for e, w in zip(expected, step, strict=True)]
    assert_close(expected, spy.tested[-1])
    assert not any(map(np.allclose, expected, spy.trained[-1]))
    restore(net, kept.states.arrays("last"))  # a state is raw, and has the averages beside it
    assert_close(trained(net), spy.trained[-1])
    with averaged.swapped():
        assert_close(trained(net), spy.tested[-1])
    assert_close(trained(net), spy.trained[-1])
    restore(net, kept.states.arrays("best"))
    averaged.settle()  # what is saved is what was measured
    scores, best = net.evaluate(X, Y, verbose=0, return_dict=True), kept.best_epoch - 1
    assert scores["accuracy"] == pytest.approx(history["val_accuracy"][best])
    assert scores["loss"] == pytest.approx(history["val_loss"][best], rel=1e-5)


def test_before_the_first_step_there_is_no_average():
    net, averaged = model(ema=0.9), watchers.AveragedWeights()
    before = trained(net)
    averaged.set_model(net)
    with averaged.swapped():  # the averages are still zeros
        assert_close(trained(net), before)


# --- Stops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patience", "losses", "ran"),
    [
        (1, [1, 2, 3, 4, 5, 6, 7], 5),  # the fourth sets the mark, the fifth is no better
        (2, [9, 9, 9, 1, 2, 3, 4], 6),
        (2, [9, 9, 9, 3, 4, 2, 3, 1, 2, 2, 2], 10),
        (1, [9, 9, 9, math.nan, 3, 2, 1], 7),
        (0, [1, 2, 3, 4, 5, 6], 6),
    ],
)
def test_a_stage_stops_without_a_better_loss_after_its_unsteady_epochs(
    patience, losses, ran, events, capsys
):
    assert watchers.UNSTEADY == 3
    stop = watchers.EarlyStop(patience, events.send)
    assert play(model(), stop, logs=[(0.5, float(loss)) for loss in losses]) == ran
    assert stop.kept()["has_stopped"] == events.path.exists() == (ran < len(losses))
    assert bool(capsys.readouterr().out) == (ran < len(losses))


def test_how_long_nothing_was_better_survives_a_resumed_stage(events):
    logs = [(0.5, loss) for loss in (9.0, 9.0, 9.0, 1.0, 2.0)]
    plateau = {"monitor": "val_loss", "patience": 2, "factor": 0.5}
    first = [watchers.EarlyStop(2, events.send), watchers.Plateau(**plateau)]
    play(model(), *first, logs=logs)
    stop, lower = again = [watchers.EarlyStop(2, events.send), watchers.Plateau(**plateau)]
    net = model()
    for new, old in zip(again, first, strict=True):
        new.restore(json.loads(json.dumps(old.kept())))
        new.set_model(net)
        new.on_train_begin()
        new.on_epoch_end(5, {"val_loss": 3.0})
    assert stop.has_stopped and net.stop_training
    assert float(net.optimizer.learning_rate) == pytest.approx(0.05)
    assert lower.kept()["best"] == 1.0


@pytest.mark.parametrize(("batch", "step"), [(2, 3), (3, 4)])
def test_a_loss_that_is_no_number_stops_at_its_step_and_names_it(batch, step):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_begin(self, number, logs=None):
            if (self.epoch, number) == (1, batch):
                self.model.set_weights([w * math.nan for w in self.model.get_weights()])

    stop = watchers.StopOnNaN(CFG, leg(0), lambda step: step / 1000)
    with pytest.raises(TrainingDiverged) as caught:
        fit(model(), Poison(), stop, epochs=3)
    at = f"nan in stage 1/2 (32x64), epoch 2/4, step {step}/4, at learning rate {step + 3}.00e-03"
    said = str(caught.value)
    assert at in said and f"lr={CFG.lr / 3:.1g}" in said


def test_nothing_that_looks_at_steps_makes_keras_wait_for_each_of_them():
    """On JAX the next step then begins before the last one's loss is a number."""
    kinds = [*vars(watchers).values(), *vars(progress).values()]
    kinds = [kind for kind in kinds if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, keras.callbacks.Callback)]
    looks = {kind for kind in kinds if kind.__module__.startswith("carcls")}
    looks = {
        kind for kind in looks if any("on_train_batch_end" in vars(k) for k in kind.__mro__[:-2])
    }
    assert {Progress, watchers.StopOnNaN, StepTimes} <= looks
    assert all(getattr(kind, "async_safe", False) for kind in looks)


@pytest.mark.parametrize("kind", ["train", "test", "predict"])
def test_a_stop_that_was_dropped_comes_at_the_next_batch(kind):
    with pytest.raises(Stopped), stops.heeded():
        with suppress(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        getattr(StepTimes(), f"on_{kind}_batch_end")(0)
        pytest.fail("it went on")

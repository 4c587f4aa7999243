"""Callbacks on a model of a few numbers, with a server on the loopback that misbehaves in every way."""

import csv
import json
import math
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest

from carcls.config import Config
from carcls.errors import TrainingDiverged
from carcls.nets.model import restore, state
from carcls.record import States

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore"
    )  # at import matplotlib, which Keras imports, calls pyparsing by an old name
    import keras

    from carcls.train import watchers as cb

CFG = Config(stages="32x64x4,64x64x2", min_epochs=2, patience=1)
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(32, 8)).astype("float32"), rng.integers(0, 3, 32)


def model(lr: float = 0.1, ema: float = 0.0) -> keras.Model:
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [keras.Input((8,)), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    )
    optimizer = keras.optimizers.SGD(lr, use_ema=bool(ema), ema_momentum=ema or 0.99)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(optimizer, loss, metrics=["accuracy"], run_eagerly=True)
    return net


def fit(
    net: keras.Model, *callbacks: keras.callbacks.Callback, epochs: int = 2
) -> dict[str, list[float]]:
    options = {
        "batch_size": 8,
        "epochs": epochs,
        "validation_data": (X, Y),
        "verbose": 0,
        "shuffle": False,
    }
    return net.fit(X, Y, callbacks=list(callbacks), **options).history


def weights(net: keras.Model) -> list[np.ndarray]:
    return [np.array(w) for w in net.get_weights()]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def lines(path: Path) -> list[dict]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def play(
    net: keras.Model, *callbacks: keras.callbacks.Callback, logs: list[tuple[float, float]]
) -> int:
    """Epochs with given validation accuracy and loss, in epoch e all weights are e; how many were run."""
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


# The monitor


@contextmanager
def server(status: int = 200, hang: bool = False) -> Iterator[tuple[str, list]]:
    """A server on 127.0.0.1; its URL and what it received: (path, content type, body)."""
    got: list = []
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            got.append((self.path, self.headers["Content-Type"], body))
            if hang:
                done.wait(30)
                return
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(
        target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", got
    finally:
        done.set()
        http.shutdown()
        http.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_monitor_sends_what_progress_jsonl_has(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with server() as (url, got):
        events = cb.Events(tmp_path / "progress.jsonl", cb.SafeRemoteMonitor(url + "/"))
        tensor, variable = keras.ops.convert_to_tensor(0.5), keras.Variable(3.0)
        events.send(
            "epoch",
            loss=math.nan,
            rate=np.float32(math.inf),
            accuracy=tensor,
            v=variable,
            n=np.int64(3),
        )
        events.send("end", sizes=(np.array([1.5, -math.inf]), Path("a")), best=True, nothing=None)
        events.close()
    assert [(path, kind) for path, kind, _ in got] == [
        ("/publish/epoch/end/", "application/json")
    ] * 2
    written = lines(tmp_path / "progress.jsonl")
    assert [json.loads(body) for *_, body in got] == written
    first, second = written
    assert 0 <= first.pop("time") <= second.pop("time") < 5
    assert first == {"kind": "epoch", "loss": None, "rate": None, "accuracy": 0.5, "v": 3.0, "n": 3}
    assert second == {"kind": "end", "sizes": [[1.5, None], "a"], "best": True, "nothing": None}
    assert capsys.readouterr().out == ""


def test_monitor_is_a_keras_callback_and_sends_forms() -> None:
    with server() as (url, got):
        monitor = cb.SafeRemoteMonitor(
            url, path="/here", field="form", headers={"X-A": "b"}, send_as_json=False
        )
        fit(model(), monitor, epochs=1)
        monitor.close()
    [(path, kind, body)] = got
    assert (path, kind) == ("/here", "application/x-www-form-urlencoded")
    sent = json.loads(parse_qs(body)["form"][0])
    assert sent.keys() == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"}


@pytest.mark.parametrize("trouble", [500, 404, 301, "refused", "no url"])
def test_monitor_gives_up_and_says_so_once(
    trouble: int | str, capsys: pytest.CaptureFixture
) -> None:
    with server(status=trouble if isinstance(trouble, int) else 200) as (url, got):
        monitor = cb.SafeRemoteMonitor(
            {"refused": "http://127.0.0.1:1", "no url": "http://["}.get(trouble, url)
        )
        for epoch in range(20):
            monitor.post({"epoch": epoch})
            time.sleep(0.01)
        monitor.close()
        monitor.close()
        monitor.post({"epoch": 99})
    assert len(got) == (3 if isinstance(trouble, int) else 0)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "gave up after 3 failures in a row" in out
    assert (
        f"HTTP {trouble}" if isinstance(trouble, int) else "Error"
    ) in out or trouble == "no url"


def test_one_lost_event_is_said_too(capsys: pytest.CaptureFixture) -> None:
    monitor = cb.SafeRemoteMonitor("http://127.0.0.1:1")
    monitor.post({})
    monitor.close()
    assert "the last events were not sent" in capsys.readouterr().out


def test_a_success_between_failures_is_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["bad", "bad", "", "bad", "bad", ""])
    monitor = cb.SafeRemoteMonitor()
    monkeypatch.setattr(monitor, "_send", lambda event: next(answers))
    for _ in range(6):
        monitor.post({})
    monitor.close()
    assert next(answers, "all sent") == "all sent"
    assert monitor._trouble == ""


def test_a_server_that_never_answers_delays_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with server(hang=True) as (url, got):
        events = cb.Events(tmp_path / "progress.jsonl", cb.SafeRemoteMonitor(url))
        start = time.monotonic()
        for epoch in range(200):  # more than the queue holds: the oldest are dropped
            events.send("epoch", epoch=epoch)
        assert time.monotonic() - start < 5
        start = time.monotonic()
        events.close(wait=0.3)
        assert time.monotonic() - start < 5
    assert len(got) == 1
    assert len(lines(tmp_path / "progress.jsonl")) == 200
    assert "no answer in 0.3 s" in capsys.readouterr().out


def test_a_full_queue_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, go = [], threading.Event()
    monitor = cb.SafeRemoteMonitor()
    monkeypatch.setattr(
        monitor, "_send", lambda event: (go.wait(5) and sent.append(event["n"])) or ""
    )
    for n in range(100):
        monitor.post({"n": n})
    go.set()
    monitor.close()
    assert sent[-64:] == list(range(36, 100))
    assert len(sent) in (64, 65)  # and the one that was on its way, if the thread was that quick


# Progress


class Screen:
    def __init__(self, terminal: bool) -> None:
        self.text, self.terminal = "", terminal

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def progress(out: Path, stage: int, rows: list) -> cb.Progress:
    events = cb.Events(out / "progress.jsonl")
    rates = {"steps_per_epoch": 4, "learning_rate": lambda step: 0.1 / (step + 1)}
    return cb.Progress(
        CFG, stage, batch=8, events=events, rows=rows, history=out / "history.csv", **rates
    )


def test_one_line_one_event_and_one_row_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, rows = Screen(terminal=False), []
    monkeypatch.setattr("sys.stdout", screen)
    net = model()
    history = fit(net, progress(tmp_path, 0, rows), epochs=4)
    fit(net, progress(tmp_path, 1, rows), epochs=2)
    text = screen.text.splitlines()
    assert len(text) == len(rows) == 6
    assert "\r" not in screen.text
    assert text[1].startswith(
        "stage 1/2 32x64  epoch 2/4  lr 1.25e-02  loss "
    )  # the rate of the last step, 0.1 / 8
    assert text[4].startswith("stage 2/2 64x64  epoch 1/2  lr 2.50e-02  loss ")
    assert text[5].endswith("  0:00 left")
    for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert [row[key] for row in rows[:4]] == history[key]
    best = list(zip(history["val_accuracy"], [-loss for loss in history["val_loss"]], strict=True))
    assert [row["best"] for row in rows[:4]] == [
        i == 0 or best[i] > max(best[:i]) for i in range(4)
    ]
    assert [line.count("*") for line in text] == [row["best"] for row in rows]
    assert rows[-1]["left_s"] == 0
    assert all(row["images_per_s"] > 0 for row in rows)
    with (tmp_path / "history.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["stage"] + row["epoch"] for row in table] == ["11", "12", "13", "14", "21", "22"]
    assert float(table[3]["val_loss"]) == history["val_loss"][3]
    sent = lines(tmp_path / "progress.jsonl")
    assert [event["val_loss"] for event in sent[:4]] == history["val_loss"]
    assert {event["kind"] for event in sent} == {"epoch"}


def test_time_left_and_speed_count_pixels_not_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    now = [0.0]
    monkeypatch.setattr(cb.time, "monotonic", lambda: now[0])
    rows: list[dict] = []
    callback = progress(tmp_path, 0, rows)
    callback.on_epoch_begin(0)
    for step, seconds in enumerate([10, 1, 1, 1]):  # the first step takes 9 s more: it traces
        now[0] += seconds
        callback.on_train_batch_end(step, {"loss": 1.0})
    now[0] += 2  # validation
    callback.on_epoch_end(0, {"val_loss": math.nan, "val_accuracy": math.nan})
    assert rows[0]["images_per_s"] == 8
    assert rows[0]["seconds"] == 15
    # an epoch takes 4 + 2 s without tracing; 3 more here, 2 later of twice the pixels, which trace
    # once more
    assert rows[0]["left_s"] == 3 * 6 + 2 * 12 + 9
    assert rows[0]["best"]
    assert math.isnan(rows[0]["val_loss"])
    assert "val acc nan*" in capsys.readouterr().out
    callback.on_epoch_end(1, {"loss": 1.0})  # no validation photos
    assert not rows[1]["best"]
    assert "val acc" not in capsys.readouterr().out


def test_bar_on_a_terminal_is_rare_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, now = Screen(terminal=True), [0.0]
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr(cb.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("COLUMNS", "60")
    callback = progress(tmp_path, 0, [])
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    for step in range(4):
        now[0] += 0.1
        callback.on_train_batch_end(step, {"loss": 1.0, "accuracy": 0.5})
    callback.on_test_begin()
    callback.on_epoch_end(0, {})
    drawn = screen.text.split("\r\x1b[K")
    assert drawn[1].startswith("stage 1/2 32x64 epoch 1/4 [##########..........] 2/4")
    assert "[####################] 4/4" in drawn[2]
    assert all(len(line) < 60 for line in drawn[:-1])
    assert drawn[3].endswith("validating")
    assert drawn[4].startswith("stage 1/2 32x64  epoch 1/4  lr ")
    assert len(drawn) == 5


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (-1, "0:00"), (59.6, "1:00"), (3725, "1:02:05")]
)
def test_clock(seconds: float, text: str) -> None:
    assert cb.clock(seconds) == text


# Checkpoints


def checkpoint(folder: Path, done: int = 0) -> cb.Checkpoint:
    return cb.Checkpoint(States(folder / "state"), {}, lambda epochs: {"epoch": epochs}, done)


def test_the_best_state_by_accuracy_then_loss_and_the_last_one(tmp_path: Path) -> None:
    net = model()
    kept = checkpoint(tmp_path, done=10)
    logs = [(0.5, 1.0), (0.7, 2.0), (0.7, 1.5), (0.7, 1.5), (math.nan, 0.1), (0.6, 0.1)]
    play(net, kept, logs=logs)
    assert (kept.best_accuracy, kept.best_loss, kept.best_epoch) == (0.7, 1.5, 3)
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == [
        "13.npz",
        "16.npz",
        "note.json",
    ]
    assert kept.states.load({})["epoch"] == kept.noted["epoch"] == 6
    for which, value in (("last", 5), ("best", 2)):
        restore(net, kept.states.arrays(which))
        assert all((w == value).all() for w in net.get_weights())
    again = checkpoint(tmp_path, done=10)
    again.go_on(kept.kept())
    play(net, again, logs=[(0.65, 0.1)])  # a session that goes on knows what the best was
    assert again.best_accuracy == 0.7


def test_a_first_epoch_without_a_number_is_kept_until_there_is_a_better_one(tmp_path: Path) -> None:
    kept = checkpoint(tmp_path)
    play(model(), kept, logs=[(math.nan, math.nan), (0.1, math.nan), (0.1, 3.0)])
    assert kept.best_epoch == 3


@pytest.mark.parametrize("optimizer", ["sgd", "lion", "adamw"])
def test_a_state_is_all_that_training_goes_on_from(optimizer: str) -> None:
    def network() -> keras.Model:
        keras.utils.set_random_seed(1)
        layers = keras.layers
        net = keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(8),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
                layers.Dense(2),
            ]
        )
        net.compile(
            keras.optimizers.get({"class_name": optimizer, "config": {"use_ema": True}}),
            "mse",
            run_eagerly=True,
        )
        net.optimizer.build(net.trainable_variables)
        return net

    x, y = np.random.default_rng(0).normal(size=(2, 16, 3)).astype(np.float32)
    first, second = network(), network()
    for _ in range(3):
        first.train_on_batch(x, y[:, :2])
    restore(second, state(first))
    for _ in range(3):  # dropout draws on, moments and averages move on
        first.train_on_batch(x, y[:, :2])
        second.train_on_batch(x, y[:, :2])
    assert all((a == b).all() for a, b in zip(state(first), state(second), strict=True))
    with pytest.raises(ValueError, match="zip"):
        restore(second, state(first)[:-1])


def test_a_state_is_good_for_any_precision() -> None:
    """From a T4, which scales its loss, to a TPU, and back."""
    plain, scaled = model(), model()
    scaled.compile(
        keras.optimizers.LossScaleOptimizer(scaled.optimizer, initial_scale=4.0),
        scaled.loss,
        run_eagerly=True,
    )
    for net in (plain, scaled):
        net.optimizer.build(net.trainable_variables)
        net.train_on_batch(X, Y)
    kept = state(scaled)
    restore(plain, kept)
    assert all((a == b).all() for a, b in zip(state(plain), kept, strict=False))
    restore(scaled, state(plain))
    assert all((a == b).all() for a, b in zip(state(scaled), kept, strict=True))


# Averaged weights


class Spy(keras.callbacks.Callback):
    """Weights after each training step and inside validation."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.trained, self.tested = [], []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.trained.append([np.array(w) for w in self.model.trainable_variables])

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.tested.append([np.array(w) for w in self.model.trainable_variables])


@pytest.mark.parametrize("scaled", [False, True])
def test_average_is_validated_and_saved_and_training_goes_on_raw(
    tmp_path: Path, scaled: bool
) -> None:
    plain, net = model(), model(ema=0.5)
    if scaled:  # as in mixed_float16
        optimizer = keras.optimizers.LossScaleOptimizer(net.optimizer, initial_scale=1.0)
        net.compile(optimizer, net.loss, metrics=["accuracy"], run_eagerly=True)
    without, spy, averaged = Spy(), Spy(), cb.AveragedWeights()
    fit(plain, without)
    best = checkpoint(tmp_path)
    history = fit(net, best, averaged, spy)
    for a, b in zip(without.trained, spy.trained, strict=True):  # the average changes no step
        for v, w in zip(a, b, strict=True):
            np.testing.assert_allclose(v, w, rtol=1e-5, atol=1e-6)
    expected = spy.trained[0]
    for step in spy.trained[1:]:
        expected = [0.5 * e + 0.5 * w for e, w in zip(expected, step, strict=True)]
    for e, w, raw in zip(expected, spy.tested[-1], spy.trained[-1], strict=True):
        np.testing.assert_allclose(e, w, rtol=1e-5, atol=1e-6)
        assert not np.allclose(e, raw)
    restore(net, best.states.arrays("last"))  # a state is raw, and has the averages beside it
    assert same([np.array(w) for w in net.trainable_variables], spy.trained[-1])
    averaged.settle()
    assert same([np.array(w) for w in net.trainable_variables], spy.tested[-1])
    restore(net, best.states.arrays("best"))
    averaged.settle()
    scores = net.evaluate(
        X, Y, verbose=0, return_dict=True
    )  # outside fit: what is saved is what was measured
    assert scores["accuracy"] == pytest.approx(history["val_accuracy"][best.best_epoch - 1])
    assert scores["loss"] == pytest.approx(history["val_loss"][best.best_epoch - 1], rel=1e-5)


def test_average_before_the_first_step_and_without_ema() -> None:
    net, averaged = model(ema=0.9), cb.AveragedWeights()
    before = weights(net)
    averaged.set_model(net)
    with averaged.swapped():  # the averages are still zeros
        assert same(weights(net), before)
        with pytest.raises(RuntimeError, match="already"), averaged.swapped():
            pass
    averaged.set_model(model())
    with pytest.raises(ValueError, match="use_ema=True"), averaged.swapped():
        pass


# Stops


@pytest.mark.parametrize(
    ("settings", "losses", "ran"),
    [
        (
            {"min_epochs": 4, "patience": 1},
            [1, 2, 3, 4, 5, 6, 7],
            6,
        ),  # the fifth sets the mark, the sixth is no better
        ({"min_epochs": 0, "patience": 2}, [1, 2, 3, 4], 3),
        ({"min_epochs": 0, "patience": 2}, [3, 4, 2, 3, 1, 2, 2, 2], 7),
        ({"min_epochs": 0, "patience": 1}, [math.nan, 3, 2, 1], 4),
        ({"min_epochs": 0, "patience": 0}, [1, 2, 3, 4], 4),
        ({"min_epochs": 9, "patience": 1}, [1, 2, 3, 4], 4),
    ],
)
def test_early_stop(
    settings: dict, losses: list, ran: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stop = cb.EarlyStop(Config(**settings), cb.Events(tmp_path / "progress.jsonl"))
    assert play(model(), stop, logs=[(0.5, float(loss)) for loss in losses]) == ran
    out = capsys.readouterr().out
    assert out.count("\n") == (ran < len(losses))
    if out:
        assert (
            f"early stop after epoch {ran}: validation loss {losses[ran - 1]:.4f}, not below" in out
        )
        assert lines(tmp_path / "progress.jsonl")[0]["kind"] == "early_stop"


def test_nan_stops_at_its_step_and_names_it() -> None:
    class Poison(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
            if (self.epoch, batch) == (1, 2):
                self.model.set_weights([w * math.nan for w in self.model.get_weights()])

        def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
            self.epoch = epoch

    stop = cb.StopOnNaN(CFG, 0, steps_per_epoch=4, learning_rate=lambda step: step / 1000)
    with pytest.raises(TrainingDiverged) as caught:
        fit(model(), Poison(), stop, epochs=3)
    text = str(caught.value)
    assert (
        "the loss is nan in stage 1/2 (32x64), epoch 2/4, step 3/4, at learning rate 6.00e-03"
        in text
    )
    assert f"try lr={CFG.lr / 3:.1g}, a longer warm-up (warmup=0.2) or precision=float32" in text


def test_nothing_that_looks_at_steps_makes_keras_wait_for_each_of_them():
    """On JAX the next step then begins before the last one's loss is a number."""
    import keras

    from carcls.train import watchers as callbacks

    looks = [
        c
        for c in vars(callbacks).values()
        if isinstance(c, type)
        and issubclass(c, keras.callbacks.Callback)
        and "on_train_batch_end" in vars(c)
    ]
    assert callbacks.Pace in looks
    assert [c.__name__ for c in looks if not getattr(c, "async_safe", False)] == []

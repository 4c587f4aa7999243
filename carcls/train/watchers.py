"""What a training run says and keeps: progress lines, events, the remote monitor, checkpoints, stops.

Import it after ``runtime.setup`` has chosen the Keras backend; nothing here depends on which one it is.
Of their order in ``fit`` one thing matters: Checkpoint comes after those whose fields are part of the state.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import keras
import numpy as np
import requests
from urllib3.exceptions import HTTPError

from carcls.config import Config
from carcls.disk import write_atomic
from carcls.errors import TrainingDiverged
from carcls.nets.model import state
from carcls.nets.schedule import Costs, Plan, replan
from carcls.record import Facts, States

Rate = Callable[[int], float]  # training step of the stage, from 0 → learning rate


def plain(value: Any) -> Any:
    """What JSON can hold of ``value``: scalars of any library to float or int, NaN and infinities to None."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "__array__"):  # numpy, a tensor of any backend, a Keras variable
        return plain(np.asarray(value).tolist())
    return str(value)


class SafeRemoteMonitor(keras.callbacks.RemoteMonitor):
    """Keras's RemoteMonitor that cannot delay, stop or change a run.

    ``post`` only queues; a daemon thread sends, with time-outs, and when it lags the oldest events are
    dropped. Any reply but HTTP 2xx is a failure (a redirect would lose the event); after ``tries`` failures
    in a row nothing more is sent, and one printed line says so. ``post`` or ``close`` prints it, not the
    thread: a daemon thread that prints while Python ends can crash it.
    """

    timeout = (3.0, 5.0)  # seconds to connect, to answer
    tries = 3

    def __init__(
        self,
        root: str = "http://localhost:9000",
        path: str = "/publish/epoch/end/",
        field: str = "data",
        headers: dict[str, str] | None = None,
        send_as_json: bool = True,
    ) -> None:
        super().__init__(root.rstrip("/"), path, field, headers, send_as_json)
        self._queue: deque[dict[str, Any]] = deque(maxlen=64)
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._trouble = ""  # set by the thread once it has given up
        self._closing = self._said = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.post({"epoch": epoch, **(logs or {})})

    def post(self, event: dict[str, Any]) -> None:
        """Queue one event; returns at once, raises nothing."""
        if self._trouble or self._closing:
            self._say(self._trouble)
            return
        with self._wake:
            self._queue.append(plain(event))
            self._wake.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="monitor", daemon=True)
            self._thread.start()

    def close(self, wait: float = 5.0) -> None:
        """Send what is queued, for at most ``wait`` seconds. Nothing is sent afterwards."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(wait)
            late = (
                self._thread.is_alive()
                and f"no answer in {wait:g} s; the last events were not sent"
            )
            self._say(self._trouble or late or "")
        with self._wake:
            self._queue.clear()

    def _say(self, trouble: str) -> None:
        if trouble and not self._said:
            self._said = True
            print(f"monitor {self.root}: {trouble}; the run goes on without it", flush=True)

    def _work(self) -> None:
        failures, problem = 0, ""
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    self._trouble = problem and f"the last events were not sent ({problem})"
                    return
                event = self._queue.popleft()
            problem = self._send(event)
            failures = failures + 1 if problem else 0
            if failures >= self.tries:
                self._trouble = f"gave up after {failures} failures in a row ({problem})"
                return

    def _send(self, event: dict[str, Any]) -> str:
        """Send one event; what went wrong, or ''."""
        body: dict[str, Any] = (
            {"json": event} if self.send_as_json else {"data": {self.field: json.dumps(event)}}
        )
        try:
            # stream: the reply's body, however long, is never read
            with requests.post(
                self.root + self.path,
                headers=self.headers,
                timeout=self.timeout,
                stream=True,
                allow_redirects=False,
                **body,
            ) as reply:
                return "" if reply.ok and not reply.is_redirect else f"HTTP {reply.status_code}"
        except (
            OSError,
            ValueError,
            HTTPError,
            HTTPException,
        ) as error:  # requests' own errors are OSErrors
            return f"{type(error).__name__}: {error}"[:200]


class Events:
    """Every event of a run, one JSON line each in ``path`` (appended), and the same to the monitor if any."""

    def __init__(self, path: Path, monitor: SafeRemoteMonitor | None = None) -> None:
        self.path, self.monitor = path, monitor
        self._start = time.monotonic()

    def send(self, kind: str, **values: Any) -> None:
        """Record one event; adds ``kind`` and ``time``, seconds since this object was made."""
        event = {"kind": kind, "time": round(time.monotonic() - self._start, 3), **plain(values)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, allow_nan=False) + "\n")
        if self.monitor:
            self.monitor.post(event)

    def close(self, wait: float = 5.0) -> None:
        """Let the monitor finish, for at most ``wait`` seconds."""
        if self.monitor:
            self.monitor.close(wait)


def rank(logs: dict[str, Any]) -> tuple[float, float]:
    """Sorts epochs: higher validation accuracy first, ties by lower validation loss, NaN last."""
    accuracy, loss = (float(logs.get(key, math.nan)) for key in ("val_accuracy", "val_loss"))
    return (-math.inf if math.isnan(accuracy) else accuracy), (
        -math.inf if math.isnan(loss) else -loss
    )


def clock(seconds: float) -> str:
    """``"2:05"`` or ``"1:02:05"``."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Resumable:
    """A callback some of whose fields are part of a training's state."""

    fields: tuple[str, ...] = ()
    _kept: dict[str, Any] | None = None

    def kept(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return {name: getattr(self, name) for name in self.fields}

    def go_on(self, kept: dict[str, Any]) -> None:
        """What ``kept`` gave; it takes effect when ``fit`` begins, which resets Keras's own callbacks."""
        self._kept = kept

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)  # type: ignore[misc]  # of the Keras callback that comes next in the bases
        for name, value in (self._kept or {}).items():
            setattr(self, name, value)


class Progress(Resumable, keras.callbacks.Callback):
    """One line an epoch, a progress bar within it on a terminal, an "epoch" event, and the history.

    ``rows`` collects one dict per epoch over all stages (hand the same list to every stage's Progress); after
    each epoch it is written to ``history`` as CSV, atomically.
    """

    async_safe = (
        True  # Keras need not wait for each step's numbers where the backend computes ahead (JAX)
    )
    fields = ("_best", "_startup")

    def __init__(
        self,
        cfg: Config,
        stage: int,
        steps_per_epoch: int,
        batch: int,
        events: Events,
        learning_rate: Rate,
        rows: list[dict[str, Any]],
        history: Path,
        epochs: Sequence[int] | None = None,
    ) -> None:
        """``stage`` counts from 0. ``learning_rate`` maps a step of this stage, from 0, to its rate.

        ``epochs`` of each stage, where a plan has changed them.
        """
        super().__init__()
        self.cfg, self.stage, self.steps, self.batch = cfg, stage, steps_per_epoch, batch
        self.events, self.learning_rate, self.rows, self.history = (
            events,
            learning_rate,
            rows,
            history,
        )
        self._shape = cfg.stages[stage]
        self._epochs = list(epochs or (shape.epochs for shape in cfg.stages))
        self._best: Sequence[float] = (-math.inf, -math.inf)
        self._startup = 0.0  # seconds that the first step of the stage took beyond an ordinary one
        self._head = f"stage {stage + 1}/{len(cfg.stages)} {self._shape.height}x{self._shape.width}"
        self._bar = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        self._bar = sys.stdout.isatty()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        self._begin = self._drawn = time.monotonic()
        self._first = self._last = (
            0,
            self._begin,
        )  # steps done, when; the first step also traces and fills caches

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        done = (batch + 1, time.monotonic())
        self._first = self._first if self._first[0] else done
        self._last = max(self._last, done)
        if self._bar and done[1] - self._drawn >= 0.2:
            self._drawn = done[1]
            filled = 20 * done[0] // max(self.steps, done[0])
            bar = f"[{'#' * filled}{'.' * (20 - filled)}] {done[0]}/{self.steps}"
            loss, accuracy = _of(logs, "loss"), _of(logs, "accuracy")
            self._draw(f"{bar}  loss {loss:.4f}  acc {accuracy:.4f}  {self._speed():.0f} images/s")

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._bar:
            self._draw("validating")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        validated = "val_accuracy" in logs
        best = validated and (rank(logs) > tuple(self._best) or epoch == 0)
        if best:
            self._best = rank(logs)
        seconds = time.monotonic() - self._begin
        row = {
            "stage": self.stage + 1,
            "height": self._shape.height,
            "width": self._shape.width,
            "epoch": epoch + 1,
            "photos": self.steps * self.batch,
            "lr": self.learning_rate((epoch + 1) * self.steps - 1),
            **{key: _of(logs, key) for key in ("loss", "accuracy", "val_loss", "val_accuracy")},
            "best": best,
            "images_per_s": round(self._speed(), 1),
            "seconds": round(seconds, 2),
            "left_s": round(self._left(epoch, seconds), 1),
        }
        self.rows.append(row)
        self._draw("")
        found = (
            f"val loss {row['val_loss']:.4f}  val acc {row['val_accuracy']:.4f}{'*' if best else ' '}  "
            if validated
            else ""
        )
        print(
            f"{self._head}  epoch {epoch + 1:>{len(str(self._of_stage))}}/{self._of_stage}  "
            f"lr {row['lr']:.2e}  loss {row['loss']:.4f}  acc {row['accuracy']:.4f}  {found}"
            f"{row['images_per_s']:.0f} images/s  {clock(row['left_s'])} left",
            flush=True,
        )
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, row, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_atomic(self.history, text.getvalue())
        self.events.send("epoch", **row, stages=len(self.cfg.stages), epochs=self._of_stage)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._draw("")

    @property
    def _of_stage(self) -> int:
        return self._epochs[self.stage]

    def _step_s(self) -> float:
        """Seconds a step, without the first one where there are more."""
        (first, start), (last, end) = self._first, self._last
        if last > first:
            return (end - start) / (last - first)
        return (end - self._begin) / max(last, 1)

    def _speed(self) -> float:
        return self.batch / max(self._step_s(), 1e-9)

    def _left(self, epoch: int, seconds: float) -> float:
        """Seconds of training left in the run: this epoch's time per pixel over the pixels still to come."""
        startup = max(0.0, self._first[1] - self._begin - self._first[0] * self._step_s())
        if epoch == 0:
            self._startup = startup
        later = [(s, n) for s, n in zip(self.cfg.stages, self._epochs, strict=True)][
            self.stage + 1 :
        ]
        here = self._shape.height * self._shape.width
        pixels = (self._of_stage - epoch - 1) * here + sum(n * s.height * s.width for s, n in later)
        return (seconds - startup) * pixels / here + sum(n > 0 for _, n in later) * self._startup

    def _draw(self, text: str) -> None:
        """Show ``text`` in the bar's line instead of what is there; empty clears it."""
        if self._bar:
            line = text and f"{self._head} epoch {self._epoch + 1}/{self._of_stage} {text}"
            sys.stdout.write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
            sys.stdout.flush()


def _of(logs: dict[str, Any] | None, key: str) -> float:
    return float((logs or {}).get(key, math.nan))


class AveragedWeights(keras.callbacks.Callback):
    """Validates with the optimizer's moving average of the weights (use_ema=True), trains with the raw ones.

    The average replaces the trainable weights from on_test_begin to on_test_end, and inside ``swapped()``,
    where ``train`` lets the first epoch predict: on_epoch_end comes after on_test_end, so without it the raw weights would be saved.
    BN statistics are those of the raw weights, over as many steps as the average (``model.build``). ``predict`` is left alone
    (Keras's SwapEMAWeights leaves the swapped weights in the model there): at the end of ``fit`` Keras itself
    puts the average into the model for good.
    """

    def __init__(self) -> None:
        super().__init__()
        self._raw: list[np.ndarray[Any, Any]] | None = None

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._enter()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        self._leave()

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model has the averaged weights inside and the raw ones after."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def settle(self) -> None:
        """The averaged weights take the raw ones' place for good."""
        for weight, average in self._pairs():
            weight.assign(keras.ops.convert_to_numpy(average))

    def _pairs(self) -> list[tuple[Any, Any]]:
        optimizer = getattr(
            self.model.optimizer, "inner_optimizer", self.model.optimizer
        )  # under loss scaling
        if not optimizer.use_ema:
            raise ValueError("AveragedWeights needs an optimizer with use_ema=True")
        if not optimizer.built or not int(keras.ops.convert_to_numpy(optimizer.iterations)):
            return []  # before the first step the averages are zeros
        # The optimizer's own list: aligned with its averages even if the model's has changed since.
        pairs = zip(
            optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
        )
        return [(weight, average) for weight, average in pairs if average is not None]

    def _enter(self) -> None:
        if self._raw is not None:
            raise RuntimeError("the averaged weights are in the model already")
        pairs = self._pairs()
        self._raw = [keras.ops.convert_to_numpy(weight) for weight, _ in pairs]
        for weight, average in pairs:
            weight.assign(keras.ops.convert_to_numpy(average))

    def _leave(self) -> None:
        raw, self._raw = self._raw or [], None
        for (weight, _), value in zip(self._pairs(), raw, strict=True):
            weight.assign(value)


class Checkpoint(Resumable, keras.callbacks.Callback):
    """Keeps the state of every epoch, and of a stage's best one: by validation accuracy, ties by loss.

    Without validation the last epoch is the best. Comes last among the callbacks: ``note`` says what else is part of the
    state, these callbacks' fields among it.
    """

    fields = ("best_accuracy", "best_loss", "best_epoch")

    def __init__(
        self, states: States, facts: Facts, note: Callable[[int], dict[str, Any]], done: int = 0
    ) -> None:
        """``done``: epochs before this stage. ``note`` gets the number of epochs of the stage that are done."""
        super().__init__()
        self.states, self.facts, self.note, self.done = states, facts, note, done
        self.best_accuracy = self.best_loss = math.nan
        self.best_epoch = 0  # of the stage, from 1; 0: none yet
        self.noted: dict[str, Any] = {}  # the last note
        self.seconds = self.total = 0.0  # that the last one took, and all of them

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        began = time.monotonic()
        logs = logs or {}
        so_far = rank({"val_accuracy": self.best_accuracy, "val_loss": self.best_loss})
        better = not self.best_epoch or rank(logs) > so_far or "val_accuracy" not in logs
        if better:
            self.best_accuracy, self.best_loss = _of(logs, "val_accuracy"), _of(logs, "val_loss")
            self.best_epoch = epoch + 1
        self.noted = self.note(epoch + 1)
        self.states.save(self.done + epoch + 1, self.facts, self.noted, state(self.model), better)
        self.seconds = time.monotonic() - began
        self.total += self.seconds


class Pace(keras.callbacks.Callback):
    """Ends ``fit`` after an epoch where the time left makes another plan; ``plan`` is then the new one."""

    async_safe = True  # else Keras waits for every step on JAX; the threads that call it wait for the step's loss first

    def __init__(
        self,
        plan: Plan,
        stage: int,
        costs: Costs,
        deadline: float,
        also: Callable[[], float],
        agree: Callable[[float], float] = float,
        most: tuple[int, ...] | None = None,
    ) -> None:
        """``deadline``: by time.monotonic. ``also``: seconds that an epoch takes after this callback.

        ``agree``: makes several processes see the same clock. ``most``: epochs that the plan may have; None: it gets no longer.
        """
        super().__init__()
        self.plan, self.stage, self.costs, self.deadline = plan, stage, costs, deadline
        self.also, self.agree, self.most = also, agree, most

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._begin = time.monotonic()
        self._steps: list[float] = []  # when each ended

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps.append(time.monotonic())

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        took = self.agree(time.monotonic() - self._begin + self.also() - self._startup())
        expected = self.costs.epoch(self.stage, self.plan.steps)
        now = self.costs.at_pace(
            took / max(expected, 1e-9), self.stage
        )  # not kept: a slow epoch is no slow machine
        left = self.agree(self.deadline - time.monotonic())
        before = self.plan
        if self.model.stop_training:  # early: the stage is over
            self.plan = replan(
                before, self.stage + 1, 0, now, left - now.early[self.stage], self.most
            )
        else:
            self.plan = replan(before, self.stage, epoch + 1, now, left, self.most)
        if self.plan is not before:
            self.model.stop_training = True
            print(
                f"plan       {self.plan} instead of {before}: this one took {took:.1f} s, {expected:.1f} expected, "
                f"and {clock(left)} are left",
                flush=True,
            )

    def _startup(self) -> float:
        """Seconds of the first step beyond an ordinary one: it may compile, or wait until the data go on from where they were."""
        ends = sorted(self._steps)
        if len(ends) < 2:
            return 0.0
        ordinary = (ends[-1] - ends[0]) / (len(ends) - 1)
        return max(0.0, ends[0] - self._begin - ordinary)


class EarlyStop(Resumable, keras.callbacks.EarlyStopping):
    """Stops a stage after cfg.patience epochs without a better validation loss; patience 0 never stops.

    The first cfg.min_epochs epochs neither count nor set the mark: BN statistics make them noisy (S41).
    """

    fields = ("wait", "best", "best_epoch", "stopped")
    stopped = False  # it has ended the stage

    def __init__(self, cfg: Config, events: Events | None = None) -> None:
        super().__init__(
            "val_loss", patience=cfg.patience, mode="min", start_from_epoch=cfg.min_epochs
        )
        self.events = events

    def get_monitor_value(self, logs: dict[str, Any] | None) -> float:
        loss = _of(logs, "val_loss")
        return (
            math.inf if math.isnan(loss) else loss
        )  # a NaN as the mark would make every later epoch worse

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.patience or self.model.stop_training:
            return
        super().on_epoch_end(epoch, logs)
        if self.model.stop_training:
            self.stopped = True
            print(
                f"early stop after epoch {epoch + 1}: validation loss {_of(logs, 'val_loss'):.4f}, not below "
                f"{self.best:.4f} (epoch {self.best_epoch + 1}) for {self.patience} epochs",
                flush=True,
            )
            if self.events:
                self.events.send(
                    "early_stop",
                    epoch=epoch + 1,
                    best_epoch=self.best_epoch + 1,
                    best_loss=self.best,
                )


class Plateau(Resumable, keras.callbacks.ReduceLROnPlateau):
    """Keras's, whose count of epochs survives a resumed run; the rate itself is the optimiser's."""

    fields = ("wait", "best", "cooldown_counter")


class StopOnNaN(keras.callbacks.Callback):
    """Raises TrainingDiverged at the first step whose loss is not finite.

    The loss that Keras reports is a mean over the epoch so far: a bad step shows in every report after it.
    """

    async_safe = True

    def __init__(self, cfg: Config, stage: int, steps_per_epoch: int, learning_rate: Rate) -> None:
        """``stage`` counts from 0. ``learning_rate`` maps a step of this stage, from 0, to its rate."""
        super().__init__()
        self.cfg, self.stage, self.steps, self.learning_rate = (
            cfg,
            stage,
            steps_per_epoch,
            learning_rate,
        )
        self._epoch = 0
        self._pending: tuple[int, Any] | None = None  # a step and its loss, not looked at yet

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # The step before: waiting for this one's number would keep JAX from computing ahead.
        before, self._pending = self._pending, (batch, (logs or {}).get("loss", 0.0))
        self._check(before)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        before, self._pending = self._pending, None
        self._check(before)

    def _check(self, step: tuple[int, Any] | None) -> None:
        if step is None:
            return
        batch, loss = step[0], float(step[1])
        if math.isfinite(loss):
            return
        cfg, shape = self.cfg, self.cfg.stages[self.stage]
        rate = self.learning_rate(self._epoch * self.steps + batch)
        raise TrainingDiverged(
            f"the loss is {loss} in stage {self.stage + 1}/{len(cfg.stages)} ({shape.height}x{shape.width}), "
            f"epoch {self._epoch + 1}/{shape.epochs}, step {batch + 1}/{self.steps}, "
            f"at learning rate {rate:.2e}",
            f"try lr={cfg.lr / 3:.1g}, a longer warm-up "
            f"(warmup={min(0.9, max(0.2, 2 * cfg.warmup)):.1g}) or precision=float32",
        )

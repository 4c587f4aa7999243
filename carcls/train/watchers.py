"""What watches a training: averaged weights, checkpoints and stops; ``Progress`` is beside it.

Import it after ``machine.setup`` has chosen the Keras backend. Of the callbacks' order in ``fit``
one thing matters: Checkpoint comes after those whose fields are part of the state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from carcls import metrics
from carcls.config import Config
from carcls.errors import TrainingDiverged
from carcls.metrics import Metric
from carcls.nets.model import numbers, state
from carcls.train.clock import Leg
from carcls.train.state import States

Rate = Callable[[int], float]  # step of a leg, from 0 → learning rate
Send = Callable[..., None]  # an event of this network: its kind, and values by name
# Epochs of a stage in which early stopping does not act: BN's statistics make them noisy.
UNSTEADY = 3


def deciding(logs: dict[str, Any]) -> Metric:
    """What decides: the metric that the network was compiled with beside accuracy, if any."""
    others = (name for name in metrics.NAMES if name != "accuracy" and f"val_{name}" in logs)
    return next(others, "accuracy")


def score(logs: dict[str, Any]) -> float:
    """What decides, of the validation photos; logs: of an epoch, or a row of the history."""
    return number(logs, f"val_{deciding(logs)}")


def rank(logs: dict[str, Any]) -> tuple[float, float]:
    """Sorts epochs: the better metric first, then the lower validation loss, NaN last."""
    loss = metrics.merit("log_loss", number(logs, "val_loss"))
    return metrics.merit(deciding(logs), score(logs)), loss


def number(logs: dict[str, Any] | None, key: str) -> float:
    """Of an epoch or a step; NaN where there is none."""
    return float((logs or {}).get(key, math.nan))


class Resumable:
    """A callback some of whose fields are part of a training's state."""

    fields: tuple[str, ...] = ()
    _restored: dict[str, Any] | None = None

    def kept(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return {name: getattr(self, name) for name in self.fields}

    def restore(self, kept: dict[str, Any]) -> None:
        """Take what ``kept`` gave, once ``fit`` begins, which resets Keras's own callbacks."""
        self._restored = kept

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)  # type: ignore[misc]  # of the Keras callback that comes next
        for name, value in (self._restored or {}).items():
            setattr(self, name, value)


class AveragedWeights(keras.callbacks.Callback):
    """Validates with the optimizer's moving average of the weights, trains with the raw ones.

    The average is in the model from on_test_begin to on_test_end, and inside ``swapped()``. BN
    statistics are those of the raw weights. ``predict`` is left alone: Keras's SwapEMAWeights
    leaves the swapped weights in the model there. At the end of ``fit`` Keras itself puts the
    average into the model for good.
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
            weight.assign(numbers(average))

    def _pairs(self) -> list[tuple[Any, Any]]:
        optimizer: Any = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # under loss scaling
        if not optimizer.built or not int(numbers(optimizer.iterations)):
            return []  # before the first step the averages are zeros
        # The optimizer's own list is in the order of its averages; the model's may have changed.
        weights, averages = (
            optimizer._trainable_variables,
            optimizer._model_variables_moving_average,
        )
        pairs = zip(weights, averages, strict=True)
        return [(weight, average) for weight, average in pairs if average is not None]

    def _enter(self) -> None:
        assert self._raw is None, "the averaged weights are in the model already"
        pairs = self._pairs()
        self._raw = [numbers(weight) for weight, _ in pairs]
        for weight, average in pairs:
            weight.assign(numbers(average))

    def _leave(self) -> None:
        raw, self._raw = self._raw or [], None
        for (weight, _), value in zip(self._pairs(), raw, strict=True):
            weight.assign(value)


class Checkpoint(Resumable, keras.callbacks.Callback):
    """Keeps the state of every epoch, and of a stage's best one: by the metric, then by loss.

    Without validation the last epoch is the best. Comes last among the callbacks: ``describe``
    says what else is part of the state, these callbacks' fields among it.
    """

    fields = ("best", "best_epoch")

    def __init__(
        self, states: States, describe: Callable[[int], dict[str, Any]], before: int
    ) -> None:
        """describe: epochs of the stage that are done → note; before: epochs before the stage."""
        super().__init__()
        self.states, self.describe, self.before = states, describe, before
        self.best: Sequence[float] = (-math.inf, -math.inf)  # its rank
        self.best_epoch = 0  # of the stage, from 1; 0: none yet
        self.note: dict[str, Any] = {}  # the last one
        self.seconds = 0.0  # of all of them

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        began = time.monotonic()
        logs = logs or {}
        is_better = rank(logs) > tuple(self.best) or "val_accuracy" not in logs
        is_best = is_better or not self.best_epoch
        if is_best:
            self.best, self.best_epoch = rank(logs), epoch + 1
        self.note = self.describe(epoch + 1)
        self.states.save(self.before + epoch + 1, self.note, state(self.model), is_best)
        self.seconds += time.monotonic() - began


class EarlyStop(Resumable, keras.callbacks.EarlyStopping):
    """Stops a stage after cfg.patience epochs without a better validation loss; 0 never stops.

    The first epochs (UNSTEADY) neither count nor set the mark.
    """

    fields = ("wait", "best", "best_epoch", "has_stopped")
    has_stopped = False  # it has ended the stage

    def __init__(self, patience: int, send: Send) -> None:
        super().__init__("val_loss", patience=patience, mode="min", start_from_epoch=UNSTEADY)
        self.send = send

    def get_monitor_value(self, logs: dict[str, Any] | None) -> float:
        loss = number(logs, "val_loss")
        return math.inf if math.isnan(loss) else loss  # else every later epoch would be worse

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.patience:
            return
        super().on_epoch_end(epoch, logs)
        if self.model.stop_training:
            self.has_stopped = True
            print(
                f"early stop after epoch {epoch + 1}: validation loss "
                f"{number(logs, 'val_loss'):.4f}, not below {self.best:.4f} (epoch "
                f"{self.best_epoch + 1}) for {self.patience} epochs",
                flush=True,
            )
            best = {"best_epoch": self.best_epoch + 1, "best_loss": self.best}
            self.send("early_stop", epoch=epoch + 1, **best)


class Plateau(Resumable, keras.callbacks.ReduceLROnPlateau):
    """Keras's, whose count of epochs survives a resumed run; the rate itself is the optimiser's."""

    fields = ("wait", "best", "cooldown_counter")


class StopOnNaN(keras.callbacks.Callback):
    """Raises TrainingDiverged at the first step whose loss is not finite.

    The loss that Keras reports is a mean over the epoch so far: a bad step shows in every report
    after it.
    """

    async_safe = True

    def __init__(self, cfg: Config, leg: Leg, rate: Rate) -> None:
        super().__init__()
        self.cfg, self.leg, self.rate = cfg, leg, rate
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
        if step is None or math.isfinite(float(step[1])):
            return
        cfg, leg = self.cfg, self.leg
        shape = cfg.stages[leg.stage]
        rate = self.rate((self._epoch - leg.first) * leg.steps + step[0])
        warmup = min(0.9, max(0.2, 2 * cfg.warmup))
        raise TrainingDiverged(
            f"the loss is {float(step[1])} in stage {leg.stage + 1}/{len(cfg.stages)} "
            f"({shape.height}x{shape.width}), epoch {self._epoch + 1}/{leg.total}, "
            f"step {step[0] + 1}/{leg.steps}, at learning rate {rate:.2e}",
            f"try lr={cfg.lr / 3:.1g}, a longer warm-up (warmup={warmup:.1g}) or precision=float32",
        )

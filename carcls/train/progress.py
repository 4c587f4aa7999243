"""What is said and told of a training's epochs and steps: lines, a bar, events, history.csv."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from carcls import metrics
from carcls.config import Config
from carcls.data.batches import Batches
from carcls.train import clock
from carcls.train.clock import Leg
from carcls.train.state import History
from carcls.train.steps import StepTimes
from carcls.train.watchers import Rate, Resumable, Send, deciding, number, rank, score

Feeds = tuple[Batches, Batches | None]  # to train on, and to validate, if any
WAITING = 0.1  # a larger share of an epoch's time is worth a word: the device had nothing to do


class Progress(Resumable, StepTimes):
    """A line an epoch, a bar within it on a terminal, an event, and history.csv."""

    fields = ("_best", "_startup")

    def __init__(
        self, cfg: Config, leg: Leg, rate: Rate, feeds: Feeds, send: Send, history: History
    ) -> None:
        self.train, self.check = feeds
        super().__init__(leg.steps, self.train.batch)
        self.cfg, self.leg, self.rate = cfg, leg, rate
        self.send, self.history = send, history
        self.shape = cfg.stages[leg.stage]
        self._best: Sequence[float] = (-math.inf, -math.inf)
        self._startup = 0.0  # seconds that the first step of the stage took beyond another
        self._head = (
            f"stage {leg.stage + 1}/{len(cfg.stages)} {'x'.join(map(str, self.shape.size))}"
        )
        self._has_bar = sys.stdout.isatty()
        self._drawn = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch
        self._drawn = self.begin

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        done, now = self.last
        if self._has_bar and now - self._drawn >= 0.2:
            self._drawn = now
            filled = 20 * done // max(self.leg.steps, done)
            bar = f"[{'#' * filled}{'.' * (20 - filled)}] {done}/{self.leg.steps}"
            loss, accuracy = number(logs, "loss"), number(logs, "accuracy")
            self._draw(f"{bar}  loss {loss:.4f}  acc {accuracy:.4f}  {self.speed:.0f} images/s")

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._checking = time.monotonic()
        self._draw("validating")

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_test_batch_end(batch, logs)
        now, done, check = time.monotonic(), batch + 1, self.check
        if check and batch and self._is_quiet(now):  # the first step compiles, here too
            speed = done * check.batch / max(now - self._checking, 1e-9)
            self._tell(done, check.steps, speed, what="validation", **self._where())

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        best = "val_accuracy" in logs and (rank(logs) > tuple(self._best) or epoch == 0)
        if best:
            self._best = rank(logs)
        if epoch == 0:
            self._startup = self.startup
        row = self._row(epoch, logs, best)
        waiting = self.train.waited(epoch * self.leg.steps, self.ends)
        self._draw("")
        self._print(row, waiting)
        self.history.add(row)
        more = {"stages": len(self.cfg.stages), "epochs": self.leg.total, "waiting": waiting}
        self.send("epoch", **row, **more)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._draw("")

    def _about(self, logs: dict[str, Any]) -> dict[str, Any]:
        left = self._left(
            self.leg.steps * self.step, self.leg.total - self._epoch - self.last[0] / self.leg.steps
        )
        seen = {key: number(logs, key) for key in ("loss", "accuracy")}
        return {**self._where(), **seen, "left_s": round(left, 1)}

    def _where(self) -> dict[str, int]:
        return {"stage": self.leg.stage + 1, "epoch": self._epoch + 1}

    def _row(self, epoch: int, logs: dict[str, Any], best: bool) -> dict[str, Any]:
        seconds = time.monotonic() - self.begin
        last_step = (epoch - self.leg.first + 1) * self.leg.steps - 1
        shown = ["loss", "accuracy", "val_loss", "val_accuracy", f"val_{deciding(logs)}"]
        return {
            "stage": self.leg.stage + 1,
            "height": self.shape.height,
            "width": self.shape.width,
            "epoch": epoch + 1,
            "photos": self.leg.steps * self.batch,
            "lr": self.rate(last_step),
            **{key: number(logs, key) for key in shown},
            "best": best,
            "images_per_s": round(self.speed, 1),
            "seconds": round(seconds, 2),
            "left_s": round(self._left(seconds - self.startup, self.leg.total - epoch - 1), 1),
        }

    def _print(self, row: dict[str, Any], waiting: float | None) -> None:
        total = self.leg.total
        star = "*" if row["best"] else " "
        metric = deciding(row)
        other = f"  val {metrics.SHOWN[metric]} {score(row):.4f}" if metric != "accuracy" else ""
        validation = f"val loss {row['val_loss']:.4f}  val acc {row['val_accuracy']:.4f}"
        print(
            f"{self._head}  epoch {row['epoch']:>{len(str(total))}}/{total}  lr {row['lr']:.2e}  "
            f"loss {row['loss']:.4f}  acc {row['accuracy']:.4f}  "
            f"{'' if math.isnan(row['val_accuracy']) else f'{validation}{other}{star}  '}"
            f"{row['images_per_s']:.0f} images/s  "
            f"{f'{waiting:.0%} waiting for photos  ' if waiting and waiting > WAITING else ''}"
            f"{clock.show(row['left_s'])} left",
            flush=True,
        )

    def _left(self, seconds: float, epochs: float) -> float:
        """Seconds of training left: an epoch's time per pixel over the pixels still to come.

        epochs: of this stage, still to come.
        """
        here = self.shape.height * self.shape.width
        stages = len(self.cfg.stages) - self.leg.stage - 1
        return seconds * (epochs * here + self.leg.later) / here + stages * self._startup

    def _draw(self, text: str) -> None:
        """Show ``text`` in the bar's line instead of what is there; empty clears it."""
        if self._has_bar:
            line = text and f"{self._head} epoch {self._epoch + 1}/{self.leg.total} {text}"
            sys.stdout.write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
            sys.stdout.flush()

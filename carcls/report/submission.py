"""submission.csv: checked before anything is written, and only replaced by a better-founded one."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carcls import disk, metrics
from carcls.data import labels, photos, tables
from carcls.errors import InputError
from carcls.metrics import SHOWN, Metric, merit
from carcls.votes.evidence import ONE_CLASS

# So seldom would chance give one class so many: of two classes as frequent, ten photos of ten.
_RARE = 0.001
LEAST = 1e-6  # a submitted probability; log-loss punishes 0 and 1 without end
_SUMS = 1e-3  # how far from 1 the probabilities of a photo may add up, as float16 rounds them
ABOUT_A_RUN = ("result.json", "report.html")  # beside a submission, and moved away with it


class Submission:
    """The submission of a run, which may have several sessions, and submission.json beside it.

    What another run, or a person, left there is kept as submission.earlier1.csv and so on.
    """

    def __init__(self, path: Path, table: photos.Table, run: str, metric: Metric = "accuracy"):
        self.path, self.table, self.metric = path, table, metric
        self.run = run  # the same in all sessions of a run
        self.made_by = ""  # what made the submission that is at the path now
        self.warnings: list[str] = []  # of that one
        self.more_warnings: Callable[[], list[str]] = list  # of the photos that it was made from
        # Tells whoever watches of each one that is written.
        self.tell: Callable[..., None] = lambda **about: None
        self._of_this_session = False

    def offer(
        self,
        ids: list[str],
        probs: np.ndarray,
        made_by: str,
        score: float,
        step: int = 0,
        early: bool = False,
    ) -> None:
        """Write these predictions unless an earlier session of this run left better-founded ones.

        probs (photos, classes); score: the metric on validation; step: how far the run has come.
        What a later step made stays. early: training goes on, so what has a better score stays too,
        and a failure is only a warning. Raises InputError if predictions are missing.
        """
        left = read_facts(self.path)
        if left and left["run"] != self.run:
            left = None
        if left and not self._of_this_session:
            before = left["score"]
            better = merit(self.metric, before) > merit(self.metric, score)
            if left["step"] > step or (early and better):
                self.made_by, self.warnings = left["made_by"], left["warnings"]
                kept = f"still {self.made_by}; validation {before:.4f} {SHOWN[self.metric]}"
                print(f"submission {self.path.name}: {kept}, not {score:.4f} by {made_by}")
                return
        try:
            probs = self._in_order(ids, probs)
            if self.path.exists() and not left:
                self._keep_earlier()
            about = {"made_by": made_by, "metric": self.metric, "score": score, "step": step}
            self._write(probs, about)
            self.tell(
                made_by=made_by, metric=self.metric, score=score, early=early, rows=len(probs)
            )
        except (InputError, OSError) as error:
            if not early:
                raise
            print(f"warning: no submission yet from {made_by}: {error}")
        else:
            shown = f"validation {score:.4f} {SHOWN[self.metric]}"
            print(f"submission {self.path.name}: {made_by}; {shown}")

    def _in_order(self, ids: list[str], probs: np.ndarray) -> np.ndarray:
        """The rows (rows of the sample, classes), in its order. Raises InputError."""
        assert probs.shape == (len(ids), len(self.table.classes)), probs.shape
        sample, rows = self.table.sample_ids, {ident: row for row, ident in enumerate(ids)}
        missing = [i for i in sample if i not in rows]
        bad = np.flatnonzero(~np.isfinite(probs).all(1))
        sums = probs.sum(1)
        wrong = ""
        if len(bad):
            wrong = f"{len(bad)} photos have no finite prediction, {ids[bad[0]]} first"
        elif missing or not len(rows) == len(ids) == len(sample):
            wrong = (
                f"{len(ids)} predictions of {len(rows)} ids, {len(sample)} rows in the sample "
                f"submission, {len(missing)} of them without prediction ({', '.join(missing[:3])})"
            )
        elif (probs < 0).any() or (abs(sums - 1) > _SUMS).any():
            wrong = (
                f"what is predicted are no probabilities: they add up to {sums.min():.4f} to "
                f"{sums.max():.4f} a photo, the least is {probs.min():.4g}"
            )
        if wrong:
            raise InputError(f"{self.path.name}: {wrong}; nothing written")
        return probs[[rows[i] for i in sample]]

    def _write(self, probs: np.ndarray, facts: dict[str, Any]) -> None:
        """The file and submission.json beside it."""
        frame = _frame(self.table, probs)
        content = frame.to_csv(index=False, lineterminator="\n", float_format="%.6g").encode()
        facts |= {
            "rows": len(frame),
            "warnings": [*self.more_warnings(), *warnings(self.table, probs.argmax(1))],
            "run": self.run,
            "sha256": hashlib.sha256(content).hexdigest(),
            "before": _digest(self.path) if self.path.is_file() else "",
        }
        # First the facts, which know the old file and the new one: after a kill in between they
        # still describe a submission of this run.
        disk.write_json(self.path.with_suffix(".json"), facts)
        disk.make_way(self.path)
        disk.write_atomic(self.path, content)
        self.made_by, self.warnings = facts["made_by"], facts["warnings"]
        self._of_this_session = True

    def _keep_earlier(self) -> None:
        """Keep another run's submission and what is about it under the first number that is free.

        A kill in between leaves a part of them under that number: it is still free for the rest.
        """
        copied = [self.path.with_suffix(".json"), self.path]
        moved = [self.path.with_name(name) for name in ABOUT_A_RUN]

        def kept(file: Path, number: int) -> Path:
            return file.with_name(f"{file.stem}.earlier{number}{file.suffix}")

        def is_free(number: int) -> bool:
            """Whether what is there, if anything, is of this submission."""
            is_here = kept(self.path, number).exists()  # copied before others are moved
            for file in (*copied, *moved):
                same = _bytes(file) == _bytes(kept(file, number))
                was_moved = is_here and file in moved and not file.exists()
                if kept(file, number).exists() and not (same or was_moved):
                    return False
            return True

        free = next(n for n in itertools.count(1) if is_free(n))
        for file in filter(Path.is_file, copied):
            disk.write_atomic(kept(file, free), file.read_bytes())
        for file in filter(Path.is_file, moved):
            file.replace(kept(file, free))


def read_facts(path: Path) -> dict[str, Any] | None:
    """What submission.json says of the submission at that path.

    None if there is no such file, it is not of a run, or either file was changed since.
    """
    try:
        facts = disk.unsealed(disk.read_json(path.with_suffix(".json")))
        known = _digest(path) in (facts["sha256"], facts["before"])
        complete = {"run", "step", "made_by", "metric", "score", "warnings"} <= set(facts)
        return facts if known and complete else None
    except (OSError, ValueError, KeyError):
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _bytes(path: Path) -> bytes:
    """Of a file; none without it."""
    return path.read_bytes() if path.is_file() else b""


def _frame(table: photos.Table, probs: np.ndarray) -> pd.DataFrame:
    """What the sample asks for, of these rows in its order; probs (rows of it, classes)."""
    asks = table.asks
    if asks.kind == "labels":
        held: Any = pd.Series([table.classes[k] for k in probs.argmax(1)])
    elif asks.kind == "positive":
        held = pd.Series(probs[:, asks.classes[0]].astype(float).clip(LEAST, 1 - LEAST))
    else:
        columns = np.asarray(asks.classes)
        shares = np.where(columns < 0, 0, probs[:, columns].astype(float))
        # What a class without a column has is shared by the others.
        shares /= np.maximum(shares.sum(1, keepdims=True), LEAST**2)
        shares = shares.clip(LEAST, 1 - LEAST)
        held = pd.DataFrame(shares / shares.sum(1, keepdims=True))
        assert np.allclose(held.sum(axis=1), 1, rtol=0, atol=1e-9)
    frame = pd.concat([pd.Series(table.sample_ids, dtype=object), held], axis=1)
    assert frame.shape == (len(probs), len(asks.columns)), frame.shape
    return frame.set_axis(list(asks.columns), axis=1)


def warnings(table: photos.Table, predicted: np.ndarray) -> list[str]:
    """What looks wrong with predictions: a class that takes nearly all, classes never predicted.

    predicted: (photos,) int, the most probable class of each.
    """
    counts = np.bincount(predicted, minlength=len(table.classes))
    train = table.rows(photos.TRAIN).labels
    top = int(counts.argmax())
    share, share_of_train = counts[top] / len(predicted), float((train == top).mean())
    found = []
    if (
        share > ONE_CLASS > share_of_train
        and _chance(share, share_of_train, len(predicted)) < _RARE
    ):
        found.append(
            f"class {table.classes[top]} takes {share:.0%} of the submission but "
            f"{share_of_train:.0%} of the training photos: the network has not learned; do not "
            "submit this"
        )
    never = [str(name) for name, n in zip(table.classes, counts, strict=True) if not n]
    # A rare class may get its due of probability without ever being the most probable.
    if never and not table.asks.probabilities and len(predicted) >= 20 * len(table.classes):
        found.append(f"never predicted: class {', '.join(never)}")
    return found


def _chance(share: float, expected: float, n: int) -> float:
    """At most so often a class of this share takes such a share of n photos (Chernoff's bound)."""
    rest = (1 - share) * math.log((1 - share) / (1 - expected)) if share < 1 else 0.0
    return math.exp(-n * (share * math.log(share / expected) + rest)) if expected else 0.0


def most_frequent(table: photos.Table, metric: Metric = "accuracy") -> tuple[np.ndarray, float]:
    """For want of a network: the shares of the classes in training, for every test photo.

    (test photos, classes), and the metric of the same on validation.
    """
    train, val = table.rows(photos.TRAIN).labels, table.rows(photos.VALIDATION).labels
    shares = np.bincount(train, minlength=len(table.classes)) / len(train)
    score = metrics.value(metric, np.tile(shares, (len(val), 1)), val)
    return np.tile(shares, (len(table.rows(photos.TEST)), 1)), score


def read_answers(path: Path, ids: list[str]) -> pd.Series:
    """The true label of each of these ids, from a file of them. Raises InputError."""
    table = tables.read_csv(path)
    if table.shape[1] != 2 or sorted(table.iloc[:, 0]) != sorted(ids):
        raise InputError(
            f"{path}: {table.shape[1]} columns, {len(table)} rows; expected an id and its label "
            f"for each of the {len(ids)} test photos"
        )
    return table.set_index(table.columns[0]).iloc[:, 0].reindex(ids)


def true_score(
    path: Path, answers: Path, table: photos.Table, metric: Metric
) -> tuple[Metric, float]:
    """The metric of a submission by the answers; of labels accuracy, where it needs probabilities.

    Raises InputError if ids differ or an answer is no class.
    """
    submitted, asks = tables.read_csv(path), table.asks
    true = read_answers(answers, submitted.iloc[:, 0].tolist())
    if asks.kind == "labels":
        numbers, names = pd.factorize(pd.concat([submitted.iloc[:, 1], true]))
        probs, codes = np.eye(len(names))[numbers[: len(true)]], numbers[len(true) :]
        metric = "accuracy" if metric in ("log_loss", "auc") else metric
        return metric, metrics.value(metric, probs, codes)
    values, find = submitted.iloc[:, 1:].to_numpy(float), labels.by_name(table.classes)
    unknown = sorted({text for text in true if find(text) is None})
    if unknown:
        raise InputError(f"{answers}: {unknown[0]!r} is no class of this run")
    probs, columns = np.zeros((len(values), len(table.classes))), np.array(asks.classes)
    probs[:, columns[columns >= 0]] = values[:, columns >= 0]
    if asks.kind == "positive":
        probs[:, 1 - columns[0]] = 1 - values[:, 0]
    number = {label: k for k, label in enumerate(table.classes)}
    return metric, metrics.value(metric, probs, true.map(find).map(number).to_numpy(np.int64))

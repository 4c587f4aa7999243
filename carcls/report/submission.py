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

from carcls import disk
from carcls.data import photos, tables
from carcls.errors import InputError
from carcls.votes.evidence import ONE_CLASS

# So seldom would chance give one class so many: of two classes as frequent, ten photos of ten.
_RARE = 0.001
ABOUT_A_RUN = ("result.json", "report.html")  # beside a submission, and moved away with it


class Submission:
    """The submission of a run, which may have several sessions, and submission.json beside it.

    What another run, or a person, left there is kept as submission.earlier1.csv and so on.
    """

    def __init__(self, path: Path, table: photos.Table, run: str):
        self.path, self.table = path, table
        self.run = run  # the same in all sessions of a run
        self.made_by = ""  # what made the submission that is at the path now
        self.warnings: list[str] = []  # of that one
        self.more_warnings: Callable[[], list[str]] = list  # of the photos that it was made from
        self._of_this_session = False

    def offer(
        self,
        ids: list[str],
        probs: np.ndarray,
        made_by: str,
        accuracy: float,
        step: int = 0,
        early: bool = False,
    ) -> None:
        """Write these predictions unless an earlier session of this run left better-founded ones.

        probs (photos, classes); accuracy: on validation; step: how far the run has come. What a
        later step made stays. early: training goes on, so what is more accurate stays too, and a
        failure is only a warning. Raises InputError if predictions are missing.
        """
        left = read_facts(self.path)
        if left and left["run"] != self.run:
            left = None
        if left and not self._of_this_session:
            before = left["validation_accuracy"]
            if left["step"] > step or (early and before > accuracy):
                self.made_by, self.warnings = left["made_by"], left["warnings"]
                kept = f"still {self.made_by}; validation {before:.4f}"
                print(f"submission {self.path.name}: {kept}, not {accuracy:.4f} by {made_by}")
                return
        try:
            labels = self._labels(ids, probs)
            if self.path.exists() and not left:
                self._keep_earlier()
            self._write(labels, {"made_by": made_by, "validation_accuracy": accuracy, "step": step})
        except (InputError, OSError) as error:
            if not early:
                raise
            print(f"warning: no submission yet from {made_by}: {error}")
        else:
            print(f"submission {self.path.name}: {made_by}; validation {accuracy:.4f}")

    def _labels(self, ids: list[str], probs: np.ndarray) -> list[int | str]:
        """The most probable class for each row of the sample. Raises InputError."""
        assert probs.shape == (len(ids), len(self.table.classes)), probs.shape
        sample, predicted = self.table.sample_ids, dict(zip(ids, probs.argmax(1), strict=True))
        missing = [i for i in sample if i not in predicted]
        bad = np.flatnonzero(~np.isfinite(probs).all(1))
        wrong = ""
        if len(bad):
            wrong = f"{len(bad)} photos have no finite prediction, {ids[bad[0]]} first"
        elif missing or not len(predicted) == len(ids) == len(sample):
            wrong = (
                f"{len(ids)} predictions of {len(predicted)} ids, {len(sample)} rows in the sample "
                f"submission, {len(missing)} of them without prediction ({', '.join(missing[:3])})"
            )
        if wrong:
            raise InputError(f"{self.path.name}: {wrong}; nothing written")
        return [self.table.classes[predicted[i]] for i in sample]

    def _write(self, labels: list[int | str], facts: dict[str, Any]) -> None:
        """The file and submission.json beside it."""
        columns = {self.table.id_column: self.table.sample_ids, self.table.label_column: labels}
        content = pd.DataFrame(columns).to_csv(index=False, lineterminator="\n").encode()
        facts |= {
            "rows": len(labels),
            "warnings": [*self.more_warnings(), *warnings(self.table, labels)],
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
        complete = {"run", "step", "made_by", "validation_accuracy", "warnings"} <= set(facts)
        return facts if known and complete else None
    except (OSError, ValueError, KeyError):
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _bytes(path: Path) -> bytes:
    """Of a file; none without it."""
    return path.read_bytes() if path.is_file() else b""


def warnings(table: photos.Table, labels: list[int | str]) -> list[str]:
    """What looks wrong with predictions: a class that takes nearly all, classes never predicted."""
    counts = pd.Series(labels).value_counts()
    train = table.rows(photos.TRAIN).labels
    top, share = counts.index[0], counts.iloc[0] / len(labels)
    share_of_train = float((train == table.classes.index(top)).mean())
    found = []
    if share > ONE_CLASS > share_of_train and _chance(share, share_of_train, len(labels)) < _RARE:
        found.append(
            f"class {top} takes {share:.0%} of the submission but {share_of_train:.0%} of the "
            "training photos: the network has not learned; do not submit this"
        )
    never = [str(name) for name in table.classes if name not in counts.index]
    if never and len(labels) >= 20 * len(table.classes):
        found.append(f"never predicted: class {', '.join(never)}")
    return found


def _chance(share: float, expected: float, n: int) -> float:
    """At most so often a class of this share takes such a share of n photos (Chernoff's bound)."""
    rest = (1 - share) * math.log((1 - share) / (1 - expected)) if share < 1 else 0.0
    return math.exp(-n * (share * math.log(share / expected) + rest)) if expected else 0.0


def most_frequent(table: photos.Table) -> tuple[np.ndarray, float]:
    """For want of a network: the shares of the classes in training, for every test photo.

    (test photos, classes), and the accuracy on validation of the most frequent class.
    """
    train = table.rows(photos.TRAIN).labels
    shares = np.bincount(train, minlength=len(table.classes)) / len(train)
    probs = np.tile(shares, (len(table.rows(photos.TEST)), 1))
    return probs, float((table.rows(photos.VALIDATION).labels == shares.argmax()).mean())


def read_answers(path: Path, ids: list[str]) -> pd.Series:
    """The true label of each of these ids, from a file of them. Raises InputError."""
    table = tables.read_csv(path)
    if table.shape[1] != 2 or sorted(table.iloc[:, 0]) != sorted(ids):
        raise InputError(
            f"{path}: {table.shape[1]} columns, {len(table)} rows; expected an id and its label "
            f"for each of the {len(ids)} test photos"
        )
    return table.set_index(table.columns[0]).iloc[:, 0].reindex(ids)


def accuracy(path: Path, answers: Path) -> float:
    """The share of the answers that a submission has right. Raises InputError if ids differ."""
    submitted = tables.read_csv(path).set_axis(["id", "label"], axis=1)
    true = read_answers(answers, submitted["id"].tolist())
    return float((submitted["label"].to_numpy() == true.to_numpy()).mean())

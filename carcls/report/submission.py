"""submission.csv: the sample's order, columns and label type, checked before anything is written."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carcls import disk
from carcls.data import photos
from carcls.errors import InputError

OF_A_RESULT = ("result.json", "report.html")  # beside it, and about it
NEARLY_ALL = 0.9  # share of one class that no car competition has, unless training has it too


def write(
    path: Path,
    table: photos.Table,
    ids: list[str],
    probs: np.ndarray,
    made_by: str,
    accuracy: float,
    run: str = "",
    step: int = 0,
) -> list[str]:
    """Write one row for each id of the sample submission; returns warnings to show.

    ids: of the predicted photos; probs (photos, classes) in the order of ids. made_by and accuracy, on validation, go to
    submission.json beside it: a run replaces its submission whenever it has a better-founded one. What another run has
    left there is first copied to submission.earlier1.csv, or the next number that is free, and what says more of it (OF_A_RESULT)
    is renamed with that number. ``run`` says which run this is, in all its sessions, ``step`` how far it has come. Raises
    InputError unless every id of the sample is there once with finite probabilities.
    """
    if probs.shape != (len(ids), len(table.classes)):
        raise InputError(
            f"{path.name}: probabilities are {probs.shape}, expected {(len(ids), len(table.classes))}"
        )
    if not np.isfinite(probs).all():
        bad = [i for i, row in zip(ids, probs, strict=True) if not np.isfinite(row).all()]
        raise InputError(
            f"{path.name}: {len(bad)} photos have no finite prediction, {bad[0]} first; nothing written"
        )
    row = {i: n for n, i in enumerate(ids)}
    missing = [i for i in table.sample_ids if i not in row]
    if missing or len(row) != len(ids) or len(ids) != len(table.sample_ids):
        raise InputError(
            f"{path.name}: {len(ids)} predictions of {len(row)} ids, {len(table.sample_ids)} rows in the sample "
            f"submission, {len(missing)} of them without prediction ({', '.join(missing[:3])}); nothing written"
        )
    labels = [table.classes[k] for k in probs.argmax(1)]
    frame = pd.DataFrame(
        {
            table.id_column: table.sample_ids,
            table.label_column: [labels[row[i]] for i in table.sample_ids],
        }
    )
    content = frame.to_csv(index=False, lineterminator="\n")
    found = warnings(table, labels)
    about = {
        "made_by": made_by,
        "validation_accuracy": accuracy,
        "rows": len(frame),
        "warnings": found,
        "run": run,
        "step": step,
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
    }
    there = written(path)
    if path.exists() and (there is None or there["run"] != run):
        number = next(
            n
            for n in itertools.count(1)
            if not path.with_name(f"{path.stem}.earlier{n}{path.suffix}").exists()
        )
        for file in (path.with_suffix(".json"), path):
            if file.exists():
                shutil.copyfile(file, file.with_name(f"{file.stem}.earlier{number}{file.suffix}"))
        for name in OF_A_RESULT:
            file = path.with_name(name)
            if file.exists():
                file.replace(file.with_name(f"{file.stem}.earlier{number}{file.suffix}"))
    # First what it says of the file, old or new: a kill in between leaves a submission that is
    # known.
    about["before"] = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
    disk.write_atomic(path.with_suffix(".json"), json.dumps(about, indent=2) + "\n")
    disk.write_atomic(path, content)
    return found


def written(path: Path) -> dict[str, Any] | None:
    """What submission.json says of the submission there; None if it is not of a run, or was changed since."""
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        known = hashlib.sha256(path.read_bytes()).hexdigest() in (about["sha256"], about["before"])
        return (
            about
            if known and {"run", "step", "made_by", "validation_accuracy", "warnings"} <= set(about)
            else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def warnings(table: photos.Table, labels: list) -> list[str]:
    """What looks wrong with predictions: one class takes nearly everything, or a class is never predicted."""
    counts = pd.Series(labels).value_counts()
    trained = table.train["label"].map(lambda k: table.classes[k]).value_counts(normalize=True)
    top, share = counts.index[0], counts.iloc[0] / len(labels)
    found = []
    if share > NEARLY_ALL and trained.get(top, 0) < NEARLY_ALL:
        found.append(
            f"class {top} takes {share:.0%} of the submission but {trained.get(top, 0):.0%} of the training photos: "
            "the network has not learned; do not submit this"
        )
    never = [str(c) for c in table.classes if c not in counts.index]
    if never and len(labels) >= 20 * len(table.classes):
        found.append(f"never predicted: class {', '.join(never)}")
    return found


def accuracy(path: Path, answers: Path) -> float:
    """Share of the answers' rows that a submission has right. Raises InputError if their ids differ."""
    given, true = (
        pd.read_csv(file, dtype=str).set_axis(["id", "label"], axis=1).set_index("id")
        for file in (path, answers)
    )
    if set(given.index) != set(true.index) or not given.index.is_unique:
        raise InputError(f"{path}: {len(given)} ids do not match the {len(true)} of {answers}")
    return float((given["label"] == true["label"].reindex(given.index)).mean())

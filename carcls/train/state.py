"""The state of a training after its last epoch and after its best one: arrays, and one note.

What is in the note says ``Trainer._describe``, with the fields of the callbacks.

Every file is written whole before the note that names it, and the note is replaced in one move:
a kill at any moment leaves the old state or the new one.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk
from carcls.record import Facts, differences


class States:
    """The folder of a training's states."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = folder / "note.json"

    def load(self, facts: Facts) -> dict[str, Any] | None:
        """The note of the last epoch; None, with a line that says why, where it cannot be used."""
        try:
            note = json.loads(self.file.read_text())
            why = differences(note["facts"], facts)
            for name in () if why else {note["last"], note["best"]}:
                with zipfile.ZipFile(self.folder / name) as arrays:
                    why += [f"{self.folder / name} is damaged"] if arrays.testzip() else []
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            why = [f"{self.folder} is not what a run leaves ({error})"]
        if why:
            print(f"{self.folder.parent.name}: training starts anew: {'; '.join(why)}")
            return None
        return note

    def arrays(self, which: str) -> list[np.ndarray]:
        """Of the "last" epoch or the "best" one."""
        note = json.loads(self.file.read_text())
        with np.load(self.folder / note[which]) as arrays:
            return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]

    def save(
        self, number: int, note: dict[str, Any], arrays: Sequence[np.ndarray], best: bool
    ) -> None:
        """Make this the last state, and if it is the best one that too; number: of the epoch.

        ``note`` has what the training is made from as "facts".
        """
        name = f"{number}.npz"
        self.folder.mkdir(parents=True, exist_ok=True)
        with disk.replacing(self.folder / name) as part, part.open("wb") as file:
            np.savez(file, *arrays)
        best_name = name if best else json.loads(self.file.read_text())["best"]
        disk.write_atomic(self.file, json.dumps({**note, "last": name, "best": best_name}) + "\n")
        for old in self.folder.iterdir():
            if old.name not in (name, best_name, self.file.name):
                old.unlink()

    def amend(self, **changes: Any) -> None:
        """Change the note of the last epoch, and nothing else."""
        note = json.loads(self.file.read_text())
        disk.write_atomic(self.file, json.dumps({**note, **changes}) + "\n")

    def remove(self) -> None:
        """The training has ended, or starts anew."""
        self.file.unlink(missing_ok=True)  # first: without it the rest is nothing
        shutil.rmtree(self.folder, ignore_errors=True)


class History:
    """One row an epoch over all stages, in memory and as history.csv."""

    def __init__(self, path: Path, rows: list[dict[str, Any]]) -> None:
        self.path, self.rows = path, rows

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, row, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        disk.write_atomic(self.path, text.getvalue())

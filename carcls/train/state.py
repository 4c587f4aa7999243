"""The state of a training after its last epoch and after its best one: arrays, and one note.

What is in the note says ``Trainer._describe``, with the fields of the callbacks.

Every file is written whole before the note that names it, and the note is replaced in one move:
a kill at any moment leaves the old state or the new one.
"""

from __future__ import annotations

import csv
import io
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk
from carcls.record import Facts, differences, rows

Note = dict[str, Any]  # of a state, for JSON


class States:
    """The folder of a training's states."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = folder / "note.json"

    def load(self, facts: Facts) -> Note | None:
        """The note of the last epoch; None, with a line that says why, where it cannot be used."""
        try:
            note = self._note()
            why = differences(note["facts"], facts)
            for name in () if why else {note["last"], note["best"]}:
                if not (self.folder / name).is_file() and (self.folder / name).exists():
                    raise ValueError(f"{name} is not a file")
                with zipfile.ZipFile(self.folder / name) as arrays:
                    if _listing(arrays) != note["sums"][name] or arrays.testzip():
                        why.append(f"{self.folder / name} is damaged")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, *disk.NO_ZIP) as error:
            why = [f"{self.folder} is not what a run leaves ({error})"]
        if why:
            print(f"{self.folder.parent.name}: training starts anew: {'; '.join(why)}")
            return None
        return note

    def arrays(self, which: str) -> list[np.ndarray]:
        """Of the "last" epoch or the "best" one."""
        with np.load(self.folder / self._note()[which]) as arrays:
            return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]

    def save(self, number: int, note: Note, arrays: Sequence[np.ndarray], best: bool) -> None:
        """Make this the last state, and if it is the best one that too; number: of the epoch.

        ``note`` has what the training is made from as "facts".
        """
        name = f"{number}.npz"
        disk.make_folder(self.folder)
        with disk.replacing(self.folder / name) as part, part.open("wb") as file:
            np.savez(file, *arrays)
        before = {} if best else self._note()
        best_name = before.get("best", name)
        sums = {best_name: before["sums"][best_name]} if before else {}
        with zipfile.ZipFile(self.folder / name) as written:
            sums[name] = _listing(written)
        disk.write_json(self.file, {**note, "last": name, "best": best_name, "sums": sums})
        for old in self.folder.iterdir():
            if old.name not in (name, best_name, self.file.name):
                old.unlink()

    def amend(self, **changes: Any) -> None:
        """Change the note of the last epoch, and nothing else."""
        disk.write_json(self.file, self._note() | changes)

    def remove(self) -> None:
        """The training has ended, or starts anew."""
        disk.remove(self.file)  # first: without it the rest is nothing
        shutil.rmtree(self.folder, ignore_errors=True)

    def _note(self) -> Note:
        """Raises FileNotFoundError without one, ValueError if it is not as it was left."""
        return disk.unsealed(disk.read_json(self.file))


def _listing(arrays: zipfile.ZipFile) -> str:
    """A digest of the names, sizes and checksums of what is in a file of arrays."""
    return rows([[info.filename, info.file_size, info.CRC] for info in arrays.infolist()])


class History:
    """One row an epoch over all stages, in memory and as history.csv."""

    def __init__(self, path: Path, rows: list[dict[str, Any]]) -> None:
        self.path, self.rows = path, rows

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.write()

    def write(self) -> None:
        disk.make_way(self.path)
        disk.write_atomic(self.path, self.text())

    def text(self) -> str:
        """As CSV."""
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, self.rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        return text.getvalue()

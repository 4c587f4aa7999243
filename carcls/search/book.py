"""What a search has on the disk: what it has decided, its candidates, their trials, and locks.

All that is decided is in search.json before it is acted upon, and all that is measured in a file of
its own: a search that was killed goes on to the same end. Several processes on one folder share the
work: a training is claimed by a lock on its folder, which a kill lets go.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

from carcls import disk, record
from carcls.config import Config
from carcls.errors import ConfigError, InputError
from carcls.search import plan, space, trial
from carcls.search.plan import Size
from carcls.search.space import Point, Space
from carcls.search.trial import Outcome, Task
from carcls.values import Stage

STATE, CANDIDATE = "search.json", "candidate.json"
AT_WORK = "at-work"  # a folder that all who work on the search have locked together
BASE = 0  # the number of the candidate that is the settings as they are


@dataclass
class Rung:
    """Trainings of some candidates at one size."""

    size: Size
    epochs: int
    numbers: list[int]  # candidates; of the first rung those proposed so far
    until: float  # seconds of the search in which its trainings are to end
    is_last: bool = False


@dataclass
class State:
    """What the search has decided so far: its search.json."""

    facts: record.Facts
    spent: float = 0.0  # seconds
    most: int = 0  # candidates that are proposed at most; what is proposed when time is up
    rungs: list[Rung] = field(default_factory=list)


@dataclass
class Book:
    """The folder of a search."""

    folder: Path
    base: Config
    space: Space
    facts: record.Facts  # what the search is made from
    before: float = 0.0  # seconds of earlier sessions
    began: float = field(default_factory=time.monotonic)
    claimed: int | None = None  # the open folder of the training that is under way here

    @contextmanager
    def opened(self, anew: bool) -> Iterator[None]:
        """Go on from what the folder has of the same search; with resume=false it is put aside.

        Another search is put aside, too (``anew``), else ConfigError is raised. So it is if others
        are at work on what would be put aside.
        """
        disk.make_folder(self.folder)
        with self.turn():
            self._open(anew)
            lock = disk.lock(self.folder / AT_WORK, disk.TOGETHER)
        try:
            yield
        finally:
            disk.unlock(lock)

    def _open(self, anew: bool) -> None:
        try:
            was = self.state()
        except FileNotFoundError:
            self.write(State(self.facts))
            return
        changed = record.differences(was.facts, self.facts)
        if not was.rungs and not record.differences(*map(_but_minutes, (was.facts, self.facts))):
            self.write(State(self.facts))  # there was too little time, and is more now
            changed = []
        if not self.base.resume:
            self._put_aside("resume=false")
        elif changed and not anew:
            raise ConfigError(
                f"{self.folder}: has a search that differs in {'; '.join(changed)}; move it away, "
                "or choose another --out"
            )
        elif changed:
            self._put_aside("; ".join(changed))
        else:
            self.before = was.spent

    def _put_aside(self, why: str) -> None:
        """Begin anew, and keep the search that is there under another name."""
        with disk.locked(self.folder / AT_WORK) as is_idle:
            if not is_idle:
                raise ConfigError(
                    f"{self.folder}: another process is at work on a search in it, which this one "
                    f"would begin anew ({why}); wait for it, or choose another out"
                )
            names = (self.folder.with_name(f"{self.folder.name}.earlier{n}") for n in count(1))
            aside = next(name for name in names if not name.exists())
            self.folder.rename(aside)
        print(f"search     begun anew, the one before is {aside.name}: {why}")
        disk.make_folder(self.folder)
        self.write(State(self.facts))

    def turn(self) -> AbstractContextManager[bool]:
        """One process at a time reads and changes what the search has decided."""
        return disk.locked(self.folder, disk.IN_TURN)

    def state(self) -> State:
        """What is decided. Raises FileNotFoundError, InputError if it is not as it was left."""
        path = self.folder / STATE
        try:
            values = disk.unsealed(disk.read_json(path))
            rungs = [Rung(**{**rung, "size": tuple(rung["size"])}) for rung in values["rungs"]]
            return State(**{**values, "rungs": rungs})
        except FileNotFoundError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: not as a search has left it ({error}); remove it") from None

    def write(self, state: State) -> None:
        state.spent = max(state.spent, self.spent())
        disk.write_json(self.folder / STATE, asdict(state))

    def spent(self) -> float:
        """Seconds, in all sessions."""
        return self.before + time.monotonic() - self.began

    # --- Candidates and trials ----------------------------------------------------------------

    def folder_of(self, number: int, rung_number: int, rung: Rung, seed: int) -> Path:
        inside = f"last-seed{seed}" if rung.is_last else f"rung{rung_number}"
        return self.folder / f"{number:03}" / f"{inside}-{show(rung.size)}"

    def point_of(self, number: int) -> Point:
        """A candidate's settings, as far as the space has them. Raises InputError."""
        if number == BASE:
            return space.point_of(self.base, self.space)
        path = self.folder / f"{number:03}" / CANDIDATE
        try:
            return disk.unsealed(disk.read_json(path))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not as a search has left it ({error})") from None

    def cfg_of(self, number: int) -> Config:
        point = self.point_of(number)
        return space.settings(self.base, point) if number != BASE else self.base

    def add(self, state: State, point: Point) -> int:
        """A new candidate of the first rung; returns its number."""
        number = len(state.rungs[0].numbers)
        folder = self.folder / f"{number:03}"
        disk.make_folder(folder)
        disk.write_json(folder / CANDIDATE, point)
        state.rungs[0].numbers.append(number)
        self.write(state)
        return number

    def trials(self, rung: Rung) -> list[tuple[int, int]]:
        """(candidate, seed) of the trainings of a rung, in their order."""
        if not rung.is_last:
            return [(number, self.base.seed) for number in rung.numbers]
        seeds = [self.base.seed + 1 + i for i in range(plan.SEEDS)]  # none that chose them
        return [(number, seed) for seed in seeds for number in rung.numbers]

    def task(self, rungs: Sequence[Rung], number: int, seed: int) -> Task:
        """A training of the last of these rungs; it goes on from the rung before, if there is one.

        The last rung of all begins anew, as the final run will.
        """
        rung, start = rungs[-1], None
        if len(rungs) > 1 and not rung.is_last:
            start = trial.weights(self.folder_of(number, len(rungs) - 1, rungs[-2], seed))
        stages = (Stage(height=rung.size[0], width=rung.size[1], epochs=rung.epochs),)
        cfg = self.cfg_of(number).replace(**space.TERMS, stages=stages, seed=seed)
        name, folder = f"candidate {number}", self.folder_of(number, len(rungs), rung, seed)
        return Task(name, cfg, folder, start, number, len(rungs))

    def measured(self, state: State, number: int) -> dict[int, Outcome]:
        """By candidate what the trainings of a rung, other than the last, have measured."""
        rung, found = state.rungs[number - 1], {}
        for candidate, seed in self.trials(rung):
            outcome = trial.read(self.folder_of(candidate, number, rung, seed))
            if outcome is not None:
                found[candidate] = outcome
        return found

    def drop_weights(self, state: State, number: int) -> None:
        """Of the candidates that stay behind, and of what the others have gone on from long ago."""
        following = state.rungs[number]
        kept = set() if following.is_last else set(following.numbers)
        for index, rung in enumerate(state.rungs[:number], 1):
            for candidate, seed in self.trials(rung):
                if candidate not in kept or index < number:
                    trial.drop_weights(self.folder_of(candidate, index, rung, seed))

    # --- Locks --------------------------------------------------------------------------------

    def claims(self, folder: Path) -> bool:
        """Take a training for this process; False if another has it."""
        self.claimed = disk.lock(folder)
        return self.claimed is not None

    def release(self) -> None:
        disk.unlock(self.claimed)
        self.claimed = None


def _but_minutes(facts: record.Facts) -> record.Facts:
    return {name: value for name, value in facts.items() if name != "minutes"}


def show(size: Size) -> str:
    return f"{size[0]}x{size[1]}"

"""The search: candidates climb rungs of growing photo sizes, until the last rung decides."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from carcls import stops
from carcls.errors import ConfigError, InputError
from carcls.nets import weights
from carcls.search import plan, propose, ranking, space, trial
from carcls.search.book import BASE, Book, Rung, State, show
from carcls.search.plan import Pace, Size
from carcls.search.propose import Measured, Proposer
from carcls.search.trial import Outcome, Task

ATTEMPTS = 20  # proposals that are there already, or do not go together, before there are no more
WAIT = 1.0  # seconds between looks at what other processes have under way

Train = Callable[[Task, bool], Outcome]  # True: a trial of the last rung


class SearchError(InputError):
    """There is too little time for a search, or nothing that it could compare."""


@dataclass
class Search:
    """A search in a folder, which several processes may ``run`` at once."""

    book: Book
    seconds: float  # all that it may take
    sizes: Sequence[Size]  # from small to large
    train: Train
    anew: bool = False  # put another search aside that is in the folder
    proposer: Proposer = field(init=False)
    left_out: set[tuple[int, int]] = field(default_factory=set)  # candidates and rungs

    def run(self) -> State:
        """Search to the end. Raises InputError where the time is too little, Stopped, ConfigError.

        ConfigError: the folder has another search.
        """
        book = self.book
        with book.opened(self.anew):
            self.proposer = propose.proposer(book.space, book.base.seed, book.folder)
            self._begin()
            number = 1
            while self._climb(number):
                number += 1
            return book.state()

    # --- The first rung -----------------------------------------------------------------------

    def _begin(self) -> None:
        """Measure the base at the smallest size, and decide the first rung by what it took."""
        task = self._first_task()
        while not self.book.state().rungs:
            if not self.book.claims(task.folder):
                time.sleep(WAIT)
                continue
            measured = self._train(task, False)
            if measured.diverged:
                raise SearchError(f"the settings as they are: {measured.diverged}")
            with self.book.turn():
                state = self.book.state()
                if not state.rungs:  # else another process was first
                    self._plan_first(state, measured)
        state = self.book.state()
        print(
            f"\n== search of up to {state.most} candidates, {self.proposer.name}\n"
            f"  the first rung has {show(state.rungs[0].size)}, {state.rungs[0].epochs} epochs",
            flush=True,
        )

    def _first_task(self) -> Task:
        """The base at the smallest size, which gives the pace."""
        rung = Rung(self.sizes[0], plan.EPOCHS, [BASE], math.inf)
        return self.book.task([rung], BASE, self.book.base.seed)

    def _plan_first(self, state: State, measured: Outcome) -> None:
        """Decide the first rung. Raises InputError where time or space are too little."""
        pace = _pace(measured, self.sizes[0], plan.EPOCHS)
        room = (1 - plan.FINAL_SHARE) * self.seconds
        at = plan.first_size(pace, self.sizes, room)
        points = space.count(self.book.space)
        state.most = int(min(plan.candidates(pace, self.sizes, at, room), points))
        if points < plan.LEAST:
            raise SearchError(
                f"tune_space: {points:.0f} different settings; expected at least {plan.LEAST} "
                "(compare fewer by `carcls study`)"
            )
        if state.most < plan.LEAST:
            each = pace.cost(self.sizes[0], plan.EPOCHS)
            raise SearchError(
                f"{self.seconds / 60:.3g} minutes are too little: a training of {plan.EPOCHS} "
                f"epochs at {show(self.sizes[0])} takes {each:.0f} s; expected "
                f"{math.ceil(plan.LEAST * each / (1 - plan.FINAL_SHARE) / 60)} minutes or more"
            )
        size = self.sizes[at]
        first = state.most * pace.cost(size, plan.EPOCHS)
        later = plan.rungs_cost(pace, self.sizes, at, state.most) - first
        until = max(room - later, min(room, 1.1 * first))  # later ones may take a little longer
        state.rungs = [Rung(size, plan.EPOCHS, [BASE], until)]
        self.book.write(state)
        if at:  # a larger size begins: the base is trained there, too
            trial.drop_weights(self._first_task().folder)

    # --- Rungs --------------------------------------------------------------------------------

    def _climb(self, number: int) -> bool:
        """Train what is to be trained in a rung, and decide the next one; False: that was all."""
        while task := self._next_task(number):
            self._train(task, self.book.state().rungs[number - 1].is_last)
        with self.book.turn():
            state = self.book.state()
            if state.rungs[number - 1].is_last:
                return False
            if len(state.rungs) == number:  # else another process was first
                following = self._following(state, number)
                if following is None:
                    return False
                state.rungs.append(following)
                self.book.write(state)
            self.book.drop_weights(state, number)
        return True

    def _following(self, state: State, number: int) -> Rung | None:
        """The rung after this one, by the time that is left; None: nobody is left but the base."""
        rung, ranked = state.rungs[number - 1], ranking.rank(self.book.measured(state, number))
        room = (1 - plan.FINAL_SHARE) * self.seconds
        paces = [self._pace_of(state, number, n) for n in ranked.going_on]
        size = plan.next_size(paces, self.sizes, rung.size, room - self.book.spent())
        if size:
            return Rung(size, plan.EPOCHS, ranked.going_on, room)
        # Three in any case: what is surely worse at this size may not be so at the last one. Where
        # nobody ended this rung, for want of time or as all diverged, the one before tells.
        order = ranked.order
        for earlier in range(number - 1, 0, -1):
            order = order or ranking.rank(self.book.measured(state, earlier)).order
        others = [n for n in order if n != BASE][: plan.FINALISTS]
        if not others:
            return None
        epochs = sum(stage.epochs for stage in self.book.base.stages)
        left = 0.95 * (self.seconds - self.book.spent())
        paces = [self._pace_of(state, number, n) for n in (BASE, *others)]
        size, epochs, count = plan.last_rung(paces, self.sizes, epochs, left)
        return Rung(size, epochs, [BASE, *others[:count]], plan.SLACK * self.seconds, True)

    def _pace_of(self, state: State, number: int, candidate: int) -> Pace:
        """A candidate's own, in the last of so many rungs that it has ended; else the base's."""
        for index in range(number, 0, -1):
            rung = state.rungs[index - 1]
            if not rung.is_last:
                found = self.book.measured(state, index).get(candidate)
                if found and not found.diverged:
                    return _pace(found, rung.size, rung.epochs)
        outcome = trial.read(self._first_task().folder) or Outcome()
        return _pace(outcome, self.sizes[0], plan.EPOCHS)

    def _next_task(self, number: int) -> Task | None:
        """A training of the rung that nobody else does, claimed; None when the rung is over."""
        while True:
            stops.check()
            with self.book.turn():
                task, is_over = self._find(number)
            if task or is_over:
                return task
            time.sleep(WAIT)  # others are at work

    def _find(self, number: int) -> tuple[Task | None, bool]:
        """A training, claimed, or none and whether the rung is over."""
        book, state = self.book, self.book.state()
        rung, is_over = state.rungs[number - 1], True
        for candidate, seed in book.trials(rung):
            task = book.task(state.rungs[:number], candidate, seed)
            if trial.read(task.folder) is not None:
                continue
            if task.start and not task.start.is_file():
                self._leave_out(task)
            elif not book.claims(task.folder):
                is_over = False
            elif self._has_time(state, number, candidate):
                return task, False
            else:
                book.release()
        if number == 1 and len(rung.numbers) < state.most:
            new = self._propose(state) if self._has_time(state, 1, BASE) else None
            if new is not None:
                task = book.task(state.rungs[:1], new, book.base.seed)
                book.claims(task.folder)
                return task, False
            state.most = len(rung.numbers)  # the same when the search goes on
            book.write(state)
        return None, is_over

    def _has_time(self, state: State, number: int, candidate: int) -> bool:
        """Whether a training of a rung would end in time, at the candidate's own pace."""
        rung = state.rungs[number - 1]
        takes = self._pace_of(state, number, candidate).cost(rung.size, rung.epochs)
        return self.book.spent() + takes <= rung.until

    def _leave_out(self, task: Task) -> None:
        """Say, once, that a candidate cannot go on."""
        if (task.number, task.rung) not in self.left_out:
            self.left_out.add((task.number, task.rung))
            print(f"warning: candidate {task.number} is left out: {task.start} is gone")

    def _propose(self, state: State) -> int | None:
        """The number of a new candidate; None if the proposals are all there already."""
        book, numbers = self.book, state.rungs[0].numbers
        known: Measured = {
            n: (book.point_of(n), None if outcome.diverged else outcome.loss)
            for n, outcome in book.measured(state, 1).items()
            if space.has(book.space, book.point_of(n))
        }
        seen = [book.cfg_of(n) for n in numbers]
        for attempt in range(ATTEMPTS):
            point = self.proposer.propose(len(numbers), known, attempt)
            try:
                cfg = space.settings(book.base, point)
                if {"backbone", "weights"} & set(book.space):
                    weights.find_weights(cfg.backbone, cfg)
            except (ConfigError, InputError):  # they do not go together
                continue
            if cfg not in seen:
                return book.add(state, point)
        return None

    def _train(self, task: Task, is_last: bool) -> Outcome:
        """Train what is claimed, keep what it measured, and let go of it."""
        try:
            outcome = trial.read(task.folder)
            if outcome is None:
                point = self.book.point_of(task.number)
                words = " ".join(f"{name}={value}" for name, value in point.items())
                stage = task.cfg.stages[-1]
                epochs = f"{stage.epochs} epoch{'s' * (stage.epochs > 1)}"
                where = f"{show(stage.size)} for {epochs}, seed {task.cfg.seed}"
                print(f"\n== {task.name}, {where}\n  {words}", flush=True)
                outcome = self.train(task, is_last)
                trial.save(task.folder, outcome, goes_on=not is_last)
                numbers = f"log-loss {outcome.loss:.4f}, accuracy {outcome.accuracy:.4f}"
                took = f"in {outcome.seconds:.0f} s" + (outcome.note and f"; {outcome.note}")
                print(f"measured   {outcome.diverged or numbers} {took}", flush=True)
                with self.book.turn():
                    self.book.write(self.book.state())  # the time that it took
            return outcome
        finally:
            self.book.release()


def _pace(outcome: Outcome, size: Size, epochs: int) -> Pace:
    fixed = max(0.0, outcome.seconds - epochs * outcome.epoch_seconds)
    return Pace(fixed, outcome.epoch_seconds / (size[0] * size[1]))

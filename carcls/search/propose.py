"""Where a search looks next: Optuna's TPE, or Sobol points where Optuna is not installed.

A proposal follows from the seed, its number and what is measured so far, not from what this process
has drawn before: a search that goes on proposes what it would have proposed.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from carcls.search.space import Choices, Point, Range, Space

STARTUP = 8  # candidates drawn at random before TPE models what is good
JOURNAL = "optuna.log"  # in the search's folder, for optuna-dashboard too
_STUDY = "tune"

# Of each candidate that is measured: its point and its log-loss, None where it diverged.
Measured = Mapping[int, tuple[Point, float | None]]


class Proposer(Protocol):
    name: str  # for the log

    def propose(self, number: int, measured: Measured, attempt: int) -> Point:
        """A point for the candidate of that number; attempt: how many before it were no use."""
        ...

    def importance(self, measured: Measured) -> dict[str, float]:
        """Each setting's share in what the losses differ by; {} where that is not known."""
        ...


def proposer(space: Space, seed: int, folder: Path) -> Proposer:
    """Optuna's, or Sobol points where it is not installed, as on Kaggle's TPUs."""
    if importlib.util.find_spec("optuna") is None:
        return Sobol(space, seed)
    return Tpe(space, seed, folder)


class Sobol:
    """Points that cover the space evenly, whatever is measured (Sobol 1967, scrambled)."""

    name = "Sobol points, as Optuna is not installed"

    def __init__(self, space: Space, seed: int):
        self.space, self.seed = space, seed

    def propose(self, number: int, measured: Measured, attempt: int) -> Point:
        from scipy.stats import qmc

        points = qmc.Sobol(len(self.space), seed=self.seed)
        points.fast_forward(number + 1000 * attempt)
        shares = points.random(1)[0]
        return {
            n: part.at(float(s)) for (n, part), s in zip(self.space.items(), shares, strict=True)
        }

    def importance(self, measured: Measured) -> dict[str, float]:
        return {}


class Tpe:
    """Tree-structured Parzen estimator (Bergstra et al. 2011), multivariate, by Optuna.

    Several processes share the journal; what others have under way counts as bad, so that they do
    not all look in one place (constant liar).
    """

    name = "Optuna's TPE"

    def __init__(self, space: Space, seed: int, folder: Path):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.seed, self.optuna = space, seed, optuna
        try:
            self.study = self._open(folder / JOURNAL)
        except ValueError as error:  # cut off by a power cut: what is measured is told again
            aside = folder / f"{JOURNAL}.damaged"
            print(f"warning: {folder / JOURNAL}: damaged ({error}); it is called {aside.name} now")
            (folder / JOURNAL).replace(aside)
            self.study = self._open(folder / JOURNAL)

    def _open(self, journal: Path) -> Any:
        """The study in a journal, which is made if it is not there. Raises ValueError."""
        from optuna.storages.journal import JournalFileBackend

        storage = self.optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        study = self.optuna.create_study(storage=storage, study_name=_STUDY, load_if_exists=True)
        study.get_trials(deepcopy=False)
        return study

    def propose(self, number: int, measured: Measured, attempt: int) -> Point:
        self._tell(measured, number)
        with warnings.catch_warnings():
            # Optuna 4 calls these options experimental.
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            self.study.sampler = self.optuna.samplers.TPESampler(
                n_startup_trials=STARTUP,
                multivariate=True,
                constant_liar=True,
                seed=self.seed + 1000 * number + attempt,
            )
        trial = self.study.ask(self._distributions())
        trial.set_user_attr("candidate", number)
        return {n: self._written(n, trial.params[n]) for n in self.space}

    def _tell(self, measured: Measured, proposing: int | None = None) -> None:
        """Bring the study up to what is measured: by candidate, its last attempt.

        proposing: a candidate whose earlier attempts were no use, or were cut off by a kill.
        """
        states = self.optuna.trial.TrialState
        trials = self.study.get_trials(deepcopy=False)
        last = {trial.user_attrs.get("candidate"): trial.number for trial in trials}
        for trial in trials:
            candidate = trial.user_attrs.get("candidate")
            if trial.state.is_finished():
                continue
            if candidate in (None, proposing) or last[candidate] != trial.number:
                self.study.tell(trial.number, state=states.FAIL)
            elif candidate in measured:
                loss = measured[candidate][1]
                # Pruned, one that diverged counts as bad; failed, it would be forgotten.
                state = states.PRUNED if loss is None else states.COMPLETE
                self.study.tell(trial.number, loss, state=state)
        for number, (point, loss) in measured.items():
            if number not in last and loss is not None:  # the base, which nobody proposed
                self._add(number, point, loss)

    def _add(self, number: int, point: Point, loss: float) -> None:
        self.study.add_trial(
            self.optuna.trial.create_trial(
                params={n: self._value(n, point[n]) for n in self.space},
                distributions=self._distributions(),
                value=loss,
                user_attrs={"candidate": number},
            )
        )

    def _distributions(self) -> dict[str, Any]:
        kinds, found = self.optuna.distributions, {}
        for name, part in self.space.items():
            if isinstance(part, Choices):
                found[name] = kinds.CategoricalDistribution(list(part.values))
            elif part.is_whole:
                found[name] = kinds.IntDistribution(int(part.low), int(part.high))
            else:
                found[name] = kinds.FloatDistribution(part.low, part.high, log=part.is_log)
        return found

    def _value(self, name: str, text: str) -> Any:
        part = self.space[name]
        if isinstance(part, Choices):
            return text
        return int(text) if part.is_whole else float(text)

    def _written(self, name: str, value: Any) -> str:
        part = self.space[name]
        return part.write(value) if isinstance(part, Range) else str(value)

    def importance(self, measured: Measured) -> dict[str, float]:
        self._tell(measured)
        evaluator = self.optuna.importance.FanovaImportanceEvaluator(seed=0)
        try:
            found = self.optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # too few trials, or all of them alike
            return {}
        return {n: float(share) for n, share in found.items() if math.isfinite(share)}

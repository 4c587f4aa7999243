"""Comparing speeds: arms measured in turn, in processes of their own, and their ratios.

Machines differ and are shared, so what counts are the ratios. Every pair is measured alternately,
the median is printed, and the ratio's lowest and highest beside it.
"""

from __future__ import annotations

import multiprocessing
import statistics
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from carcls.errors import InputError

ROUNDS = 3
Measure = Callable[[str], float]  # what is asked for → images/s


def compare(
    title: str, arms: dict[str, Callable[[], float]], rounds: int = ROUNDS
) -> dict[str, float]:
    """Measure the arms alternately, every other round in reverse, and print rates and ratios.

    Returns the median rate of each, images/s.
    """
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        for name, measure in list(arms.items())[:: -1 if number % 2 else 1]:
            rates[name].append(measure())
    first = next(iter(rates))
    print(f"\n{title}")
    for name, values in rates.items():
        ratios = [v / f for v, f in zip(values, rates[first], strict=True)]
        line = f"  {name:45} {statistics.median(values):8.0f} images/s"
        if name != first:
            line += f"   {statistics.median(ratios):5.2f} × ({min(ratios):.2f}–{max(ratios):.2f})"
        print(line, flush=True)
    return {name: statistics.median(values) for name, values in rates.items()}


class Child:
    """A process that measures when it is asked to: each chooses its framework's kernels once.

    prepare: called there with the arguments; returns what is to be known of it, and its measure.
    """

    def __init__(self, prepare: Callable[..., tuple[Any, Measure]], *args: Any):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, prepare, args), daemon=True)
        self.process.start()
        other.close()  # so that a child that dies is an end of file here, not a wait for ever
        self.about = self._answer()  # before others are measured, which it would slow down

    def rate(self, source: str) -> float:
        """images/s. Raises InputError if the child cannot measure it."""
        self.pipe.send(source)
        return float(self._answer())

    def close(self) -> None:
        self.process.terminate()
        self.process.join()

    def _answer(self) -> Any:
        try:
            value, problem = self.pipe.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            value, problem = None, f"its process ended with exit code {code}"
        if problem:
            self.close()
            raise InputError(f"nothing was measured: {problem}")
        return value


def _serve(pipe: Connection, prepare: Callable[..., tuple[Any, Measure]], args: Any) -> None:
    try:
        about, measure = prepare(*args)
        pipe.send((about, ""))
        while True:
            pipe.send((measure(pipe.recv()), ""))
    except EOFError:  # nobody asks any more
        return
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        pipe.send((None, f"{type(error).__name__}: {lines[0]}"))

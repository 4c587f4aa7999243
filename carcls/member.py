"""A network that has voted, and the one or several that are a member of the ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from carcls import disk
from carcls.metrics import Metric
from carcls.train.job import Job
from carcls.votes import votes
from carcls.votes.votes import Votes

NOTE = "member.json"  # which networks of a member count


@dataclass(frozen=True)
class Network:
    """A network that was trained and has voted."""

    job: Job
    history: pd.DataFrame  # an epoch a row
    size: tuple[int, int]  # of the photos that it predicts
    seconds: float  # of training, in all sessions
    check_votes: Votes | None  # on the photos that it was checked on; None in a refit
    test_votes: Votes


@dataclass(frozen=True)
class Member:
    """One network, or the folds of one, voting as one."""

    name: str
    folder: Path
    networks: list[Network]  # whose votes on validation photos count
    refit: Network | None = None  # whose votes on test photos count instead
    earlier: tuple[Network, ...] = ()  # what the networks went on from

    @cached_property
    def val(self) -> Votes:
        return votes.join([net.check_votes for net in self.networks if net.check_votes])

    @property
    def test(self) -> list[Votes]:
        return [net.test_votes for net in ([self.refit] if self.refit else self.networks)]

    @property
    def size(self) -> tuple[int, int]:
        return self.networks[-1].size

    @property
    def histories(self) -> dict[str, pd.DataFrame]:
        """Epochs by the folder inside the member's; "" for its only network."""
        networks = [*self.earlier, *self.networks, *([self.refit] if self.refit else [])]
        names = [net.job.folder.relative_to(self.folder).as_posix() for net in networks]
        return {
            "" if name == "." else name: net.history
            for name, net in zip(names, networks, strict=True)
        }

    @property
    def seconds(self) -> float:
        networks = [*self.earlier, *self.networks, *([self.refit] if self.refit else [])]
        return sum(net.seconds for net in networks)

    def save(self, metric: Metric) -> None:
        """Say in member.json which of the networks in its folder count, and what decides."""
        inside = [net.job.folder.relative_to(self.folder).as_posix() for net in self.networks]
        note = {"name": self.name, "networks": inside, "refit": self.refit is not None}
        disk.write_json(self.folder / NOTE, {**note, "metric": metric})


@dataclass(frozen=True)
class SavedMember:
    """A member's votes as its folder has them."""

    name: str
    folder: Path
    val: Votes
    test: list[Votes]
    metric: Metric  # that decided in the run
    folders: list[Path]  # of the networks that vote on test photos

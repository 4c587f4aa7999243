"""``carcls tune``: a search of settings on the desk, alone or beside others on the same folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from carcls import disk, session
from carcls.config import Config
from carcls.data import files, photos
from carcls.errors import ConfigError
from carcls.search import space


def main(cfg: Config) -> Path:
    """Search for cfg.tune_minutes; returns OUT/tune, with tune.html, tune.csv and tuned.json.

    Raises ConfigError and InputError before anything is trained, as ``spine.run``.
    """
    if not cfg.tune_minutes:
        raise ConfigError("tune_minutes=0: expected the minutes that the search may take")
    searched = space.of(cfg)
    folder = files.run_folder(cfg) / "tune"
    with _own_folder(folder) as own, session.start(cfg.replace(out=str(own), earlier="")) as s:
        from carcls.search import tune  # imports Keras, whose backend is chosen only now

        s.say("data", *photos.summary(s.table))
        s.say("machine", *s.machine.reasons)
        found = tune.search(s, searched, folder)
        s.events.send("tuned", **tune.describe(found), networks=[])
    return folder


@contextmanager
def _own_folder(folder: Path) -> Iterator[Path]:
    """A folder for this process's session, beside those of others that share the search."""
    for number in count(1):
        own = folder / f"process{number}"
        with disk.locked(own / "taken") as is_ours:
            if is_ours:
                yield own
                return

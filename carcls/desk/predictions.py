"""What a finished run says of other photos: its networks, views, gates and blend, nothing trained.

The run folder is only read, and may have moved. The module is not called after its function, which
``carcls.predict`` is.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from carcls import config, disk, machine, record
from carcls.config import Config
from carcls.data import audit
from carcls.data.cache import PhotoCache
from carcls.data.photos import Rows
from carcls.errors import ConfigError, InputError
from carcls.machine import Machine
from carcls.values import Views

if TYPE_CHECKING:
    from carcls.member import SavedMember
    from carcls.votes.decide import Decision
    from carcls.votes.votes import Votes

COLUMNS = ("photo", "class", "probability", "agreement", "note")
# Settings that a network must have been made with as config.json says: they change its layers,
# or what it sees.
_SAME = ("backbone", "pooling", "hidden", "seed", "fit")
Photos = str | Path | Iterable[str | Path]


@dataclass(frozen=True)
class SavedNetwork:
    """A network that a run has trained, as its folder has it."""

    cfg: Config  # of its member
    folder: Path
    size: tuple[int, int]  # (height, width) of its photos
    views: Views  # that each of the run's test photos was given

    def load(self, classes: int, rt: Machine) -> Any:
        """The keras.Model, from pixels to logits. Raises InputError where weights do not fit."""
        from carcls.train import loop

        try:
            return loop.load(self.folder, self.cfg, classes, rt)
        except (OSError, ValueError, KeyError, RuntimeError) as error:  # of Keras, or of h5py
            raise InputError(f"{self.folder}: its weights do not fit ({error})") from None


@dataclass(frozen=True)
class SavedRun:
    """What a run has left: enough to predict as it did."""

    cfg: Config
    members: list[SavedMember]
    decision: Decision


def predict(run_folder: str | Path, photos: Photos) -> pd.DataFrame:
    """A row for each photo: what the run would have submitted for it.

    photos: files and folders; of a folder all that may be photos, also in folders inside, sorted.
    Columns: photo (its path), class, probability (of that class), agreement (share of all views of
    all networks that put it first), note (what is odd about the file), and for each class its
    probability, the column named as the class. A photo that cannot be read has an empty class, NaN,
    and the reason in its note. Raises InputError for photos or a run that are not there or not
    whole, ConfigError for a run with boxes=.
    """
    folder, files = disk.user_path(str(run_folder)), find_photos(photos)
    cfg, classes = read_settings(folder)
    if cfg.boxes:
        raise ConfigError(
            f"{folder}: the run has cut its photos to boxes (boxes={cfg.boxes}), and these photos "
            "have none; expected a run without boxes="
        )
    rt = prepare(cfg)
    run = read(folder)
    networks = saved_networks(run, len(classes))
    looks = audit.look(files)
    table = pd.DataFrame({"id": files, "path": files})
    for name in ("digest", "height", "width", "readable"):
        table[name] = [getattr(looks[path], name) for path in files]
    notes = ["; ".join(": ".join(filter(None, each)) for each in looks[f].findings) for f in files]
    for line in remarks(run, networks):
        print(line)
    readable = np.flatnonzero(table["readable"])
    probs, agreement = np.full((len(files), len(classes)), np.nan), np.full(len(files), np.nan)
    if len(readable):
        rows = Rows(readable, np.full(len(readable), -1, np.int64))
        found, replaced = _ask(run, networks, table, rows, rt)
        probs[readable] = run.decision.apply(found)
        each = [votes for of_member in found for votes in of_member]
        top = probs[readable].argmax(1)
        agreement[readable] = np.mean([(v.tops() == top).sum(0) / v.n_views for v in each], 0)
        for row, error in replaced.items():
            probs[row], agreement[row], notes[row] = np.nan, np.nan, str(error)
    known = ~np.isnan(agreement)
    tops = np.where(known, np.nan_to_num(probs).argmax(1), 0)
    named = [str(classes[top]) if ok else "" for top, ok in zip(tops, known, strict=True)]
    values = (files, named, probs[np.arange(len(files)), tops], agreement, notes)
    columns = [f"P({name})" if str(name) in COLUMNS else str(name) for name in classes]
    first = pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))
    return pd.concat([first, pd.DataFrame(probs, columns=columns)], axis=1)


def find_photos(photos: Photos) -> list[str]:
    """The paths of these files, and of those in these folders, each once. Raises InputError."""
    given = [photos] if isinstance(photos, str | Path) else photos
    paths = [disk.user_path(str(path)) for path in given]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise InputError(f"photos: no such file or folder: {', '.join(missing)}")
    found: dict[str, None] = {}
    for path in paths:
        inside = list(disk.photo_files(path)) if path.is_dir() else []
        others = [name for _, name in inside if not disk.may_be_photo(name)]
        if others:
            some = ", ".join(others[:5]) + (", …" if others[5:] else "")
            what = "1 file that is no" if len(others) == 1 else f"{len(others):,} files that are no"
            print(f"left out   of {path}: {what} photo{'s' * (len(others) > 1)} ({some})")
        names = [Path(path, *each) for each in inside if disk.may_be_photo(each[1])]
        found |= dict.fromkeys(map(str, names if path.is_dir() else [path]))
    if not found:
        raise InputError(f"{', '.join(map(str, paths)) or 'photos'}: no photo in it")
    return list(found)


# --- What a run has left --------------------------------------------------------------------------


def read_settings(folder: Path) -> tuple[Config, list[Any]]:
    """Settings and classes of the run in this folder. Raises InputError and ConfigError."""
    for name in ("config.json", "classes.json"):
        if not (folder / name).is_file():
            older = " of this version" if (folder / "config.json").is_file() else ""
            raise InputError(f"{folder}: no {name}; expected the folder of a run{older}")
    cfg, path = config.load(folder / "config.json"), folder / "classes.json"
    try:
        classes = list(disk.unsealed(disk.read_json(path))["classes"])
        assert len(classes) > 1
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise InputError(f"{path}: not as a run has left it ({error})") from None
    return cfg, classes


def prepare(cfg: Config, **changes: Any) -> Machine:
    """Set up this machine, which need not be of the kind that the run was made on."""
    backend = sys.modules["keras"].backend.backend() if "keras" in sys.modules else "auto"
    here = {"accelerator": "any", "backend": backend, "xla": "auto", **changes}
    return machine.setup(cfg.replace(**here))


def read(folder: Path, **changes: Any) -> SavedRun:
    """The members of the run in this folder, and what their votes decide, as the run decided.

    changes: of settings that are decided by votes alone. Imports Keras. Raises InputError.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json; expected the folder of a run")
    from carcls import network
    from carcls.votes import decide

    cfg = config.load(folder / "config.json").replace(pseudo=0, **changes)
    members = network.load_members(cfg, folder)
    ids = members[0].val.ids
    groups = network.groups(_photos(folder, ids), ids)
    decision = decide.decide(cfg, members, groups, members[0].metric)
    return SavedRun(cfg, members, decision)


def _photos(folder: Path, ids: list[str]) -> pd.DataFrame:
    """The run's table of photos, in which all these must be. Raises InputError."""
    path = folder / "photos.csv"
    if not path.is_file():
        raise InputError(f"{folder}: no photos.csv; expected the folder of a finished run")
    try:
        frame = pd.read_csv(path, dtype={"id": str}, keep_default_na=False)
    except ValueError as error:  # so are pandas's errors for what is no table or no text
        raise InputError(f"{path}: not as a run has left it ({error})") from None
    missing = {"id", "fold", "group"} - set(frame.columns)
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(sorted(missing))}; not as a run has left it"
        )
    lost = set(ids) - set(frame["id"])
    if lost:
        raise InputError(
            f"{path}: no row of {min(lost)}, which {folder} has votes on; not as a run has left it"
        )
    return frame


def saved_networks(run: SavedRun, classes: int) -> list[list[SavedNetwork]]:
    """Of each member those that predict test photos. Raises InputError if one is not whole."""
    named = run.members[0].val.probs.shape[2]
    if named != classes:
        raise InputError(
            f"{run.members[0].folder.parent}: classes.json has {classes} classes, the votes have "
            f"{named}; expected the folder as one run has left it"
        )
    cfgs = run.cfg.member_cfgs()
    return [
        [_saved_network(folder, cfg) for folder in member.folders]
        for member, cfg in zip(run.members, cfgs, strict=False)  # the last ones may be missing
    ]


def _saved_network(folder: Path, cfg: Config) -> SavedNetwork:
    from carcls.train.loop import TRAINING
    from carcls.train.studio import BEST

    if not (folder / BEST).is_file():
        raise InputError(
            f"{folder}: no {BEST}; expected the networks' weights, which a run leaves there: take "
            "the whole run folder"
        )
    steps = record.Steps(folder)
    try:
        training, voting = (disk.unsealed(steps.done(n)) for n in (TRAINING, "test votes"))
        height, width = map(int, training["about"]["size"])
        views = Views.model_validate(voting["about"]["views"])
        was = {name: training["facts"][name] for name in _SAME}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{steps.file}: not as a run has left it ({error})") from None
    wrong = steps.faults(training)
    if changed := record.differences(was, {name: getattr(cfg, name) for name in _SAME}):
        wrong.append(f"config.json has other settings: {'; '.join(changed)}")
    if wrong:
        raise InputError(f"{folder}: {'; '.join(wrong)}; expected what one run has left")
    return SavedNetwork(cfg, folder, (height, width), views)


def remarks(run: SavedRun, networks: Sequence[Sequence[SavedNetwork]]) -> list[str]:
    """What predicts, and what the run still lacks, as lines of the log."""
    lines = [f"predicted by {run.decision.made_by}"]
    count, asked = len(run.members), len(run.cfg.members)
    if count < asked:
        lines.append(f"warning: {count} of {asked} members: the run has not finished more")
    is_refit = networks[0][0].folder.name == "refit"
    if (count := len(networks[0])) < run.cfg.folds and not is_refit:
        lines.append(f"warning: {count} of {run.cfg.folds} folds: the run has not finished more")
    if not (run.members[0].folder.parent / "result.json").is_file():
        lines.append("warning: no result.json: the run has not finished")
    return lines


# --- Voting ---------------------------------------------------------------------------------------


def _ask(
    run: SavedRun,
    networks: Sequence[Sequence[SavedNetwork]],
    table: pd.DataFrame,
    rows: Rows,
    rt: Machine,
) -> tuple[list[list[Votes]], dict[int, InputError]]:
    """Votes of each member's networks on these rows, and the rows that a grey photo stood in for.

    A member to which the blend gives no weight is not asked.
    """
    from carcls.nets import fast
    from carcls.votes import cast

    classes, weights = run.members[0].val.probs.shape[2], run.decision.choice.blend.weights
    found: list[list[Votes]] = [[] for _ in networks]
    replaced, key = dict[int, InputError](), None
    for number, of_member in enumerate(networks):
        for saved in of_member if weights is None or weights[number] else ():
            if key != (saved.size, saved.cfg.fit):
                key = (saved.size, saved.cfg.fit)
                cache = PhotoCache(table, *key, Path(tempfile.gettempdir()))
            with fast.forgetting_traces(), _explained(cache):
                net = saved.load(classes, rt)
                cfg = saved.cfg.replace(tta_combine=run.cfg.tta_combine)
                found[number].append(cast.cast_votes(net, cache, rows, saved.views, cfg, rt))
            replaced |= cache.replaced
    return found, replaced


@contextmanager
def _explained(cache: PhotoCache) -> Iterator[None]:
    """Too many photos that are gone meanwhile are said so, not by TensorFlow."""
    try:
        yield
    except Exception as error:
        if cache.fault and error is not cache.fault:
            raise cache.fault from None
        raise

"""A session: all that every step of a run needs, and what can fail before the work begins."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk, errors, hosts, machine, record, stops
from carcls.config import SESSION_SETTINGS, Config
from carcls.data import attached, augment, boxes, files, photos
from carcls.data.cache import PhotoCache, changed, free_memory
from carcls.data.files import Place
from carcls.data.labels import spreadsheet_safe
from carcls.data.photos import TEST, TRAIN, VALIDATION, Rows, Table
from carcls.disagreement import BLENDS
from carcls.errors import ConfigError, InputError
from carcls.machine import Machine
from carcls.metrics import Metric
from carcls.nets import registry, schedule, weights
from carcls.report import submission
from carcls.report.submission import Submission
from carcls.train import clock
from carcls.train.clock import Clock
from carcls.train.events import Events
from carcls.train.job import planned
from carcls.votes import blend


@dataclass
class Session:
    """One process's part of a run: a run that is stopped goes on in another session."""

    cfg: Config
    place: Place
    table: Table
    machine: Machine
    clock: Clock
    events: Events
    submission: Submission
    metric: Metric = "accuracy"  # what decides
    caches: dict[Any, PhotoCache] = field(default_factory=dict)
    replaced: dict[int, InputError] = field(default_factory=dict)  # of the caches that are gone
    verdicts: dict[tuple[str, str], tuple[bool, str]] = field(default_factory=dict)  # last ones

    def say(self, tag: str, *lines: object) -> None:
        """A part of the log: its name, and lines below it."""
        stops.check()
        self.events.send("phase", name=tag)
        print(f"\n== {tag}", *lines, sep="\n  ", flush=True)

    def verdict(self, of: str, accepted: bool, reason: str, network: str = "") -> None:
        """Tell whoever watches what the evidence says, where that is new in this session."""
        if self.verdicts.get((of, network)) != (accepted, reason):
            self.verdicts[of, network] = accepted, reason
            self.events.send("verdict", of=of, network=network, accepted=accepted, reason=reason)

    def photos(self, size: tuple[int, int], fit: str) -> PhotoCache:
        """The table's photos at that size: one cache a size.

        Older ones, to which later members and folds come back, go if the new one has no room.
        """
        key = (size, fit)
        if key not in self.caches:
            new = partial(PhotoCache, self.table.frame, size, fit, self.place.scratch)
            cache = new()
            # Bytes that the older ones take once all of their photos are decoded.
            taken = sum(int(older.offsets[-1]) for older in self.caches.values())
            if cache.in_memory < len(cache) or taken > 0.25 * free_memory():
                self.replaced = self._replaced()
                self.caches.clear()
                cache = new()
            self.caches[key] = cache
        return self.caches[key]

    def _replaced(self) -> dict[int, InputError]:
        """Row → why a grey photo took the place of one that looked sound when the run began."""
        found = dict(self.replaced)
        for cache in self.caches.values():
            found |= cache.replaced
        return found

    def spoiled(self, *parts: Rows) -> record.Facts:
        """What else a step on these photos was made from: of such facts it is never wanted."""
        gone = changed(self._replaced())  # the others would be the same again
        rows = sorted(set(gone) & {row for part in parts for row in part.rows.tolist()})
        return {"the photos that were replaced": self._ids(rows)} if rows else {}

    def warnings(self) -> list[str]:
        """What is wrong with the photos that the run has used."""
        told = []
        for really, what, then in (
            (
                True,
                "were no longer as they were when the run began",
                "; the same run again makes anew what they spoiled",
            ),
            (False, "cannot be decoded, though they looked sound", ""),
        ):
            whys = changed(self._replaced(), really)
            ids = self._ids(sorted(whys))
            names = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
            if ids:
                told.append(
                    f"{len(ids):,} of {len(self.table.frame):,} photos {what}, and grey ones took "
                    f"their places: {names} ({next(iter(whys.values()))}){then}"
                )
        return told

    def _ids(self, rows: list[int]) -> list[str]:
        return self.table.frame["id"].iloc[rows].astype(str).tolist()


def check(cfg: Config) -> None:
    """What settings alone show to be wrong, or no such accelerator. Raises ConfigError."""
    machine.expect_accelerator(cfg)
    if cfg.blend not in BLENDS:
        blend.parse_weights(cfg.blend, len(cfg.members))
    for member in cfg.member_cfgs():
        registry.check(member.backbone, member.stages)
        for stage in member.stages:
            augment.policy(member.augment, *stage.size, member.fit, member.strength.start)


@contextmanager
def start(cfg: Config, title: str = "") -> Iterator[Session]:
    """Lock the run folder, find files and weights, look at the photos, choose the machine.

    Raises ConfigError and InputError for all that is seen to be wrong before any training. Inside,
    SIGTERM raises Stopped. title: of the run, for whoever watches; "": by its data and networks.
    """
    began = time.monotonic()
    errors.show_all()
    check(cfg)
    with stops.heeded(), locked(files.run_folder(cfg)):
        place = files.locate(cfg)
        if hosts.process_of()[0]:
            place = replace(place, out=hosts.own_folder(place.scratch))
        for member in cfg.member_cfgs():  # before the photos are looked at, which takes longer
            weights.find_weights(member.backbone, member)
        for text in filter(None, dict.fromkeys(map(schedule.doubt, cfg.member_cfgs()))):
            print(f"warning: {text}")
        attached.box_files(cfg)
        record.sweep(place.out)
        _take_over(cfg, place)
        table = photos.load(cfg, place)
        place = replace(place, answers=_answers(place, table))
        decides = metric_of(cfg, table)
        _check_counts(cfg, table)
        write_tables(cfg, table, place.out)
        chosen = machine.setup(cfg)
        from carcls.train import monitor  # imports keras, whose backend is chosen only now

        hosts.share_files(place.out, place.scratch)
        disk.write_atomic(place.out / "config.json", cfg.model_dump_json(indent=2) + "\n")
        limit = clock.start(cfg, place.on_kaggle, chosen.kind, began)
        name = identity(cfg, table)
        told = monitor.listeners(cfg) if not chosen.process else []
        events = Events(place.out / "progress.jsonl", name, told)
        offered = Submission(place.out / "submission.csv", table, name, decides)
        s = Session(cfg, place, table, chosen, limit, events, offered, decides)
        offered.more_warnings, offered.tell = s.warnings, partial(events.send, "submission")
        with told_how_it_ends(events), _explained(s):
            events.send("start", **_about(s, title))
            yield s
            if events.last_kind != "end":  # a search alone, or a training of a study
                events.send("end", seconds=round(time.monotonic() - began))


def _about(s: Session, title: str) -> dict[str, Any]:
    """What whoever watches is told of a run when it begins."""
    cfg, members = s.cfg, s.cfg.member_cfgs()
    what = members[0].backbone if len(members) == 1 else f"{len(members)} members"
    folds = (TRAIN, VALIDATION) if cfg.folds > 1 else (TRAIN,)
    check = folds if cfg.folds > 1 else (VALIDATION,)
    counts = {"train": folds, "validation": check, "test": (TEST,)}
    return {
        "identity": s.events.identity,
        "name": title or f"{s.place.root.resolve().name}, {what}",
        "settings": cfg.model_dump(mode="json"),
        "machine": s.machine.reasons,
        "source": record.source_hash(),
        "photos": {name: len(s.table.rows(*parts)) for name, parts in counts.items()},
        "metric": s.metric,
        # With a title there is one network, which has it, too.
        "networks": [network | ({"name": title} if title else {}) for network in planned(cfg)],
        "ends_at": round(time.time() + s.clock.left(), 3) if s.clock.is_limited else None,
    }


def metric_of(cfg: Config, table: Table) -> Metric:
    """What decides: as set, else accuracy for labels and log-loss for probabilities.

    Raises ConfigError where it is not defined.
    """
    if cfg.metric == "auc" and len(np.unique(table.rows(VALIDATION).labels)) < 2:
        raise ConfigError("metric=auc: all validation photos are of one class; expected both")
    if cfg.metric != "auto":
        return cfg.metric
    return "log_loss" if table.asks.probabilities else "accuracy"


def identity(cfg: Config, table: Table) -> str:
    """A name of the run: the same in all its sessions, another with other photos or labels.

    With resume=false nothing is taken over, so that every setting counts.
    """
    # Boxes count by what they are, not by where their file is.
    aside = (SESSION_SETTINGS | {"boxes"}) if cfg.resume else frozenset[str]()
    settings = json.dumps(cfg.model_dump(mode="json", exclude=set(aside)), sort_keys=True)
    columns = (table.frame[name] for name in ("id", "label", "fold", "digest"))
    cut = boxes.of(table.frame).T if cfg.boxes else ()
    text = settings + record.rows(table.sample_ids, *columns, *cut) + record.source_hash()
    text += json.dumps(asdict(table.asks))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _take_over(cfg: Config, place: Place) -> None:
    """Copy an earlier run, where one is attached, into the run folder, which is writable."""
    earlier = record.find_earlier(cfg) if cfg.resume else None
    if earlier and earlier.resolve() != place.out.resolve():
        taken = record.take_over(earlier, place.out)
        copied = f"copied {', '.join(taken)}" if taken else f"{place.out} has all of it"
        print(f"\n== earlier run\n  {earlier}: {copied}")


def _answers(place: Place, table: Table) -> Path | None:
    """The file of true labels, if it is one of these test photos."""
    try:
        if place.answers:
            submission.read_answers(place.answers, table.sample_ids)
    except InputError as error:
        print(f"warning: {error}; the true score stays unknown")
        return None
    return place.answers


def _check_counts(cfg: Config, table: Table) -> None:
    """Raise ConfigError where validation has too few photos to compare members."""
    folds = (TRAIN, VALIDATION) if cfg.folds > 1 else (VALIDATION,)
    count, least = len(table.rows(*folds)), blend.LEAST
    if len(cfg.members) > 1 and count < least:
        raise ConfigError(
            f"members: {count} validation photos; to compare members {least} are needed"
        )


def write_tables(cfg: Config, table: Table, out: Path) -> None:
    """audit.csv, photos.csv, and classes.json: the class of each output of the networks."""
    frame = photos.with_folds(table, cfg.folds, cfg.seed) if cfg.folds > 1 else table.frame
    for name, content in (("audit", spreadsheet_safe(table.audit)), ("photos", frame)):
        disk.write_atomic(out / f"{name}.csv", content.to_csv(index=False))
    disk.write_json(out / "classes.json", {"classes": table.classes})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a run folder to this run, all its processes. Raises InputError if another has it."""
    if hosts.process_of()[0]:
        yield
        return
    with disk.locked(folder) as is_ours:
        if not is_ours:
            raise InputError(
                f"out={folder}: another run is at work in it; wait for it, or choose another folder"
            )
        yield


@contextmanager
def told_how_it_ends(events: Events) -> Iterator[None]:
    """Whoever watches is told what ends the work inside, if that fails, also a stop by hand."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # a full disk: what has happened is not hidden by it
            words = str(error) or errors.last_words(error).removeprefix("carcls: ")
            events.send("failed", error=f"{type(error).__name__}: {words}")
        raise
    finally:
        events.close()


@contextmanager
def _explained(s: Session) -> Iterator[None]:
    """An error of making photos ready arrives as TensorFlow's, with a traceback in its message."""
    try:
        yield
    except Exception as error:
        faults = [cache.fault for cache in s.caches.values() if cache.fault]
        if faults and error is not faults[0]:
            raise faults[0] from None
        raise

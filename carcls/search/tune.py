"""Tune small, finish large: a search of a session's settings, and what a run makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from carcls import disk, record
from carcls.data import photos
from carcls.data.photos import TRAIN, VALIDATION
from carcls.errors import ConfigError, InputError
from carcls.search import findings, page, plan, space, trial
from carcls.search.book import STATE, Book
from carcls.search.findings import Findings
from carcls.search.halving import Search, SearchError
from carcls.search.space import Space
from carcls.session import Session
from carcls.train.job import Job, planned
from carcls.votes import blend

FOLDER, TUNED = "tune", "tuned.json"  # in a run folder; in the search's
SHARE_OF_A_SESSION = 0.7  # that a search may take at most: the rest trains what it finds


def tune(s: Session, searched: Space) -> dict[str, Any]:
    """Search; the session goes on with what was found, or as it was. Returns what a report says.

    Raises as ``search``, and ConfigError where the search would leave the session too little time.
    """
    folder = s.place.out / FOLDER
    try:
        found = search(s, searched, folder, anew=True)
    except SearchError as error:  # the networks matter more than the search
        print(f"WARNING: no search: {error}; training goes on with the settings as they are")
        s.cfg = s.cfg.replace(tune_minutes=0, tune_space="")
        return {"verdict": f"no search: {error}", "settings": space.everything(s.cfg)}
    s.cfg = found.book.cfg_of(found.taken).replace(tune_minutes=0, tune_space="")
    disk.write_atomic(s.place.out / "config.json", s.cfg.model_dump_json(indent=2) + "\n")
    about = describe(found)
    s.events.send("tuned", **about, networks=planned(s.cfg))
    return about


def describe(found: Findings) -> dict[str, Any]:
    """What a search came to: its verdict, and the settings to go on with."""
    chosen = found.book.cfg_of(found.taken)
    return {"verdict": str(found.verdict), "settings": space.everything(chosen)}


def _check_time(s: Session, folder: Path) -> None:
    """Raise ConfigError where a search that begins would leave too little of the session."""
    asked, left = s.cfg.tune_minutes, s.clock.left() / 60
    begun = (folder / STATE).is_file() and s.cfg.resume
    if not begun and asked > SHARE_OF_A_SESSION * left:
        raise ConfigError(
            f"tune_minutes={asked:g}: the session has {left:.0f} minutes left, which are for "
            f"training, too; expected at most {SHARE_OF_A_SESSION * left:.0f}"
        )


def search(s: Session, searched: Space, folder: Path, anew: bool = False) -> Findings:
    """Search the settings of a session for its minutes, and write what was found to the folder.

    anew: another search that is in the folder is put aside; else it is an error. Raises ConfigError
    and InputError where there is too little time, too few photos, or nothing to choose.
    """
    cfg = s.cfg
    s.say(
        "tune",
        f"{cfg.tune_minutes:g} minutes; {folder}",
        *(f"{name:10} {part}" for name, part in searched.items()),
    )
    trainer = _trainer(s)
    _check_time(s, folder)
    book = Book(folder, cfg, searched, _facts(s, trainer, searched), began=s.clock.start)
    sizes = plan.ladder(cfg.stages[-1].size, space.step(cfg, searched))
    looking = Search(book, 60 * cfg.tune_minutes, sizes, trainer, anew)
    with s.events.without("epoch", "early_stop"):  # of so many trainings
        looking.run()
    found = findings.read(book, looking.proposer)
    chosen = book.cfg_of(found.taken)
    disk.write_json(folder / TUNED, {"candidate": found.taken, **describe(found)})
    written = page.write(found, folder)
    s.say(
        "tuned",
        *page.lines(found),
        f"page       {written}",
        f"settings   {folder / TUNED}",
        f'SET="{" ".join(space.words(chosen))}"',
    )
    return found


def _trainer(s: Session) -> trial.Trainer:
    """The photos of the trials: a part of the train photos is kept apart for the verdict."""
    learn, choose = s.table.rows(TRAIN), s.table.rows(VALIDATION)
    parts, key = max(2, round(1 / s.cfg.val_fraction)), f"{s.cfg.seed}/apart"
    what = f"tune_minutes={s.cfg.tune_minutes:g}"
    learn, apart = photos.deal(s.table, learn, parts, key, what)[0]
    for name, rows in (("of validation", choose), ("kept apart", apart)):
        if len(rows) < blend.LEAST:
            raise InputError(
                f"{what}: {len(rows)} photos {name}; to compare settings {blend.LEAST} are needed"
            )
    return trial.Trainer(s, learn, choose, apart)


def _facts(s: Session, trainer: trial.Trainer, searched: Space) -> record.Facts:
    """What the search is made from."""
    cfg = s.cfg
    job = Job("search", s.place.out, cfg, trainer.learn, trainer.choose)
    kept_apart = record.rows(*job.photos(s.table.frame, trainer.apart))
    about = {name: str(part) for name, part in searched.items()}
    return {
        **job.facts(s.table.frame, s.metric),
        "minutes": cfg.tune_minutes,
        "space": json.dumps(about),
        "the photos kept apart": kept_apart,
    }

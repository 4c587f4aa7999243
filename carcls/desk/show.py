"""What can be looked at without training: a run's tables again, and augmented photos."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from carcls import config, session
from carcls.config import Config
from carcls.data import files, photos
from carcls.errors import ConfigError, InputError
from carcls.report import sheets
from carcls.votes import decide

CHANGEABLE = ("tta", "tta_combine", "blend")  # what is decided from votes alone


def votes(words: list[str]) -> None:
    """Print a run's tables from the votes in its folder; words: the folder, and CHANGEABLE ones.

    Raises ConfigError on other words, InputError if the folder is not as a run has left it.
    """
    folder = Path("out" if "=" in words[0] and not Path(words[0]).exists() else words.pop(0))
    changes = dict(word.partition("=")[::2] for word in words)
    wrong = sorted(word for word in words if word.partition("=")[0] not in CHANGEABLE)
    wrong += [word for word in words if "=" not in word and word not in wrong]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)}: expected {', '.join(f'{name}=' for name in CHANGEABLE)}; "
            "all else is in the votes"
        )
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json; expected the folder of a run")
    from carcls import network  # imports Keras, which a preview does without

    cfg = config.load(folder / "config.json").replace(pseudo=0, **changes)
    members = network.load_members(cfg, folder)
    if len(members) < len(cfg.members):
        print(f"{len(members)} of {len(cfg.members)} members: the run has not finished more")
    ids = members[0].val.ids
    groups = network.groups(_photos(folder, ids), ids)
    decision = decide.decide(cfg, members, groups)
    print(*decide.describe(cfg, members, decision, every=True), sep="\n")
    print(f"validation {decision.accuracy:.4f}: {decision.made_by}")


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


def preview(cfg: Config) -> Path:
    """Write the picture of augmented photos into the run folder; returns its path."""
    with session.locked(files.run_folder(cfg)):
        place = files.locate(cfg)
        table = photos.load(cfg, place)
        return sheets.augmentation(cfg, table, place.out / "augmentation.png")

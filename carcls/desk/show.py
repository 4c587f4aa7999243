"""What can be looked at without training: a run's tables again, and augmented photos."""

from __future__ import annotations

from pathlib import Path

from carcls import metrics, session
from carcls.config import Config
from carcls.data import files, photos
from carcls.desk import predictions
from carcls.errors import ConfigError
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
    run = predictions.read(folder, **changes)
    members, decision = run.members, run.decision
    if len(members) < len(run.cfg.members):
        print(f"{len(members)} of {len(run.cfg.members)} members: the run has not finished more")
    print(*decide.describe(run.cfg, members, decision, every=True), sep="\n")
    print(f"validation {metrics.shown(decision.metric, decision.score)}: {decision.made_by}")


def preview(cfg: Config) -> Path:
    """Write the picture of augmented photos into the run folder; returns its path."""
    with session.locked(files.run_folder(cfg)):
        place = files.locate(cfg)
        table = photos.load(cfg, place)
        return sheets.augmentation(cfg, table, place.out / "augmentation.png")

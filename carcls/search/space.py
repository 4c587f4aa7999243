"""What a search may choose: a range or a list of values for each of some settings, checked."""

from __future__ import annotations

import math
import shlex
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from carcls import config, hosts
from carcls.config import EQUAL_TERMS, MEMBER_SETTINGS, SESSION_SETTINGS, Config
from carcls.errors import ConfigError, InputError
from carcls.nets import registry, weights
from carcls.values import hide

# A size is a rung's, a seed is a repetition's; a stage that stops early is not on equal terms.
CHOOSABLE = (MEMBER_SETTINGS | EQUAL_TERMS | {"strength"}) - {"stages", "seed", "patience"}
# Of each trial: photos as they are, and all of the epochs that are planned. What else a run does
# has its own tables, or nothing to be measured on.
TERMS: dict[str, Any] = {
    "tta": "never",
    "views": 1,
    "pseudo": 0,
    "refit_epochs": 0,
    "patience": 0,
    "folds": 1,
}
_RATES = ("lr", "weight_decay")  # whose ranges are even on a logarithmic scale
# What a range of other settings would mean is not clear.
_RANGES = {"dropout", "hidden", "depth_decay", "label_smoothing", "ema", "warmup", "batch", *_RATES}
_WHOLE = {"hidden", "batch"}
DEFAULT = (
    "weight_decay=,1e-4,1e-3,1e-2 mix=,mixup:0.2,mixup:0.2+cutmix:1 augment=light,medium "
    "strength=0.5,1-0.5,1 depth_decay=0.6,0.8,1 ema=0,0.98 label_smoothing=0,0.05,0.1"
)

Point = dict[str, str]  # settings by name, as people write them


@dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``."""

    low: float
    high: float
    is_log: bool
    is_whole: bool

    def at(self, share: float) -> str:
        """The value at a share, 0 to 1, of the way."""
        if self.is_log:
            value = math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share)
        else:
            value = self.low * (1 - share) + self.high * share
        return self.write(value)

    def write(self, value: float) -> str:
        """To three digits, of the whole range where it is linear; never beyond its ends."""
        if self.is_whole:
            return str(round(value))
        digits = 2 - math.floor(math.log10(self.high - self.low))
        rounded = float(f"{value:.3g}") if self.is_log else round(value, digits)
        return _number(min(max(rounded, self.low), self.high))

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Choices:
    """One of some values."""

    values: tuple[str, ...]

    def at(self, share: float) -> str:
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def __str__(self) -> str:
        return " | ".join(value or "none" for value in self.values)


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


Space = dict[str, Range | Choices]


def default(base: Config, backbones: list[str]) -> Space:
    """The usual space around a base: rates from half to four times, and ``DEFAULT``.

    backbones: those whose weights are there; of several, one more thing to choose.
    """
    low, high = base.lr / 2, base.lr * 4
    text = f"lr={low:g}:{high:g} {DEFAULT}"
    if len(backbones) > 1:
        text += f" backbone={','.join(backbones)}"
    return read(text, base)


def of(cfg: Config) -> Space:
    """The space of a run with ``tune_minutes``.

    Raises ConfigError on settings that cannot be searched, InputError where weights are missing.
    """
    for wrong, found in (
        (cfg.members != ({},), "members: a search is of a single network"),
        (cfg.unfreeze == "staged", "unfreeze=staged: each rung has one size"),
        (cfg.schedule == "plateau", "schedule=plateau: rungs are too short for it"),
        (hosts.process_of()[1] > 1, "JAX_NUM_PROCESSES above 1: each process is a search's own"),
    ):
        if wrong:
            raise ConfigError(f"tune_minutes={cfg.tune_minutes:g} with {found}")
    if not cfg.tune_space:
        return default(cfg, _at_hand(cfg))
    space = read(cfg.tune_space, cfg)
    for name in ("backbone", "weights"):
        part = space.get(name)
        for value in part.values if isinstance(part, Choices) else ():
            changed = settings(cfg, {name: value})
            registry.check(changed.backbone, changed.stages)
            weights.find_weights(changed.backbone, changed)
    return space


def step(cfg: Config, space: Space) -> int:
    """Of which px the sides of photos are multiples that all networks of a space can take."""
    part = space.get("backbone")
    names = part.values if isinstance(part, Choices) else (cfg.backbone,)
    return math.lcm(*(registry.find(name).patch for name in names))


def _at_hand(cfg: Config) -> list[str]:
    """The networks whose ImageNet weights are there."""
    found = []
    for name in registry.REGISTRY if cfg.weights == "imagenet" else ():
        with suppress(ConfigError, InputError):
            registry.check(name, cfg.stages)
            weights.find_weights(name, cfg)
            found.append(name)
    return found


def read(text: str, base: Config) -> Space:
    """``"lr=5e-4:4e-3 mix=none,mixup:0.2 augment=light,medium"`` → by setting what it may be.

    A range is LOW:HIGH, a list has commas; a value that itself has a comma is written with a +.
    Raises ConfigError on a setting that cannot be searched and on a value that Config refuses.
    """
    space: Space = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"tune_space: {hide(word)!r} is not key=values, as in lr=5e-4:4e-3")
        if name not in CHOOSABLE:
            raise ConfigError(
                f"tune_space: {name} cannot be searched; expected some of "
                f"{', '.join(sorted(CHOOSABLE))}"
            )
        if name in space:
            raise ConfigError(f"tune_space: {name} is given twice; expected once")
        space[name] = _range(name, value) or _choices(name, value)
    if not space:
        raise ConfigError("tune_space: empty; expected at least one setting, as in lr=5e-4:4e-3")
    space = {name: _checked(name, part, base) for name, part in space.items()}
    if all(isinstance(part, Choices) and len(part.values) == 1 for part in space.values()):
        raise ConfigError(
            f"tune_space: {text}: nothing to choose; expected a range or several values"
        )
    return space


def _checked(name: str, part: Range | Choices, base: Config) -> Range | Choices:
    """The part with its values written as ``written`` does. Raises ConfigError."""
    values = part.values if isinstance(part, Choices) else (part.at(0), part.at(1))
    try:
        found = tuple(written(settings(base, {name: value}), name) for value in values)
    except ConfigError as error:
        raise ConfigError(f"tune_space: {error}") from None
    if len(set(found)) < len(found):
        raise ConfigError(f"tune_space: {name}={','.join(values)}: one value comes twice")
    return Choices(found) if isinstance(part, Choices) else part


def _range(name: str, value: str) -> Range | None:
    """None if it is no range of two numbers."""
    try:
        low, high = (float(side) for side in value.split(":"))
    except ValueError:
        return None
    if name not in _RANGES:
        raise ConfigError(
            f"tune_space: {name}={value}: a range; expected a list of values, or a range of one of "
            f"{', '.join(sorted(_RANGES))}"
        )
    is_log = name in _RATES
    if not (math.isfinite(low) and low < high < math.inf) or (is_log and low <= 0):
        least = " and above 0" if is_log else ""
        raise ConfigError(f"tune_space: {name}={value}: expected LOW:HIGH, LOW below HIGH{least}")
    return Range(low, high, is_log, name in _WHOLE)


def _choices(name: str, value: str) -> Choices:
    values = tuple(part.replace("+", ",") if name == "mix" else part for part in value.split(","))
    if name in ("mix", "weight_decay"):  # of which nothing is a value
        values = tuple("" if part == "none" else part for part in values)
    return Choices(values)


def settings(base: Config, point: Point) -> Config:
    """The base with the settings of a point. Raises ConfigError where they do not go together."""
    words = [f"{name}={value}" for name, value in point.items()]
    return base.replace(**config.settings_of(words))


def count(space: Space) -> float:
    """How many different points it has; infinite with a range."""
    return math.prod(len(p.values) if isinstance(p, Choices) else math.inf for p in space.values())


def written(cfg: Config, name: str) -> str:
    """A setting's value as people write it."""
    value = getattr(cfg, name)
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return _number(value) if isinstance(value, float) else str("" if value is None else value)


def everything(cfg: Config) -> dict[str, str | None]:
    """All settings of a run as people write them, but where its files are and what found them."""
    aside = SESSION_SETTINGS | {"members", "tune_minutes", "tune_space"}
    names = [name for name in Config.model_fields if name not in aside]
    found = {name: written(cfg, name) if getattr(cfg, name) is not None else None for name in names}
    return {**found, "members": ""}  # one network


def words(cfg: Config) -> list[str]:
    """``key=value`` of what differs from the defaults, beside preset=default, for a shell."""
    usual = everything(Config())
    differs = {n: value for n, value in everything(cfg).items() if value != usual[n]}
    return ["preset=default", *(shlex.quote(f"{n}={v or ''}") for n, v in differs.items())]


def point_of(cfg: Config, space: Space) -> Point:
    """Where the settings lie, as far as the space has their names."""
    return {name: written(cfg, name) for name in space}


def has(space: Space, point: Point) -> bool:
    """Whether the space has that point."""
    for name, part in space.items():
        value = point[name]
        if isinstance(part, Choices):
            if value not in part.values:
                return False
        elif not value or not part.low <= float(value) <= part.high:
            return False
    return True

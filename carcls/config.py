"""What a run is: one frozen, validated Config. A variant of a run is a ``replace`` of it.

Every setting knows its own part: what it belongs to, whether members of an ensemble may differ in
it, whether it sets the terms of a comparison. The lists of names below follow from that.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from carcls import disagreement, disk
from carcls.errors import ConfigError
from carcls.presets import PRESETS, RENAMED
from carcls.values import Address, Frozen, Mix, Stage, Strength, Views, hide, read_members

POLICIES = ("light", "medium", "none")  # of augmentation, by name


def _setting(part: str, default: Any, about: str, marks: str = "", **bounds: Any) -> Any:
    """A field of Config; ``about`` is its description.

    part: "data", "training" (it changes the numbers of a training), "votes", "search" (others are
    found by it), "session" (it may differ between the sessions of one run) or "machine". marks:
    "member" if members may differ in it, "terms" if arms of a study that differ in it are not on
    equal terms, "file" if it names files, which count by their content.
    """
    extra: Any = {"part": part, "marks": marks.split()}
    return Field(default, description=about, json_schema_extra=extra, **bounds)


_session, _data, _training = (partial(_setting, part) for part in ("session", "data", "training"))
_votes, _search, _machine = (partial(_setting, part) for part in ("votes", "search", "machine"))
_member = partial(_training, marks="member")


class Config(Frozen):
    """Every setting of a run with its default, unit and reason (``carcls run --help``)."""

    # Where things are
    data: str = _session("", "folder with the competition's files; empty: look for it on Kaggle")
    out: str = _session("", "run folder; empty: /kaggle/working on Kaggle, else ./out")
    competition: str = _session("sf-dl-car-classification", "slug of the Kaggle competition")

    # What is predicted
    metric: Literal["auto", "accuracy", "log_loss", "f1_macro", "balanced_accuracy", "auc"] = (
        _training(
            "auto",
            "that the competition scores by: it chooses epochs, views and blends; auto: accuracy "
            "for labels, log_loss for probabilities",
        )
    )
    positive: str = _data(
        "",
        "of two classes, the one whose probability is submitted; empty: 1, true, yes, or the one "
        "that the column is named after",
    )

    # Photos
    val_fraction: float = _data(0.15, "share of train photos kept for validation", gt=0, lt=0.9)
    fit: Literal["pad", "crop"] = _member(
        "pad", "how a photo meets the size, keeping its shape"
    )  # grey padding had the lowest log-loss of three ways (MEASUREMENTS: how photos fit)
    boxes: str = _training(
        "",
        "CSV files with a box around the car in each photo, comma-separated (`carcls boxes` makes "
        "them): photos are cut to the mean of their boxes; empty: whole photos",
        marks="file",
    )
    seed: int = _member(1, "of split, order, augmentation and first weights", ge=0, lt=2**31)

    # Network
    backbone: str = _member("efficientnet_lite_b0", "name of a network (`carcls backbones`)")
    weights: str = _training(
        "imagenet", "imagenet, none (from scratch), or a preset folder or file", marks="member file"
    )
    pooling: Literal["avg", "max"] = _member(
        "avg", "global pooling of the head"
    )  # max was 17 points worse (MEASUREMENTS: the head)
    dropout: float = _member(0.5, "dropout before the output layer", ge=0, lt=1)
    hidden: int = _member(0, "units of a hidden Dense + BN layer in the head; 0: none", ge=0)
    unfreeze: Literal["all", "staged", "head"] = _member(
        "all", "what trains: all from the start, staged from the head down, or the head alone"
    )
    freeze_bn: bool = _member(False, "keep BN statistics, scale and shift as they came")
    bn_photos: int = _member(
        512,
        "train photos that BN takes its first statistics from, the network predicting the same; "
        "not with weights=none, freeze_bn or unfreeze=head; 0: the statistics of the weights",
        ge=0,
    )  # 4 to 6 points after four epochs (MEASUREMENTS: BN's first statistics)
    depth_decay: float = _member(
        1.0,
        "factor of the learning rate per quarter of depth, output to input; 1: the same everywhere",
        gt=0,
        le=1,
    )

    # Training
    stages: tuple[Stage, ...] = _training(
        "128x224x4,160x256x3",
        "HEIGHTxWIDTHxEPOCHS, small to large, comma-separated",
        marks="member terms",
    )
    batch: int = _training(
        16, "photos a training step, all devices together", marks="member terms", ge=1, le=4096
    )  # 32 was 3 points worse in equal epochs (MEASUREMENTS: the recipe, one by one)
    optimizer: Literal["adam", "adamw", "sgd", "adamax", "lion", "rmsprop"] = _member(
        "adam", "by name"
    )
    lr: float = _training(
        1e-3, "peak learning rate; 2e-3 was better over 20 epochs", marks="member terms", gt=0
    )  # (MEASUREMENTS: rate, size and epochs)
    weight_decay: float | None = _member(
        None, "decoupled weight decay; empty: the optimiser's own", ge=0
    )
    schedule: Literal["cosine", "piecewise", "constant", "exponential", "plateau"] = _training(
        "cosine", "of the learning rate over the whole run", marks="member terms"
    )
    warmup: float = _training(
        0.1,
        "share of the run in which the rate rises from 0; not with plateau",
        marks="member terms",
        ge=0,
        lt=1,
    )
    label_smoothing: float = _member(0.0, "share of the label spread over all classes", ge=0, lt=1)
    ema: float = _member(0.0, "momentum of the moving average of weights; 0: off", ge=0, lt=1)
    mix: Mix = _member(
        "", "mix photos and labels: mixup:ALPHA, cutmix:ALPHA, or both, one of them a batch"
    )
    oversample: bool = _member(
        False,
        "every class equally often in an epoch of the same length: photos of rare classes more "
        "than once, augmented anew, of frequent ones not all",
    )  # 5 points worse in accuracy (MEASUREMENTS: oversampling)
    class_weights: Literal["none", "balanced"] = _member(
        "none", "of the loss; balanced: a photo of a rare class weighs more, each class the same"
    )
    patience: int = _member(
        0, "epochs without a better validation loss before a stage stops; 0: off", ge=0
    )

    # Augmentation and test-time augmentation
    augment: str = _training(
        "light",
        "policy of training photos: light, medium, none, or a file that albumentations.save wrote",
        marks="member file",
    )
    strength: Strength = _training(
        "1-0.5", "of the policy, 0 to 1, from the first epoch to the last"
    )
    views: Views = _votes(
        8,
        "views per photo: itself, its mirror image, random ones; 1: itself alone; 4-32: four, and "
        "up to 32 where they disagree",
    )  # within three photos of 367 of all rules tried (MEASUREMENTS: how many views)
    tta: Literal["auto", "always", "never"] = _votes(
        "auto", "use the views: auto asks validation, member by member"
    )
    tta_combine: Literal["mean", "geometric", "vote"] = _votes(
        "mean", "how the views' probabilities become one"
    )

    # Ensemble, pseudo-labels, refit
    members: tuple[dict[str, Any], ...] = _votes(
        ({},),
        "networks of an ensemble, separated by +, each with the settings that differ, separated by "
        "/: seed=1+seed=2/pooling=max",
    )
    folds: int = _votes(
        1,
        "networks a member, each validated on another part of the train photos; 1: one network, "
        "val_fraction kept aside",
        ge=1,
        le=20,
    )
    blend: str = _votes(
        "auto",
        "of members: auto (nested validation decides), best, average, weights (fitted), logistic, "
        "forest (stacking), or weights as 0.9/0.1",
    )
    pseudo: int = _votes(
        0,
        "epochs of training on test photos, too, that all members and nearly all views agree on; "
        "0: off",
        ge=0,
        le=100,
    )
    refit_epochs: int = _votes(
        0,
        "epochs on train and validation photos together, once validation has measured the network; "
        "not with folds, which train on every photo anyway; 0: off",
        ge=0,
        le=100,
    )

    # Search: tune small, finish large
    tune_minutes: float = _search(
        0.0,
        "minutes of a search for better settings at small sizes, before the networks are trained "
        "with what it finds; 0: none",
        ge=0,
        le=1e6,
    )
    tune_space: str = _search(
        "",
        "what it may choose: LOW:HIGH or a list for each setting, as lr=5e-4:4e-3 mix=,cutmix:1; "
        "empty: rate, weight decay, mix, augmentation, averaging and networks at hand",
    )

    # One run over several sessions, its time, and who watches it
    resume: bool = _session(
        True, "go on from what the run folder has of the same settings; false: anew"
    )
    earlier: str = _session(
        "", "folder of an earlier run to go on from; empty: on Kaggle, the one that is attached"
    )
    budget_minutes: float | None = _session(
        None,
        "minutes from start to end, which training is shortened to; empty: on Kaggle the session's "
        "limit less a margin, elsewhere none",
        ge=0,
        le=1e6,
    )
    monitor_url: Address = _session(
        "",
        "http(s) address to which RemoteMonitor posts progress; of one without a path, "
        "/publish/epoch/end/; never shown whole; empty: nowhere",
    )
    notify_url: Address = _session(
        "",
        "http(s) address to which a short text is posted at start, first submission, end and "
        "failure: of an ntfy topic, a Slack or Discord webhook, Telegram's "
        "/botTOKEN/sendMessage?chat_id=…, or any that takes JSON; never shown whole; empty: "
        "nowhere",
    )
    tensorboard: bool = _session(
        False, "write TensorBoard event files to OUT/member1/tensorboard and so on"
    )

    # Machine
    accelerator: Literal["any", "t4", "tpu", "cpu"] = _session(
        "any",
        "without which a run stops at once: t4 (also another GPU) or tpu, as `make push` writes it "
        "into a kernel; any, cpu: runs on what there is",
    )
    backend: Literal["auto", "tensorflow", "jax"] = _machine("auto", "of Keras; auto: jax on a TPU")
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = _training(
        "auto", "of maths"
    )
    xla: Literal["auto", "on", "off"] = _machine(
        "auto", "compile TensorFlow's steps with XLA; auto: on one GPU; JAX always, on several too"
    )

    @field_validator("stages", mode="before")
    @classmethod
    def _split_stages(cls, value: Any) -> Any:
        return value.replace(" ", "").split(",") if isinstance(value, str) else value

    @field_validator("boxes")
    @classmethod
    def _without_spaces(cls, value: str) -> str:
        files = [file.strip() for file in value.split(",")]
        if value and (not all(files) or len(set(files)) < len(files)):
            raise ValueError("expected files separated by commas, each once")
        return ",".join(files)

    @field_validator("members", mode="before")
    @classmethod
    def _split_members(cls, value: Any) -> Any:
        return read_members(value) if isinstance(value, str) else value

    @field_validator("members")
    @classmethod
    def _check_members(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for number, member in enumerate(value, 1):
            wrong = sorted(set(member) - MEMBER_SETTINGS)
            if wrong:
                raise ValueError(
                    f"member {number}: {', '.join(wrong)} cannot differ between members; expected "
                    f"some of {', '.join(sorted(MEMBER_SETTINGS))}"
                )
        if not value:
            raise ValueError("at least one member is needed")
        return value

    @field_validator("weights")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value:
            raise ValueError("expected imagenet, none or a path")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Config:
        problem = disagreement.of_network(self) or disagreement.of_ensemble(self)
        if problem:
            raise ValueError(problem)
        return self

    @property
    def asked_views(self) -> Views:
        """The views that are cast: one where test-time augmentation is off."""
        return Views(first=1, most=1) if self.tta == "never" else self.views

    @property
    def view_strength(self) -> float:
        """Of the random views: half of training's, as views stronger than training would harm."""
        return self.strength.start / 2

    @property
    def refits(self) -> int:
        """Epochs of the refit that there will be."""
        return self.refit_epochs if self.folds == 1 else 0

    def member_cfgs(self) -> list[Config]:
        """The settings of each member, complete. Raises ConfigError where they do not agree."""
        cfgs = []
        for number, member in enumerate(self.members, 1):
            try:
                cfgs.append(self.replace(**member, members=({},), blend="auto"))
            except ConfigError as error:
                raise ConfigError(f"member {number}: {error}") from None
        return cfgs

    def replace(self, **changes: Any) -> Config:
        """A validated copy with some settings changed, ``preset`` first. Raises ConfigError."""
        return parse({**self.model_dump(), **_preset(changes), **changes})


def _marked(part: str = "", mark: str = "") -> frozenset[str]:
    """Names of the settings of that part, or with that mark."""
    found = set()
    for name, field in Config.model_fields.items():
        extra: Any = field.json_schema_extra
        if part == extra["part"] or mark in extra["marks"]:
            found.add(name)
    return frozenset(found)


MEMBER_SETTINGS = _marked(mark="member")
TRAINING_SETTINGS = _marked(part="training")
SESSION_SETTINGS = _marked(part="session")
FILE_SETTINGS = _marked(mark="file")
EQUAL_TERMS = _marked(mark="terms")
# Of which no more than scheme and host is shown, and that config.json does not have whole.
SECRETS = frozenset(n for n, field in Config.model_fields.items() if field.annotation is Address)


def _preset(settings: dict[str, Any]) -> dict[str, Any]:
    """What the preset that ``settings`` names says; takes the name out. Raises ConfigError."""
    name = settings.pop("preset", "default")
    if name not in PRESETS:
        raise ConfigError(f"preset={name!r}: no such preset; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _tuned(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings, with those in place of ``tuned`` that the file has which it names.

    Raises ConfigError if it is not what a search has left.
    """
    settings = dict(settings)
    name = settings.pop("tuned", "")
    if not name:
        return settings
    try:
        found = dict(disk.unsealed(disk.read_json(disk.user_path(str(name))))["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"tuned={name}: not the tuned.json of a search ({error})") from None
    return {**found, **settings}


# --- From words and files -----------------------------------------------------------------------


def parse(settings: dict[str, Any]) -> Config:
    """Config from a mapping; its ``preset`` picks what the others change. Raises ConfigError."""
    settings = _tuned(settings)
    preset = _preset(settings)
    old = [f"{name} is now {RENAMED[name]}" for name in settings if name in RENAMED]
    if old:
        raise ConfigError("; ".join(old))
    unknown = sorted(set(settings) - set(Config.model_fields))
    if unknown:
        raise ConfigError(
            f"unknown setting {hide(', '.join(unknown))}; expected preset, tuned or one of "
            f"{', '.join(Config.model_fields)}"
        )
    try:
        return Config.model_validate({**preset, **settings})
    except ValidationError as error:
        raise ConfigError("; ".join(dict.fromkeys(map(_sentence, error.errors())))) from None


def _sentence(error: Any) -> str:
    """One of pydantic's findings: setting, what was found, what is wrong."""
    name = ".".join(map(str, error["loc"]))
    found = f"={error['input']!r}" if name and name not in SECRETS else ""
    message = error["msg"].removeprefix("Value error, ")
    return hide(f"{name}{found}: {message}".removeprefix(": "))


def from_words(words: list[str], preset: str = "default") -> Config:
    """Config from ``key=value`` words, as SET and the command line give them. Raises ConfigError.

    preset: what the others change where no word names one.
    """
    return parse({"preset": preset, **settings_of(words)})


def settings_of(words: list[str]) -> dict[str, Any]:
    """``key=value`` words → settings by name, their values still text. Raises ConfigError."""
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{hide(word)!r} is not key=value, as in preset=quick")
        field = Config.model_fields.get(key)
        if key in settings:
            both = "" if key in SECRETS else f": {settings[key]} and {value}"
            raise ConfigError(f"{hide(key)} is given twice{both}; expected once")
        settings[key] = None if not value and field and field.default is None else value
    return _tuned(settings)


def load(path: Path) -> Config:
    """Config from the config.json of a run. Raises ConfigError."""
    try:
        settings = disk.read_json(path)
    except (OSError, ValueError) as error:  # no JSON, or no text
        raise ConfigError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds {type(settings).__name__}; expected settings by name")
    return parse({key: value for key, value in settings.items() if not _is_hidden(key, value)})


def _is_hidden(name: str, value: Any) -> bool:
    return name in SECRETS and str(value).endswith("/…")

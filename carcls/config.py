"""What a run is: one frozen, validated Config. A variant of a run is a ``replace`` of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from carcls.errors import ConfigError


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class Stage(_Frozen):
    """One step of progressive training: photos of one size for some epochs."""

    height: int = Field(ge=32, le=2048, description="photo height, px")
    width: int = Field(ge=32, le=2048, description="photo width, px")
    epochs: int = Field(ge=1, le=1000, description="passes over the training photos")

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.epochs}"


def _stages(text: str) -> list[dict[str, int]]:
    """``"96x176x5,112x208x6"`` → stages of height × width × epochs."""
    rows = []
    for part in text.replace(" ", "").split(","):
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", part)
        if not found:
            raise ValueError(f"{part!r} is not HEIGHTxWIDTHxEPOCHS, as in 96x176x5,112x208x6")
        rows.append(dict(zip(("height", "width", "epochs"), map(int, found.groups()), strict=True)))
    return rows


# What members of an ensemble may differ in. Data, split and number of views are shared: votes are
# compared photo by photo.
OF_MEMBER = frozenset(
    {
        "seed",
        "backbone",
        "weights",
        "pooling",
        "dropout",
        "hidden",
        "unfreeze",
        "freeze_bn",
        "bn_momentum",
        "bn_photos",
        "depth_decay",
        "stages",
        "batch",
        "optimizer",
        "lr",
        "weight_decay",
        "schedule",
        "warmup",
        "label_smoothing",
        "ema",
        "mixup",
        "cutmix",
        "oversample",
        "patience",
        "min_epochs",
        "augment",
        "fit",
    }
)
# And what else changes the numbers of a training.
OF_TRAINING = OF_MEMBER | {"strength", "strength_end", "precision", "boxes"}
# How long and how fast a training learns: arms of a study that differ in these too are not compared
# on equal terms (S71).
EQUAL_TERMS = frozenset({"lr", "schedule", "warmup", "stages", "batch"})
POLICIES = ("light", "medium", "none")  # of augmentation, by name
BLENDS = ("auto", "best", "average", "weights", "logistic", "forest")


def _members(text: str) -> list[dict[str, str]]:
    """``"seed=1+seed=2/pooling=max"`` → one mapping of settings a member."""
    members = []
    for part in text.split("+"):
        words = [word for word in re.split(r"/(?=\w+=)", part) if word]
        wrong = [word for word in words if "=" not in word]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not key=value, as in seed=1+seed=2/pooling=max")
        member = dict(word.split("=", 1) for word in words)
        if len(member) < len(words):
            raise ValueError(
                f"{part!r} has one setting twice; members are separated by +, their settings by /"
            )
        members.append(member)
    return members


class Config(_Frozen):
    """Every setting of a run with its default, unit and reason (``python -m carcls run --help``)."""

    # Data
    data: str = Field(
        "", description="folder with the competition's files; empty: look for it on Kaggle"
    )
    out: str = Field("", description="run folder; empty: /kaggle/working on Kaggle, else ./out")
    competition: str = Field(
        "sf-dl-car-classification", description="slug of the Kaggle competition"
    )
    val_fraction: float = Field(
        0.15, gt=0, lt=0.9, description="share of train photos kept for validation"
    )
    # A prototype of this pipeline on cars10 with Lite0, 5 epochs at 96x176, 408 validation photos,
    # one seed, mean of photo and mirror image: log-loss 0.90 for crop, 0.87 for pad with mirrored
    # borders, 0.81 for pad with grey ones.
    fit: Literal["pad", "crop"] = Field(
        "pad", description="how a photo meets the size, keeping its shape"
    )
    boxes: str = Field(
        "",
        description="CSV files with a box around the car in each photo, comma-separated, as `python -m carcls boxes` "
        "makes them: photos are cut to the mean of their boxes; empty: whole photos",
    )
    seed: int = Field(
        1, ge=0, lt=2**31, description="of split, order, augmentation and initial weights"
    )

    # Model
    backbone: str = Field(
        "efficientnet_lite_b0", description="name in the registry (python -m carcls backbones)"
    )
    weights: str = Field(
        "imagenet", description="imagenet, none (from scratch), or a preset folder or file"
    )
    pooling: Literal["avg", "max"] = Field("avg", description="global pooling of the head")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout before the output layer")
    hidden: int = Field(
        0, ge=0, description="units of a hidden Dense + BN layer in the head; 0: none"
    )
    unfreeze: Literal["all", "staged", "head"] = Field(
        "all",
        description="what trains: all from the start, staged from the head down, or the head alone",
    )
    freeze_bn: bool = Field(False, description="keep BN statistics, scale and shift as they came")
    # Statistics remember 1 / (1 - momentum) steps: longer than an epoch and validation lags behind
    # what is learned, very short and it is noisy. When batch was 32, so that the sample had 15
    # steps an epoch, make run (0.9) against make run SET="preset=sample bn_momentum=0.99":
    # validation 0.99 against 0.93, log-loss 0.05 against 0.16, true accuracy 0.99 against 0.965,
    # the training losses the same to the last digit. cars10 then had 65: 0.9 moved validation by 2
    # points at a rate of nearly 0.
    bn_momentum: float = Field(
        0.97,
        ge=0,
        lt=1,
        description="of BN's moving statistics; Keras's 0.99 needs more steps than "
        "a short run has. ema counts where it is larger",
    )
    # Photos of cars alone differ so much from ImageNet's that BN in training loses much of what the
    # weights know: see model.rebase_batch_norms. One view, 735 validation photos, make run
    # DATA=cars10 SET="preset=quick val_fraction=0.3 stages=96x160x4 lr=2e-3 tta=never seed=1":
    # 0.703 (log-loss 0.89), with bn_photos=0 0.642 (1.07; p = 5e-5); with seed=2 0.702 (0.84) and
    # 0.659 (0.99; p = 0.008). It is a head start: over 11 epochs, stages=96x160x5,128x224x6, a
    # prototype that looked at unaugmented photos ended at 0.797 against 0.799 (735 photos). Figures
    # above PRESETS that do not name bn_photos are of bn_photos=0.
    bn_photos: int = Field(
        512,
        ge=0,
        description="train photos that BN takes its first statistics from; what the network "
        "predicts stays the same. Not with weights=none, freeze_bn or unfreeze=head; 0: the statistics of the "
        "weights",
    )
    depth_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="learning rate factor per quarter of depth, output "
        "to input; 1: the same everywhere",
    )

    # Training. Adam, 10 % warm-up, cosine, average pooling and dropout 0.5 are the best of ten
    # recipes tried on cars10 as wholes (about 20 points above frozen layers with 0.95^epoch). One
    # by one, one seed, 735 validation photos, photo + mirror image: make run DATA=cars10
    # SET="preset=quick stages=64x96x5,96x160x12 lr=2e-3 val_fraction=0.3 tta_views=2 tta=always":
    # 0.776 (log-loss 0.686); with batch=32 0.743 (0.780; 67 photos spoiled, 43 corrected, p =
    # 0.03); with rotation ±12°, zoom ±25 % and shift ±12 % in the place of 7, 10 and 6: 0.708.
    # Stopped before the end, so no figures: batch=8 and cutmix=1, whose curves were behind, and
    # depth_decay=0.6 with lr=4e-3, augment=light and dropout=0.2, whose were alike. A script of the
    # same modules, stages=64x96x4,96x160x6 batch=32: 0.682; lr=1e-3 0.629 (81 photos spoiled, 42
    # corrected, p = 0.0006), which bn_photos has changed: see PRESETS. By the command above
    # bn_photos, with it, seeds 1 and 2, against 0.703 and 0.702: pooling=max 0.521 and 0.528 (320
    # photos spoiled, 58 corrected), schedule=piecewise 0.684 and 0.682 (110 spoiled, 81 corrected,
    # p = 0.04). Optimisers: adam against adamw alone, see PRESETS.
    stages: tuple[Stage, ...] = Field(
        (Stage(height=128, width=224, epochs=4), Stage(height=160, width=256, epochs=3)),
        description="HEIGHTxWIDTHxEPOCHS, small to large, comma-separated",
    )
    batch: int = Field(
        16, ge=1, le=4096, description="photos per training step, all devices together"
    )
    optimizer: Literal["adam", "adamw", "sgd", "adamax", "lion", "rmsprop"] = Field(
        "adam", description="by name"
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float | None = Field(
        None, ge=0, description="decoupled weight decay; empty: the optimiser's own"
    )
    schedule: Literal["cosine", "piecewise", "constant", "exponential", "plateau"] = Field(
        "cosine", description="of the learning rate over the whole run"
    )
    warmup: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the run in which the rate rises from 0; not with plateau",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the label spread over all classes"
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="momentum of the moving average of weights; 0: off"
    )
    mixup: float = Field(0.0, ge=0, description="alpha of MixUp; 0: off")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix; 0: off")
    # Accuracy counts photos, not classes (S1): python -m carcls study --data cars10 preset=quick
    # stages=96x160x4 lr=2e-3 val_fraction=0.3 --arm oversample=true, three seeds: 0.644 instead of
    # 0.690 (-0.046 ± 0.047), log-loss higher by 0.135 ± 0.083.
    oversample: bool = Field(
        False,
        description="every class comes equally often in an epoch, which stays as long: photos of rare "
        "classes more than once, augmented anew, of frequent ones not all",
    )
    patience: int = Field(
        0, ge=0, description="epochs without a better validation loss before a stage stops; 0: off"
    )
    min_epochs: int = Field(
        3, ge=0, description="epochs of a stage in which early stopping does not act"
    )

    # Augmentation and test-time augmentation
    augment: str = Field(
        "light",
        description="policy of training photos: light, medium, none, or a file that "
        "albumentations.save wrote",
    )
    strength: float = Field(1.0, ge=0, le=1, description="of the policy at the start")
    strength_end: float = Field(0.5, ge=0, le=1, description="of the policy in the last epoch")
    tta_views: int = Field(
        8, ge=1, le=256, description="views per photo: itself, its mirror, random ones; 1: no TTA"
    )
    tta_strength: float = Field(
        0.5, ge=0, le=1, description="of the random views; never above strength"
    )
    tta: Literal["auto", "always", "never"] = Field(
        "auto", description="use the views: auto asks validation, member by member"
    )
    # The trade-off on 367 validation photos of cars10 (the votes of the network that README shows;
    # `python -m carcls votes` prints it for any run): no TTA 0.798, fixed 2 views 0.815, 8 views
    # 0.809, 32 views 0.817; from 4 up to 32 0.817 for 7.2 passes, with all predictions as of 32.
    # Against fixed 8 at the same cost that is 3 photos of 367, within chance, and validation then
    # needs all 32: so the default is plain 8.
    tta_cap: int = Field(
        0,
        ge=0,
        le=256,
        description="adaptive: photos whose first tta_views disagree get more, up to this "
        "many (64 is plenty), and validation all of them; 0: the same for all",
    )
    tta_combine: Literal["mean", "geometric", "vote"] = Field(
        "mean", description="how the views' probabilities become one"
    )

    # Ensemble, pseudo-labels, refit
    members: tuple[dict[str, Any], ...] = Field(
        ({},),
        description="networks of an ensemble, separated by +, each "
        "settings that differ, separated by /: seed=1+seed=2/pooling=max",
    )
    folds: int = Field(
        1,
        ge=1,
        le=20,
        description="networks per member, each validated on another part of the train photos; "
        "1: one network, val_fraction kept aside",
    )
    blend: str = Field(
        "auto",
        description="of members: auto (nested validation decides), best, average, weights (fitted), "
        "logistic, forest (stacking), or weights as 0.9/0.1",
    )
    pseudo: bool = Field(
        False,
        description="go on training with test photos that all members and nearly all views agree on",
    )
    pseudo_agreement: float = Field(
        0.95, gt=0.5, le=1, description="share of every member's views that must agree"
    )
    pseudo_epochs: int = Field(
        3,
        ge=1,
        le=100,
        description="epochs of training with pseudo-labels, at the last stage's size",
    )
    pseudo_lr: float = Field(
        0.1, gt=0, le=1, description="peak rate of that training as a share of lr"
    )
    refit_epochs: int = Field(
        0,
        ge=0,
        le=100,
        description="epochs in which each network goes on with train and validation "
        "photos together, at the last stage's size, once validation has measured it; not with folds, which "
        "train on every photo anyway; 0: off",
    )
    refit_lr: float = Field(
        0.3, gt=0, le=1, description="peak rate of that training as a share of lr"
    )

    # One run over several sessions, and its time
    resume: bool = Field(
        True,
        description="go on from what the run folder has of the same settings; false: start anew",
    )
    earlier: str = Field(
        "",
        description="folder of an earlier run to go on from; empty: on Kaggle, the one that is attached",
    )
    budget_minutes: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="minutes from start to end, which training is shortened to; "
        "empty: on Kaggle the session's limit less a margin, elsewhere none",
    )

    # Machine
    backend: Literal["auto", "tensorflow", "jax"] = Field(
        "auto", description="of Keras; auto: jax on a TPU"
    )
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "auto", description="of maths"
    )
    xla: Literal["auto", "on", "off"] = Field(
        "auto",
        description="compile TensorFlow's steps with XLA; auto: timed "
        "on one GPU, off on several and on a CPU; JAX always compiles",
    )
    # The competition's 15,561 photos at 384x512 are 12.2 GB of the 27 that are free in 29: at 0.4
    # they would go on disk.
    cache_share: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="of free memory for decoded photos; beyond it, disk, then "
        "decoded anew in every epoch",
    )

    # Progress
    monitor_url: str = Field("", description="where RemoteMonitor posts progress; empty: nowhere")
    tensorboard: bool = Field(
        False, description="write TensorBoard event files to OUT/member1/tensorboard and so on"
    )

    @field_validator("stages", mode="before")
    @classmethod
    def _parse_stages(cls, value: Any) -> Any:
        return _stages(value) if isinstance(value, str) else value

    @field_validator("boxes")
    @classmethod
    def _without_spaces(cls, value: str) -> str:
        return ",".join(file.strip() for file in value.split(","))

    @field_validator("members", mode="before")
    @classmethod
    def _parse_members(cls, value: Any) -> Any:
        return _members(value) if isinstance(value, str) else value

    @field_validator("members")
    @classmethod
    def _check_members(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for number, member in enumerate(value, 1):
            wrong = sorted(set(member) - OF_MEMBER)
            if wrong:
                raise ValueError(
                    f"member {number}: {', '.join(wrong)} cannot differ between members; expected some of "
                    f"{', '.join(sorted(OF_MEMBER))}"
                )
        if not value:
            raise ValueError("at least one member is needed")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Config:
        if not self.stages:
            raise ValueError("stages: at least one HEIGHTxWIDTHxEPOCHS is needed")
        if not self.weights:
            raise ValueError("weights is empty; expected imagenet, none or a path")
        if self.strength_end > self.strength:
            raise ValueError(
                f"strength_end {self.strength_end} is above strength {self.strength}: "
                "augmentation weakens towards the end"
            )
        if self.tta_strength > self.strength:
            raise ValueError(
                f"tta_strength {self.tta_strength} is above strength {self.strength}: "
                "test-time views are never stronger than training"
            )
        if self.tta_strength == 0 and self.tta_views > 2:
            raise ValueError(
                f"tta_strength {self.tta_strength} with tta_views {self.tta_views}: all views after the mirror "
                "image would be the same"
            )
        if self.augment not in ("light", "medium") and self.tta_views > 1:
            raise ValueError(
                f"tta_views {self.tta_views} with augment {self.augment}: the views are drawn from light, which "
                "training has with augment light or medium only; set one of them, or tta_views=1"
            )
        if 0 < self.bn_photos < 32:
            raise ValueError(
                f"bn_photos {self.bn_photos}: too few for statistics; at least 32, or 0 for those of the weights"
            )
        if 0 < self.tta_cap <= self.tta_views:
            raise ValueError(
                f"tta_cap {self.tta_cap} is not above tta_views {self.tta_views}: disputed photos would get no "
                "more views than the others"
            )
        if self.tta_cap and self.tta_views < 2:
            raise ValueError(
                f"tta_cap {self.tta_cap} with tta_views {self.tta_views}: one view cannot disagree; at least 2"
            )
        files = self.boxes.split(",")
        if self.boxes and (not all(files) or len(set(files)) < len(files)):
            raise ValueError(f"boxes {self.boxes!r}: expected files separated by commas, each once")
        if self.blend not in BLENDS and not re.fullmatch(r"[\d.]+(/[\d.]+)*", self.blend):
            raise ValueError(
                f"blend {self.blend!r}: expected one of {', '.join(BLENDS)}, or weights as 0.9/0.1"
            )
        if self.blend not in BLENDS and len(self.blend.split("/")) != len(self.members):
            raise ValueError(
                f"blend {self.blend}: {len(self.blend.split('/'))} weights for {len(self.members)} members"
            )
        if self.pseudo and (self.tta_views < 4 or self.tta == "never"):
            raise ValueError(
                f"pseudo with tta_views {self.tta_views} and tta {self.tta}: whether views agree takes at "
                "least 4 of them"
            )
        if self.pseudo and self.folds > 1:
            raise ValueError(
                f"pseudo with folds {self.folds}: a network is continued on one split only; set folds=1"
            )
        if len(self.members) > 1:
            alike = [member.model_dump_json() for member in self.of_members()]
            if len(set(alike)) < len(alike):
                raise ValueError(
                    "two members have the same settings, so their average is no better than one; give them other seeds"
                )
        if self.mixup and self.cutmix:
            raise ValueError(f"mixup {self.mixup} and cutmix {self.cutmix}: at most one of them")
        if self.unfreeze == "staged" and len(self.stages) < 2:
            raise ValueError(
                "unfreeze=staged opens the network from stage to stage: at least two stages are needed"
            )
        return self

    @property
    def refits(self) -> int:
        """Epochs of the refit that there will be."""
        return self.refit_epochs if self.folds == 1 else 0

    def of_members(self) -> list[Config]:
        """The settings of each member, complete. Raises ConfigError where a member's do not go together."""
        made = []
        for number, member in enumerate(self.members, 1):
            try:
                made.append(self.replace(**member, members=({},), blend="auto"))
            except ConfigError as error:
                raise ConfigError(f"member {number}: {error}") from None
        return made

    def replace(self, **changes: Any) -> Config:
        """A validated copy with some settings changed; ``preset`` changes all that it says. Raises ConfigError."""
        return parse({**self.model_dump(), **_preset(changes), **changes})


# quick and good are sized for 4 and 10 minutes of training (2,450 photos, two cores, Lite0) at the rate of 143 images/s at
# 128 px, refit included; kaggle's rate and sizes follow the public ladder (384x512 gained most) and are not measured on a T4 yet.
# make run DATA=../shared/data/cars10 SET="preset=quick": 0.839 of 367 photos (0.798-0.873), log-loss 0.488 (on a processor
# without AVX-512 0.828, 0.504: so much comes of rounding); with stages=112x192x11 lr=2e-3 0.831, 0.491. SET="preset=good": 0.856
# (0.816-0.888), 0.439 (without AVX-512 0.847, 0.464); SET="preset=good folds=5 tta=always", each of
# the 2,450 photos validated by a network that 1,960 others trained: 0.863 (0.849-0.876), 0.442.
# Rate, size and epochs belong together: BN that starts from the photos' own statistics keeps what the weights know, so that a
# few epochs at a low rate go far and time is better spent on pixels (a guess at why, from one seed a line); over many epochs
# the high rate was better. With bn_photos, 1,715 photos to train, 735 to validate (interval ±0.03), photo + mirror image, by
# make run DATA=cars10 SET="preset=quick val_fraction=0.3 tta_views=2 tta=always stages=… lr=…" (preset=good is the same with
# its stages and rate); cost, as height × width × epochs, in shares of the first line's:
#   112x192x11              lr=2e-3  1.00  0.801, log-loss 0.579
#   112x192x11              lr=1e-3  1.00  0.807, 0.579
#   112x192x11              lr=5e-4  1.00  0.788, 0.617
#   144x240x7               lr=2e-3  1.02  0.800, 0.607
#   144x240x7               lr=1e-3  1.02  0.816, 0.563 (log-loss lower by 0.045 ± 0.018 than the line before, by 0.017 ± 0.022 than the
#                                          first): quick
#   128x224x4,160x256x3     lr=2e-3  0.95  0.803, 0.570
#   128x224x4,160x256x3     lr=1e-3  0.95  0.820, 0.543: the default's stages and rate, here with quick's augmentation; the last
#                                          size also suits larger photos
#   112x192x10,144x240x10   lr=2e-3  2.37  0.867, 0.475: good
#   112x192x10,144x240x10   lr=1e-3  2.37  0.853, 0.505 (log-loss higher than good's by 0.030 ± 0.021, one standard error)
#   112x192x10,144x240x10   lr=3e-3  2.37  0.846, 0.525 (by 0.050 ± 0.020)
#   144x240x8,176x288x6     lr=2e-3  2.44  0.848, 0.480 (by 0.005 ± 0.019)
#   96x160x10,128x224x14    lr=2e-3  2.35  0.835, 0.495 (by 0.020 ± 0.021)
# and good's stages with optimizer=adamw weight_decay=0.05 0.835, 0.482 (by 0.006 ± 0.017), with mixup=0.2 0.804, 0.556 (by 0.081
# ± 0.021). By log-loss good is one of several that are alike, and its accuracy the luckiest of them.
# Without the last halving of EfficientNet-Lite (output at a sixteenth of the photo) the first line was 0.796, 0.615, at 0.73 of the
# speed. The photos of cars10 have red and blue in each other's place; read the other way round, by a changed line of the pipeline,
# quick was 0.810, 0.576 (log-loss higher by 0.013 ± 0.014). By changed lines too: good with stem, block 1 and block 2 as they came,
# a step 1.4 times as fast, and for that 14 epochs of each size, 0.850, 0.501 (by 0.026 ± 0.021), or 10 of the first size with all
# open and 14 of the second 0.845, 0.500 (by 0.025 ± 0.019); quick with an output layer that starts as a logistic regression on the
# features, right on 0.631 before any training, 0.819, 0.558 (lower by 0.005 ± 0.017); good with paint of any hue, grey in a fifth of
# the photos and exchanged channels in another 0.850, 0.467 (lower by 0.009 ± 0.018), and with larger holes in four fifths too 0.829,
# 0.509 (higher by 0.034 ± 0.020); good with BN statistics taken anew from photos as they are, after training, 0.861, 0.481; with
# twice Lite's own drop_connect_rate 0.826, 0.510 (by 0.035 ± 0.019).
# Larger networks at about good's cost, which have had fewer epochs: backbone=efficientnet_lite_b1 stages=112x192x7,144x240x7
# 0.831, 0.488 (by 0.013 ± 0.020); efficientnet_lite_b2 stages=112x192x6,144x240x6 0.835, 0.504 (by 0.029 ± 0.023), or
# stages=144x240x10 lr=1e-3 0.838, 0.486 (by 0.011 ± 0.024). good with label_smoothing=0 0.838, 0.512 (by 0.036 ± 0.029).
# Averaged weights: validation is points ahead from the first epochs, and the end is alike. good with schedule=constant lr=1e-3
# ema=0.995 0.852, 0.464 (lower by 0.011 ± 0.018), with seed=2 and its own 735 photos 0.864, 0.409 against 0.863, 0.430 (by 0.021 ±
# 0.017), and there with ema=0.99 alone 0.863, 0.442, with schedule=constant lr=2e-3 ema=0.997 0.854, 0.441. Larger sizes for the
# epochs that this saves, ema=0.99 stages=144x240x7,176x288x6: 0.838, 0.469 (by 0.006 ± 0.020), with seed=2 0.874, 0.421 (by 0.009
# ± 0.018). On the test photos of the refit's competition below, 8 views, seed=1: 0.8136, 0.509 after the refit with schedule=constant
# lr=1e-3 ema=0.995, alike too. Three epochs more of sharpness-aware minimisation (arXiv 2010.01412, rho 0.1, by a script), which
# take the time of six, 0.841, 0.494, without it 0.834, 0.503. quick with schedule=constant ema=0.99 0.807, 0.582 (higher by 0.020 ± 0.014), with
# ema=0.99 alone 0.819, 0.556 (lower by 0.007 ± 0.005), with lr=2e-3 ema=0.98 0.800, 0.612 (0.800, 0.607 without ema). With ema=0.998
# and statistics of BN over the last steps alone, which ``model.build`` now lengthens, good was 0.797, 0.835.
# Which photos are kept aside moves an accuracy more than all that: preset=quick stages=112x192x11 lr=2e-3 folds=5 tta=always, each of the 2,450 photos validated by a network that 1,960 others trained, 0.831 (0.816-0.846), log-loss 0.512; of
# the 367 that val_fraction=0.15 keeps aside 0.801, of the others 0.837. More photos help: on the 735 above those five networks have
# a log-loss of 0.532, of two views, where 1,715 photos to train gave 0.579 (lower by 0.047 ± 0.023).
# Refit: those 735 photos as the test photos of a competition, whose 1,715 others are split 1,457 to 258; accuracy and log-loss
# of 8 views on the 735 before and after, log-loss's difference ± one standard error, by make run DATA=such a folder SET="preset=good seed=…
# refit_epochs=… refit_lr=…" (the presets' own epochs with seed=1, and quick, by that command, the others by a script that restored the weights of
# such a run: the same digits where both were run):
#   good, seed=1   0.8095, 0.538;  3 epochs at 0.3 0.8204 (-0.027 ± 0.011), at 1 0.8190 (+0.023 ± 0.018), 6 at 0.5 0.8408 (-0.038 ± 0.014);
#                                  3 at 0.3 without the 258 0.8177 (+0.004 ± 0.011): for log-loss it is the photos, not the epochs
#   good, seed=2   0.8340, 0.513;  3 epochs at 0.3 0.8463 (-0.026 ± 0.012), at 0.1 0.8381 (-0.015 ± 0.008), 5 at 0.3 0.8463 (-0.014 ± 0.013),
#                                  6 at 0.5 0.8381 (-0.017 ± 0.015)
#   quick, seed=1  0.7959, 0.617;  1 epoch at 0.3 0.7959 (-0.026 ± 0.010), 2 0.8068 (-0.052 ± 0.010)
#   quick, seed=2  0.7837, 0.578;  1 epoch at 0.3 0.8014 (-0.011 ± 0.009), 2 0.8041 (-0.019 ± 0.010)
# With pseudo-labels too (by the script, which took the 444 test photos whose mean probability is above 0.8, 95 % of them right) the first
# was 0.8204 (-0.030 ± 0.012).
_REGULARISED = {"augment": "medium", "strength_end": 1.0, "label_smoothing": 0.1}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "sample": {
        "stages": "64x96x3,96x128x4",
        "val_fraction": 0.2,
        "tta_views": 4,
        "bn_momentum": 0.9,
    },
    "quick": {"stages": "144x240x7", "refit_epochs": 1, **_REGULARISED},
    "good": {"stages": "112x192x10,144x240x10", "lr": 2e-3, "refit_epochs": 3, **_REGULARISED},
    "kaggle": {
        "backbone": "efficientnetv2_s",
        "stages": "192x256x6,288x384x6,384x512x4",
        "lr": 1e-3,
        "batch": 64,
    },
}


def _preset(settings: dict[str, Any]) -> dict[str, Any]:
    """What the preset says that the settings name, which they then no longer do. Raises ConfigError."""
    name = settings.pop("preset", "default")
    if name not in PRESETS:
        raise ConfigError(f"preset={name!r}: no such preset; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def parse(settings: dict[str, Any]) -> Config:
    """Config from a mapping; the key ``preset`` picks what the others change. Raises ConfigError."""
    settings = dict(settings)
    preset = _preset(settings)
    unknown = sorted(set(settings) - set(Config.model_fields))
    if unknown:
        raise ConfigError(
            f"unknown setting {', '.join(unknown)}; expected preset or one of {', '.join(Config.model_fields)}"
        )
    try:
        return Config.model_validate({**preset, **settings})
    except ValidationError as error:
        lines = []
        for e in error.errors():
            name = ".".join(map(str, e["loc"]))
            found = f"={e['input']!r}" if name else ""
            lines.append(
                f"{name}{found}: {e['msg'].removeprefix('Value error, ')}".removeprefix(": ")
            )
        raise ConfigError("; ".join(lines)) from None


def from_words(words: list[str], preset: str = "default") -> Config:
    """Config from ``key=value`` words, as SET and the command line give them; ``preset`` where they name none.

    Raises ConfigError.
    """
    return parse({"preset": preset, **settings_of(words)})


def settings_of(words: list[str]) -> dict[str, Any]:
    """``key=value`` words → settings by name, their values not yet looked at. Raises ConfigError."""
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is not key=value, as in preset=quick")
        field = Config.model_fields.get(key)
        if key in settings:
            raise ConfigError(f"{key} is given twice: {settings[key]} and {value}; expected once")
        settings[key] = None if not value and field and field.default is None else value
    return settings


def load(path: Path) -> Config:
    """Config from the config.json of a run. Raises ConfigError."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:  # no JSON, or no text
        raise ConfigError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds {type(found).__name__}; expected settings by name")
    return parse(found)

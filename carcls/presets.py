"""What the other settings start from, by name; and the names that settings once had."""

from typing import Any

# What a network of 2,450 photos gains from more augmentation it keeps to the last epoch.
_REGULARISED = {"augment": "medium", "strength": "1", "label_smoothing": 0.1}
_KAGGLE_SIZES = "192x256x{},288x384x{},384x512x{}"
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The drawn sample, in three minutes on two cores (MEASUREMENTS: the sample).
    "sample": {"stages": "64x96x4,96x128x10", "val_fraction": 0.2, "views": 4},
    # 4 and 10 minutes on two cores for 2,450 photos (MEASUREMENTS: rate, size and epochs; refit).
    "quick": {"stages": "144x240x7", "refit_epochs": 1, **_REGULARISED},
    "good": {"stages": "112x192x10,144x240x10", "lr": 2e-3, "refit_epochs": 3, **_REGULARISED},
    # HGNetV2-B5: 85.2 % on ImageNet at 288 px, where the EfficientNetV2-S of keras-cv has 80.1 and
    # efficientnet2_rw_s, at V2-S's cost, 83.8 (`carcls backbones`). It predicts 1.3 times
    # V2-S's photos a second, at 288 px against 384, which by area is about 0.75 times at one size.
    # Sizes after the competition's public ladder, on which 384x512 gained most. Never run on a T4.
    "kaggle": {
        "backbone": "hgnetv2_b5",
        "stages": _KAGGLE_SIZES.format(6, 6, 4),
        "lr": 1e-3,
        "batch": 64,
    },
    # What won a twin of the competition: pretraining, MixUp and CutMix, more epochs, folds. Three
    # networks that differ in kind and in what they have seen (distilled, ImageNet-1k, ImageNet-12k
    # first). The clock shortens all twelve trainings to the session's hours, about 55 minutes
    # each. Never run on a T4.
    "kaggle_best": {
        "members": "backbone=hgnetv2_b5+backbone=efficientnet2_rw_s+backbone=efficientnet_b5_sw_ft",
        "stages": _KAGGLE_SIZES.format(8, 8, 6),
        "folds": 4,
        "mix": "mixup:0.2,cutmix:1",
        "lr": 1e-3,
        "batch": 64,
    },
}

# Settings of older versions, and what says the same now.
RENAMED = {
    "tta_views": "views=8",
    "tta_cap": "views=4-32 (first views, most views)",
    "tta_strength": "strength (views have half of its start)",
    "strength_end": "strength=1-0.5 (start, end)",
    "mixup": "mix=mixup:0.2",
    "cutmix": "mix=cutmix:1",
    "pseudo_epochs": "pseudo=3 (epochs)",
    **dict.fromkeys(
        ("bn_momentum", "min_epochs", "pseudo_agreement", "pseudo_lr", "refit_lr", "cache_share"),
        "nothing: it is no longer a setting",
    ),
}

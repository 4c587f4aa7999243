"""What the other settings start from, by name; and the names that settings once had."""

from typing import Any

# What a network of 2,450 photos gains from more augmentation it keeps to the last epoch.
_REGULARISED = {"augment": "medium", "strength": "1", "label_smoothing": 0.1}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The drawn sample, in about a minute on two cores.
    "sample": {"stages": "64x96x3,96x128x4", "val_fraction": 0.2, "views": 4},
    # 4 and 10 minutes on two cores for 2,450 photos (MEASUREMENTS: rate, size and epochs; refit).
    "quick": {"stages": "144x240x7", "refit_epochs": 1, **_REGULARISED},
    "good": {"stages": "112x192x10,144x240x10", "lr": 2e-3, "refit_epochs": 3, **_REGULARISED},
    # After the competition's public ladder, on which 384x512 gained most; not measured on a T4.
    "kaggle": {
        "backbone": "efficientnetv2_s",
        "stages": "192x256x6,288x384x6,384x512x4",
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

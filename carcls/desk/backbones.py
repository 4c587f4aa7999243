"""``carcls backbones``: the networks with what is known of their weights."""

from __future__ import annotations

from carcls.nets import registry

# Whose figures: "keras-cv": its own trainings (training_history.json and pull requests, not the
# papers' figures in its descriptions); "timm": results-imagenet.csv; "keras.io": its table of
# applications, each at its default size. Blank: nobody says.
# Name → parameters in millions, without a classifier, top-1 % on ImageNet, at pixels, whose.
FIGURES: dict[str, tuple[float, float | None, int | None, str]] = {
    "efficientnetv2_s": (20.3, 80.1, None, "keras-cv"),
    "efficientnetv2_b0": (5.9, 75.3, None, "keras-cv"),
    "efficientnetv2_b1": (6.9, 75.6, None, "keras-cv"),
    "efficientnetv2_b2": (8.8, 77.0, None, "keras-cv"),
    "efficientnetv2_b3": (12.9, None, None, ""),
    "efficientnet_lite_b0": (3.4, None, None, ""),
    "efficientnet_lite_b1": (4.2, None, None, ""),
    "efficientnet_lite_b2": (4.9, None, None, ""),
    "resnet50_v2": (23.6, 76.1, None, "keras-cv"),
    "densenet121": (7.0, 67.7, None, "keras-cv"),
    "mobilenet_v3_small": (0.9, None, None, ""),
    "mobilenet_v3_large": (3.0, None, None, ""),
    "keras_efficientnet_b0": (4.0, 77.1, 224, "keras.io"),
    "keras_efficientnet_b1": (6.6, 79.1, 240, "keras.io"),
    "keras_efficientnet_b2": (7.8, 80.1, 260, "keras.io"),
    "keras_efficientnet_b3": (10.8, 81.6, 300, "keras.io"),
    "keras_efficientnet_b4": (17.7, 82.9, 380, "keras.io"),
    "keras_efficientnet_b5": (28.5, 83.6, 456, "keras.io"),
    "keras_efficientnet_b6": (41.0, 84.0, 528, "keras.io"),
    "keras_efficientnet_b7": (64.1, 84.3, 600, "keras.io"),
    "keras_xception": (20.9, 79.0, 299, "keras.io"),
    "keras_resnet50_v2": (23.6, 76.0, 224, "keras.io"),
    "keras_densenet121": (7.0, 75.0, 224, "keras.io"),
    "keras_convnext_tiny": (27.8, 81.3, 224, "keras.io"),
    "keras_convnext_small": (49.5, 82.3, 224, "keras.io"),
    "keras_efficientnetv2_s": (20.3, 83.9, 384, "keras.io"),
    "keras_efficientnetv2_b0": (5.9, 78.7, 224, "keras.io"),
    "keras_efficientnetv2_b1": (6.9, 79.8, 240, "keras.io"),
    "keras_efficientnetv2_b2": (8.8, 80.5, 260, "keras.io"),
    "keras_efficientnetv2_b3": (12.9, 82.0, 300, "keras.io"),
    "efficientnet2_rw_s": (22.3, 83.8, 384, "timm"),
    "efficientnet2_rw_m": (51.4, 84.8, 416, "timm"),
    "efficientnet_b5_sw_ft": (28.5, 85.9, 448, "timm"),
    "hgnetv2_b4": (13.6, 84.0, 288, "timm"),
    "hgnetv2_b5": (33.4, 85.2, 288, "timm"),
    "hgnetv2_b6": (69.2, 86.4, 288, "timm"),
    "densenet_121": (7.0, None, None, ""),
    "xception_41": (20.9, 79.0, 299, "keras.io"),  # converted from keras_xception's weights
    "resnet_vd_50": (23.6, None, None, ""),
    "mobilenet_v3_large_21k": (3.0, 77.9, 224, "timm"),
    "vit_base_384": (86.1, 84.2, 384, "timm"),
    "deit_base_384": (86.1, 85.4, 384, "timm"),
    "dinov2_small": (22.6, None, None, ""),  # these learned without labels
    "dinov2_base": (87.6, None, None, ""),
    "dinov3_small": (21.6, None, None, ""),
    "dinov3_base": (85.7, None, None, ""),
    "siglip_base_384": (86.1, None, None, ""),
}
# By how a network's name begins: what the package or Kaggle's model states of its weights.
_LICENCES = {"efficientnet_lite_b": "Apache-2.0", "hgnetv2_b": "Apache-2.0", "dinov3": "DINOv3's"}
_HEADS = (
    *("network", "library", "parameters", "top-1", "at px", "whose figure"),
    *("photos", "licence", "weights"),
)


def table() -> str:
    """A row for each network of the registry, in columns."""
    rows = [_HEADS, *(_row(backbone) for backbone in registry.REGISTRY.values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    more = (
        "parameters: without the classifier. top-1: on ImageNet, in per cent, with these weights; "
        "blank: nobody states it.\n"
        "photos: the sizes, in px, that it takes.\n"
        "licence: of the weights; blank: not known here. DINOv3's own is to be accepted on Kaggle "
        "before its model can be attached.\n"
        "weights: a model on Kaggle where it has five parts, else a preset's folder or a file."
    )
    return "\n".join([*lines, "", more])


def _row(backbone: registry.Backbone) -> tuple[str, ...]:
    size, top1, pixels, whose = FIGURES[backbone.name]
    return (
        backbone.name,
        backbone.library,
        f"{size:.1f} M",
        f"{top1:.1f}" if top1 else "",
        str(pixels or ""),
        whose,
        f"multiples of {backbone.patch}" if backbone.patch > 1 else "any",
        next((text for start, text in _LICENCES.items() if backbone.name.startswith(start)), ""),
        backbone.model or backbone.preset or "none",
    )

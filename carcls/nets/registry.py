"""The networks: a table of them, each with the normalisation that its ImageNet weights expect.

A new network is a new row at the end of this file, or of hub.py. keras-cv's presets would fetch
their configurations from the internet, so these are written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from carcls.errors import ConfigError
from carcls.nets import fast, hub
from carcls.values import Stage

Shape = tuple[int | None, int | None, int]  # height, width, channels

# ImageNet's mean and standard deviation, RGB in 0..1, as torchvision and Keras have them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# What comes before a network: x × scale + offset per channel, of raw pixels x in 0..255.
# "own": nothing, the network's own first layers normalise.
_NORMALISE: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "own": None,
    "(x - 127) / 128": ((1 / 128,) * 3, (-127 / 128,) * 3),
    "x / 127.5 - 1": ((1 / 127.5,) * 3, (-1.0,) * 3),
    "(x / 255 - mean) / std": (
        tuple(1 / (255 * s) for s in STD),
        tuple(-m / s for m, s in zip(MEAN, STD, strict=True)),
    ),
    # keras.applications.EfficientNet computes (x / 255 - mean) / sqrt(std), as its files hold std
    # where a variance belongs (tensorflow issue 49930). This gives it x' with
    # (x' / 255 - mean) / sqrt(std) = (x / 255 - mean) / std.
    "(x / 255 - mean) / std, half of it inside": (
        tuple(1 / math.sqrt(s) for s in STD),
        tuple(255 * m * (1 - 1 / math.sqrt(s)) for m, s in zip(MEAN, STD, strict=True)),
    ),
}


@dataclass(frozen=True)
class Backbone:
    """A network that photos can be classified with, without its own classifier."""

    name: str
    library: str  # keras_cv, keras_hub, or keras for keras.applications: the form of its weights
    make: Callable[[Shape], Any]  # (height, width, 3) → the network as its weight files know it
    normalise: str = "own"  # a key of _NORMALISE
    preset: str | None = None  # its weights: a file's name (keras) or a folder's (the others)
    source: str = ""  # how to get them where there is internet, or why there are none
    # The model on Kaggle that has its weights: owner/model/framework/variation/version.
    model: str | None = None
    kind: str = ""  # the network's class, which a preset folder's config.json names
    patch: int = 1  # px: height and width of its photos are multiples of this
    is_gated: bool = False  # its licence must be accepted on Kaggle first


def find(name: str) -> Backbone:
    """The network of that name. Raises ConfigError if there is none."""
    if name.startswith(hub.MISLED):
        raise ConfigError(
            f"backbone={name}: KerasHub {hub.VERSION} has another network's weights under this "
            "name; expected another, such as efficientnet2_rw_s"
        )
    if name not in REGISTRY:
        names = ", ".join(REGISTRY)
        raise ConfigError(f"backbone={name!r}: no such network; expected one of {names}")
    return REGISTRY[name]


def check(name: str, stages: Iterable[Stage]) -> None:
    """Raise ConfigError if there is no such network, its package is missing, or a size is wrong."""
    backbone = find(name)
    if backbone.library == "keras_hub":
        hub.check_installed(name)
    for stage in stages:
        check_size(name, stage.size, f"stages={stage}")


def check_size(name: str, size: tuple[int, int], named: str) -> None:
    """Raise ConfigError if the network takes no photos of that height and width, in px.

    named: the setting that has the size, and its value.
    """
    patch = find(name).patch
    if any(side % patch for side in size):
        height, width = (_nearest(side, patch) for side in size)
        raise ConfigError(
            f"{named}: backbone={name} takes heights and widths in multiples of {patch} px; "
            f"nearest: height {height}, width {width}"
        )


def _nearest(side: int, patch: int) -> str:
    """The multiples around it, or itself."""
    below = side // patch * patch
    return f"{side}" if below == side else f"{below} or {below + patch}"


def build(name: str) -> Any:
    """A keras.Model from pixels (B, H, W, 3) in 0..255 to features (B, h, w, C), random weights.

    H and W may be any, of a transformer multiples of its patch; of sides that are no multiples of
    32 px DenseNet, ConvNeXt and Xception ignore the rest at the right and the bottom. Its layers
    are the network's own, after at most one that normalises. Raises ConfigError on a wrong name or
    a missing package.
    """
    import keras

    backbone = find(name)
    network = backbone.make((None, None, 3))
    kind = keras.layers.ZeroPadding2D
    paddings = [layer for layer in network.layers if type(layer) is kind]
    uneven = [layer for layer in paddings if any(a != b for a, b in layer.padding)]
    fast.replace(uneven, _padding_of_any_size())
    affine = _NORMALISE[backbone.normalise]
    if affine is None:
        return network
    images = keras.Input((None, None, 3), name="images")
    scale, offset = (list(values) for values in affine)
    # float32 even in mixed precision: float16 would cost the last bits of a normalised pixel.
    if backbone.library == "keras_hub":  # as ImageNet's until a preset is loaded, which says it
        layer = hub.normalisation()(name="normalise", dtype="float32")
        pixels = layer(images)
        layer.set_weights([np.array(scale), np.array(offset)])
    else:
        pixels = keras.layers.Rescaling(scale, offset, name="normalise", dtype="float32")(images)
    # .call, not __call__: the network's layers become this model's own, not hidden in one layer.
    return keras.Model(images, network.call(pixels), name=name)


def normalisations(network: Any) -> list[Any]:
    """Layers that normalise by weights, mean and variance: in EfficientNet B0–B7 alone."""
    import keras

    kind = keras.layers.Normalization
    return [layer for layer in network.layers if isinstance(layer, kind) and layer.weights]


@cache
def _padding_of_any_size() -> type:
    """A padding before a halving that fits odd sides as well as even ones.

    EfficientNet and MobileNetV3 settle their padding when they are built; without a size they
    assume even sides, and drop the last of 7 rows. Their weights were trained with TensorFlow's
    "same", which makes 4 of 7. (A model saved whole comes back with the library's own padding.)
    """
    import keras

    plain = keras.layers.ZeroPadding2D

    def call(self: Any, inputs: Any) -> Any:
        """(B, H, W, C) → (B, h, w, C), as ``ZeroPadding2D.call`` where H and W are even."""
        height, width = keras.ops.shape(inputs)[1:3]
        (top, bottom), (left, right) = self.padding
        around = ((0, 0), (top + height % 2, bottom), (left + width % 2, right), (0, 0))
        return keras.ops.pad(inputs, around)

    def compute_output_shape(self: Any, shape: Any) -> Any:
        even = [side and side + side % 2 for side in shape[1:3]]
        return plain.compute_output_shape(self, (shape[0], *even, shape[3]))

    return fast.stand_in(plain, call=call, compute_output_shape=compute_output_shape)


# --- How a row becomes a network ----------------------------------------------------------------


def _keras_cv(name: str, kind: str, config: dict[str, Any], model: str = "") -> Backbone:
    """A network of keras-cv; ``model`` is the one on Kaggle that has its weights, if any has."""
    preset = f"{name}_imagenet"
    normalise = "own" if config["include_rescaling"] else "(x - 127) / 128"
    make = partial(_make_keras_cv, kind, config)
    handle = f"keras/{model}/keras/{preset}/2" if model else None
    source = "" if model else f"`carcls weights {name}` makes it"
    return Backbone(name, "keras_cv", make, normalise, preset, source, handle, kind)


def _keras(name: str, kind: str, file: str, normalise: str = "own") -> Backbone:
    """A network of keras.applications, whose weights are a file that Keras downloads."""
    source = f"`keras.applications.{kind}(include_top=False)` fetches it where there is internet"
    make = partial(_make_keras, kind)
    return Backbone(name, "keras", make, normalise, file, source, kind=kind)


def _keras_hub(name: str) -> Backbone:
    """A network of KerasHub, whose weights are a model on Kaggle."""
    kind, config, handle = hub.ROWS[name]
    model, preset, version = handle.split("/")
    return Backbone(
        name,
        "keras_hub",
        partial(hub.make, name),
        "(x / 255 - mean) / std",
        preset,
        "",
        f"keras/{model}/keras/{preset}/{version}",
        kind,
        int(np.max(config.get("patch_size", 1))),
        kind in hub.GATED,
    )


def _make_keras_cv(kind: str, config: dict[str, Any], shape: Shape) -> Any:
    import keras_cv

    return getattr(keras_cv.models, kind)(input_shape=shape, **config)


def _make_keras(kind: str, shape: Shape) -> Any:
    import keras

    make = getattr(keras.applications, kind)
    network = make(weights=None, include_top=False, pooling=None, input_shape=shape)
    for layer in normalisations(network):  # as the official files have them, see _NORMALISE
        layer.set_weights([np.array(MEAN, "float32"), np.array(STD, "float32"), np.int32(0)])
        layer.finalize_state()
    return network


# --- Configurations of keras-cv's presets ---------------------------------------------------------
# include_rescaling is x / 255, on which keras-cv trained its own weights.

_V2_B: dict[str, Any] = {
    "include_rescaling": True,
    "stackwise_kernel_sizes": [3] * 6,
    "stackwise_num_repeats": [1, 2, 2, 3, 5, 8],
    "stackwise_input_filters": [32, 16, 32, 48, 96, 112],
    "stackwise_output_filters": [16, 32, 48, 96, 112, 192],
    "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
    "stackwise_squeeze_and_excite_ratios": [0, 0, 0, 0.25, 0.25, 0.25],
    "stackwise_strides": [1, 2, 2, 2, 1, 2],
    "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * 3,
}
_V2_S = {
    **_V2_B,
    "stackwise_num_repeats": [2, 4, 4, 6, 9, 15],
    "stackwise_input_filters": [24, 24, 48, 64, 128, 160],
    "stackwise_output_filters": [24, 48, 64, 128, 160, 256],
}
_LITE_B = {
    "include_rescaling": False,
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
}
_MOBILE_SMALL = {
    "include_rescaling": True,
    "stackwise_expansion": [1, 72 / 16, 88 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
    "stackwise_filters": [16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
    "stackwise_kernel_size": [3] * 3 + [5] * 8,
    "stackwise_stride": [2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
    "stackwise_se_ratio": [0.25, None, None] + [0.25] * 8,
    "stackwise_activation": ["relu"] * 3 + ["hard_swish"] * 8,
}
_MOBILE_LARGE = {
    "include_rescaling": True,
    "stackwise_expansion": [1, 4, 3, 3, 3, 3, 6, 2.5, 2.3, 2.3, 6, 6, 6, 6, 6],
    "stackwise_filters": [16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160],
    "stackwise_kernel_size": [3] * 3 + [5] * 3 + [3] * 6 + [5] * 3,
    "stackwise_stride": [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
    "stackwise_se_ratio": [None] * 3 + [0.25] * 3 + [None] * 4 + [0.25] * 5,
    "stackwise_activation": ["relu"] * 6 + ["hard_swish"] * 9,
}
_RESNET = {
    "include_rescaling": True,
    "stackwise_filters": [64, 128, 256, 512],
    "stackwise_blocks": [3, 4, 6, 3],
    "stackwise_strides": [1, 2, 2, 2],
}
_DENSENET = {"include_rescaling": True, "stackwise_num_repeats": [6, 12, 24, 16]}


def _scale(width: float, depth: float) -> dict[str, float]:
    return {"width_coefficient": width, "depth_coefficient": depth}


# --- The table ------------------------------------------------------------------------------------

_V2, _LITE, _MOBILE = "EfficientNetV2Backbone", "EfficientNetLiteBackbone", "MobileNetV3Backbone"
_HALF = "(x / 255 - mean) / std, half of it inside"
_OLD = "weights_tf_dim_ordering_tf_kernels_notop.h5"
_ROWS = (
    _keras_cv("efficientnetv2_s", _V2, _V2_S | _scale(1.0, 1.0), "efficientnetv2"),
    _keras_cv("efficientnetv2_b0", _V2, _V2_B | _scale(1.0, 1.0), "efficientnetv2"),
    _keras_cv("efficientnetv2_b1", _V2, _V2_B | _scale(1.0, 1.1), "efficientnetv2"),
    _keras_cv("efficientnetv2_b2", _V2, _V2_B | _scale(1.1, 1.2), "efficientnetv2"),
    replace(
        _keras_cv("efficientnetv2_b3", _V2, _V2_B | _scale(1.2, 1.4)),
        preset=None,
        source="keras-cv has none; keras_efficientnetv2_b3 is the same network with weights",
    ),
    _keras_cv("efficientnet_lite_b0", _LITE, _LITE_B | _scale(1.0, 1.0)),
    _keras_cv("efficientnet_lite_b1", _LITE, _LITE_B | _scale(1.0, 1.1)),
    _keras_cv("efficientnet_lite_b2", _LITE, _LITE_B | _scale(1.1, 1.2)),
    _keras_cv("resnet50_v2", "ResNetV2Backbone", _RESNET, "resnetv2"),
    _keras_cv("densenet121", "DenseNetBackbone", _DENSENET, "densenet"),
    _keras_cv("mobilenet_v3_small", _MOBILE, _MOBILE_SMALL, "mobilenetv3"),
    _keras_cv("mobilenet_v3_large", _MOBILE, _MOBILE_LARGE, "mobilenetv3"),
    *(
        _keras(f"keras_efficientnet_b{n}", f"EfficientNetB{n}", f"efficientnetb{n}_notop.h5", _HALF)
        for n in range(8)
    ),
    _keras("keras_xception", "Xception", f"xception_{_OLD}", "x / 127.5 - 1"),
    _keras("keras_resnet50_v2", "ResNet50V2", f"resnet50v2_{_OLD}", "x / 127.5 - 1"),
    _keras("keras_densenet121", "DenseNet121", f"densenet121_{_OLD}", "(x / 255 - mean) / std"),
    _keras("keras_convnext_tiny", "ConvNeXtTiny", "convnext_tiny_notop.h5"),
    _keras("keras_convnext_small", "ConvNeXtSmall", "convnext_small_notop.h5"),
    _keras("keras_efficientnetv2_s", "EfficientNetV2S", "efficientnetv2-s_notop.h5"),
    *(
        _keras(f"keras_efficientnetv2_b{n}", f"EfficientNetV2B{n}", f"efficientnetv2-b{n}_notop.h5")
        for n in range(4)
    ),
    *map(_keras_hub, hub.ROWS),
)
REGISTRY: dict[str, Backbone] = {row.name: row for row in _ROWS}

"""KerasHub's networks: their configurations, and what their presets' files say of pixels.

The configurations are written out: a network can be built without its preset, and KerasHub itself
cannot read every preset that it wrote (EfficientNet's forget ``num_features``).
"""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from carcls.errors import ConfigError, InputError
from carcls.nets import transformers

VERSION = "0.26.0"  # as on Kaggle
CONVERTER = "image_converter.json"  # in a preset's folder: how its pixels were normalised
# KerasHub 0.26 has these names point to EfficientNet-B1's weights (keras-hub issue 3014).
MISLED = ("efficientnet_el", "efficientnet_em", "efficientnet_es")
GATED = ("DINOV3Backbone",)  # classes whose licence must be accepted on Kaggle first
# In a configuration, what does not change what a network predicts.
_ASIDE = ("dropout", "batch_norm_momentum")
# In a weights file, what is not of a network: of SigLIP the side of texts and the pooling.
ASIDE_IN_FILES = r"seed_generator|sig_lip_(text_encoder|head|multi_head_attention_pooling)/"
_SAME = {"silu": "swish"}  # one function, two names

Affine = tuple[list[float], list[float]]  # x × scale + offset per channel of raw pixels x


def check_installed(name: str) -> None:
    """Raise ConfigError where the package is missing that this network needs."""
    if importlib.util.find_spec("keras_hub") is None:
        raise _missing(name, "which is not installed")


def _missing(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"backbone={name}: needs the package keras_hub, {why}: pip install --no-deps "
        f"keras-hub=={VERSION} (tensorflow-text, which it asks for, is not needed, and would bring "
        "a second TensorFlow)"
    )


def make(name: str, shape: tuple[int | None, ...]) -> Any:
    """(height, width, 3) → the network as its weight files know it, from its pixels to features."""
    check_installed(name)
    kind, config, _ = ROWS[name]
    import keras

    try:
        import keras_hub
    except ImportError as error:
        raise _missing(name, f"which cannot be imported ({error})") from None
    if "patch_size" in config:
        return transformers.make(keras_hub.models, kind, config)
    # EfficientNet alone calls it otherwise.
    size = "input_shape" if kind == "EfficientNetBackbone" else "image_shape"
    network = getattr(keras_hub.models, kind)(**config, **{size: shape})
    outputs = network.output
    if isinstance(outputs, dict):  # HGNetV2: stem, stage1 … stage4
        outputs = outputs[max(key for key in outputs if key.startswith("stage"))]
    return keras.Model(network.input, outputs, name=network.name)


@cache
def normalisation() -> type:
    """A layer of pixels × scale + offset, both among its weights.

    So they are in everything that is saved of a network, and a trained one needs no preset.
    """
    import keras

    class Normalise(keras.layers.Layer):
        """(B, H, W, 3) in 0..255 → the same shape, as the network wants it."""

        def build(self, shape: Any) -> None:
            self.scale, self.offset = (
                self.add_weight(shape=(3,), name=name, trainable=False, initializer=first)
                for name, first in (("scale", "ones"), ("offset", "zeros"))
            )

        def call(self, inputs: Any) -> Any:
            return inputs * self.scale + self.offset

        def load_own_variables(self, store: Any) -> None:
            if store.keys():  # KerasHub's files have none of it
                super().load_own_variables(store)

    return Normalise


def read_converter(file: Path) -> Affine:
    """Scale and offset of raw pixels from the file beside these weights. Raises InputError.

    The size in it is ignored: photos come at the sizes that the settings name.
    """
    path = file.with_name(CONVERTER)
    if not path.is_file():
        raise InputError(
            f"{file}: no {CONVERTER} beside it, so how its pixels were normalised is not known; "
            "attach the whole preset folder"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
        scale, offset = _three(config.get("scale"), 1.0), _three(config.get("offset"), 0.0)
        with np.errstate(all="ignore"):  # what comes of a variance of 0 is refused below
            if "mean" in config and "variance" in config:  # as older presets have it
                std = np.sqrt(_three(config["variance"], 1.0))
                scale, offset = scale / std, -_three(config["mean"], 0.0) / std
            elif "norm_mean" in config and "norm_std" in config:  # as DeiT's once had it
                mean, std = _three(config["norm_mean"], 0.0), _three(config["norm_std"], 1.0)
                scale, offset = scale / std, (offset - mean) / std
        if not (np.isfinite(scale).all() and np.isfinite(offset).all() and (scale > 0).all()):
            raise ValueError(f"scale {scale.tolist()} and offset {offset.tolist()}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a config with scale and offset, or mean and variance, of one or "
            f"three numbers each; found {error}"
        ) from None
    return scale.tolist(), offset.tolist()


def _three(value: Any, default: float) -> np.ndarray:
    """One number, or three of them, as (3,); the default for None."""
    return np.broadcast_to(np.asarray(default if value is None else value, float), 3)


def check_config(path: Path, name: str, found: dict[str, Any]) -> None:
    """Raise InputError if a preset's configuration is not the one that this network is built from.

    What the preset does not say is not compared: KerasHub forgets some of it.
    """
    found = found.get("vision_encoder", {}).get("config", found)  # SigLIP's, beside one of texts
    for key, value in ROWS[name][1].items():
        theirs = found.get(key, value)
        if key not in _ASIDE and _plain(theirs) != _plain(value):
            raise InputError(f"{path}: {key} is {theirs}; backbone={name} has {value}")


def _plain(value: Any) -> Any:
    value = json.loads(json.dumps(value))  # tuples are lists in a file
    return _SAME.get(value, value) if isinstance(value, str) else value


# --- The table ------------------------------------------------------------------------------------


def _efficientnet(width: float, depth: list[float], **more: Any) -> dict[str, Any]:
    """As KerasHub converts timm's; depth: a factor for each stage; more: what differs from B0."""
    return {
        "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
        "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
        "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
        "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
        "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
        "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
        "stackwise_squeeze_and_excite_ratios": [0.25] * 7,
        "stackwise_block_types": ["v1"] * 7,
        "stackwise_width_coefficients": [width] * len(depth),
        "stackwise_depth_coefficients": depth,
        "min_depth": None,
        "include_stem_padding": True,
        "use_depth_divisor_as_min_depth": True,
        "cap_round_filter_decrease": True,
        "stem_conv_padding": "valid",
        "batch_norm_epsilon": 1e-5,
        "projection_activation": None,
        "dropout": 0,
        **more,
    }


_V2 = {
    "stackwise_kernel_sizes": [3] * 6,
    "stackwise_num_repeats": [2, 4, 4, 6, 9, 15],
    "stackwise_input_filters": [24, 24, 48, 64, 128, 160],
    "stackwise_output_filters": [24, 48, 64, 128, 160, 272],
    "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2],
    "stackwise_squeeze_and_excite_ratios": [0, 0, 0, 0.25, 0.25, 0.25],
    "stackwise_block_types": ["fused"] * 3 + ["unfused"] * 3,
    "activation": "silu",
    "num_features": 1792,
}


def _hgnetv2(inner: int, width: int, first: int, blocks: list[int]) -> dict[str, Any]:
    """inner, width: channels of the stem; first: of the first stage; blocks of each stage."""
    outputs = [first, 512, 1024, 2048]
    inputs, inside = [width, *outputs], [width, 2 * width, 4 * width, 8 * width]
    stages = zip(inputs[:4], inside, outputs, blocks, [6] * 4, [3, 3, 5, 5], strict=True)
    return {
        "depths": blocks,
        "embedding_size": width,
        "hidden_sizes": outputs,
        "stem_channels": [3, inner, width],
        "hidden_act": "relu",
        "use_learnable_affine_block": False,
        # Of each stage: channels in, inside and out, blocks, layers of a block, kernel size.
        "stackwise_stage_filters": list(map(list, stages)),
        "apply_downsample": [False, True, True, True],
        "use_lightweight_conv_block": [False, False, True, True],
    }


# Of each stage: expansions, filters, kernel size, stride, squeeze and excitation, activation.
_MOBILE_LARGE: list[tuple[list[int], int, int, int, float | None, str]] = [
    ([64, 72], 24, 3, 2, None, "relu"),
    ([72, 120, 120], 40, 5, 2, 0.25, "relu"),
    ([240, 200, 184, 184], 80, 3, 2, None, "hard_swish"),
    ([480, 672], 112, 3, 1, 0.25, "hard_swish"),
    ([672, 960, 960], 160, 5, 2, 0.25, "hard_swish"),
]


def _mobilenet_v3(stages: list[Any], last: int) -> dict[str, Any]:
    counts = [len(stage[0]) for stage in stages]

    def each(column: int) -> list[list[Any]]:
        return [[stage[column]] * count for stage, count in zip(stages, counts, strict=True)]

    return {
        "stackwise_num_blocks": counts,
        "stackwise_expansion": [stage[0] for stage in stages],
        "stackwise_num_filters": each(1),
        "stackwise_kernel_size": each(2),
        "stackwise_num_strides": [[first, *[1] * len(rest)] for first, *rest in each(3)],
        "stackwise_se_ratio": each(4),
        "stackwise_activation": each(5),
        "stackwise_padding": [[size // 2 for size in sizes] for sizes in each(2)],
        "output_num_filters": 1024,
        "input_num_filters": 16,
        "depthwise_filters": 16,
        "depthwise_stride": 1,
        "depthwise_residual": True,
        "squeeze_and_excite": None,
        "last_layer_filter": last,
        "input_activation": "hard_swish",
        "output_activation": "hard_swish",
    }


def _vit(width: int, patch: Any, mlp: str = "intermediate_dim", **more: Any) -> dict[str, Any]:
    """Twelve blocks; mlp: what the family calls the width inside of their dense layers."""
    of_all = {"patch_size": patch, "num_layers": 12, "num_heads": width // 64, "hidden_dim": width}
    return {**of_all, mlp: 4 * width, **more}


_AT_384: dict[str, Any] = {"image_shape": [384, 384, 3]}
_DINO_V2: dict[str, Any] = {
    "image_shape": [518, 518, 3],
    "position_embedding_shape": [518, 518],
    "num_register_tokens": 0,
    "use_mask_token": True,
    "use_swiglu_ffn": False,
}
_DINO_V3: dict[str, Any] = {
    "num_register_tokens": 4,
    "use_mask_token": True,
    "hidden_activation": "gelu",
    "use_gated_mlp": False,
    "use_key_bias": False,
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "efficientnet2_rw_s": _efficientnet(1.0, [1.0] * 6, **_V2),
    "efficientnet2_rw_m": _efficientnet(1.2, [1.2] * 4 + [1.6] * 2, **_V2),
    "efficientnet_b5_sw_ft": _efficientnet(1.6, [2.2] * 7),
    "hgnetv2_b4": _hgnetv2(32, 48, 128, [1, 1, 3, 1]),
    "hgnetv2_b5": _hgnetv2(32, 64, 128, [1, 2, 5, 2]),
    "hgnetv2_b6": _hgnetv2(48, 96, 192, [2, 3, 6, 3]),
    "densenet_121": {
        "stackwise_num_repeats": [6, 12, 24, 16],
        "compression_ratio": 0.5,
        "growth_rate": 32,
    },
    "xception_41": {
        "stackwise_conv_filters": [
            *([32, 64], [128] * 2, [256] * 2, [728] * 2, *[[728] * 3] * 8),
            *([728, 1024], [1536, 2048]),
        ],
        "stackwise_pooling": [False, *[True] * 3, *[False] * 8, True, False],
    },
    "resnet_vd_50": {
        "input_conv_filters": [32, 32, 64],
        "input_conv_kernel_sizes": [3, 3, 3],
        "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": [3, 4, 6, 3],
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": "bottleneck_block_vd",
        "use_pre_activation": False,
    },
    "mobilenet_v3_large_21k": _mobilenet_v3(_MOBILE_LARGE, 960),
    "vit_base_384": _vit(768, [16, 16], "mlp_dim", layer_norm_epsilon=1e-6, **_AT_384),
    "deit_base_384": _vit(768, [16, 16], layer_norm_epsilon=1e-12, **_AT_384),
    "dinov2_small": _vit(384, 14, **_DINO_V2),
    "dinov2_base": _vit(768, 14, **_DINO_V2),
    "dinov3_small": _vit(384, 16, **_DINO_V3),
    "dinov3_base": _vit(768, 16, **_DINO_V3),
    "siglip_base_384": _vit(
        768, 16, intermediate_activation="gelu_approximate", layer_norm_epsilon=1e-6, **_AT_384
    ),
}
_TABLE = """
efficientnet2_rw_s EfficientNet efficientnet/efficientnet2_rw_s_ra2_imagenet/2
efficientnet2_rw_m EfficientNet efficientnet/efficientnet2_rw_m_agc_imagenet/2
efficientnet_b5_sw_ft EfficientNet efficientnet/efficientnet_b5_sw_ft_imagenet/2
hgnetv2_b4 HGNetV2 hgnetv2/hgnetv2_b4_ssld_stage2_ft_in1k/1
hgnetv2_b5 HGNetV2 hgnetv2/hgnetv2_b5_ssld_stage2_ft_in1k/1
hgnetv2_b6 HGNetV2 hgnetv2/hgnetv2_b6_ssld_stage2_ft_in1k/1
densenet_121 DenseNet densenet/densenet_121_imagenet/3
xception_41 Xception xception/xception_41_imagenet/2
resnet_vd_50 ResNet resnet_vd/resnet_vd_50_ssld_v2_imagenet/2
mobilenet_v3_large_21k MobileNet mobilenetv3/mobilenet_v3_large_100_imagenet_21k/1
vit_base_384 ViT vit/vit_base_patch16_384_imagenet/3
deit_base_384 DeiT deit/deit_base_distilled_patch16_384_imagenet/1
dinov2_small DINOV2 dinov2/dinov2_small/1
dinov2_base DINOV2 dinov2/dinov2_base/1
dinov3_small DINOV3 dinov3/dinov3_vit_small_lvd1689m/1
dinov3_base DINOV3 dinov3/dinov3_vit_base_lvd1689m/1
siglip_base_384 SigLIP siglip/siglip_base_patch16_384/1
"""
# Name → class, configuration, and Kaggle's model as model/variation/version.
ROWS: dict[str, tuple[str, dict[str, Any], str]] = {
    name: (f"{family}Backbone", _CONFIGS[name], handle)
    for name, family, handle in map(str.split, _TABLE.strip().splitlines())
}

"""Small networks of KerasHub's families, and presets of random weights as it saves them."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carcls.nets import hub

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None, reason="keras_hub is not installed"
)
_ROW = {name: row[1] for name, row in hub.ROWS.items()}
# A row of each family → its configuration, with fewer and smaller layers.
SMALL: dict[str, dict[str, Any]] = {
    "efficientnet2_rw_s": {
        **_ROW["efficientnet2_rw_s"],
        "stackwise_num_repeats": [1] * 6,
        "stackwise_input_filters": [8] * 6,
        "stackwise_output_filters": [8, 8, 8, 16, 16, 16],
        "num_features": 24,
    },
    "efficientnet_b5_sw_ft": hub._efficientnet(0.25, [0.25] * 7),
    "hgnetv2_b5": {
        **hub._hgnetv2(8, 8, 16, [1, 1, 2, 1]),
        "hidden_sizes": [16, 24, 32, 40],
        "stackwise_stage_filters": [
            [8, 8, 16, 1, 2, 3],
            [16, 8, 24, 1, 2, 3],
            [24, 16, 32, 2, 2, 5],
            [32, 16, 40, 1, 2, 5],
        ],
    },
    "densenet_121": {
        **_ROW["densenet_121"],
        "stackwise_num_repeats": [1, 2, 1, 1],
        "growth_rate": 8,
    },
    "xception_41": {
        "stackwise_conv_filters": [[8, 8], [16, 16], [24, 24], [24, 32], [32, 40]],
        "stackwise_pooling": [False, True, True, True, False],
    },
    "resnet_vd_50": {
        **_ROW["resnet_vd_50"],
        "stackwise_num_filters": [64, 64],
        "stackwise_num_blocks": [1, 2],
        "stackwise_num_strides": [1, 2],
    },
    "mobilenet_v3_large_21k": hub._mobilenet_v3(
        [
            ([16], 8, 3, 2, None, "relu"),
            ([24], 8, 5, 2, 0.25, "relu"),
            ([24, 32], 16, 5, 2, 0.25, "hard_swish"),
        ],
        32,
    ),
}


def _small_vit(name: str) -> dict[str, Any]:
    """Two blocks, and a position embedding of 4 × 4 patches."""
    config = {**_ROW[name], "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
    side = 4 * np.max(config["patch_size"]).item()
    smaller = {"mlp_dim": 24, "intermediate_dim": 24, "image_shape": [side, side, 3]}
    smaller |= {"position_embedding_shape": [side, side]}
    return {key: smaller.get(key, value) for key, value in config.items()}


TRANSFORMERS = ("vit_base_384", "deit_base_384", "dinov2_small", "dinov3_small", "siglip_base_384")
CONVOLUTIONS = tuple(SMALL)
SMALL |= {name: _small_vit(name) for name in TRANSFORMERS}
# As in KerasHub's files; the numbers are no network's.
CONVERTER = {"image_size": [96, 64], "scale": [0.02, 0.018, 0.016], "offset": [-2.1, -2.0, -1.8]}


def shrink(monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    """Make a row of the table a small network of its family."""
    kind, _, handle = hub.ROWS[name]
    monkeypatch.setitem(hub.ROWS, name, (kind, SMALL[name], handle))
    return name


def write_converter(folder: Path, config: dict[str, Any] = CONVERTER) -> None:
    content = {
        "module": "keras_hub.src.layers.preprocessing.image_converter",
        "class_name": "ImageConverter",
        "config": {"name": "image_converter", **config},
        "registered_name": "keras_hub>ImageConverter",
    }
    (folder / hub.CONVERTER).write_text(json.dumps(content))


def official(name: str, height: int | None, width: int | None) -> Any:
    """KerasHub's own network of that row for photos of that size, with random weights."""
    import keras_hub

    kind, config, _ = hub.ROWS[name]
    shape = {"image_shape": (height, width, 3)}
    if kind == "EfficientNetBackbone":
        shape = {"input_shape": (height, width, 3)}
    if kind != "SigLIPBackbone":
        return getattr(keras_hub.models, kind)(**{**config, **shape})
    texts = {"vocabulary_size": 9, "embedding_dim": 16, "hidden_dim": 16, "num_layers": 1}
    texts |= {"num_heads": 2, "intermediate_dim": 24, "max_sequence_length": 4}
    tower = keras_hub.models.SigLIPVisionEncoder(**{**config, **shape})
    return keras_hub.models.SigLIPBackbone(tower, keras_hub.models.SigLIPTextEncoder(**texts))


def save_preset(folder: Path, name: str, height: int = 96, width: int = 64) -> Any:
    """KerasHub's own network of that row, saved by KerasHub; returns it."""
    network, rng = official(name, height, width), np.random.default_rng(3)
    for layer in network._flatten_layers():
        if type(layer).__name__ == "BatchNormalization" and layer.built:
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])
    for weight in network.weights:  # of DINOv2's two position embeddings one is the other
        if "_token" in weight.path or "position_embedding" in weight.path:
            weight.assign(np.random.default_rng(4).normal(size=weight.shape))
    network.save_to_preset(str(folder))
    write_converter(folder)
    return network

"""A network that trains in seconds. Imports keras only when it is made: the backend is chosen before."""

from pathlib import Path
from typing import Any


def add_tiny() -> str:
    """Put "tiny" into the registry of backbones: three small convolutions, one of them depthwise, with BN."""
    from carcls.nets import registry as backbones

    backbones.REGISTRY["tiny"] = backbones.Backbone(
        "tiny", "keras", tiny, "x / 127.5 - 1", None, "tests"
    )
    return "tiny"


def saved(path: Path) -> Path:
    """A file of weights of "tiny", with statistics that are those of no photos."""
    import numpy as np

    network, rng = tiny((None, None, 3)), np.random.default_rng(0)
    network.set_weights(
        [rng.uniform(0.5, 1.5, w.shape) if "batch_norm" in w.path else w for w in network.weights]
    )
    network.save_weights(path)
    return path


def tiny(shape: tuple[int | None, int | None, int]) -> Any:
    """(height, width, 3) → a keras.Model with 16 channels at a quarter of the size."""
    import keras

    layers = keras.layers

    class Block(layers.Layer):
        """BN and ReLU, and a BN that it never calls, as keras-cv's blocks that do not expand have one."""

        def __init__(self, **options: Any):
            super().__init__(**options)
            self.bn = layers.BatchNormalization(momentum=0.8, name="batch_normalization")
            self.unused = layers.BatchNormalization(momentum=0.8)

        def build(self, shape: Any) -> None:
            self.bn.build(shape)

        def call(self, x: Any, training: Any = None) -> Any:
            return keras.ops.relu(self.bn(x, training=training))

    images = keras.Input(shape)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(images)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.8)(x))
    x = layers.DepthwiseConv2D(5, padding="same", use_bias=False)(x)
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x)
    return keras.Model(images, Block()(x))

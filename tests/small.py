"""A network that trains in seconds. Keras is imported when it is made: its backend comes first."""

from pathlib import Path
from typing import Any

from carcls.nets import registry


def tiny(shape: tuple[int | None, int | None, int]) -> Any:
    """(height, width, 3) → three small convolutions, one depthwise, with BN; 16 channels."""
    import keras

    layers = keras.layers

    class Block(layers.Layer):
        """BN and ReLU, and a BN that is never called: keras-cv's unexpanded blocks have one."""

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


ENTRY = registry.Backbone("tiny", "keras", tiny, "x / 127.5 - 1", None, "tests")


def add_tiny() -> str:
    """Put it into the registry for as long as the process lives."""
    registry.REGISTRY["tiny"] = ENTRY
    return "tiny"


def saved(path: Path) -> Path:
    """A file of its weights, with statistics that are those of no photos."""
    import numpy as np

    network, rng = tiny((None, None, 3)), np.random.default_rng(0)
    network.set_weights(
        [rng.uniform(0.5, 1.5, w.shape) if "batch_norm" in w.path else w for w in network.weights]
    )
    network.save_weights(path)
    return path

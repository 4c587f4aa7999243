"""KerasHub's vision transformers at any size of photos, all sizes with one set of weights.

KerasHub builds most of them for one square. Here the position embedding keeps its preset's grid and
is resized to the photos' grid at every call, so that nothing is built anew between two stages: a
step of one size and a step of the next train the same numbers.
"""

from __future__ import annotations

from functools import cache
from math import isqrt
from operator import attrgetter
from typing import Any

from carcls.nets import fast

# Of each family's first layer: where it has its convolution to patches, its position embedding if
# there is one, and the tokens that it puts before the patches.
_FIRST = {
    "ViTPatchingAndEmbedding": ("patch_embedding", "position_embedding.embeddings", "class_token"),
    "DeiTEmbeddings": ("patch_embedding", "position_embedding", "class_token distillation_token"),
    "DINOV2Embedding": (
        *("patch_embeddings.projection", "interpolated_position_embeddings", "cls_token"),
    ),
    "DINOV3Embedding": ("patch_embeddings.projection", "", "cls_token register_tokens"),
    "SigLIPVisionEmbedding": ("patch_embedding", "position_embedding.embeddings", ""),
}
# Which tokens are the features that the head pools: those that pretraining has taught to say what
# is seen. Of ViT and DeiT the class tokens: their loss never saw the last block's patches. Of the
# others the patches: DINO's loss is over them too, and SigLIP's own head pools them.
_FEATURES = {"ViTBackbone": slice(1), "DeiTBackbone": slice(2)}


def make(models: Any, kind: str, config: dict[str, Any]) -> Any:
    """A network from pixels (B, H, W, 3), multiples of its patch, to features (B, 1, tokens, C).

    models: of keras_hub. Of SigLIP it is the vision encoder, without its own pooling.
    """
    import keras

    if kind == "SigLIPBackbone":
        network = models.SigLIPVisionEncoder(**config)
        tokens = network.post_layer_norm.output
    else:
        network = getattr(models, kind)(**config)
        tokens = network.output
    for layer in network.layers:
        plain: Any = type(layer)
        if plain.__name__ in _FIRST:
            fast.replace([layer], _first_layer(plain))
        elif plain.__name__ == "DINOV3RopePositionEmbedding":
            fast.replace([layer], _rotations(plain))
    images = keras.Input((None, None, 3), name="images")
    x = keras.Model(network.inputs[0], tokens).call(images)  # (B, tokens, C)
    if kind == "SigLIPBackbone":  # one layer of that class, as the whole has it in its files
        x = type("SigLIPVisionEncoder", (keras.Model,), {})(images, x)(images)
    before = 1 + config.get("num_register_tokens", 0) if kind.startswith("DINO") else 0
    features = x[:, _FEATURES.get(kind, slice(before, None))]
    return keras.Model(images, keras.ops.expand_dims(features, 1), name=network.name)


@cache
def _first_layer(plain: type) -> type:
    """From pixels to tokens, with positions for the photos' grid."""
    import keras

    ops, base = keras.ops, keras.layers.Layer
    convolution, positions, names = _FIRST[plain.__name__]

    def call(self: Any, inputs: Any, training: bool | None = None) -> Any:
        """(B, H, W, 3) → (B, tokens, C)."""
        patches = attrgetter(convolution)(self)(inputs)  # (B, h, w, C)
        batch, height, width, channels = ops.shape(patches)
        before = [getattr(self, name) for name in names.split()]  # each (1, n, C)
        before = [ops.broadcast_to(token, (batch, *token.shape[1:])) for token in before]
        x = ops.concatenate([*before, ops.reshape(patches, (batch, -1, channels))], 1)
        if positions:
            x += ops.cast(resize(attrgetter(positions)(self), height, width), x.dtype)
        if hasattr(self, "mask_token"):  # else TensorFlow warns that it has no gradient
            x += 0 * self.mask_token
        return x

    def compute_output_shape(self: Any, shape: Any) -> Any:
        return shape[0], None, self.hidden_dim

    return fast.stand_in(
        plain,
        call=call,
        compute_output_shape=compute_output_shape,
        # DINOv2's own keep two position embeddings, and of one that was trained only what makes
        # the sum of its numbers smaller.
        save_own_variables=base.save_own_variables,
        load_own_variables=base.load_own_variables,
    )


def resize(positions: Any, height: Any, width: Any) -> Any:
    """A position embedding (…, n + side², C) for another grid: (n + height × width, C) float32.

    The first n are of no place and stay. Bicubic (Keys 1981, a = -0.5) without antialiasing, as
    KerasHub's DINOv2 does; at its own grid it is itself. Two matrix products, as sizes that only
    the graph knows are not taken by every backend's resize.
    """
    import keras

    ops = keras.ops
    count, channels = positions.shape[-2:]
    side = isqrt(count)
    n = count - side**2
    table = ops.reshape(ops.cast(positions, "float32"), (count, channels))
    rows, columns = (_bicubic(side, size) for size in (height, width))  # (height, side), …
    grid = ops.matmul(rows, ops.reshape(table[n:], (side, side * channels)))
    grid = ops.matmul(columns, ops.reshape(grid, (-1, side, channels)))  # (height, width, C)
    return ops.concatenate([table[:n], ops.reshape(grid, (-1, channels))], 0)


def _bicubic(side: int, size: Any) -> Any:
    """(size, side) float32: how much of each old place is in each new one."""
    import keras

    ops = keras.ops
    old, new = (ops.arange(count, dtype="float32") for count in (side, size))
    at = (new + 0.5) * (side / ops.cast(size, "float32")) - 0.5
    d = ops.abs(at[:, None] - old)
    near, far = (1.5 * d - 2.5) * d * d + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2
    parts = ops.where(d < 1, near, ops.where(d < 2, far, 0.0))
    return parts / ops.sum(parts, 1, keepdims=True)


@cache
def _rotations(plain: type) -> type:
    """DINOv3's, of a grid that only the graph may know."""
    import keras

    ops = keras.ops

    def centres(self: Any, height: Any, width: Any, dtype: str = "float32") -> Any:
        """(height × width, 2): where each patch is, -1 to 1 from top to bottom, left to right."""
        sides = (
            (ops.arange(size, dtype=dtype) + 0.5) * 2 / ops.cast(size, dtype) - 1
            for size in (height, width)
        )
        return ops.reshape(ops.stack(ops.meshgrid(*sides, indexing="ij"), -1), (-1, 2))

    def compute_output_shape(self: Any, shape: Any) -> Any:
        return (None, self.head_dim), (None, self.head_dim)

    return fast.stand_in(
        plain, _get_patches_center_coordinates=centres, compute_output_shape=compute_output_shape
    )

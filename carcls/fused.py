"""TensorFlow's fused batch normalisation behind Keras's layer: same numbers in fewer passes over memory.

Keras 3 runs batch normalisation as a chain of separate ops; XLA would fuse it by itself. How much that gains is the
machine's affair; `make bench` prints it together with oneDNN's kernels (1.3 times, 1.05 to 1.34, on a shared two-core machine).
"""

from __future__ import annotations

from functools import cache
from typing import Any

_MIN_EPSILON = 1.001e-5  # tf.compat.v1.nn.fused_batch_norm raises a smaller epsilon to this one, silently


@cache
def _fused_class() -> type:
    import keras
    import tensorflow as tf

    plain, dtypes = keras.layers.BatchNormalization, (tf.float32, tf.float16, tf.bfloat16)

    def call(self: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """(B, H, W, C) → the same shape and dtype, as ``keras.layers.BatchNormalization.call``."""
        if mask is not None or len(inputs.shape) != 4 or inputs.dtype not in dtypes:
            return plain.call(self, inputs, training=training, mask=mask)
        scale, offset = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        if not (training and self.trainable):
            outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                scale,
                offset,
                mean=tf.convert_to_tensor(self.moving_mean),
                variance=tf.convert_to_tensor(self.moving_variance),
                epsilon=self.epsilon,
                is_training=False,
            )
            return tf.cast(outputs, self.compute_dtype)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, scale, offset, epsilon=self.epsilon, is_training=True
        )
        # The kernel divides the variance by n - 1, Keras by n (photos × height × width). One value has none.
        n = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], variance.dtype)
        variance = tf.where(n > 1, variance * (n - 1) / n, tf.zeros_like(variance))
        keep = self.momentum
        self.moving_mean.assign(self.moving_mean * keep + mean * (1 - keep))
        self.moving_variance.assign(self.moving_variance * keep + variance * (1 - keep))
        return tf.cast(outputs, self.compute_dtype)

    # Keras names weights in files after the layer's class, and rebuilds layers from module and class: with
    # the plain layer's names, what a fused model saved loads into a plain one, and the other way round.
    return type(plain.__name__, (plain,), {"call": call, "__module__": plain.__module__, "__doc__": __doc__})


def _fits(layer: Any) -> bool:
    import keras

    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.built
        and layer.axis in (-1, 3)
        and layer.input_spec.ndim == 4
        and layer.center
        and layer.scale
        and not layer.synchronized
        and layer.epsilon >= _MIN_EPSILON
    )


def fuse_batch_norm(model: Any) -> int:
    """Switch the batch normalisations of a built Keras model, nested ones too, to the fused kernel, in place.

    Returns how many it switched: 0 on a backend other than TensorFlow. A layer that the kernel does not cover
    (not 4-D, not channels last, no scale or shift, synchronised, epsilon below 1.001e-5) stays as it is.
    Call it before ``compile``, and only where steps are not compiled by XLA.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return 0
    layers = [layer for layer in model._flatten_layers() if _fits(layer)]
    for layer in layers:
        # Not through Keras's own __setattr__, which tracks whatever it is given.
        object.__setattr__(layer, "__class__", _fused_class())
    return len(layers)

"""Faster TensorFlow kernels behind Keras's layers, where XLA does not compile the step: same numbers, same weight files.

How much they gain is the machine's affair; `make bench` prints it together with oneDNN's kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

_MIN_EPSILON = (
    1.001e-5  # tf.compat.v1.nn.fused_batch_norm raises a smaller epsilon to this one, silently
)


@cache
def _fused_batch_norm() -> type:
    """Keras 3 normalises in a chain of separate operations; TensorFlow's kernel takes fewer passes over memory."""
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
        # The kernel divides the variance by n - 1, Keras by n (photos × height × width). One value
        # has none.
        n = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], variance.dtype)
        variance = tf.where(n > 1, variance * (n - 1) / n, tf.zeros_like(variance))
        keep = self.momentum
        self.moving_mean.assign(self.moving_mean * keep + mean * (1 - keep))
        self.moving_variance.assign(self.moving_variance * keep + variance * (1 - keep))
        return tf.cast(outputs, self.compute_dtype)

    return _in_the_place_of(plain, call)


@cache
def _large_depthwise_conv() -> type:
    """oneDNN has no kernel of its own for the filter gradient of depthwise convolutions beyond 3×3, and takes slower ones for
    dense convolutions: 98 ms against TensorFlow's 28 for the nine of Lite0 (128 px, 16 photos, two cores with AVX2, timed one
    by one; AVX-512 not measured). A whole step became 1.07 to 1.16 times as fast. TensorFlow does not ask it where the
    padding is explicit; the other passes stay oneDNN's.
    """
    import keras
    import tensorflow as tf

    plain = keras.layers.DepthwiseConv2D

    def call(self: Any, inputs: Any) -> Any:
        """(B, H, W, C) → (B, h, w, C × multiplier), as ``keras.layers.DepthwiseConv2D.call``."""
        if inputs.dtype != tf.float32:
            return plain.call(self, inputs)
        strides, padding = (1, *self.strides, 1), self.padding.upper()
        around = [((k - 1) // 2, k // 2) if padding == "SAME" else (0, 0) for k in self.kernel_size]
        explicit = [0, 0, *around[0], *around[1], 0, 0]

        @tf.custom_gradient
        def convolve(x: Any, kernel: Any) -> Any:
            def gradients(upstream: Any) -> tuple[Any, Any]:
                return tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                    input_sizes=tf.shape(x),
                    filter=kernel,
                    out_backprop=upstream,
                    strides=strides,
                    padding=padding,
                ), tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
                    input=x,
                    filter_sizes=kernel.shape,
                    out_backprop=upstream,
                    strides=strides,
                    padding="EXPLICIT",
                    explicit_paddings=explicit,
                )

            return tf.nn.depthwise_conv2d(x, kernel, strides, padding), gradients

        return self.activation(convolve(inputs, tf.convert_to_tensor(self.kernel)))

    return _in_the_place_of(plain, call)


def _in_the_place_of(plain: type, call: Any) -> type:
    """A class that computes by ``call``.

    Keras names weights in files after the layer's class, and rebuilds layers from module and class: with the plain
    layer's names, what the one saved loads into the other, and the other way round.
    """
    return type(
        plain.__name__,
        (plain,),
        {"call": call, "__module__": plain.__module__, "__doc__": plain.__doc__},
    )


def _fits_batch_norm(layer: Any) -> bool:
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


def _fits_depthwise(layer: Any) -> bool:
    import keras

    return (
        type(layer) is keras.layers.DepthwiseConv2D
        and layer.built
        and max(layer.kernel_size) > 3
        and (layer.padding == "valid" or layer.strides == (1, 1))
        and layer.dilation_rate == (1, 1)
        and layer.data_format == "channels_last"
        and not layer.use_bias
    )


def fuse_batch_norm(model: Any) -> int:
    """Switch the batch normalisations of a built Keras model, nested ones too, to the fused kernel, in place.

    Returns how many it switched: 0 on a backend other than TensorFlow. A layer that the kernel does not cover
    (not 4-D, not channels last, no scale or shift, synchronised, epsilon below 1.001e-5) stays as it is.
    Call it before ``compile``, and only where steps are not compiled by XLA.
    """
    return _switch(model, _fits_batch_norm, _fused_batch_norm)


def speed_up_depthwise(model: Any) -> int:
    """Switch the depthwise convolutions beyond 3×3 of a built Keras model, nested ones too, to a faster gradient, in place.

    Returns how many it switched: 0 on a backend other than TensorFlow. Layers with a bias, dilation, or strides and padding
    "same" stay as they are, and so does what is not float32. Call it before ``compile``, on a CPU, and only where steps are
    not compiled by XLA.
    """
    return _switch(model, _fits_depthwise, _large_depthwise_conv)


def _switch(model: Any, fits: Callable[[Any], bool], kind: Callable[[], type]) -> int:
    import keras

    if keras.backend.backend() != "tensorflow":
        return 0
    layers = [layer for layer in model._flatten_layers() if fits(layer)]
    for layer in layers:
        # Not through Keras's own __setattr__, which tracks whatever it is given.
        object.__setattr__(layer, "__class__", kind())
    return len(layers)

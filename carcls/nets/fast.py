"""Faster TensorFlow kernels behind Keras's layers, for steps that XLA does not compile.

They give the same numbers and fit the same weight files; `make bench` prints what they gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

# tf.compat.v1.nn.fused_batch_norm raises a smaller epsilon to this one, silently.
_MIN_EPSILON = 1.001e-5


def fuse_batch_norm(model: Any) -> int:
    """Switch batch normalisations, nested ones too, to TensorFlow's fused kernel; returns how many.

    For a built model, before ``compile``. What the kernel does not cover stays as it is.
    """
    return _switch(model, _fits_batch_norm, _fused_batch_norm)


def speed_up_depthwise(model: Any) -> int:
    """Switch depthwise convolutions beyond 3×3 to a gradient faster on a CPU; returns how many.

    For a built model, before ``compile``. Layers with a bias, dilation, or strides and padding
    "same" stay as they are, and so does what is not float32.
    """
    return _switch(model, _fits_depthwise, _large_depthwise_conv)


def stand_in(plain: type, **methods: Any) -> type:
    """A layer class that computes by these methods and otherwise passes for the plain one.

    Keras finds weights and layers in files by their class's name and module: under the plain ones,
    what one class saved loads into the other.
    """
    names = {"__module__": plain.__module__, "__doc__": plain.__doc__}
    return type(plain.__name__, (plain,), {**methods, **names})


def replace(layers: Iterable[Any], kind: type) -> int:
    """Make layers of that class, in place; returns how many."""
    layers = list(layers)
    for layer in layers:
        # Not through Keras's own __setattr__, which tracks whatever it is given.
        object.__setattr__(layer, "__class__", kind)
    return len(layers)


def _switch(model: Any, fits: Callable[[Any], bool], make_class: Callable[[], type]) -> int:
    """Replace what fits, on TensorFlow alone."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return 0
    return replace(filter(fits, model._flatten_layers()), make_class())


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


@cache
def _fused_batch_norm() -> type:
    """Keras normalises in a chain of operations; TensorFlow's kernel reads memory less often."""
    import keras
    import tensorflow as tf

    plain, dtypes = keras.layers.BatchNormalization, (tf.float32, tf.float16, tf.bfloat16)
    kernel = tf.compat.v1.nn.fused_batch_norm

    def call(self: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """(B, H, W, C) → the same shape and dtype, as ``BatchNormalization.call``."""
        if mask is not None or len(inputs.shape) != 4 or inputs.dtype not in dtypes:
            return plain.call(self, inputs, training=training, mask=mask)
        scale, offset, *statistics = map(
            tf.convert_to_tensor, (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        learns = bool(training and self.trainable)
        given = [] if learns else statistics
        outputs, mean, variance = kernel(
            inputs, scale, offset, *given, epsilon=self.epsilon, is_training=learns
        )
        if not learns:
            return tf.cast(outputs, self.compute_dtype)
        # The kernel divides the variance by n - 1, Keras by n (photos × height × width). A single
        # value has none.
        n = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], variance.dtype)
        variance = tf.where(n > 1, variance * (n - 1) / n, tf.zeros_like(variance))
        keep = self.momentum
        self.moving_mean.assign(self.moving_mean * keep + mean * (1 - keep))
        self.moving_variance.assign(self.moving_variance * keep + variance * (1 - keep))
        return tf.cast(outputs, self.compute_dtype)

    return stand_in(plain, call=call)


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


@cache
def _large_depthwise_conv() -> type:
    """The filter gradient by TensorFlow's own kernel, all else by oneDNN (MEASUREMENTS: Depthwise).

    oneDNN has no kernel for that gradient beyond 3×3 and takes a slow one; where the padding is
    explicit TensorFlow does not ask it.
    """
    import keras
    import tensorflow as tf

    plain = keras.layers.DepthwiseConv2D

    def call(self: Any, inputs: Any) -> Any:
        """(B, H, W, C) → (B, h, w, C × multiplier), as ``DepthwiseConv2D.call``."""
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

    return stand_in(plain, call=call)

"""Faster TensorFlow kernels behind Keras's layers, for steps that XLA does not compile.

They give the same numbers and fit the same weight files; `make bench` prints what they gain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_MIN_EPSILON = 1e-5  # the least that was tried, on a CPU; not run on a GPU


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


def split_groups(model: Any, on_cpu: bool) -> int:
    """Switch convolutions of one channel a group to depthwise kernels; returns how many.

    For a built model, before ``compile``. Keras has XLA compile each of them by itself, as
    TensorFlow has no gradient of grouped convolutions on a CPU.
    """
    return _switch(model, _fits_groups, lambda: _one_channel_a_group(on_cpu))


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
    # Not tf.compat.v1.nn.fused_batch_norm, which raises a smaller epsilon to 1.001e-5, silently.
    kernel = tf.raw_ops.FusedBatchNormV3

    def call(self: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """(B, H, W, C) → the same shape and dtype, as ``BatchNormalization.call``."""
        if mask is not None or len(inputs.shape) != 4 or inputs.dtype not in dtypes:
            return plain.call(self, inputs, training=training, mask=mask)
        scale, offset, *statistics = map(
            tf.convert_to_tensor, (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        learns = bool(training and self.trainable)
        given = [tf.zeros(0), tf.zeros(0)] if learns else statistics
        outputs, mean, variance, *_ = kernel(
            x=inputs,
            scale=scale,
            offset=offset,
            mean=given[0],
            variance=given[1],
            epsilon=self.epsilon,
            is_training=learns,
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
    import keras
    import tensorflow as tf

    plain = keras.layers.DepthwiseConv2D

    def call(self: Any, inputs: Any) -> Any:
        """(B, H, W, C) → (B, h, w, C × multiplier), as ``DepthwiseConv2D.call``."""
        if inputs.dtype != tf.float32:
            return plain.call(self, inputs)
        return self.activation(_convolve_large(self, inputs, tf.convert_to_tensor(self.kernel)))

    return stand_in(plain, call=call)


def _convolve_large(layer: Any, inputs: Any, weights: Any) -> Any:
    """The filter gradient by TensorFlow's own kernel, all else by oneDNN (MEASUREMENTS: Depthwise).

    oneDNN has no kernel for that gradient beyond 3×3 and takes a slow one; where the padding is
    explicit TensorFlow does not ask it. weights: (height, width, C, multiplier).
    """
    import tensorflow as tf

    strides, padding = (1, *layer.strides, 1), layer.padding.upper()
    around = [((k - 1) // 2, k // 2) if padding == "SAME" else (0, 0) for k in layer.kernel_size]
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

    return convolve(inputs, weights)


def _fits_groups(layer: Any) -> bool:
    import keras

    return (
        type(layer) is keras.layers.Conv2D
        and layer.built
        and layer.groups == layer.filters > 1
        and layer.kernel.shape[2] == 1
        and layer.strides[0] == layer.strides[1]
        and layer.dilation_rate == (1, 1)
        and layer.data_format == "channels_last"
        and not layer.use_bias
    )


@cache
def _one_channel_a_group(on_cpu: bool) -> type:
    import keras
    import tensorflow as tf

    def call(self: Any, inputs: Any) -> Any:
        """(B, H, W, C) → (B, h, w, C), as ``Conv2D.call``."""
        kernel = tf.transpose(tf.convert_to_tensor(self.kernel), (0, 1, 3, 2))  # (k, k, C, 1)
        is_large = max(self.kernel_size) > 3 and (self.padding == "valid" or self.strides == (1, 1))
        if on_cpu and is_large and inputs.dtype == tf.float32:
            outputs = _convolve_large(self, inputs, kernel)
        else:
            strides = (1, *self.strides, 1)
            outputs = tf.nn.depthwise_conv2d(inputs, kernel, strides, self.padding.upper())
        return self.activation(outputs)

    return stand_in(keras.layers.Conv2D, call=call)


def _is_news(said: logging.LogRecord) -> bool:
    """Whether to print it. That functions are traced often is none: each network has its own."""
    return "triggered tf.function retracing" not in said.getMessage()


@contextmanager
def forgetting_traces() -> Iterator[None]:
    """What is traced inside can be given back: networks that train no more after it.

    TensorFlow registers the custom gradients of each trace, ours and its own, for ever, and with
    them the trace's whole graph. Of a TensorFlow that keeps them elsewhere nothing is given back.
    """
    from tensorflow.python.framework import ops

    registry = getattr(ops, "gradient_registry", None)
    registered: dict[str, Any] = getattr(registry, "_registry", {})
    before = set(registered)
    logger = logging.getLogger("tensorflow")
    logger.addFilter(_is_news)
    try:
        yield
    finally:
        logger.removeFilter(_is_news)
        for name in set(registered) - before:
            if name.startswith("CustomGradient-"):
                del registered[name]

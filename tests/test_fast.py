"""The faster kernels give Keras's own numbers."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from carcls.nets.fast import forgetting_traces, fuse_batch_norm, speed_up_depthwise, split_groups


class Block(keras.layers.Layer):
    """A layer that holds its batch normalisation as an attribute, as keras-cv's blocks do."""

    def __init__(self):
        super().__init__()
        self.bn = keras.layers.BatchNormalization(momentum=0.7)

    def build(self, shape):
        self.bn.build(shape)

    def call(self, x, training=None):
        return self.bn(x, training=training)


def net(dtype="float32", epsilon=1e-3):
    keras.utils.set_random_seed(3)
    make = {
        "kernel_initializer": keras.initializers.RandomNormal(stddev=0.5),
        "dtype": dtype,
        "use_bias": False,
    }
    x = inputs = keras.Input((6, 5, 3))
    x = keras.layers.Conv2D(4, 3, **make)(x)
    x = keras.layers.BatchNormalization(
        momentum=0.8,
        epsilon=epsilon,
        dtype=dtype,
        gamma_initializer=keras.initializers.RandomUniform(0.5, 2),
        beta_initializer=keras.initializers.RandomUniform(-1, 1),
    )(x)
    x = keras.layers.Activation("relu", dtype=dtype)(x)
    if dtype == "float32":
        x = Block()(x)
    return keras.Model(inputs, x)


def photos(batch=4, dtype="float32", seed=0):
    return (np.random.default_rng(seed).normal(2, 3, (batch, 6, 5, 3))).astype(dtype)


def step(model, x):
    """One training step by plain gradient descent; returns output and gradients."""
    with tf.GradientTape() as tape:
        y = model(x, training=True)
        loss = tf.reduce_mean(tf.square(tf.cast(y, "float32") - 0.3))
    grads = tape.gradient(loss, [w.value for w in model.trainable_variables])
    for weight, grad in zip(model.trainable_variables, grads, strict=True):
        weight.assign_sub(0.1 * grad)
    return np.asarray(y, "float32"), [np.asarray(g, "float32") for g in grads]


def assert_same(left, right, **tolerance):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(np.asarray(a, "float32"), np.asarray(b, "float32"), **tolerance)


def assert_same_step(plain, fused, x):
    y_plain, g_plain = step(plain, x)
    y_fused, g_fused = step(fused, x)
    assert_same([y_fused], [y_plain], rtol=1e-4, atol=1e-5)
    assert_same(g_fused, g_plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
def test_training_matches_keras_for_several_steps(epsilon):
    plain, fused = net(epsilon=epsilon), net(epsilon=epsilon)
    assert (fuse_batch_norm(fused), fuse_batch_norm(fused)) == (2, 0)
    before = [w.numpy() for w in plain.weights]
    for seed in range(4):
        assert_same_step(plain, fused, photos(seed=seed))
    # Moving mean and variance are among the weights.
    assert_same(fused.weights, plain.weights, rtol=1e-4, atol=1e-5)
    moved = [np.abs(a - b.numpy()).max() for a, b in zip(before, plain.weights, strict=True)]
    assert min(moved) > 1e-5
    assert_same([fused(photos(seed=9))], [plain(photos(seed=9))], rtol=1e-4, atol=1e-5)


def test_the_variance_is_keras_s_biased_one():
    layer = keras.layers.BatchNormalization(momentum=0.0)
    model = keras.Sequential([keras.Input((1, 3, 1)), layer])
    fuse_batch_norm(model)
    model(np.float32([[[[1], [2], [6]]]]), training=True)
    np.testing.assert_allclose(model.layers[0].moving_variance, [14 / 3], rtol=1e-6)  # not 14 / 2


def test_frozen_layers_use_and_keep_their_statistics():
    plain, fused = net(), net()
    fuse_batch_norm(fused)
    for model in (plain, fused):
        step(model, photos())
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    moving = [w.numpy() for w in fused.non_trainable_variables]
    assert_same_step(plain, fused, photos(seed=1))
    assert_same(moving, fused.non_trainable_variables, rtol=0, atol=0)


def test_mixed_precision_keeps_float32_statistics():
    plain, fused = net("mixed_float16"), net("mixed_float16")
    assert fuse_batch_norm(fused) == 1
    x = photos(dtype="float16")
    for _ in range(3):
        y_plain, _ = step(plain, x)
        y_fused, _ = step(fused, x)
        np.testing.assert_allclose(y_fused, y_plain, rtol=1e-2, atol=1e-2)
    assert fused(x).dtype == "float16"
    assert all(w.dtype == "float32" for w in fused.weights)
    assert_same(fused.weights, plain.weights, rtol=5e-3, atol=5e-3)


def test_a_single_value_has_no_variance():
    kind = keras.layers.BatchNormalization
    plain, fused = (keras.Sequential([keras.Input((1, 1, 2)), kind()]) for _ in range(2))
    fuse_batch_norm(fused)
    x = np.float32([[[[3, -5]]]])
    np.testing.assert_allclose(fused(x, training=True), plain(x, training=True), atol=1e-6)
    assert_same(fused.weights, plain.weights, rtol=1e-6)
    assert np.isfinite(np.asarray(fused.layers[0].moving_variance)).all()


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((4, 4, 3), {"center": False}),
        ((4, 4, 3), {"scale": False}),
        ((4, 4, 3), {"axis": 1}),
        ((4, 4, 3), {"epsilon": 1e-6}),
        ((7,), {}),
    ],
)
def test_layers_the_kernel_does_not_cover_stay_plain(shape, settings):
    layer = keras.layers.BatchNormalization(**settings)
    assert fuse_batch_norm(keras.Sequential([keras.Input(shape), layer])) == 0


# --- Depthwise convolutions -----------------------------------------------------------------------


def depthwise(kernel=5, dtype="float32", **settings):
    keras.utils.set_random_seed(4)
    inputs = keras.Input((None, None, 3))
    usual = {"padding": "same", "use_bias": False, "dtype": dtype, "activation": "relu6"}
    return keras.Model(inputs, keras.layers.DepthwiseConv2D(kernel, **usual | settings)(inputs))


def images(height=11, width=9, dtype="float32"):
    return np.random.default_rng(5).normal(0, 3, (4, height, width, 3)).astype(dtype)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kernel": (4, 7)},
        {"padding": "valid"},
        {"padding": "valid", "strides": 2},
        {"padding": "valid", "strides": 2, "kernel": 7, "depth_multiplier": 2},
    ],
)
def test_a_large_depthwise_convolution_trains_as_keras_s_own(settings):
    plain, fast = depthwise(**settings), depthwise(**settings)
    assert speed_up_depthwise(fast) == 1
    for size in ((11, 9), (12, 8)):
        outputs, gradients = [], []
        for model in (plain, fast):
            x = tf.constant(images(*size))
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = model(x, training=True)
                loss = tf.reduce_mean(tf.square(y - 0.3))
            outputs.append(y)
            gradients.append(tape.gradient(loss, [x, model.layers[-1].kernel.value]))
        np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
        assert_same(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
        assert np.abs(gradients[0][1]).min() > 1e-6


def test_its_filter_gradient_is_one_that_onednn_leaves_alone():
    """TensorFlow does not hand explicit padding to oneDNN; all else of the layer may go there."""
    model = depthwise()
    speed_up_depthwise(model)

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(model(x, training=True))
        return tape.gradient(y, [x, model.layers[-1].kernel.value])

    graph = gradients.get_concrete_function(tf.TensorSpec((None, None, None, 3))).graph
    convolutions = [op for op in graph.get_operations() if op.type.startswith("DepthwiseConv2d")]
    assert {op.type: op.get_attr("padding") for op in convolutions} == {
        "DepthwiseConv2dNative": b"SAME",
        "DepthwiseConv2dNativeBackpropInput": b"SAME",
        "DepthwiseConv2dNativeBackpropFilter": b"EXPLICIT",
    }


def test_other_depthwise_convolutions_stay_plain():
    for settings in ({"kernel": 3}, {"strides": 2}, {"dilation_rate": 2}, {"use_bias": True}):
        assert speed_up_depthwise(depthwise(**settings)) == 0, settings
    model = depthwise()
    assert (speed_up_depthwise(model), speed_up_depthwise(model)) == (1, 0)
    half = depthwise(dtype="bfloat16")
    x = tf.constant(images(), "bfloat16")
    before = half(x)
    assert speed_up_depthwise(half) == 1
    assert half(x).dtype == "bfloat16"
    assert_same([half(x)], [before], rtol=0, atol=0)


# --- Convolutions of one channel a group ----------------------------------------------------------


def grouped(kernel=5, filters=3, groups=3, dtype="float32", **settings):
    keras.utils.set_random_seed(4)
    inputs = keras.Input((None, None, 3))
    usual = {"padding": "same", "use_bias": False, "dtype": dtype, "activation": "relu6"}
    layer = keras.layers.Conv2D(filters, kernel, groups=groups, **usual | settings)
    return keras.Model(inputs, layer(inputs))


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("settings", [{}, {"kernel": 3, "strides": 2, "padding": "valid"}])
def test_a_convolution_of_one_channel_a_group_trains_as_keras_s_own(settings, on_cpu):
    plain, fast = grouped(**settings), grouped(**settings)
    assert (split_groups(fast, on_cpu), split_groups(fast, on_cpu)) == (1, 0)
    outputs, gradients = [], []
    for model in (plain, fast):
        x = tf.constant(images())
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
            loss = tf.reduce_mean(tf.square(y - 0.3))
        outputs.append(y)
        gradients.append(tape.gradient(loss, [x, model.layers[-1].kernel.value]))
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
    assert_same(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    assert np.abs(gradients[0][1]).min() > 1e-6


def test_other_convolutions_stay_plain():
    one = {"filters": 3, "groups": 1}
    for settings in (one, {"filters": 6}, {"use_bias": True}, {"dilation_rate": 2}):
        assert split_groups(grouped(**settings), True) == 0, settings
    half = grouped(dtype="bfloat16")
    assert split_groups(half, True) == 1
    assert half(tf.constant(images(), "bfloat16")).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("make", "switch"),
    [
        (partial(net, "mixed_float16"), fuse_batch_norm),
        (depthwise, speed_up_depthwise),
        (grouped, partial(split_groups, on_cpu=True)),
    ],
)
def test_weights_and_models_move_between_fast_and_plain(make, switch, tmp_path):
    plain, fast = make(), make()
    assert switch(fast) == 1
    for source, target in ((fast, plain), (plain, fast)):
        source.set_weights([2 * w for w in source.get_weights()])
        source.save_weights(tmp_path / "net.weights.h5")
        target.load_weights(tmp_path / "net.weights.h5")
        assert_same(target.weights, source.weights, rtol=0, atol=0)
    fast.save(tmp_path / "fast.keras")
    again = keras.models.load_model(tmp_path / "fast.keras")
    assert_same(again.weights, fast.weights, rtol=0, atol=0)
    assert switch(again) == 1  # it was plain


def test_a_tensorflow_that_registers_traces_elsewhere_ends_no_run(monkeypatch):
    ops = pytest.importorskip("tensorflow.python.framework.ops")
    for registry in (object(), None):
        monkeypatch.setattr(ops, "gradient_registry", registry)
        with forgetting_traces():
            pass
    monkeypatch.delattr(ops, "gradient_registry")
    with forgetting_traces():
        pass

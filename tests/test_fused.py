"""Fused batch normalisation gives Keras's own numbers."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from carcls.fused import fuse_batch_norm  # noqa: E402  # after the choice of backend

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the fused kernel is TensorFlow's")


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


def test_training_matches_keras_for_several_steps():
    plain, fused = net(), net()
    assert fuse_batch_norm(fused) == 2
    before = [w.numpy() for w in plain.weights]
    for seed in range(4):
        y_plain, g_plain = step(plain, photos(seed=seed))
        y_fused, g_fused = step(fused, photos(seed=seed))
        np.testing.assert_allclose(y_fused, y_plain, rtol=1e-4, atol=1e-5)
        assert_same(g_fused, g_plain, rtol=1e-3, atol=1e-5)
    assert_same(fused.weights, plain.weights, rtol=1e-4, atol=1e-5)  # moving mean and variance among them
    assert all(np.abs(a - b.numpy()).max() > 1e-5 for a, b in zip(before, plain.weights, strict=True))
    assert_same([fused(photos(seed=9))], [plain(photos(seed=9))], rtol=1e-4, atol=1e-5)


def test_the_variance_is_keras_s_biased_one():
    model = keras.Sequential([keras.Input((1, 3, 1)), keras.layers.BatchNormalization(momentum=0.0)])
    fuse_batch_norm(model)
    model(np.float32([[[[1], [2], [6]]]]), training=True)
    np.testing.assert_allclose(model.layers[0].moving_variance, [14 / 3], rtol=1e-6)  # not 14 / 2


def test_compiled_training_matches_keras():
    results = []
    for fuse in (False, True):
        model = net()
        if fuse:
            fuse_batch_norm(model)
        model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
        target = np.full((8, 4, 3, 4), 0.3, "float32")
        losses = model.fit(photos(8), target, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]
        results.append([losses, *(w.numpy() for w in model.weights)])
    assert_same(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_frozen_layers_use_and_keep_their_statistics():
    plain, fused = net(), net()
    fuse_batch_norm(fused)
    for model in (plain, fused):
        step(model, photos())
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    moving = [w.numpy() for w in fused.non_trainable_variables]
    y_plain, g_plain = step(plain, photos(seed=1))
    y_fused, g_fused = step(fused, photos(seed=1))
    np.testing.assert_allclose(y_fused, y_plain, rtol=1e-4, atol=1e-5)
    assert_same(g_fused, g_plain, rtol=1e-3, atol=1e-5)
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
    plain, fused = (keras.Sequential([keras.Input((1, 1, 2)), keras.layers.BatchNormalization()]) for _ in range(2))
    fuse_batch_norm(fused)
    x = np.float32([[[[3, -5]]]])
    np.testing.assert_allclose(fused(x, training=True), plain(x, training=True), atol=1e-6)
    assert_same(fused.weights, plain.weights, rtol=1e-6)
    assert np.isfinite(np.asarray(fused.layers[0].moving_variance)).all()


def test_weights_and_models_move_between_fused_and_plain(tmp_path):
    plain, fused = net(), net()
    fuse_batch_norm(fused)
    step(fused, photos())
    fused.save_weights(tmp_path / "fused.weights.h5")
    plain.load_weights(tmp_path / "fused.weights.h5")
    assert_same(plain.weights, fused.weights, rtol=0, atol=0)
    step(plain, photos())
    plain.save_weights(tmp_path / "plain.weights.h5")
    fused.load_weights(tmp_path / "plain.weights.h5")
    assert_same(plain.weights, fused.weights, rtol=0, atol=0)

    small = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.BatchNormalization()])
    fuse_batch_norm(small)
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert type(again.layers[0]) is keras.layers.BatchNormalization


@pytest.mark.parametrize("settings", [{"center": False}, {"scale": False}, {"axis": 1}, {"epsilon": 1e-6}])
def test_layers_the_kernel_does_not_cover_stay_plain(settings):
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.BatchNormalization(**settings)])
    assert fuse_batch_norm(model) == 0
    assert fuse_batch_norm(keras.Sequential([keras.Input((7,)), keras.layers.BatchNormalization()])) == 0


def test_fusing_twice_changes_nothing():
    model = net()
    assert (fuse_batch_norm(model), fuse_batch_norm(model)) == (2, 0)

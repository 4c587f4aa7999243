"""The network: what trains, at which rate, and what is frozen for good."""

import dataclasses
import os

import keras
import numpy as np
import pytest

from carcls import machine as runtime
from carcls.config import Config
from carcls.nets import model, schedule
from carcls.nets import registry as backbones

CFG = Config(weights="none", backbone="tiny", schedule="constant", warmup=0, lr=0.01, batch=4)
CPU = runtime.Runtime("tensorflow", ("cpu",), "float32", xla=False, fast_layers=True)


def data(n=8):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 24, 32, 3)).astype(np.float32), np.eye(3, dtype=np.float32)[
        np.arange(n) % 3
    ]


def peak(rate):
    """Let the optimiser have the peak rate at every step."""
    rate.follow(schedule.Course(0, CFG.warmup, 0.0))


def trained(cfg, rt=CPU, epochs=1):
    """Weights by path before and after some training, and the model."""
    keras.utils.set_random_seed(1)
    net, _ = model.build(cfg, rt, 3)
    model.open_layers(cfg, net, 0)
    peak(model.compile_model(cfg, net, rt))
    before = {w.path: w.numpy() for w in net.weights}
    net.fit(*data(), batch_size=4, epochs=epochs, verbose=0, shuffle=False)
    return before, {w.path: w.numpy() for w in net.weights}, net


def moved(before, after):
    return {path for path in before if not np.array_equal(before[path], after[path])}


def test_everything_trains_by_default(tiny):  # S31
    before, after, _ = trained(CFG)
    assert moved(before, after) == set(before)


def test_the_head_alone_and_a_fused_kernel_that_respects_it(tiny):
    before, after, _ = trained(CFG.replace(unfreeze="head"))
    assert {path.split("/")[0] for path in moved(before, after)} == {"head"}


def test_frozen_bn_does_not_move_under_fit_and_still_learns(tiny):  # S32, S33
    before, after, net = trained(CFG.replace(freeze_bn=True), epochs=20)
    kept = {path for path in before if "batch_normalization" in path}
    assert len(kept) == 8
    assert moved(before, after) == set(before) - kept
    _, _, untrained = trained(CFG.replace(freeze_bn=True), epochs=0)
    assert net.evaluate(*data(), verbose=0)[0] < 0.8 * untrained.evaluate(*data(), verbose=0)[0]


def test_staged_opens_from_the_head_down(tiny):  # S31
    cfg = CFG.replace(unfreeze="staged", stages="32x32x1,32x32x1,32x32x1")
    net, _ = model.build(cfg, CPU, 3)
    counts = []
    for stage in range(3):
        model.open_layers(cfg, net, stage)
        counts.append(len(net.trainable_variables))
    assert counts[0] == 2
    assert counts[0] < counts[1] < counts[2] == 2 + 7


def test_rates_by_depth_scale_the_steps_themselves(tiny):  # S34
    cfg = CFG.replace(optimizer="sgd", depth_decay=0.5)
    net, _ = model.build(cfg, CPU, 3)
    factors = model.depth_factors(cfg, net)
    assert factors == sorted(factors)
    assert factors[0] == 0.5**4
    assert factors[-1] == 1.0

    def steps(cfg):
        keras.utils.set_random_seed(1)
        net, _ = model.build(cfg, CPU, 3)
        peak(model.compile_model(cfg, net, CPU))
        before = [w.numpy() for w in net.trainable_variables]
        net.train_on_batch(*data(4))
        return [w.numpy() - b for w, b in zip(net.trainable_variables, before, strict=True)]

    plain = steps(cfg.replace(depth_decay=1.0, dropout=0.0))
    for factor, slow, fast in zip(factors, steps(cfg.replace(dropout=0.0)), plain, strict=True):
        assert np.allclose(slow, factor * fast, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adamax", "lion", "rmsprop"])
def test_every_optimiser_follows_the_schedule(tiny, name):  # S42
    cfg = CFG.replace(optimizer=name, schedule="cosine", warmup=0)
    net, _ = model.build(cfg, CPU, 3)
    follows = model.compile_model(cfg, net, CPU)
    course = schedule.Course(0, 0.0, 0.25)
    follows.follow(course)
    for step in range(6):
        rate = course.rate(cfg, step)
        assert rate == pytest.approx(
            cfg.lr * schedule.factor("cosine", min(1.0, (step + 0.5) / 4)), abs=1e-6 * cfg.lr
        )
        assert float(net.optimizer.learning_rate) == pytest.approx(rate, abs=1e-6 * cfg.lr)
        if step == 1:  # a plan may change between two steps
            course = schedule.Course(2, 0.5, 0.25)
            follows.follow(course)
        before = net.get_layer("head").kernel.numpy()
        net.train_on_batch(*data(4))
        moves = np.abs(net.get_layer("head").kernel.numpy() - before).max() > 0
        assert moves == (rate > 0 or name == "sgd")  # SGD's momentum carries on


def test_weight_decay_is_the_settings_own(tiny):
    net, _ = model.build(CFG, CPU, 3)
    decay = [
        model.optimizer(CFG.replace(optimizer="adamw", weight_decay=w), net)[0].weight_decay
        for w in (0.3, 0.0)
    ]
    assert decay == [0.3, 0.0]


def test_the_loss_spreads_a_share_of_the_label_over_all_classes(tiny):
    net, _ = model.build(CFG, CPU, 3)
    model.compile_model(CFG.replace(label_smoothing=0.3), net, CPU)
    images, labels = data()
    logits = net.predict(images, verbose=0)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -((0.7 * labels + 0.1) * log_probs).sum(1).mean()
    assert net.evaluate(images, labels, verbose=0)[0] == pytest.approx(expected, rel=1e-4)


def test_bn_momentum_is_the_settings_own_and_acts(tiny):
    for momentum in (0.5, 1 - 1e-6):
        before, after, net = trained(CFG.replace(bn_momentum=momentum))
        assert {layer.momentum for layer in model.batch_norms(net)} == {momentum}
        means = [path for path in before if "moving_mean" in path]
        change = max(np.abs(after[path] - before[path]).max() for path in means)
        assert (change > 1e-2) == (momentum == 0.5)


@pytest.mark.parametrize(("ema", "momentum"), [(0.0, 0.9), (0.5, 0.9), (0.99, 0.99)])
def test_bn_statistics_are_of_as_many_steps_as_averaged_weights(tiny, ema, momentum):
    net, _ = model.build(CFG.replace(bn_momentum=0.9, ema=ema), CPU, 3)
    assert {layer.momentum for layer in model.batch_norms(net)} == {momentum}


def pretrained():
    """A network that has learned from other photos than ``data``, dark ones, and so has other statistics."""
    keras.utils.set_random_seed(1)
    cfg = CFG.replace(dropout=0.0)
    net, _ = model.build(cfg, CPU, 3)
    peak(model.compile_model(cfg, net, CPU))
    images, labels = data()
    net.fit(images / 8, labels, batch_size=4, epochs=5, verbose=0)
    return net


def test_rebased_bn_computes_in_training_what_the_pretrained_network_computes(tiny):
    other, net, images = pretrained(), pretrained(), data()[0]
    before = np.array(net(images, training=False))
    untouched = np.array(other(images, training=True))  # which moves its statistics
    # Batches of different sizes count by their photos.
    assert model.rebase_batch_norms(net, [images[:5], images[5:]]) == 2
    assert np.abs(np.array(net(images, training=False)) - before).max() < 1e-4
    assert (
        np.abs(np.array(net(images, training=True)) - before).max() < 1e-3
    )  # the batch is all of the photos
    assert np.abs(untouched - before).max() > 0.1


def test_rebasing_leaves_bn_without_scale_or_shift_the_head_and_the_layers_call_alone():
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.BatchNormalization(scale=False),
        keras.layers.BatchNormalization(center=False),
    ]
    backbone = keras.Sequential(
        [keras.Input((4, 5, 3)), *layers, keras.layers.BatchNormalization(name="changed")]
    )
    layers.append(keras.layers.BatchNormalization())
    net = keras.Sequential([keras.Input((4, 5, 3)), backbone, layers[-1]])
    kept = [w.numpy() for layer in layers for w in layer.weights]
    images = np.random.default_rng(0).normal(3, 2, (6, 4, 5, 3)).astype(np.float32)
    before = np.array(net(images))
    assert model.rebase_batch_norms(net, [images]) == 1
    for was, weight in zip(kept, (w for layer in layers for w in layer.weights), strict=True):
        assert np.array_equal(was, weight.numpy())
    assert np.abs(np.array(net(images)) - before).max() < 1e-4
    changed = backbone.get_layer("changed")
    assert changed.moving_mean.numpy() == pytest.approx(
        np.array(backbone(images)).mean((0, 1, 2)), rel=1e-3
    )
    assert "call" not in vars(changed)
    with pytest.raises(ValueError, match="no batches"):
        model.rebase_batch_norms(net, [])
    assert "call" not in vars(changed)


def test_heads(tiny):  # S29, S30
    net, _ = model.build(CFG, CPU, 3)
    assert [type(layer).__name__ for layer in net.layers[-3:]] == [
        "GlobalAveragePooling2D",
        "Dropout",
        "Dense",
    ]
    assert net.get_layer("dropout").rate == 0.5
    assert net.get_layer("head").activation is keras.activations.linear
    net, _ = model.build(CFG.replace(pooling="max", hidden=7), CPU, 3)
    assert isinstance(net.get_layer("pool"), keras.layers.GlobalMaxPooling2D)
    assert net.get_layer("hidden").units == 7
    assert net(data(2)[0]).shape == (2, 3)


def test_fast_and_plain_layers_train_alike(tiny):
    cfg = CFG.replace(optimizer="sgd", dropout=0.0, lr=1e-3)
    _, quick, net = trained(cfg)
    _, plain, slow = trained(cfg, dataclasses.replace(CPU, fast_layers=False))
    kinds = (keras.layers.BatchNormalization, keras.layers.DepthwiseConv2D)
    switched = [
        [
            kind.__name__
            for layer in n._flatten_layers()
            for kind in kinds
            if isinstance(layer, kind) is not (type(layer) is kind)
        ]
        for n in (net, slow)
    ]
    assert sorted(switched[0]) == ["BatchNormalization", "BatchNormalization", "DepthwiseConv2D"]
    assert not switched[1]
    for (path, one), other in zip(quick.items(), plain.values(), strict=True):
        assert np.allclose(one, other, rtol=1e-3, atol=1e-4), path


FAST = (
    "efficientnet_lite_b0",
    "efficientnetv2_s",
    "mobilenet_v3_small",
)  # the defaults here and on Kaggle, and the smallest


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in FAST
        else pytest.param(
            name,
            marks=pytest.mark.skipif(not os.environ.get("CARCLS_SLOW"), reason="CARCLS_SLOW=1"),
        )
        for name in sorted(backbones.REGISTRY)
    ],
)
def test_every_network_trains_a_step_saves_and_loads(name, tmp_path):  # S28
    cfg = CFG.replace(backbone=name, lr=1e-3)
    net, _ = model.build(cfg, CPU, 3)
    peak(model.compile_model(cfg, net, CPU))
    net.run_eagerly = True  # tracing would take longer than the step
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    before = net.trainable_variables[0].numpy()
    assert np.isfinite(net.train_on_batch(images, np.eye(3, dtype=np.float32)[:2])[0])
    assert not np.array_equal(net.trainable_variables[0].numpy(), before)
    net.save_weights(tmp_path / "net.weights.h5")
    other, _ = model.build(cfg, CPU, 3)
    other.load_weights(tmp_path / "net.weights.h5", skip_mismatch=False)
    before = np.array(net(images))
    assert np.allclose(other(images), before, atol=1e-5)
    model.rebase_batch_norms(net, [images])
    assert np.abs(np.array(net(images)) - before).max() < 1e-3 * max(1.0, np.abs(before).max())

"""The network: what trains, at which rate, and what is frozen for good."""

import os
import warnings

import hubs
import keras
import numpy as np
import pytest

from carcls.config import Config
from carcls.machine import Machine
from carcls.metrics import NAMES, value
from carcls.nets import hub, model, registry, schedule
from carcls.votes import cast

CFG = Config(weights="none", backbone="tiny", schedule="constant", warmup=0, lr=0.01, batch=4)
CPU = Machine("tensorflow", ("cpu",))
STEPS = 100  # of an epoch


def data(n=8):
    """Photos (n, 24, 32, 3) float32, labels (n, 3)."""
    rng, labels = np.random.default_rng(0), np.eye(3, dtype=np.float32)[np.arange(n) % 3]
    return rng.integers(0, 256, (n, 24, 32, 3)).astype(np.float32), labels


def build(cfg, eager=True, seed=1):
    """A network that gets the peak rate at every step; eager: for a few steps, without tracing."""
    keras.utils.set_random_seed(seed)
    net, _ = model.build(cfg, CPU, 3, STEPS)
    model.open_layers(cfg, net, 0)
    model.compile_model(cfg, net, CPU).follow(0, cfg.warmup, 0.0)
    net.run_eagerly = eager
    return net


def trained(cfg, epochs=1):
    """Weights by path before and after some training, and the model."""
    net = build(cfg, eager=False)
    before = {w.path: w.numpy() for w in net.weights}
    net.fit(*data(), batch_size=4, epochs=epochs, verbose=0, shuffle=False)
    return before, {w.path: w.numpy() for w in net.weights}, net


def moved(before, after):
    return {path for path in before if not np.array_equal(before[path], after[path])}


def test_all_trains_by_default_or_the_head_alone_also_with_fused_kernels(tiny):  # S31
    before, after, _ = trained(CFG)
    assert moved(before, after) == set(before)
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
    net, counts = build(cfg), []
    for stage in range(3):
        model.open_layers(cfg, net, stage)
        counts.append(len(net.trainable_variables))
    assert counts[0] == 2
    assert counts[0] < counts[1] < counts[2] == 2 + 7


def test_rates_by_depth_scale_the_steps_themselves(tiny):  # S34
    cfg = CFG.replace(optimizer="sgd", dropout=0.0)

    def steps(decay):
        net = build(cfg.replace(depth_decay=decay))
        before = [w.numpy() for w in net.trainable_variables]
        net.train_on_batch(*data(4))
        return [w.numpy() - b for w, b in zip(net.trainable_variables, before, strict=True)]

    factors = model.depth_factors(cfg.replace(depth_decay=0.5), build(cfg))
    assert factors == sorted(factors)
    assert (factors[0], factors[-1]) == (0.5**4, 1.0)
    for factor, slow, fast in zip(factors, steps(0.5), steps(1.0), strict=True):
        assert np.allclose(slow, factor * fast, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adamax", "lion", "rmsprop"])
def test_every_optimiser_follows_the_schedule(tiny, name):  # S42
    cfg = CFG.replace(optimizer=name, schedule="cosine", warmup=0)
    net, _ = model.build(cfg, CPU, 3, STEPS)
    rate = model.compile_model(cfg, net, CPU)
    net.run_eagerly = name != "adam"
    rate.follow(0, 0.0, 0.25)
    kernel = net.get_layer("head").kernel
    for step in range(6):
        if step == 2:  # what it follows may change between two steps
            rate.follow(2, 0.75, 0.125)
        progress = (step + 0.5) / 4 if step < 2 else min(1.0, 0.75 + (step - 1.5) / 8)
        expected = cfg.lr * schedule.factor("cosine", progress)
        assert float(net.optimizer.learning_rate) == pytest.approx(expected, abs=1e-6 * cfg.lr)
        assert schedule.rate_at(cfg, progress) == pytest.approx(expected, abs=1e-6 * cfg.lr)
        before = kernel.numpy()
        net.train_on_batch(*data(4))
        moves = not np.array_equal(kernel.numpy(), before)
        assert moves == (expected > 0 or name == "sgd")  # SGD's momentum carries on


def test_plateau_leaves_the_rate_to_a_callback(tiny):
    cfg = CFG.replace(schedule="plateau")
    net, _ = model.build(cfg, CPU, 3, STEPS)
    assert model.compile_model(cfg, net, CPU) is None
    net.optimizer.learning_rate = 0.5
    assert float(net.optimizer.learning_rate) == 0.5


def test_weight_decay_is_the_settings_own(tiny):
    for decay in (0.3, 0.0):
        net = build(CFG.replace(optimizer="adamw", weight_decay=decay))
        assert net.optimizer.weight_decay == decay


def test_the_loss_spreads_a_share_of_the_label_over_all_classes(tiny):
    net = build(CFG.replace(label_smoothing=0.3))
    images, labels = data()
    logits = np.array(net(images))
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -((0.7 * labels + 0.1) * log_probs).sum(1).mean()
    assert net.evaluate(images, labels, verbose=0)[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("metric", NAMES)
def test_validation_is_measured_by_the_metric_that_decides(tiny, metric):
    """Batch by batch, what fills the last one not counted; the loss is of smoothed labels."""
    classes = 2 if metric == "auc" else 3
    cfg = CFG.replace(label_smoothing=0.3)
    net, _ = model.build(cfg, CPU, classes, STEPS)
    model.compile_model(cfg, net, CPU, metric)
    images, _ = data(11)
    labels = np.array([0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1])
    images += 60.0 * labels[:, None, None, None]
    weights = np.r_[np.full(9, 12 / 9), 0, 0].astype("float32")
    found = net.evaluate(
        images, np.eye(classes, dtype="float32")[labels], batch_size=4, sample_weight=weights,
        verbose=0, return_dict=True,
    )  # fmt: skip
    probs = cast.softmax(np.array(net(images[:9])))
    for name in {"accuracy", metric}:
        assert found[name] == pytest.approx(value(name, probs, labels[:9]), abs=2e-3), name
    assert set(found) == {"loss", "accuracy", metric}
    if metric == "log_loss":
        assert found["loss"] != pytest.approx(found["log_loss"], abs=1e-3)


@pytest.mark.parametrize(
    ("steps", "ema", "momentum"),
    [(1, 0, 0.9), (15, 0, 0.9), (50, 0, 0.94), (900, 0, 0.97), (50, 0.5, 0.94), (50, 0.99, 0.99)],
)
def test_bn_statistics_are_of_a_third_of_an_epoch_or_of_averaged_weights(steps, ema, momentum):
    assert model._momentum(CFG.replace(ema=ema), steps) == pytest.approx(momentum)


def test_bn_momentum_acts_in_every_layer(tiny):
    before, after, net = trained(CFG.replace(ema=1 - 1e-6))
    assert {layer.momentum for layer in model.batch_norms(net)} == {1 - 1e-6}
    means = [path for path in before if "moving_mean" in path]
    assert len(means) == 2
    assert all(0 < np.abs(after[path] - before[path]).max() < 1e-2 for path in means)


@pytest.mark.parametrize("optimizer", ["sgd", "lion", "adamw"])
def test_a_state_is_all_that_training_goes_on_from(tiny, optimizer):
    cfg, (images, labels) = CFG.replace(optimizer=optimizer, hidden=4, ema=0.9), data(4)
    first, second = build(cfg), build(cfg, seed=2)
    first.train_on_batch(images, labels)
    model.restore(second, model.state(first))
    for _ in range(2):  # dropout draws on, moments and averages move on
        first.train_on_batch(images, labels)
        second.train_on_batch(images, labels)
    assert all(map(np.array_equal, model.state(first), model.state(second)))
    kept = model.state(first, optimizer=False)
    model.restore(second, [np.zeros_like(array) for array in kept])
    model.restore(second, kept)
    assert all(map(np.array_equal, model.state(first), model.state(second)))
    with pytest.raises(ValueError, match="zip"):
        model.restore(second, model.state(first)[:-1])


def test_a_state_is_good_for_any_precision(tiny):
    """From a T4, which scales its loss, to a TPU, and back."""
    plain, scaled = build(CFG), build(CFG, seed=2)
    scaling = keras.optimizers.LossScaleOptimizer(scaled.optimizer, initial_scale=4.0)
    scaled.compile(scaling, scaled.loss)
    scaling.build(scaled.trainable_variables)
    kept = model.state(scaled)
    model.restore(plain, kept)
    assert all(map(np.array_equal, model.state(plain), kept))
    model.restore(scaled, model.state(plain))
    assert len(model.state(scaled)) == len(kept) > len(model.state(plain))
    assert all(map(np.array_equal, model.state(scaled), kept))


def pretrained():
    """A network that has learned from dark photos, and so has other statistics than of ``data``."""
    net, (images, labels) = build(CFG.replace(dropout=0.0), eager=False), data()
    net.fit(images / 8, labels, batch_size=4, epochs=5, verbose=0)
    return net


def test_rebased_bn_computes_in_training_what_the_pretrained_network_computes(tiny):
    other, net, images = pretrained(), pretrained(), data()[0]
    before = np.array(net(images, training=False))
    untouched = np.array(other(images, training=True))  # which moves its statistics
    # Batches of different sizes count by their photos.
    assert model.rebase_batch_norms(net, [images[:5], images[5:]]) == 2
    assert np.abs(np.array(net(images, training=False)) - before).max() < 1e-4
    # The batch is all of the photos.
    assert np.abs(np.array(net(images, training=True)) - before).max() < 1e-3
    assert np.abs(untouched - before).max() > 0.1


def test_rebasing_leaves_bn_without_scale_or_shift_the_head_and_the_layers_call_alone():
    keras.utils.set_random_seed(1)
    kind = keras.layers.BatchNormalization
    first, second, changed, head = kind(scale=False), kind(center=False), kind(), kind()
    backbone = keras.Sequential([keras.Input((4, 5, 3)), first, second, changed])
    net = keras.Sequential([keras.Input((4, 5, 3)), backbone, head])
    weights = [w for layer in (first, second, head) for w in layer.weights]
    kept = [w.numpy() for w in weights]
    images = np.random.default_rng(0).normal(3, 2, (6, 4, 5, 3)).astype(np.float32)
    before, means = np.array(net(images)), np.array(backbone(images)).mean((0, 1, 2))
    assert model.rebase_batch_norms(net, [images]) == 1
    assert all(map(np.array_equal, kept, weights))
    assert np.abs(np.array(net(images)) - before).max() < 1e-4
    assert changed.moving_mean.numpy() == pytest.approx(means, rel=1e-2)
    with pytest.raises(AssertionError, match="no batches"):
        model.rebase_batch_norms(net, [])
    assert "call" not in vars(changed)


def test_heads(tiny):  # S29, S30
    net = build(CFG)
    kinds = [type(layer).__name__ for layer in net.layers[-3:]]
    assert kinds == ["GlobalAveragePooling2D", "Dropout", "Dense"]
    assert net.get_layer("dropout").rate == 0.5
    assert net.get_layer("head").activation is keras.activations.linear
    net = build(CFG.replace(pooling="max", hidden=7))
    assert isinstance(net.get_layer("pool"), keras.layers.GlobalMaxPooling2D)
    assert net.get_layer("hidden").units == 7
    assert net(data(2)[0]).shape == (2, 3)


def test_fast_and_plain_layers_train_alike(tiny, monkeypatch):
    cfg = CFG.replace(optimizer="sgd", dropout=0.0, lr=1e-3)
    kinds = (keras.layers.BatchNormalization, keras.layers.DepthwiseConv2D)

    def switched(net):
        layers = [layer for layer in net._flatten_layers() if isinstance(layer, kinds)]
        return sorted(type(layer).__name__ for layer in layers if type(layer) not in kinds)

    _, fast, net = trained(cfg)
    assert switched(net) == ["BatchNormalization", "BatchNormalization", "DepthwiseConv2D"]
    monkeypatch.setattr(Machine, "fast_layers", False)
    _, plain, net = trained(cfg)
    assert not switched(net)
    for (path, one), other in zip(fast.items(), plain.values(), strict=True):
        assert np.allclose(one, other, rtol=1e-3, atol=1e-4), path


@hubs.needs_hub
def test_depth_is_counted_inside_of_blocks_too(monkeypatch):
    """Of HGNetV2 two layers hold all others."""
    hubs.shrink(monkeypatch, "hgnetv2_b5")
    cfg = CFG.replace(
        backbone="hgnetv2_b5", unfreeze="staged", stages="32x32x1,32x32x1,32x32x1", depth_decay=0.5
    )
    net, opened = build(cfg), []
    for stage in range(3):
        model.open_layers(cfg, net, stage)
        opened.append([weight.path for weight in net.trainable_variables])
    assert len(opened[0]) == 2
    assert len(opened[2]) / 3 < len(opened[1]) < 2 * len(opened[2]) / 3
    assert all("encoder" in path or "head" in path for path in opened[1])
    assert any("stage_3" in path for path in opened[1])
    assert not any("stage_0" in path for path in opened[1])
    assert opened[2][0].startswith("embedder/embedder_stem1")
    factors = model.depth_factors(cfg, net)
    assert factors == sorted(factors) and set(factors) == {0.5**n for n in range(5)}


@hubs.needs_hub
@pytest.mark.parametrize("name", ["deit_base_384", "siglip_base_384"])
def test_a_transformer_s_tokens_and_positions_are_at_its_input(name, monkeypatch):
    hubs.shrink(monkeypatch, name)
    stages = "64x64x1,64x64x1,64x64x1"
    cfg = CFG.replace(backbone=name, unfreeze="staged", stages=stages, depth_decay=0.5)
    net, opened = build(cfg), []
    for stage in range(3):
        model.open_layers(cfg, net, stage)
        opened.append([weight.path for weight in net.trainable_variables])
    assert opened[0] == ["head/kernel", "head/bias"]
    assert not any("embedding" in path or "_token" in path for path in opened[1])
    assert any("mlp" in path for path in opened[1])
    factors = dict(zip(opened[2], model.depth_factors(cfg, net), strict=True))
    first = [value for path, value in factors.items() if "embedding" in path or "token" in path]
    assert len(first) == (5 if "deit" in name else 3) and set(first) == {0.5**4}
    assert list(factors.values()) == sorted(factors.values())


# The default, the family of Kaggle's default, and the smallest.
FAST = ("efficientnet_lite_b0", "efficientnetv2_b0", "mobilenet_v3_small")
slow = pytest.mark.skipif(not os.environ.get("CARCLS_SLOW"), reason="CARCLS_SLOW=1")


def marks(name):
    return [slow] * (name not in FAST) + [hubs.needs_hub] * (name in hub.ROWS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marks(name)) for name in sorted(registry.REGISTRY)]
)
def test_every_network_trains_a_step_saves_and_loads(name, tmp_path):  # S28
    if registry.find(name).patch > 1:
        train_through_sizes(name, tmp_path)
    else:
        train_save_and_load(name, tmp_path)


@hubs.needs_hub
@pytest.mark.parametrize("name", hubs.TRANSFORMERS)
def test_a_small_transformer_of_each_family_trains_through_sizes(name, tmp_path, monkeypatch):
    train_through_sizes(hubs.shrink(monkeypatch, name), tmp_path)


def train_through_sizes(name, tmp_path):
    """One network is all that there is: from size to size nothing of it is made anew."""
    warnings.simplefilter("error", UserWarning)  # Keras's, of weights without a gradient
    cfg, patch = CFG.replace(backbone=name, lr=1e-3, dropout=0.0), registry.find(name).patch
    net, (other, loaded) = build(cfg), model.build(cfg, CPU, 3, STEPS)
    assert "batch norm" not in loaded
    assert model.rebase_batch_norms(net, iter(lambda: 1 / 0, 0)) == 0  # it asks for no photo
    rng, labels = np.random.default_rng(0), np.eye(3, dtype=np.float32)[:2]
    first, second = (
        rng.integers(0, 256, (2, rows * patch, columns * patch, 3)).astype(np.float32)
        for rows, columns in ((3, 4), (4, 6))
    )
    before = {weight.path: weight.numpy() for weight in net.trainable_variables}
    assert np.isfinite(net.train_on_batch(first, labels)[0])
    net.save_weights(tmp_path / "net.weights.h5")
    other.load_weights(tmp_path / "net.weights.h5", skip_mismatch=False)
    assert all(map(np.array_equal, net.get_weights(), other.get_weights()))
    assert np.array_equal(other(second), net(second))
    assert np.isfinite(net.train_on_batch(second, labels)[0])
    after = {weight.path: weight.numpy() for weight in net.trainable_variables}
    assert {path for path in before if path not in moved(before, after)} <= {
        path for path in before if path.endswith("mask_token")
    }


@hubs.needs_hub
@pytest.mark.parametrize("name", hubs.CONVOLUTIONS)
def test_a_small_network_of_each_family_of_kerashub_does_so(name, tmp_path, monkeypatch):
    train_save_and_load(hubs.shrink(monkeypatch, name), tmp_path, least=5)


def train_save_and_load(name, tmp_path, least=10):
    cfg = CFG.replace(backbone=name, lr=1e-3)
    net = build(cfg)
    plain = (keras.layers.BatchNormalization, keras.layers.DepthwiseConv2D)
    kinds = [type(layer) for layer in net._flatten_layers()]
    assert len(model.batch_norms(net)) > least or "convnext" in name
    assert not {type(layer) for layer in model.batch_norms(net)} & set(plain)  # fused in its blocks
    if name == "efficientnet_lite_b0":
        assert sum(k.__name__ == "DepthwiseConv2D" and k not in plain for k in kinds) == 9
    # None is left that Keras would have XLA compile by itself.
    convs = [layer for layer in net._flatten_layers() if type(layer) is keras.layers.Conv2D]
    assert {layer.groups for layer in convs} <= {1}
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    before = net.trainable_variables[0].numpy()
    assert np.isfinite(net.train_on_batch(images, np.eye(3, dtype=np.float32)[:2])[0])
    assert not np.array_equal(net.trainable_variables[0].numpy(), before)
    net.save_weights(tmp_path / "net.weights.h5")
    other, _ = model.build(cfg, CPU, 3, STEPS)
    other.load_weights(tmp_path / "net.weights.h5", skip_mismatch=False)
    before = np.array(net(images))
    assert np.allclose(other(images), before, atol=1e-5)
    larger = images.repeat(2, axis=1)  # the next stage's size
    assert np.allclose(other(larger), net(larger), atol=1e-5)
    # A deep network without trained weights amplifies rounding: a millionth of its pixels changes
    # half of efficientnet2_rw_m's output.
    shaken = np.abs(np.array(net(images * (1 + 1e-6))) - before).max()
    model.rebase_batch_norms(net, [images])
    change = np.abs(np.array(net(images)) - before).max()
    assert change < max(1e-3 * max(1.0, np.abs(before).max()), 10 * shaken)

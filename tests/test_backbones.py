"""Networks build without the internet, see the pixels that their weights were trained on, and load them from disk."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import numpy as np
import pytest

import keras
import tensorflow as tf

from carcls import config
from carcls.data import attached
from carcls.errors import ConfigError, InputError
from carcls.nets import fast
from carcls.nets import registry as backbones

# Parameters without the classifier. Sources: keras.io/api/applications (total less the 1000-way
# layer), the presets' metadata in keras-cv 0.9 (efficientnetv2), efficientnet-pytorch (4,652,008 of
# Lite0 less 1,281,000, plus 42,016 statistics of batch normalisation, which torch does not count).
PARAMETERS = {
    "efficientnet_lite_b0": 3_413_024,
    "efficientnetv2_b0": 5_919_312,
    "mobilenet_v3_small": 939_120,
    "resnet50_v2": 23_564_800,
    "keras_efficientnet_b0": 4_049_571,
    "keras_xception": 20_861_480,
    "keras_densenet121": 7_037_504,
    "keras_convnext_tiny": 27_820_128,
    "keras_efficientnetv2_b0": 5_919_312,
}
SLOW = {  # minutes on two cores
    "efficientnetv2_s": 20_331_360,
    "efficientnetv2_b1": 6_931_124,
    "efficientnetv2_b2": 8_769_374,
    "efficientnetv2_b3": 12_930_622,
    "efficientnet_lite_b1": 4_189_344,
    "efficientnet_lite_b2": 4_869_168,
    "densenet121": 7_037_504,
    "mobilenet_v3_large": 2_996_352,
    "keras_efficientnet_b1": 6_575_239,
    "keras_efficientnet_b2": 7_768_569,
    "keras_efficientnet_b3": 10_783_535,
    "keras_efficientnet_b4": 17_673_823,
    "keras_efficientnet_b5": 28_513_527,
    "keras_efficientnet_b6": 40_960_143,
    "keras_efficientnet_b7": 64_097_687,
    "keras_resnet50_v2": 23_564_800,
    "keras_convnext_small": 49_454_688,
    "keras_efficientnetv2_s": 20_331_360,
    "keras_efficientnetv2_b1": 6_931_124,
    "keras_efficientnetv2_b2": 8_769_374,
    "keras_efficientnetv2_b3": 12_930_622,
}
ALL = [
    *PARAMETERS,
    *(
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                not os.environ.get("CARCLS_SLOW"), reason="CARCLS_SLOW=1 builds it"
            ),
        )
        for name in SLOW
    ),
]

built = cache(backbones.build)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No network, and no weights but those of the test."""

    def refuse(*args):
        raise AssertionError(f"a connection to {args[1:]}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setenv("CARCLS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "kaggle"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def cfg(weights="imagenet"):
    return config.Config(weights=str(weights))


def test_importing_it_imports_no_framework():
    code = "import sys, carcls.backbones, carcls.fast; print({'keras', 'keras_cv', 'tensorflow'} & set(sys.modules))"
    assert (
        subprocess.check_output(
            [sys.executable, "-c", code], text=True, cwd=Path(__file__).parents[1]
        ).strip()
        == "set()"
    )


def test_the_lists_here_are_the_registry():
    assert set(PARAMETERS) | set(SLOW) == set(backbones.REGISTRY)
    assert all(name == backbone.name for name, backbone in backbones.REGISTRY.items())


@pytest.mark.parametrize("name", ALL)
def test_each_network_builds_without_a_network(name):
    model = built(name)
    assert model.count_params() == {**PARAMETERS, **SLOW}[name]
    features = model(np.zeros((1, 64, 96, 3), "float32"))
    assert features.shape[:3] == (1, 2, 3)
    assert np.isfinite(np.asarray(features)).all()
    assert (
        sum(layer.count_params() for layer in model.layers) == model.count_params()
    )  # flat: nothing hides in one
    assert len(model.layers) > 20


# What the first convolution sees of a grey photo of value 0, 127, 255 (R, G, B where they differ).
ZERO_ONE = (0, 127 / 255, 1)
IMAGENET = (
    (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225),  # -2.118, -2.036, -1.804
    (0.0569, 0.1876, 0.4091),
    (2.2489, 2.4286, 2.6400),
)
GOLDEN = {
    # keras_cv 0.9, include_rescaling: Rescaling(1 / 255.0); its training script trained on that
    "efficientnetv2_b0": ZERO_ONE,
    "mobilenet_v3_small": ZERO_ONE,
    "resnet50_v2": ZERO_ONE,
    "densenet121": ZERO_ONE,
    # efficientnet-lite-pytorch (and the TPU original): MEAN_RGB = 127, STDDEV_RGB = 128
    "efficientnet_lite_b0": (-127 / 128, 0, 1),
    # keras.applications.imagenet_utils.preprocess_input, mode "tf"
    "keras_xception": (-1, -0.003922, 1),
    "keras_resnet50_v2": (-1, -0.003922, 1),
    # the same, mode "torch"
    "keras_densenet121": IMAGENET,
    # keras.applications.convnext.PreStem
    "keras_convnext_tiny": IMAGENET,
    # keras.applications.efficientnet with weights="imagenet"
    "keras_efficientnet_b0": IMAGENET,
    # keras.applications.efficientnet_v2, include_preprocessing: B as EfficientNet, S and larger x /
    # 128 - 1
    "keras_efficientnetv2_b0": IMAGENET,
    "keras_efficientnetv2_s": (-1, -1 / 128, 255 / 128 - 1),
}


@pytest.mark.parametrize(
    "name", [p for p in ALL if (p if isinstance(p, str) else p.values[0]) in GOLDEN]
)
def test_the_first_convolution_sees_what_the_weights_were_trained_on(name):
    seen = []
    for value in (0, 127, 255):
        x = np.full((1, 64, 64, 3), value, "float32")
        for layer in built(name).layers[1:]:
            if any(len(w.shape) == 4 for w in layer.weights):
                break
            x = layer(x)
        seen.append(np.asarray(x)[0, 30, 30])
    expected = [np.broadcast_to(row, 3) for row in GOLDEN[name]]
    np.testing.assert_allclose(seen, expected, atol=2e-4)


def save_legacy(network, path):
    """A file as keras.applications' own are."""
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, network)


def test_efficientnet_gives_what_keras_gives_with_the_official_file(tmp_path, monkeypatch):
    keras.utils.set_random_seed(5)
    path = tmp_path / "keras" / "models" / "efficientnetb0_notop.h5"
    save_legacy(backbones.find("keras_efficientnet_b0").make((None, None, 3)), path)
    monkeypatch.setattr(
        "keras.src.applications.efficientnet.file_utils.get_file", lambda *_, **__: str(path)
    )
    official = keras.applications.EfficientNetB0(include_top=False, input_shape=(64, 96, 3))
    ours = backbones.build("keras_efficientnet_b0")
    assert str(path) in backbones.load_weights(ours, "keras_efficientnet_b0", cfg())
    x = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    y = np.asarray(official(x))
    np.testing.assert_allclose(ours(x), y, rtol=1e-3, atol=1e-4 * np.abs(y).max())

    with h5py.File(path, "a") as file:  # trained from scratch elsewhere: mean 0, variance 1
        layer = next(name for name in file if name.startswith("normalization"))
        for key, value in (("mean", 0), ("variance", 1)):
            found = []
            file[layer].visit(
                lambda name, key=key, found=found: (
                    found.append(name) if name.endswith(key) else None
                )
            )
            file[layer][found[0]][...] = value
    with pytest.raises(InputError, match=r"mean \[0.0, 0.0, 0.0\].*ImageNet"):
        backbones.load_weights(ours, "keras_efficientnet_b0", cfg(path))


def test_an_official_file_of_keras_fits_behind_our_normalisation(tmp_path):
    network = backbones.find("keras_xception").make((None, None, 3))
    path = (
        tmp_path
        / "kaggle/input/datasets/someone/some-weights/xception_weights_tf_dim_ordering_tf_kernels_notop.h5"
    )
    save_legacy(network, path)
    assert str(path) in backbones.load_weights(built("keras_xception"), "keras_xception", cfg())
    x = np.random.default_rng(0).uniform(0, 255, (1, 64, 96, 3)).astype("float32")
    np.testing.assert_allclose(
        built("keras_xception")(x), network(x / 127.5 - 1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        (
            "efficientnetv2_b0",
            "kaggle/input/models/keras/efficientnetv2/keras/efficientnetv2_b0_imagenet/2",
        ),
        ("mobilenet_v3_small", "kaggle/input/mobilenetv3/keras/mobilenet_v3_small_imagenet/10"),
        ("efficientnet_lite_b0", "kaggle/input/datasets/me/efficientnet-lite-b0-imagenet"),
    ],
)
def test_presets_are_found_on_kaggle_and_at_home(name, folder, tmp_path):
    from keras_cv.src.utils.preset_utils import save_to_preset

    network = backbones.find(name).make((None, None, 3))
    save_to_preset(network, str(tmp_path / folder))
    if folder.endswith("/10"):  # an older version, which would fail
        (tmp_path / folder).with_name("9").mkdir()
        ((tmp_path / folder).with_name("9") / backbones.WEIGHTS_FILE).write_bytes(b"old")
    kind, verified = "model", ""
    if "datasets" in folder:
        kind, verified = "dataset", ", manifest verified"
        attached.write_manifest(tmp_path / folder, {name: backbones.WEIGHTS_FILE})
    line = backbones.load_weights(built(name), name, cfg())
    file = tmp_path / folder / backbones.WEIGHTS_FILE
    assert line == f"{name}: {PARAMETERS[name]:,} parameters from {kind} {file}{verified}"
    for ours, theirs in zip(built(name).weights, network.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_none_is_from_scratch():
    before = [w.numpy() for w in built("mobilenet_v3_small").weights]
    assert "from scratch" in backbones.load_weights(
        built("mobilenet_v3_small"), "mobilenet_v3_small", cfg("none")
    )
    for a, b in zip(before, built("mobilenet_v3_small").weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "efficientnetv2_s",
            ["efficientnetv2_s_imagenet", "keras/efficientnetv2/keras/efficientnetv2_s_imagenet/2"],
        ),
        (
            "efficientnet_lite_b1",
            ["efficientnet_lite_b1_imagenet", "python -m carcls weights efficientnet_lite_b1"],
        ),
        (
            "keras_efficientnet_b5",
            ["efficientnetb5_notop.h5", "EfficientNetB5(include_top=False)", "keras/models"],
        ),
        ("efficientnetv2_b3", ["keras-cv has none", "keras_efficientnetv2_b3"]),
    ],
)
def test_weights_not_found_say_where_it_looked_and_how_to_get_them(name, parts, tmp_path):
    (tmp_path / "kaggle/input").mkdir(parents=True)
    with pytest.raises(InputError) as error:
        backbones.load_weights(None, name, cfg())
    parts = [*parts, name, "weights=none"]
    if backbones.find(name).preset:
        parts += [str(tmp_path / "kaggle/input"), str(tmp_path / "home/weights")]
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_bad_paths_and_files_are_named(tmp_path):
    name, model = "mobilenet_v3_small", built("mobilenet_v3_small")
    (tmp_path / "empty").mkdir()
    (tmp_path / "photo.jpg").write_bytes(b"x")
    (tmp_path / "broken.weights.h5").write_bytes(b"x")
    (tmp_path / "broken.keras").write_bytes(b"x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / backbones.WEIGHTS_FILE).write_bytes(b"x")
    (tmp_path / "other" / "config.json").write_text(json.dumps({"class_name": "ResNetV2Backbone"}))
    for file, message in {
        "missing.h5": "no such file",
        "empty": "no model.weights.h5",
        "photo.jpg": "ending in .h5",
        "broken.weights.h5": "does not fit",
        "broken.keras": "does not fit",
        "other": "weights of a ResNetV2Backbone; backbone=mobilenet_v3_small is a MobileNetV3Backbone",
    }.items():
        with pytest.raises(InputError, match=message) as error:
            backbones.load_weights(model, name, cfg(tmp_path / file))
        assert str(tmp_path / file) in str(error.value)


def test_weights_of_another_network_are_refused(tmp_path):
    def net(filters, depth=1):
        layers = [keras.layers.Conv2D(filters, 3) for _ in range(depth)]
        return keras.Sequential([keras.Input((8, 8, 3)), *layers])

    name = "mobilenet_v3_small"
    net(4, depth=2).save_weights(tmp_path / "deeper.weights.h5")
    damaged = (
        (tmp_path / "deeper.weights.h5").read_bytes().replace(b"HEAP", b"HE\xffP")
    )  # where names of layers are
    (tmp_path / "damaged.weights.h5").write_bytes(damaged)
    with pytest.raises(InputError, match=r"damaged.weights.h5: does not fit backbone=mob.*heap"):
        backbones._load(net(4), backbones.find(name), tmp_path / "damaged.weights.h5")
    with pytest.raises(InputError, match="it holds 260 numbers, the network 112"):
        backbones._load(net(4), backbones.find(name), tmp_path / "deeper.weights.h5")
    save_legacy(net(5), tmp_path / "wider.h5")
    with pytest.raises(
        InputError, match=r"wider.h5: does not fit backbone=mob.*\(3, 3, 3, 4\).*\(3, 3, 3, 5\)"
    ):
        backbones._load(net(4), backbones.find(name), tmp_path / "wider.h5")
    net(5).save(tmp_path / "wider.keras")
    with pytest.raises(InputError, match=r"does not fit.*\(3, 3, 3, 4\).*\(3, 3, 3, 5\)") as error:
        backbones._load(net(4), backbones.find(name), tmp_path / "wider.keras")
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"backbone='b0'.*efficientnet_lite_b0"):
        backbones.build("b0")


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("mobilenet_v3_small", 112, 208),
        ("efficientnet_lite_b0", 100, 90),
        ("keras_efficientnet_b0", 112, 90),
    ],
)
def test_odd_sides_keep_the_last_row_and_column(name, height, width):
    """112 × 208 px: the last halving meets 7 × 13. A network that its library builds for that size knows."""
    ours = built(name)
    told = backbones.find(name).make((height, width, 3))
    told.set_weights(ours.get_weights())
    x = np.random.default_rng(0).uniform(0, 255, (1, height, width, 3)).astype("float32")
    scale, offset = backbones._NORMALISE[backbones.find(name).normalise] or ((1,), (0,))
    y = np.asarray(told(x * np.float32(scale) + np.float32(offset)))
    assert y.shape[1:3] == (-(-height // 32), -(-width // 32))
    np.testing.assert_allclose(ours(x), y, rtol=1e-3, atol=1e-4 * np.abs(y).max())
    made = tf.function(ours).get_concrete_function(tf.TensorSpec((None, None, None, 3)))(
        tf.constant(x)
    )
    np.testing.assert_allclose(made, y, rtol=1e-3, atol=1e-4 * np.abs(y).max())
    assert ours.compute_output_shape((1, height, width, 3)) == y.shape


def test_padding_that_is_the_same_on_both_sides_stays_as_it_is():
    paddings = [
        layer
        for layer in built("keras_densenet121").layers
        if isinstance(layer, keras.layers.ZeroPadding2D)
    ]
    assert {type(layer) for layer in paddings} == {keras.layers.ZeroPadding2D}


def test_fused_batch_norm_reaches_into_blocks():
    model = backbones.build("efficientnetv2_b0")
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    count = sum(
        layer.built for layer in norms
    )  # a block that does not expand has one that it never uses
    x = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    before = np.asarray(model(x))
    assert fast.fuse_batch_norm(model) == count > 50
    np.testing.assert_allclose(model(x), before, rtol=1e-3, atol=1e-3 * np.abs(before).max())


def test_the_large_depthwise_convolutions_of_a_network_are_sped_up():
    assert fast.speed_up_depthwise(backbones.build("efficientnet_lite_b0")) == 9
    assert fast.speed_up_depthwise(backbones.build("mobilenet_v3_small")) == 8

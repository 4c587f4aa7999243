"""Weights from disk: which file is found, what it must be, and what errors tell."""

import json
import shutil
from functools import partial

import h5py
import hubs
import keras
import numpy as np
import pytest
import tensorflow as tf

from carcls.config import Config
from carcls.data import attached
from carcls.desk import offline
from carcls.errors import InputError
from carcls.nets import hub, registry, transformers, weights

SMALL = "mobilenet_v3_small"


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No weights but those of the test."""
    monkeypatch.setenv("CARCLS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "kaggle"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="module")
def small():
    return registry.build(SMALL)


def cfg(path="imagenet"):
    return Config(weights=str(path))


def save_legacy(network, path):
    """A file as keras.applications' own are."""
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, network)


def test_efficientnet_gives_what_keras_gives_with_the_official_file(tmp_path, monkeypatch):
    name = "keras_efficientnet_b0"
    keras.utils.set_random_seed(5)
    keras.utils.clear_session()  # layers have the names of a first network
    path = tmp_path / "keras" / "models" / "efficientnetb0_notop.h5"
    save_legacy(registry.find(name).make((None, None, 3)), path)
    monkeypatch.setattr(
        "keras.src.applications.efficientnet.file_utils.get_file", lambda *_, **__: str(path)
    )
    official = keras.applications.EfficientNetB0(include_top=False, input_shape=(64, 96, 3))
    ours = registry.build(name)
    assert str(path) in weights.load_weights(ours, name, cfg())
    x = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    y = np.asarray(official(x))
    np.testing.assert_allclose(ours(x), y, rtol=1e-3, atol=1e-4 * np.abs(y).max())

    with h5py.File(path, "a") as file:  # as one trained from scratch elsewhere, on raw pixels
        layer = file["normalization"]["normalization"]
        layer["mean"][...], layer["variance"][...] = 0, 1
    with pytest.raises(InputError, match=r"mean \[0.0, 0.0, 0.0\].*ImageNet"):
        weights.load_weights(ours, name, cfg(path))


def test_an_official_file_of_keras_fits_behind_our_normalisation(tmp_path):
    name = "keras_xception"
    ours, network = registry.build(name), registry.find(name).make((None, None, 3))
    path = tmp_path / "kaggle/input/datasets/someone/some-weights" / registry.find(name).preset
    save_legacy(network, path)
    assert str(path) in weights.load_weights(ours, name, cfg())
    x = np.random.default_rng(0).uniform(0, 255, (1, 64, 96, 3)).astype("float32")
    np.testing.assert_allclose(ours(x), network(x / 127.5 - 1), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A network and the keras-cv preset folder that it was saved to."""
    from keras_cv.src.utils.preset_utils import save_to_preset

    network = registry.find(SMALL).make((None, None, 3))
    folder = tmp_path_factory.mktemp("saved") / "preset"
    save_to_preset(network, str(folder))
    return network, folder


@pytest.mark.parametrize(
    "folder",
    ["mobilenetv3/keras/mobilenet_v3_small_imagenet/10", "datasets/me/mobilenet-v3-small-imagenet"],
)
def test_a_preset_is_found_loaded_and_described(small, preset, folder, tmp_path):
    network, saved = preset
    top = tmp_path / "kaggle/input" / folder
    shutil.copytree(saved, top)
    file = top / weights.WEIGHTS_FILE
    described = f"model {file}"
    if top.name == "10":  # an older version, which would fail
        top.with_name("9").mkdir()
        (top.with_name("9") / weights.WEIGHTS_FILE).write_bytes(b"old")
    else:
        offline.write_manifest(top, {SMALL: weights.WEIGHTS_FILE})
        described = f"dataset {file}, manifest verified"
    small.set_weights([np.zeros(w.shape) for w in small.weights])
    line = weights.load_weights(small, SMALL, cfg())
    assert line == f"{SMALL}: {small.count_params():,} parameters from {described}"
    assert all(map(np.array_equal, small.weights, network.weights))


def test_weights_none_is_from_scratch(small):
    before = [w.numpy() for w in small.weights]
    assert "from scratch" in weights.load_weights(small, SMALL, cfg("none"))
    assert all(map(np.array_equal, before, small.weights))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("efficientnetv2_s", ["keras/efficientnetv2/keras/efficientnetv2_s_imagenet/2"]),
        ("efficientnet_lite_b1", ["lite_b1_imagenet", "carcls weights", "make dataset"]),
        ("keras_efficientnet_b5", ["efficientnetb5_notop.h5", "EfficientNetB5(", "keras/models"]),
        ("efficientnetv2_b3", ["keras-cv has none", "keras_efficientnetv2_b3"]),
        (
            "dinov3_base",
            ["accept the model's licence on https://www.kaggle.com/models/keras/dinov3"],
        ),
    ],
)
def test_weights_not_found_say_where_it_looked_and_how_to_get_them(name, parts, tmp_path):
    (tmp_path / "kaggle/input").mkdir(parents=True)
    with pytest.raises(InputError) as error:
        weights.find_weights(name, cfg())
    parts = [*parts, name, "weights=none"]
    if registry.find(name).preset:
        parts += [str(tmp_path / "kaggle/input"), str(tmp_path / "home/weights")]
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_bad_paths_and_files_are_named(small, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("photo.jpg", "broken.weights.h5", "broken.keras"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / weights.WEIGHTS_FILE).write_bytes(b"x")
    (tmp_path / "other" / "config.json").write_text(json.dumps({"class_name": "ResNetV2Backbone"}))
    for file, message in {
        "missing.h5": "no such file",
        "empty": "no model.weights.h5",
        "photo.jpg": "ending in .h5",
        "broken.weights.h5": "does not fit",
        "broken.keras": "does not fit",
        "other": f"of a ResNetV2Backbone; backbone={SMALL} is a MobileNetV3Backbone",
    }.items():
        with pytest.raises(InputError, match=message) as error:
            weights.load_weights(small, SMALL, cfg(tmp_path / file))
        assert str(tmp_path / file) in str(error.value)


def test_weights_of_another_network_are_refused(tmp_path):
    def net(filters, depth=1):
        layers = [keras.layers.Conv2D(filters, 3) for _ in range(depth)]
        return keras.Sequential([keras.Input((8, 8, 3)), *layers])

    def refused(file, message):
        with pytest.raises(InputError, match=f"{file}: does not fit backbone=mob.*{message}") as e:
            weights._load(net(4), registry.find(SMALL), tmp_path / file)
        assert "\n" not in str(e.value)

    net(4, depth=2).save_weights(tmp_path / "deeper.weights.h5")
    content = (tmp_path / "deeper.weights.h5").read_bytes()
    heap = content.replace(b"HEAP", b"HE\xffP")  # where names of layers are
    (tmp_path / "damaged.weights.h5").write_bytes(heap)
    save_legacy(net(5), tmp_path / "wider.h5")
    net(5).save(tmp_path / "wider.keras")
    refused("damaged.weights.h5", "heap")
    refused("deeper.weights.h5", "it holds 260 numbers, the network 112")
    refused("wider.h5", r"\(3, 3, 3, 4\).*\(3, 3, 3, 5\)")
    refused("wider.keras", r"\(3, 3, 3, 4\).*\(3, 3, 3, 5\)")


# --- KerasHub's presets ---------------------------------------------------------------------------


def raw_photos(height=96, width=64):
    return np.random.default_rng(0).uniform(0, 255, (2, height, width, 3)).astype("float32")


@hubs.needs_hub
@pytest.mark.parametrize("name", hubs.CONVOLUTIONS)
def test_a_network_of_kerashub_gives_what_kerashub_gives(name, tmp_path, monkeypatch):
    """Of raw pixels, at the preset's size and one with odd sides; and it carries all of that on."""
    hubs.shrink(monkeypatch, name)
    preset = hub.ROWS[name][2].split("/")[1]
    top = tmp_path / "kaggle/input/models/keras/some/keras" / preset / "1"
    official = hubs.save_preset(top, name)
    keras.utils.clear_session()
    ours = registry.build(name)
    line = weights.load_weights(ours, name, cfg())
    file = top / weights.WEIGHTS_FILE
    assert line == f"{name}: {official.count_params():,} parameters from model {file}"

    scale, offset = (np.float32(hubs.CONVERTER[key]) for key in ("scale", "offset"))
    for height, width in ((96, 64), (75, 107)):
        x = raw_photos(height, width)
        if height != 96:  # one that is built for that size
            told = hub.make(name, (height, width, 3))
            told.set_weights(official.get_weights())
            official = told
        y = official(x * scale + offset)
        y = np.asarray(y["stage4"] if isinstance(y, dict) else y)
        np.testing.assert_allclose(ours(x), y, rtol=1e-4, atol=1e-4 * max(1, np.abs(y).max()))
        assert ours.compute_output_shape(x.shape) == y.shape

    ours.save_weights(tmp_path / "trained.weights.h5")
    again = registry.build(name)  # elsewhere, where there is no preset
    again.load_weights(tmp_path / "trained.weights.h5")
    np.testing.assert_array_equal(again(x), ours(x))


def bicubic(positions, height, width):
    """Keras's own resize of a position embedding (…, n + side², C); the first n stay."""
    side = int(positions.shape[-2] ** 0.5)
    n = positions.shape[-2] - side**2
    flat = positions.reshape(-1, positions.shape[-1])
    grid = flat[n:].reshape(side, side, -1)
    new = np.asarray(keras.ops.image.resize(grid, (height, width), interpolation="bicubic"))
    return np.concatenate([flat[:n], new.reshape(-1, new.shape[-1])])


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_position_embedding_is_itself_at_its_own_grid_and_elsewhere_a_resized_grid(n):
    positions = np.random.default_rng(0).normal(size=(1, n + 36, 5)).astype("float32")
    unknown = tf.function(transformers.resize).get_concrete_function(
        positions, tf.TensorSpec((), tf.int32), tf.TensorSpec((), tf.int32)
    )
    np.testing.assert_array_equal(transformers.resize(positions, 6, 6), positions[0])
    for height, width in ((3, 8), (12, 6), (4, 9), (6, 24)):
        expected = bicubic(positions, height, width)
        # Between its places TensorFlow's kernel looks at 1024 steps.
        close = {"atol": 1e-4 if (4 * 6 / height) % 1 == (4 * 6 / width) % 1 == 0 else 2e-3}
        np.testing.assert_allclose(transformers.resize(positions, height, width), expected, **close)
        # In a graph that learns the size only as it runs.
        seen = unknown(tf.constant(positions), tf.constant(height), tf.constant(width))
        np.testing.assert_allclose(seen, expected, **close)


def features(network, name, x):
    """What KerasHub's own network makes of normalised pixels: the tokens that our head pools."""
    if name == "siglip_base_384":
        tower = network.vision_encoder
        return keras.Model(tower.inputs[0], tower.post_layer_norm.output)(x)
    tokens = keras.Model(network.inputs[0], network.output)(x)
    which = {"vit_base_384": slice(1), "deit_base_384": slice(2), "dinov2_small": slice(1, None)}
    return tokens[:, which.get(name, slice(5, None))]


@hubs.needs_hub
@pytest.mark.parametrize("name", hubs.TRANSFORMERS)
def test_a_transformer_gives_what_kerashub_gives_for_each_size_anew(name, tmp_path, monkeypatch):
    """Of raw pixels, at the preset's size and others; KerasHub has one network for each."""
    hubs.shrink(monkeypatch, name)
    preset, patch = hub.ROWS[name][2].split("/")[1], registry.find(name).patch
    top = tmp_path / "kaggle/input/models/keras/some/keras" / preset / "1"
    official = hubs.save_preset(top, name, 4 * patch, 4 * patch)
    ours = registry.build(name)
    weights.load_weights(ours, name, cfg())

    scale, offset = (np.float32(hubs.CONVERTER[key]) for key in ("scale", "offset"))
    compiled = partial(ours.predict, verbose=0)
    if keras.backend.backend() == "tensorflow":  # one graph that learns the size only as it runs
        compiled = tf.function(ours).get_concrete_function(tf.TensorSpec((None, None, None, 3)))
    sizes = [(4, 4), (8, 8)] if name.startswith(("dinov2", "siglip")) else [(4, 4), (2, 4)]
    for rows, columns in sizes:  # of patches
        x = raw_photos(rows * patch, columns * patch)
        told, values = official, official.get_weights()
        if (rows, columns) != (4, 4):
            told = hubs.official(name, *x.shape[1:3])
            for i, weight in enumerate(told.weights):
                if "position_ids" in weight.path:
                    values[i] = weight.numpy()
                elif weight.shape != values[i].shape:
                    values[i] = bicubic(values[i], rows, columns).reshape(weight.shape)
            told.set_weights(values)
        y = np.asarray(features(told, name, x * scale + offset))[:, None]
        for found in (ours(x), compiled(x)):
            np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-4)

    ours.save_weights(tmp_path / "trained.weights.h5")
    again = registry.build(name)
    again.load_weights(tmp_path / "trained.weights.h5")
    np.testing.assert_array_equal(again(x), ours(x))


@hubs.needs_hub
@pytest.mark.parametrize(
    "config",
    [
        hubs.CONVERTER,
        {"image_size": [96, 64], "scale": 0.02, "mean": [2.1, 2, 1.8], "variance": [1, 1.2, 1.4]},
    ],
)
def test_pixels_are_normalised_as_by_the_converter_of_kerashub(config, tmp_path, monkeypatch):
    """The one that KerasHub reads from the same preset, at its size, where it changes no more."""
    pytest.importorskip("tensorflow_text", reason="KerasHub's converters need tensorflow-text")
    import keras_hub

    name = hubs.shrink(monkeypatch, "resnet_vd_50")
    hubs.save_preset(tmp_path, name)
    hubs.write_converter(tmp_path, config)
    converter = keras_hub.layers.ImageConverter.from_preset(str(tmp_path))
    assert converter.image_size == (96, 64)
    ours = registry.build(name)
    weights.load_weights(ours, name, cfg(tmp_path))
    x = raw_photos()
    got = ours.get_layer("normalise")(x)
    np.testing.assert_allclose(got, converter(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "scale", "offset"),
    [
        ({"scale": 0.5, "offset": -1}, [0.5] * 3, [-1] * 3),
        ({"scale": [1, 2, 3], "offset": None}, [1, 2, 3], [0] * 3),
        ({"scale": None}, [1] * 3, [0] * 3),
        (
            {"scale": 2, "mean": [1, 2, 3], "variance": [4, 16, 64]},
            [1, 0.5, 0.25],
            [-0.5, -0.5, -0.375],
        ),
        (
            {"scale": 0.5, "norm_mean": 3, "norm_std": [1, 2, 4]},
            [0.5, 0.25, 0.125],
            [-3, -1.5, -0.75],
        ),
    ],
)
def test_normalisation_is_what_the_converter_says(config, scale, offset, tmp_path):
    hubs.write_converter(tmp_path, config)
    assert hub.read_converter(tmp_path / weights.WEIGHTS_FILE) == (scale, offset)


@pytest.mark.parametrize(
    "config",
    [
        {"scale": [1, 2]},
        {"scale": "x"},
        {"scale": 0},
        {"offset": float("nan")},
        {"mean": [0] * 3, "variance": [1, 1, 0]},
    ],
)
def test_a_converter_without_sense_is_refused(config, tmp_path):
    hubs.write_converter(tmp_path, config)
    with pytest.raises(InputError, match=rf"{hub.CONVERTER}: expected a config with scale"):
        hub.read_converter(tmp_path / weights.WEIGHTS_FILE)


def test_a_preset_that_is_not_the_row_s_network_is_refused_with_both(tmp_path):
    """Without KerasHub, as a kernel checks it before it imports anything."""
    name = "hgnetv2_b5"
    kind, config, _ = hub.ROWS[name]
    config = config | {"image_shape": [None, None, 3], "out_features": ["stem", "stage4"]}
    folder = tmp_path / "preset"
    folder.mkdir()
    (folder / weights.WEIGHTS_FILE).write_bytes(b"x")

    def find(kind=kind, **changes):
        content = {"class_name": kind, "config": config | changes}
        (folder / "config.json").write_text(json.dumps(content))
        return weights.find_weights(name, cfg(folder))

    with pytest.raises(InputError, match=f"no {hub.CONVERTER} beside it"):
        find()
    hubs.write_converter(folder)
    assert find() == folder / weights.WEIGHTS_FILE
    with pytest.raises(
        InputError, match=r"config.json: depths is \[1, 1, 3, 1\]; .*\[1, 2, 5, 2\]"
    ):
        find(depths=[1, 1, 3, 1])
    with pytest.raises(InputError, match=f"of a ResNetBackbone; backbone={name} is a {kind}"):
        find("ResNetBackbone")
    (folder / "config.json").write_text('{"class_name": "HGNetV2Backbone", "config": 3}')
    with pytest.raises(InputError, match="not the config.json of a preset"):
        weights.find_weights(name, cfg(folder))


def test_what_kerashub_forgets_or_names_otherwise_is_no_difference(tmp_path):
    name = "efficientnet2_rw_s"
    config = {
        k: v
        for k, v in hub.ROWS[name][1].items()
        if k not in ("num_features", "stackwise_nores_option")
    }
    hub.check_config(tmp_path, name, config | {"activation": "swish", "dropout": 0.2})
    with pytest.raises(InputError, match="batch_norm_epsilon is 0.001"):
        hub.check_config(tmp_path, name, config | {"batch_norm_epsilon": 1e-3})


def test_a_dataset_of_a_preset_brings_all_that_says_how_to_use_it(tmp_path, monkeypatch):
    name = "hgnetv2_b4"
    kind, config, handle = hub.ROWS[name]
    folder = tmp_path / "home/weights" / handle.split("/")[1]
    folder.mkdir(parents=True)
    (folder / weights.WEIGHTS_FILE).write_bytes(b"numbers")
    (folder / "config.json").write_text(json.dumps({"class_name": kind, "config": config}))
    hubs.write_converter(folder)
    (made,) = offline.build([f"backbone={name}"], "alice", every=True, top=tmp_path / "made")
    shutil.rmtree(tmp_path / "home")
    top = tmp_path / "kaggle/input/datasets/alice/carcls-hgnetv2-b4"
    shutil.copytree(made.folder, top)
    file = top / f"{name}_imagenet" / weights.WEIGHTS_FILE
    assert weights.find_weights(name, Config(backbone=name)) == file
    assert attached.verify(file) == "manifest verified"
    hubs.write_converter(file.parent, {"scale": 1})
    with pytest.raises(InputError, match=f"{hub.CONVERTER}: (has|sha256)"):
        attached.verify(file)

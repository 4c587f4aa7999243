"""Networks build without the internet and see the pixels that their weights were trained on."""

import importlib
import inspect
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import hubs
import keras
import numpy as np
import pytest
import tensorflow as tf

from carcls import session
from carcls.config import Config
from carcls.errors import ConfigError
from carcls.nets import hub, registry

# Parameters without the classifier. Sources: keras.io/api/applications (total less the 1000-way
# layer), the presets' metadata in keras-cv 0.9 (efficientnetv2), efficientnet-pytorch (4,652,008 of
# Lite0 less 1,281,000, plus 42,016 statistics of batch normalisation, which torch does not count).
PARAMETERS = {
    "efficientnet_lite_b0": 3_413_024,
    "efficientnetv2_b0": 5_919_312,
    "mobilenet_v3_small": 939_120,
    "keras_efficientnet_b0": 4_049_571,
    "keras_xception": 20_861_480,
    "keras_densenet121": 7_037_504,
    "keras_convnext_tiny": 27_820_128,
}
SLOW = {  # minutes on two cores
    "efficientnetv2_s": 20_331_360,
    "efficientnetv2_b1": 6_931_124,
    "efficientnetv2_b2": 8_769_374,
    "efficientnetv2_b3": 12_930_622,
    "efficientnet_lite_b1": 4_189_344,
    "efficientnet_lite_b2": 4_869_168,
    "resnet50_v2": 23_564_800,
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
}
# keras-cv and Keras have these networks in common.
SLOW |= {
    f"keras_{name}": count
    for name, count in (PARAMETERS | SLOW).items()
    if name.startswith("efficientnetv2")
}
# The presets' metadata in keras_hub 0.26, of EfficientNet and ResNet less the 1000-way layer, of
# timm's EfficientNets plus the statistics of batch normalisation, which torch does not count.
HUB = {
    "efficientnet2_rw_s": 23_941_296 - 1_793_000 + 160_848,
    "efficientnet2_rw_m": 53_236_442 - 2_153_000 + 307_232,
    "efficientnet_b5_sw_ft": 30_389_784 - 2_049_000 + 172_736,
    "hgnetv2_b4": 13_599_072,
    "hgnetv2_b5": 33_419_680,
    "hgnetv2_b6": 69_179_888,
    "densenet_121": 7_037_504,
    "xception_41": 20_861_480,
    "resnet_vd_50": 25_629_512 - 2_049_000,
    "mobilenet_v3_large_21k": 2_996_352,
}
# The same; of DINOv3, whose metadata is rounded, timm's.
TRANSFORMERS = {
    "vit_base_384": 86_090_496,
    "deit_base_384": 86_092_032,
    "dinov2_small": 22_582_656,
    "dinov2_base": 87_632_640,
    "dinov3_small": 21_596_544,
    "dinov3_base": 85_660_416,
    # Less the side of texts (110,271,808), the pooling (7,087,104) and two numbers of the loss.
    "siglip_base_384": 203_448_450 - 110_271_808 - 7_087_104 - 2,
}
slow = pytest.mark.skipif(not os.environ.get("CARCLS_SLOW"), reason="CARCLS_SLOW=1 builds it")
ALL = [
    *PARAMETERS,
    *(pytest.param(name, marks=slow) for name in SLOW),
    *(pytest.param(name, marks=[slow, hubs.needs_hub]) for name in HUB),
]

built = cache(registry.build)


@pytest.fixture(autouse=True)
def no_internet(monkeypatch):
    def refuse(*args):
        raise AssertionError(f"a connection to {args[1:]}")

    monkeypatch.setattr("socket.socket.connect", refuse)


def test_importing_it_imports_no_framework():
    code = (
        "import sys, carcls.nets.registry, carcls.nets.weights, carcls.nets.fast, "
        "carcls.nets.schedule; "
        "print({'keras', 'keras_cv', 'keras_hub', 'tensorflow'} & set(sys.modules))"
    )
    run = [sys.executable, "-c", code]
    assert subprocess.check_output(run, text=True, cwd=Path(__file__).parents[1]) == "set()\n"


def test_the_lists_here_are_the_registry():
    lists = (PARAMETERS, SLOW, HUB, TRANSFORMERS)
    assert set().union(*lists) == set(registry.REGISTRY)
    assert all(name == row.name for name, row in registry.REGISTRY.items())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"backbone='b0'.*efficientnet_lite_b0"):
        registry.build("b0")


@pytest.mark.parametrize("name", ["efficientnet_el", "efficientnet_em_ra2_imagenet"])
def test_names_under_which_another_network_s_weights_lie_are_refused(name):
    with pytest.raises(ConfigError, match=f"backbone={name}: .*another network's weights"):
        registry.find(name)


def test_a_missing_kerashub_is_named_before_anything_is_done(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (lambda name: registry.check(name, ()), registry.build):
        with pytest.raises(ConfigError, match=r"backbone=hgnetv2_b4: .*keras_hub.*pip install"):
            call("hgnetv2_b4")
    registry.check("efficientnet_lite_b0", ())
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "keras_hub", None)  # as if something that it needs were not
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    with pytest.raises(ConfigError, match=r"backbone=hgnetv2_b4: .*cannot be imported"):
        registry.build("hgnetv2_b4")


def test_the_version_of_kerashub_is_the_one_that_is_installed():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    assert f"keras-hub=={hub.VERSION}\n" in makefile


@hubs.needs_hub
@pytest.mark.parametrize("name", hub.ROWS)
def test_class_and_handle_are_kerashub_s_own(name):
    import keras_hub

    kind, _, handle = hub.ROWS[name]
    presets = getattr(keras_hub.models, kind).presets
    preset = handle.split("/")[1]
    assert presets[preset]["kaggle_handle"] == f"kaggle://{registry.find(name).model}"
    assert presets[preset]["kaggle_handle"] == f"kaggle://keras/{handle.replace('/', '/keras/', 1)}"


# What the makers' config.json says, as far as KerasHub's converters read it.
VIT = {
    "patch_size": 16,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_size": 768,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "layerscale_value": 1.0,
}
SMALL = {"num_attention_heads": 6, "hidden_size": 384}
DINO_V2 = {
    **VIT,
    "model_type": "dinov2",
    "image_size": 518,
    "patch_size": 14,
    "mlp_ratio": 4,
    "use_swiglu_ffn": False,
}
DINO_V3 = {
    **VIT,
    "image_size": 224,
    "intermediate_size": 3072,
    "num_register_tokens": 4,
    "hidden_act": "gelu",
    "use_gated_mlp": False,
    **dict.fromkeys(("query_bias", "value_bias", "proj_bias", "mlp_bias"), True),
    "key_bias": False,
    "attention_dropout": 0.0,
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
}
MAKERS = {
    "deit_base_384": {**VIT, "image_size": 384, "intermediate_size": 3072, "layer_norm_eps": 1e-12},
    "dinov2_small": DINO_V2 | SMALL,
    "dinov2_base": DINO_V2,
    "dinov3_small": DINO_V3 | SMALL | {"intermediate_size": 1536},
    "dinov3_base": DINO_V3,
}


@hubs.needs_hub
@pytest.mark.parametrize("name", MAKERS)
def test_a_transformer_is_what_kerashub_makes_of_the_makers_configuration(name):
    import keras_hub

    converter = f"keras_hub.src.utils.transformers.convert_{name.partition('_')[0]}"
    theirs = importlib.import_module(converter).convert_backbone_config(MAKERS[name])
    kind, ours, _ = hub.ROWS[name]
    theirs.pop("image_shape" if "image_shape" not in ours else "", None)  # DINOv3's may be any
    known = inspect.signature(getattr(keras_hub.models, kind).__init__).parameters
    for key in theirs | ours:  # what a row leaves out is KerasHub's default
        mine = np.asarray(ours.get(key, known[key].default))
        assert np.all(mine == np.asarray(theirs[key])), key


@pytest.mark.parametrize("name", registry.REGISTRY)
def test_name_class_and_weights_of_a_row_are_of_one_network(name):
    row = registry.REGISTRY[name]
    if row.library == "keras_hub":
        assert (row.name, row.kind) == (*row.make.args, hub.ROWS[name][0])
        words = name.removesuffix("_21k").split("_")
        assert set(words) <= set(row.preset.split("_"))
        return
    assert row.kind == row.make.args[0]
    if row.library == "keras":
        file = row.preset.removesuffix("_notop.h5").partition("_weights")[0]
        plain = [text.replace("_", "").replace("-", "").lower() for text in (name, file, row.kind)]
        assert plain[0].removeprefix("keras") == plain[1] == plain[2]
    elif name != "efficientnetv2_b3":  # of which keras-cv has no weights
        assert row.preset == f"{name}_imagenet"
        assert (row.model is None) == ("lite" in name)
        if row.model:
            family = row.model.split("/")[1]
            assert row.model == f"keras/{family}/keras/{name}_imagenet/2"
            assert row.kind.lower().startswith(family.removesuffix("121"))


@pytest.mark.parametrize("name", ALL)
def test_each_network_builds_without_a_network(name):
    model = built(name)
    # Of KerasHub's networks two numbers a channel more, which normalise.
    assert model.count_params() - 6 * (name in HUB) == {**PARAMETERS, **SLOW, **HUB}[name]
    assert model.compute_output_shape((1, 64, 96, 3))[:3] == (1, 2, 3)
    assert len(model.layers) > (3 if name in HUB else 20)  # flat: nothing hides in one layer


@slow
@hubs.needs_hub
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_each_transformer_builds_without_a_network(name):
    model = registry.build(name)
    assert model.count_params() - 6 == TRANSFORMERS[name]
    patch = registry.find(name).patch
    features = np.asarray(model(np.zeros((1, 2 * patch, 3 * patch, 3), "float32")))
    tokens = {"vit_base_384": 1, "deit_base_384": 2}.get(name, 2 * 3)
    assert features.shape == (1, 1, tokens, 384 if "small" in name else 768)


def test_a_size_that_a_network_does_not_take_is_refused_with_the_nearest(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    with pytest.raises(
        ConfigError, match=r"stages=128x224x4: .*dinov2_small .* 14 px; .* 126 or 140, width 224$"
    ):
        session.check(Config(backbone="dinov2_small"))
    members = "backbone=dinov3_small+backbone=dinov3_small/stages=160x256x2,180x260x1"
    with pytest.raises(
        ConfigError, match=r"180x260x1: .*dinov3_small .* 16 px; .* 176 or 192, width 256 or 272$"
    ):
        session.check(Config(members=members))
    session.check(Config(backbone="vit_base_384"))
    session.check(Config(backbone="hgnetv2_b4", stages="33x35x1"))


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
    "name", [pytest.param(name, marks=[slow] * (name in SLOW)) for name in GOLDEN]
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


@pytest.mark.parametrize(
    ("name", "height", "width"),
    # KerasHub's networks: with their presets, in test_weights_files.
    [
        ("mobilenet_v3_small", 112, 208),
        ("efficientnet_lite_b0", 100, 90),
        ("keras_efficientnet_b0", 112, 90),
    ],
)
def test_odd_sides_keep_the_last_row_and_column(name, height, width):
    """112 × 208 px: the last halving meets 7 × 13. One that is built for that size knows."""
    ours, row = built(name), registry.find(name)
    told = row.make((height, width, 3))
    told.set_weights(ours.get_weights())
    x = np.random.default_rng(0).uniform(0, 255, (1, height, width, 3)).astype("float32")
    scale, offset = registry._NORMALISE[row.normalise] or ((1,), (0,))
    y = np.asarray(told(x * np.float32(scale) + np.float32(offset)))
    assert y.shape[1:3] == (-(-height // 32), -(-width // 32))
    close = {"rtol": 1e-3, "atol": 1e-4 * np.abs(y).max()}
    np.testing.assert_allclose(ours(x), y, **close)
    any_size = tf.function(ours).get_concrete_function(tf.TensorSpec((None, None, None, 3)))
    np.testing.assert_allclose(any_size(tf.constant(x)), y, **close)
    assert ours.compute_output_shape((1, height, width, 3)) == y.shape


def test_padding_that_is_the_same_on_both_sides_stays_as_it_is():
    kind, layers = keras.layers.ZeroPadding2D, built("keras_densenet121").layers
    assert {type(layer) for layer in layers if isinstance(layer, kind)} == {kind}

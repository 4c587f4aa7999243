"""Networks by name, each with the normalisation inside that its ImageNet weights were trained with (S4, S5).

Nothing here needs the internet: keras-cv's named presets fetch their configuration, so the numbers are
written out here for the explicit constructors; keras.applications are built with ``weights=None``. Weights
come from disk: a keras-cv preset folder or a keras.applications file.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk
from carcls.config import Config
from carcls.data import attached
from carcls.data import files as inputs
from carcls.errors import ConfigError, InputError

Shape = tuple[int | None, int | None, int]

WEIGHTS_FILE = "model.weights.h5"  # in a keras-cv preset folder, beside config.json
_MEAN, _STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # ImageNet, RGB in 0–1 (torchvision's numbers)

# What a layer before the network does to a raw pixel x in 0–255: x × scale + offset, per channel.
# "own": nothing, because the network's own first layers normalise.
_NORMALISE: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "own": None,
    "(x - 127) / 128": ((1 / 128,) * 3, (-127 / 128,) * 3),
    "x / 127.5 - 1": ((1 / 127.5,) * 3, (-1.0,) * 3),
    "(x / 255 - mean) / std": (
        tuple(1 / (255 * s) for s in _STD),
        tuple(-m / s for m, s in zip(_MEAN, _STD, strict=True)),
    ),
    # keras.applications.EfficientNet normalises by (x / 255 - mean) / sqrt(v), where the official
    # file holds v = std, not its square; with weights="imagenet" (only then) Keras mends that by a
    # factor 1 / sqrt(std) (tensorflow issue 49930). Here a layer before the network gives it x'
    # such that (x' / 255 - mean) / sqrt(std) = (x / 255 - mean) / std, and the network stays as its
    # file knows it.
    "(x / 255 - mean) / std, half of it inside": (
        tuple(1 / math.sqrt(s) for s in _STD),
        tuple(255 * m * (1 - 1 / math.sqrt(s)) for m, s in zip(_MEAN, _STD, strict=True)),
    ),
}


@dataclass(frozen=True)
class Backbone:
    """One entry of the registry."""

    name: str
    library: str  # "keras_cv" or "keras" (keras.applications)
    make: Callable[[Shape], Any]  # (height, width, 3) → network as its weight files know it
    normalise: str  # key of _NORMALISE: what comes before that network
    preset: (
        str | None
    )  # with its weights: a folder's name (keras_cv) or a file's (keras); None: there are none
    source: str  # where those weights come from: a Kaggle model handle, or how to get them
    model: str | None = (
        None  # Kaggle's model with those weights: owner/model/framework/variation/version
    )


def _keras_cv(cls: str, config: dict[str, Any], shape: Shape) -> Any:
    import keras_cv

    return getattr(keras_cv.models, cls)(input_shape=shape, **config)


def _keras(cls: str, shape: Shape) -> Any:
    import keras

    network = getattr(keras.applications, cls)(
        weights=None, include_top=False, pooling=None, input_shape=shape
    )
    for layer in _normalisations(network):  # EfficientNet B0–B7, see _NORMALISE
        layer.set_weights([np.array(_MEAN, "float32"), np.array(_STD, "float32"), np.int32(0)])
        layer.finalize_state()
    return network


def _normalisations(network: Any) -> list[Any]:
    """Normalisation layers whose mean and variance are weights, in EfficientNet B0–B7 alone."""
    import keras

    return [
        layer
        for layer in network.layers
        if isinstance(layer, keras.layers.Normalization) and layer.weights
    ]


def _registry() -> Iterator[Backbone]:
    # keras-cv trained its own weights on pixels in 0–1: include_rescaling is x / 255 in every one
    # of these.
    v2_b: dict[str, Any] = {
        "include_rescaling": True,
        "stackwise_kernel_sizes": [3] * 6,
        "stackwise_num_repeats": [1, 2, 2, 3, 5, 8],
        "stackwise_input_filters": [32, 16, 32, 48, 96, 112],
        "stackwise_output_filters": [16, 32, 48, 96, 112, 192],
        "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
        "stackwise_squeeze_and_excite_ratios": [0, 0, 0, 0.25, 0.25, 0.25],
        "stackwise_strides": [1, 2, 2, 2, 1, 2],
        "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * 3,
    }
    v2_s = {
        **v2_b,
        "stackwise_num_repeats": [2, 4, 4, 6, 9, 15],
        "stackwise_input_filters": [24, 24, 48, 64, 128, 160],
        "stackwise_output_filters": [24, 48, 64, 128, 160, 256],
    }
    lite = {
        "include_rescaling": False,
        "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
        "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
        "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
        "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
        "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
        "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    }
    mobile_small = {
        "include_rescaling": True,
        "stackwise_expansion": [1, 72 / 16, 88 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
        "stackwise_filters": [16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
        "stackwise_kernel_size": [3] * 3 + [5] * 8,
        "stackwise_stride": [2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
        "stackwise_se_ratio": [0.25, None, None] + [0.25] * 8,
        "stackwise_activation": ["relu"] * 3 + ["hard_swish"] * 8,
    }
    mobile_large = {
        "include_rescaling": True,
        "stackwise_expansion": [1, 4, 3, 3, 3, 3, 6, 2.5, 2.3, 2.3, 6, 6, 6, 6, 6],
        "stackwise_filters": [16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160],
        "stackwise_kernel_size": [3] * 3 + [5] * 3 + [3] * 6 + [5] * 3,
        "stackwise_stride": [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
        "stackwise_se_ratio": [None] * 3 + [0.25] * 3 + [None] * 4 + [0.25] * 5,
        "stackwise_activation": ["relu"] * 6 + ["hard_swish"] * 9,
    }
    resnet = {
        "include_rescaling": True,
        "stackwise_filters": [64, 128, 256, 512],
        "stackwise_blocks": [3, 4, 6, 3],
        "stackwise_strides": [1, 2, 2, 2],
    }
    densenet = {"include_rescaling": True, "stackwise_num_repeats": [6, 12, 24, 16]}

    def scaled(config: dict[str, Any], width: float, depth: float) -> dict[str, Any]:
        return {**config, "width_coefficient": width, "depth_coefficient": depth}

    scales = {"b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4)}

    def dataset(name: str) -> str:
        return (
            f'on Kaggle attach a dataset that holds it: `make dataset SET="backbone={name}"` uploads one; '
            'in the kernel\'s editor: Add Input → Datasets; in kernel-metadata.json: "dataset_sources"'
        )

    def kaggle(name: str, cls: str, config: dict[str, Any], model: str) -> Backbone:
        preset = f"{name}_imagenet"
        handle = f"keras/{model}/keras/{preset}/2"
        source = (
            f"on Kaggle attach the model, in the kernel's editor: Add Input → Models → keras/{model}, framework Keras, "
            f'variation {preset}; in kernel-metadata.json: "model_sources": ["{handle}"]; '
            "elsewhere put its folder into one of those"
        )
        return Backbone(
            name, "keras_cv", partial(_keras_cv, cls, config), "own", preset, source, handle
        )

    yield kaggle(
        "efficientnetv2_s", "EfficientNetV2Backbone", scaled(v2_s, 1.0, 1.0), "efficientnetv2"
    )
    for b in ("b0", "b1", "b2"):
        v2 = scaled(v2_b, *scales[b])
        yield kaggle(f"efficientnetv2_{b}", "EfficientNetV2Backbone", v2, "efficientnetv2")
    make = partial(_keras_cv, "EfficientNetV2Backbone", scaled(v2_b, *scales["b3"]))
    none = "keras-cv has none; keras_efficientnetv2_b3 is the same network with weights"
    yield Backbone("efficientnetv2_b3", "keras_cv", make, "own", None, none)
    for b in ("b0", "b1", "b2"):
        name = f"efficientnet_lite_{b}"
        source = f"`python -m carcls weights {name}` makes it; {dataset(name)}"
        make = partial(_keras_cv, "EfficientNetLiteBackbone", scaled(lite, *scales[b]))
        yield Backbone(name, "keras_cv", make, "(x - 127) / 128", f"{name}_imagenet", source)
    yield kaggle("resnet50_v2", "ResNetV2Backbone", resnet, "resnetv2")
    yield kaggle("densenet121", "DenseNetBackbone", densenet, "densenet")
    yield kaggle("mobilenet_v3_small", "MobileNetV3Backbone", mobile_small, "mobilenetv3")
    yield kaggle("mobilenet_v3_large", "MobileNetV3Backbone", mobile_large, "mobilenetv3")

    def application(name: str, cls: str, file: str, normalise: str = "own") -> Backbone:
        source = (
            f"`keras.applications.{cls}(include_top=False)` fetches it where there is a network; "
        )
        source += dataset(f"keras_{name}")
        make = partial(_keras, cls)
        return Backbone(f"keras_{name}", "keras", make, normalise, file, source)

    half = "(x / 255 - mean) / std, half of it inside"
    for b in map(str, range(8)):
        file = f"efficientnetb{b}_notop.h5"
        yield application(f"efficientnet_b{b}", f"EfficientNetB{b}", file, half)
    old = "weights_tf_dim_ordering_tf_kernels_notop.h5"
    yield application("xception", "Xception", f"xception_{old}", "x / 127.5 - 1")
    yield application("resnet50_v2", "ResNet50V2", f"resnet50v2_{old}", "x / 127.5 - 1")
    yield application("densenet121", "DenseNet121", f"densenet121_{old}", "(x / 255 - mean) / std")
    yield application("convnext_tiny", "ConvNeXtTiny", "convnext_tiny_notop.h5")
    yield application("convnext_small", "ConvNeXtSmall", "convnext_small_notop.h5")
    for size in ("s", "b0", "b1", "b2", "b3"):
        file = f"efficientnetv2-{size}_notop.h5"
        yield application(f"efficientnetv2_{size}", f"EfficientNetV2{size.upper()}", file)


REGISTRY: dict[str, Backbone] = {backbone.name: backbone for backbone in _registry()}


def find(name: str) -> Backbone:
    """The registry's entry of that name. Raises ConfigError if there is none."""
    if name not in REGISTRY:
        raise ConfigError(
            f"backbone={name!r}: no such network; expected one of {', '.join(REGISTRY)}"
        )
    return REGISTRY[name]


def build(name: str) -> Any:
    """A keras.Model from raw RGB pixels (B, H, W, 3) in 0–255 to a feature map (B, h, w, C), random weights.

    It takes photos of any size; by their nature DenseNet, ConvNeXt and Xception leave out what is left over at the right
    and the bottom where sides are no multiples of 32 px. Its layers are flat: those of the network in order, after at most
    one that normalises. Raises ConfigError on a wrong name.
    """
    import keras

    backbone = find(name)
    network = backbone.make((None, None, 3))
    for layer in network.layers:
        if type(layer) is keras.layers.ZeroPadding2D and any(
            before != after for before, after in layer.padding
        ):
            # Not through Keras's own __setattr__, which tracks whatever it is given.
            object.__setattr__(layer, "__class__", _padding_of_any_size())
    affine = _NORMALISE[backbone.normalise]
    if affine is None:
        return network
    images = keras.Input((None, None, 3), name="images")
    scale, offset = (list(values) for values in affine)
    # float32 even in mixed precision: 0–255 in float16 would cost the last bits of a normalised
    # pixel.
    pixels = keras.layers.Rescaling(scale, offset, name="normalise", dtype="float32")(images)
    # .call, not __call__: the network's layers become this model's own, instead of one layer that
    # hides them.
    return keras.Model(images, network.call(pixels), name=name)


@cache
def _padding_of_any_size() -> type:
    """What EfficientNet and MobileNetV3 pad with before they halve a photo, told apart for even and odd sides as each comes.

    Their libraries settle it once, when the network is built, and for even sides if they are not told any: of 112 px, which
    are 7 before the last halving, that one would then drop a row. As the weights were trained, by TensorFlow's "same", it
    makes 4 of them. A model that is saved whole, not its weights alone, comes back with the library's own.
    """
    import keras

    plain = keras.layers.ZeroPadding2D

    def call(self: Any, inputs: Any) -> Any:
        """(B, H, W, C) → (B, h, w, C), as ``keras.layers.ZeroPadding2D.call`` where H and W are even."""
        height, width = keras.ops.shape(inputs)[1:3]
        (top, bottom), (left, right) = self.padding
        around = ((0, 0), (top + height % 2, bottom), (left + width % 2, right), (0, 0))
        return keras.ops.pad(inputs, around)

    def compute_output_shape(self: Any, shape: Any) -> Any:
        even = [side and side + side % 2 for side in shape[1:3]]
        return plain.compute_output_shape(self, (shape[0], *even, shape[3]))

    body = {"call": call, "compute_output_shape": compute_output_shape}
    return type(
        plain.__name__, (plain,), {**body, "__module__": plain.__module__, "__doc__": plain.__doc__}
    )


def load_weights(model: Any, name: str, cfg: Config) -> str:
    """Set the weights of what ``build(name)`` made, as ``cfg.weights`` says: imagenet, none, or a path.

    Returns a line that says what was loaded. Raises InputError if they are not found or do not fit; then the
    model may hold some of them and is not to be used.
    """
    file = find_weights(name, cfg)
    if file is None:
        return f"{name}: from scratch (weights=none)"
    verified = attached.verify(file)
    _load(model, find(name), file)
    source = f"{attached.kind(file)} {file}".lstrip()
    return (
        f"{name}: {model.count_params():,} parameters from {source}{verified and f', {verified}'}"
    )


def check_attached(cfg: Config) -> list[str]:
    """A line for each input that a kernel needs and has. Raises InputError that lists all it lacks, at once.

    Made for the first second of a kernel: nothing heavy is imported, no photo is read.
    """
    problems, lines = [], []
    for mine in {(mine.backbone, mine.weights): mine for mine in cfg.of_members()}.values():
        try:
            file = find_weights(mine.backbone, mine)
            verified = file and attached.verify(file)
        except InputError as error:
            problems.append(str(error))
            continue
        if file is None:
            lines.append(f"weights of {mine.backbone}: none, from scratch")
        else:
            lines.append(
                f"weights of {mine.backbone}: {attached.kind(file)} {file}{verified and f', {verified}'}"
            )
    try:
        lines += [f"boxes: {attached.kind(file)} {file}" for file in attached.box_files(cfg)]
    except InputError as error:
        problems.append(str(error))
    try:
        lines.insert(0, f"competition: {inputs.check(cfg)}")
    except InputError as error:
        problems.append(str(error))  # last: it ends with a tree of what is there
    else:
        if problems and disk.on_kaggle():
            top = disk.kaggle_root() / "input"
            problems[-1] += f" There is:\n{disk.tree(top, depth=4)}"
    if len(problems) > 1:
        raise InputError(
            "\n".join([f"{len(problems)} problems:", *(f"- {each}" for each in problems)])
        )
    if problems:
        raise InputError(problems[0])
    return lines


def find_weights(name: str, cfg: Config) -> Path | None:
    """The file that ``load_weights`` will read; None with weights=none. Raises InputError that says where it looked."""
    backbone = find(name)
    if cfg.weights == "none":
        return None
    file = (
        _search(backbone)
        if cfg.weights == "imagenet"
        else _given(backbone, disk.user_path(cfg.weights))
    )
    _check_class(backbone, file)
    return file


def _given(backbone: Backbone, path: Path) -> Path:
    if path.is_dir():
        found = attached.by_manifest(path, backbone.name)
        found = found or _in_folder(path, backbone.preset if backbone.library == "keras" else None)
        if found is None:
            wanted = WEIGHTS_FILE if backbone.library == "keras_cv" else backbone.preset
            has = disk.tree(path)
            raise InputError(f"weights={path}: no {wanted} in this folder; it has\n{has}")
        return found
    if not path.is_file():
        raise InputError(
            f"weights={path}: no such file or folder; expected imagenet, none or a path"
        )
    if path.suffix not in (".h5", ".keras"):
        raise InputError(
            f"weights={path}: expected a preset folder or a file ending in .h5 or .keras"
        )
    return path


def _in_folder(folder: Path, name: str | None) -> Path | None:
    """The weights file (also that of this name) in a folder or, for Kaggle's models, its highest version."""
    versions = sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: -int(p.name))
    files = (place / file for place in (folder, *versions) for file in (WEIGHTS_FILE, name) if file)
    return next((file for file in files if file.is_file()), None)


def _search(backbone: Backbone) -> Path:
    roots = disk.search_roots()
    if backbone.library == "keras":
        roots = [*roots, Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"]
    if backbone.preset is None:
        what = "there are no such weights"
    else:
        for root in roots:
            for folder in disk.folders_below(root):
                if found := attached.by_manifest(folder, backbone.name) or _match(
                    folder, backbone.library, backbone.preset
                ):
                    return found
        what = f"no {backbone.preset} in {', '.join(str(root.absolute()) for root in roots)}"
    raise InputError(
        f"backbone={backbone.name} weights=imagenet: {what} ({backbone.source}). "
        "Or give a path as weights, or train from scratch with weights=none."
    )


def _match(folder: Path, library: str, preset: str) -> Path | None:
    """The weights file if that folder is the preset, or the one that holds the file of that name."""
    if library == "keras":
        file = folder / preset
        return file if file.is_file() else None
    # A dataset's folder on Kaggle is called after its slug, in which "_" is "-".
    return _in_folder(folder, None) if folder.name.replace("-", "_") == preset else None


def _check_class(backbone: Backbone, file: Path) -> None:
    """Refuse a preset folder that was saved from another kind of network."""
    config = file.parent / "config.json"
    if file.name != WEIGHTS_FILE or not config.is_file():
        return
    try:
        found = json.loads(config.read_text())["class_name"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{config}: not the config.json of a keras-cv preset") from None
    expected = backbone.make.args[0]  # type: ignore[attr-defined]  # a partial: see _registry
    if found != expected:
        raise InputError(
            f"{config}: weights of a {found}; backbone={backbone.name} is a {expected}"
        )


def _load(model: Any, backbone: Backbone, file: Path) -> None:
    try:
        if file.name.endswith(".weights.h5") and (found := _size(file)) != model.count_params():
            # Keras loads what it finds by class and order, and is silent about layers that the
            # network lacks.
            raise ValueError(f"it holds {found:,} numbers, the network {model.count_params():,}")
        model.load_weights(file)
    # RuntimeError is what h5py makes of damaged bytes.
    except (ValueError, OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file}: does not fit backbone={backbone.name}: {_first(error)}"
        ) from None
    for layer in _normalisations(model):
        mean, variance, _ = (np.round(value.ravel(), 3).tolist() for value in layer.get_weights())
        if not np.allclose([mean, variance], [_MEAN, _STD], atol=2e-3):
            raise InputError(
                f"{file}: made for pixels of mean {mean} and variance {variance}; "
                f"backbone={backbone.name} takes weights made for ImageNet's {list(_MEAN)} and {list(_STD)}"
            )


def _size(file: Path) -> int:
    """How many numbers a ``.weights.h5`` has for layers."""
    import h5py

    sizes = []

    def visit(path: str, item: Any) -> None:
        parts = path.split("/")
        if (
            isinstance(item, h5py.Dataset)
            and "seed_generator" not in path
            and parts[0] != "optimizer"
        ):
            sizes.append(item.size if ("vars", parts[-1]) in pairwise(parts) else 0)

    with h5py.File(file) as content:
        content.visititems(visit)
    return sum(sizes)


def _first(error: Exception) -> str:
    """The first thing that Keras complains of, on one line."""
    text = re.sub(r".*Example error message for object", "", str(error), flags=re.DOTALL)
    text = text.split("List of objects that could not be loaded")[0]
    return re.sub(r"\s+", " ", text).strip()[:400]

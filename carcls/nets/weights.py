"""Weights from disk: find the file that a network starts from, check it, load it.

Kaggle's inputs, the cache and the working folder are searched: a dataset of ours is known by its
manifest, a preset of keras-cv or KerasHub by its folder's name, a file of Keras by its own name.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from carcls import disk
from carcls.config import Config
from carcls.data import attached, files
from carcls.errors import ConfigError, InputError
from carcls.nets import hub, registry
from carcls.nets.registry import MEAN, STD, Backbone, find, normalisations

WEIGHTS_FILE = "model.weights.h5"  # in a preset folder, beside config.json


def find_weights(name: str, cfg: Config) -> Path | None:
    """The file that ``load_weights`` will read; None with weights=none.

    Raises InputError that says where it looked and how to get the weights.
    """
    backbone = find(name)
    if cfg.weights == "none":
        return None
    file = _search(backbone) if cfg.weights == "imagenet" else _given(backbone, cfg.weights)
    _check_config(backbone, file)
    return file


def load_weights(model: Any, name: str, cfg: Config) -> str:
    """Set the weights of what ``registry.build(name)`` made; returns a line of what was loaded.

    Raises InputError if they are not found or do not fit; the model may then hold some of them.
    """
    file = find_weights(name, cfg)
    if file is None:
        return f"{name}: from scratch (weights=none)"
    described = _describe(file)  # before it is read: it may be damaged
    _load(model, find(name), file)
    return f"{name}: {_count(model):,} parameters from {described}"


def check_attached(cfg: Config) -> list[str]:
    """A line for each input that a kernel needs; it imports no framework and reads no photo.

    Raises InputError that lists all that is missing.
    """
    members = cfg.member_cfgs()
    once = {(member.backbone, member.weights): member for member in members}
    checks: list[Callable[[], list[str]]] = [
        lambda: [f"competition: {files.check(cfg)}"],
        *(partial(_check_network, member) for member in members),
        *(partial(_check_weights, member) for member in once.values()),
        lambda: [f"boxes: {_source(file)}" for file in attached.box_files(cfg)],
    ]
    lines, problems = [], []
    for check in checks:
        try:
            lines += check()
        except (ConfigError, InputError) as error:
            problems.append(str(error))
    if not problems:
        return lines
    problems = list(dict.fromkeys(problems))  # members may share one
    if not lines or not lines[0].startswith("competition"):
        problems.append(problems.pop(0))  # last: it ends with a tree of what is there
    elif disk.on_kaggle():
        problems[-1] += f" There is:\n{disk.tree(disk.kaggle_root() / 'input', depth=4)}"
    heading = [f"{len(problems)} problems:"] if len(problems) > 1 else []
    raise InputError("\n- ".join([*heading, *problems]))


def _check_network(cfg: Config) -> list[str]:
    registry.check(cfg.backbone, cfg.stages)
    return []


def _check_weights(cfg: Config) -> list[str]:
    file = find_weights(cfg.backbone, cfg)
    return [f"weights of {cfg.backbone}: {_describe(file) if file else 'none, from scratch'}"]


def _describe(file: Path) -> str:
    """Where a file is from, and whether its manifest agrees. Raises InputError if it does not."""
    verified = attached.verify(file)
    return f"{_source(file)}, {verified}" if verified else _source(file)


def _source(file: Path) -> str:
    """``dataset /kaggle/input/…``; the path alone where it is none of Kaggle's inputs."""
    return f"{attached.kind(file)} {file}".lstrip()


# --- Find -----------------------------------------------------------------------------------------


def _search(backbone: Backbone) -> Path:
    """ImageNet's weights of a network."""
    if not (preset := backbone.preset):
        raise _not_found(backbone, "there are no such weights")
    roots = disk.search_roots()
    if backbone.library == "keras":
        roots.append(Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models")
    for root in roots:
        for folder in disk.folders_below(root):
            # A dataset's folder on Kaggle is called after its slug, in which "_" is "-".
            is_preset = folder.name.replace("-", "_") == preset
            names = [preset] if backbone.library == "keras" else [WEIGHTS_FILE] * is_preset
            if file := _in_folder(backbone, folder, names):
                return file
    where = ", ".join(str(root.absolute()) for root in roots)
    raise _not_found(backbone, f"no {preset} in {where}")


def _in_folder(backbone: Backbone, folder: Path, names: list[str]) -> Path | None:
    """The network's weights by a manifest, else a file of these names.

    They are in the folder or, as in Kaggle's models, in its highest version.
    """
    if (file := attached.by_manifest(folder, backbone.name)) or not names:
        return file
    versions = sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: -int(p.name))
    places = (place / name for place in (folder, *versions) for name in names)
    return next((file for file in places if file.is_file()), None)


def _given(backbone: Backbone, text: str) -> Path:
    """The weights file that a person means by a path."""
    path = disk.user_path(text)
    if path.is_dir():
        names = [WEIGHTS_FILE]
        if backbone.library == "keras" and backbone.preset:
            names.append(backbone.preset)
        if file := _in_folder(backbone, path, names):
            return file
        wanted = " or ".join(names)
        raise InputError(f"weights={path}: no {wanted} in this folder; it has\n{disk.tree(path)}")
    if not path.is_file():
        raise InputError(
            f"weights={path}: no such file or folder; expected imagenet, none or a path"
        )
    if path.suffix not in (".h5", ".keras"):
        raise InputError(f"weights={path}: expected a folder or a file ending in .h5 or .keras")
    return path


def _not_found(backbone: Backbone, what: str) -> InputError:
    return InputError(
        f"backbone={backbone.name} weights=imagenet: {what} ({how_to_get(backbone)}). "
        "Or give a path as weights, or train from scratch with weights=none."
    )


def how_to_get(backbone: Backbone) -> str:
    """How a person gets a network's weights to where they are found."""
    if backbone.model:
        owner, model, _, variation, _ = backbone.model.split("/")
        accept = f"{accept_licence(backbone)}, then " if backbone.is_gated else ""
        return (
            f"{accept}on Kaggle attach the model: in the kernel's editor Add Input → Models → "
            f"{owner}/{model}, framework Keras, variation {variation}; in kernel-metadata.json "
            f'"model_sources": ["{backbone.model}"]; elsewhere, with internet, `carcls weights '
            f"{backbone.name}` fetches it"
        )
    if not backbone.preset:
        return backbone.source
    return (
        f"{backbone.source}; on Kaggle attach a dataset that holds it: `make dataset "
        f'SET="backbone={backbone.name}"` uploads one; in the kernel\'s editor Add Input → '
        'Datasets; in kernel-metadata.json "dataset_sources"'
    )


def accept_licence(backbone: Backbone) -> str:
    """What a person does first where a network's model is not to be had without it."""
    page = "/".join((backbone.model or "").split("/")[:2])
    return f"accept the model's licence on https://www.kaggle.com/models/{page}"


# --- Check and load -------------------------------------------------------------------------------


def _check_config(backbone: Backbone, file: Path) -> None:
    """Refuse a preset folder that was saved from another network, or does not say enough."""
    config, is_hub = file.parent / "config.json", backbone.library == "keras_hub"
    if is_hub:
        hub.read_converter(file)
    if file.name != WEIGHTS_FILE or not config.is_file():
        return
    try:
        content = disk.read_json(config)
        found, settings = content["class_name"], dict(content["config"]) if is_hub else {}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{config}: not the config.json of a preset") from None
    if found != backbone.kind:
        raise InputError(
            f"{config}: weights of a {found}; backbone={backbone.name} is a {backbone.kind}"
        )
    if is_hub:
        hub.check_config(config, backbone.name, settings)


def _load(model: Any, backbone: Backbone, file: Path) -> None:
    try:
        # Keras loads what it finds by class and order, silent about layers that the network lacks.
        if file.name.endswith(".weights.h5") and (size := _size(file)) != _count(model):
            raise ValueError(f"it holds {size:,} numbers, the network {_count(model):,}")
        model.load_weights(file)
    # RuntimeError is what h5py makes of damaged bytes.
    except (ValueError, OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        why = _first(error)
        raise InputError(f"{file}: does not fit backbone={backbone.name}: {why}") from None
    if backbone.library == "keras_hub":
        values = [np.array(each) for each in hub.read_converter(file)]
        model.get_layer("normalise").set_weights(values)
    for layer in normalisations(model):
        mean, variance, _ = (np.round(value.ravel(), 3).tolist() for value in layer.get_weights())
        if not np.allclose([mean, variance], [MEAN, STD], atol=2e-3):
            raise InputError(
                f"{file}: made for pixels of mean {mean} and variance {variance}; backbone="
                f"{backbone.name} takes weights made for ImageNet's {list(MEAN)} and {list(STD)}"
            )


def _count(model: Any) -> int:
    """How many numbers its weight file has: all but those that normalise before the network."""
    ours = [layer for layer in model.layers if layer.name == "normalise"]
    return model.count_params() - sum(layer.count_params() for layer in ours)


def _size(file: Path) -> int:
    """How many numbers a ``.weights.h5`` has for layers."""
    import h5py

    sizes = []

    def visit(path: str, item: Any) -> None:
        parts = path.split("/")
        is_of_layer = parts[0] != "optimizer" and not re.search(hub.ASIDE_IN_FILES, path)
        if is_of_layer and isinstance(item, h5py.Dataset) and "vars" in parts[-2:-1]:
            sizes.append(item.size)

    with h5py.File(file) as content:
        content.visititems(visit)
    return sum(sizes)


def _first(error: Exception) -> str:
    """The first thing that Keras complains of, on one line."""
    text = re.sub(r".*Example error message for object", "", str(error), flags=re.DOTALL)
    text = text.split("List of objects that could not be loaded")[0]
    return re.sub(r"\s+", " ", text).strip()[:400]

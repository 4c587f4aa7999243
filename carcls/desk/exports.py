"""What a finished run gives away: predictions of other photos, and networks for Keras alone."""

from __future__ import annotations

import inspect
import json
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carcls import disk
from carcls.data.labels import spreadsheet_safe
from carcls.desk import predictions
from carcls.desk.predictions import SavedNetwork
from carcls.errors import InputError
from carcls.machine import Machine
from carcls.nets import fast

ABOUT = "classes.json"  # within the .keras file, which is a zip
SAME = 1e-5  # by which a probability of the file may differ from the network's


def write_predictions(run_folder: str, photos: list[str], out: str) -> None:
    """``predict``, and its table as a CSV file for people. Raises what it raises."""
    path = disk.user_path(out)
    if path.is_dir():
        raise InputError(f"--out {path}: is a folder; expected a file such as predictions.csv")
    frame = spreadsheet_safe(predictions.predict(run_folder, photos))
    frame.columns = spreadsheet_safe(pd.DataFrame([frame.columns])).iloc[0].tolist()
    disk.write_atomic(path, frame.to_csv(index=False))
    unread = int(frame["agreement"].isna().sum())
    more = f", of which {unread:,} cannot be read: see the column note" if unread else ""
    print(f"{path}: {len(frame):,} photos{more}")


def export(run_folder: str | Path, out: str | Path = "") -> list[Path]:
    """Write one .keras file a network of the run that predicts; returns their paths.

    out: a folder; "": export in the run folder. A file takes photos (B, height, width, 3), RGB,
    0-255, uint8 or float, of the one size that classes.json in it has beside the classes, and
    returns probabilities (B, classes) float32. Each is loaded again and compared before it gets its
    name. Raises InputError for a run that is not whole, and for networks of layers that Keras alone
    does not have.
    """
    folder = disk.user_path(str(run_folder))
    cfg, classes = predictions.read_settings(folder)
    rt = predictions.prepare(cfg, precision="float32")
    run = predictions.read(folder)
    networks = predictions.saved_networks(run, len(classes))
    into = disk.user_path(str(out)) if out else folder / "export"
    written = []
    for number, of_member in enumerate(networks, 1):
        for saved in of_member:
            inside = saved.folder.name if len(of_member) > 1 else ""
            path = into / f"{'_'.join(filter(None, (f'member{number}', inside)))}.keras"
            _write(path, saved, classes, rt)
            written.append(path)
    print(*predictions.remarks(run, networks), sep="\n")
    return written


def describe(saved: SavedNetwork, classes: list[Any]) -> dict[str, Any]:
    """What classes.json says of a network."""
    how = {"pad": "the whole photo, the rest grey (127)", "crop": "its middle, the rest cut off"}
    return {
        "classes": classes,
        "height": saved.size[0],
        "width": saved.size[1],
        "pixels": "RGB, 0-255, uint8 or float; they are normalised inside",
        "fit": f"{saved.cfg.fit}: scaled with its shape kept, {how[saved.cfg.fit]}",
        "boxes": "photos were cut to boxes around the cars first" if saved.cfg.boxes else "",
        "outputs": "probabilities of the classes, in this order",
        "network": saved.cfg.backbone,
    }


def _write(path: Path, saved: SavedNetwork, classes: list[Any], rt: Machine) -> None:
    import keras

    net = saved.load(len(classes), Machine("any", rt.devices))  # whose layers are not made faster
    photos = np.random.default_rng(0).integers(0, 256, (2, *saved.size, 3), np.uint8)
    wanted = keras.ops.softmax(keras.ops.cast(net(photos, training=False), "float32"))
    try:
        model = plain(net, saved.size)
        disk.make_folder(path.parent)
        with disk.replacing(path) as part:
            model.save(part)
            with zipfile.ZipFile(part, "a") as file:
                file.writestr(ABOUT, json.dumps(describe(saved, classes), ensure_ascii=False))
            found = keras.saving.load_model(part)(photos, training=False)
            far = float(np.abs(np.asarray(found) - np.asarray(wanted)).max())
            if not far <= SAME:
                raise ValueError(f"loaded again, its probabilities differ by {far:.2g}")
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:  # of Keras
        why = str(error).strip().partition("\n")[0][:200]
        raise InputError(
            f"{saved.folder}: backbone={saved.cfg.backbone} cannot be written for Keras alone "
            f"({why}); `carcls predict` takes it as it is"
        ) from None
    height, width = saved.size
    print(f"{path}: {saved.cfg.backbone}, photos {height}x{width} px, fit={saved.cfg.fit}")


# --- Layers of Keras alone ------------------------------------------------------------------------


def plain(net: Any, size: tuple[int, int]) -> Any:
    """The same network for photos of one size, of layers and operations that Keras itself has.

    What other packages and ours add is unrolled into what it calls. ``net`` is of no use after it.
    Raises what such layers raise where that cannot be done.
    """
    import keras

    layers = list(dict.fromkeys(net._flatten_layers(include_self=False)))
    for number, layer in enumerate(layers):
        kind: Any = type(layer)
        activation = getattr(layer, "activation", None)
        if isinstance(layer, keras.Model | keras.layers.Identity) or not _is_kerass(kind):
            _freeze(layer)
            fast.replace([layer], _unrolled(kind))
        elif not isinstance(layer, keras.layers.InputLayer):
            layer.name = f"{layer.name}_{number}"  # inside of blocks many have the same
            if isinstance(activation, keras.Layer):
                layer.activation = keras.activations.linear
                object.__setattr__(layer, "then", activation)
                fast.replace([layer], _followed(kind))
    photos = keras.Input((*size, 3), name="photos")  # (B, H, W, 3) 0-255
    logits = net.call(photos, training=False)
    probs = keras.layers.Softmax(name="probabilities", dtype="float32")(logits)
    return keras.Model(photos, probs, name=net.name)


def _is_kerass(kind: type) -> bool:
    """Whether it is a class that Keras finds by its name, and none that passes for it."""
    module = sys.modules.get(kind.__module__)
    return kind.__module__.startswith("keras.") and getattr(module, kind.__name__, None) is kind


@cache
def _unrolled(kind: Any) -> type:
    """A layer that is no node of a graph: what it calls is."""
    takes = inspect.signature(kind.call).parameters

    def call(self: Any, *inputs: Any, **options: Any) -> Any:
        return self.call(*inputs, **{k: v for k, v in options.items() if k in takes})

    return type(kind.__name__, (kind,), {"__call__": call})


@cache
def _followed(kind: type) -> type:
    """A layer whose activation is a layer, which becomes a node of its own or is unrolled."""

    def call(self: Any, *inputs: Any, **options: Any) -> Any:
        return self.then(kind.__call__(self, *inputs, **options))

    return fast.stand_in(kind, __call__=call)


def _freeze(layer: Any) -> None:
    """Turn a layer's own weights into constants: they are no part of a graph of other layers."""
    import keras

    for name, value in list(vars(layer).items()):
        if isinstance(value, keras.Variable):
            object.__setattr__(layer, name, keras.ops.convert_to_tensor(value))

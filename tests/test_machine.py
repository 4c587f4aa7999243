"""The machine's choices: batches by devices, backend, precision and compiler, errors of memory."""

import importlib.util
import os
import resource
from dataclasses import replace
from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf

from carcls import machine, memory
from carcls.config import Config
from carcls.errors import ConfigError, InputError
from carcls.machine import ONE_DEVICE


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("JAX_NUM_PROCESSES", "TPU_NAME", "TPU_ACCELERATOR_TYPE"):
        monkeypatch.delenv(name, raising=False)


def add_card(bus, number, vendor, device, kind="0x020000"):
    (bus / number).mkdir()
    for name, text in (("vendor", vendor), ("device", device), ("class", kind)):
        (bus / number / name).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("devices", "wanted", "rows", "batch"),
    [
        (1, 32, None, 32),
        (1, 32, 20, 20),  # a small sample is one batch
        (8, 64, None, 64),
        (8, 30, None, 32),  # the nearest multiple
        (8, 11, None, 8),
        (8, 1, None, 8),  # one photo a device at least
        (8, 32, 27, 24),  # whole batches of a small sample
        (8, 32, 5, 8),
        (2, 33, 100, 34),
    ],
)
def test_devices_share_a_batch_evenly(devices, wanted, rows, batch):
    assert replace(ONE_DEVICE, devices=("x",) * devices).batch_size(wanted, rows) == batch


@pytest.mark.parametrize(
    ("backend", "processes", "has_tpu", "has_jax", "chosen"),
    [
        ("auto", 1, False, False, "tensorflow"),
        ("auto", 1, True, True, "jax"),
        ("auto", 2, False, True, "jax"),
        ("tensorflow", 1, True, True, "tensorflow"),
        ("jax", 1, False, True, "jax"),
        ("jax", 1, False, False, "backend=jax: jax is not installed"),
        ("auto", 2, False, False, "backend=jax: jax is not installed"),
        ("tensorflow", 4, False, True, "backend=tensorflow: JAX_NUM_PROCESSES=4, and only jax"),
    ],
)
def test_the_backend_follows_from_what_is_there(
    backend, processes, has_tpu, has_jax, chosen, monkeypatch
):
    monkeypatch.setattr(machine, "has_tpu", lambda: has_tpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: has_jax or None)
    cfg = Config(backend=backend)
    if chosen in ("tensorflow", "jax"):
        assert machine._backend(cfg, processes)[0] == chosen
    else:
        with pytest.raises(ConfigError, match=chosen):
            machine._backend(cfg, processes)


def test_keras_that_is_imported_with_another_backend_is_refused():
    with pytest.raises(ConfigError, match="backend=jax: keras is already imported with tensorflow"):
        machine._prepare("jax")


def test_a_tpu_is_seen_on_the_bus_and_a_network_card_is_none(monkeypatch, tmp_path):
    add_card(tmp_path, "0", "0x1ae0", "0x0042")  # Google's network card
    add_card(tmp_path, "1", "0x10de", "0x0063")  # another vendor's
    assert not machine.has_tpu(tmp_path)
    add_card(tmp_path, "2", "0x1ae0", "0x0063")  # TPU v5e
    assert machine.has_tpu(tmp_path)
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    assert machine.has_tpu(tmp_path / "none")


def test_a_gpu_is_seen_on_the_bus_or_by_its_driver(tmp_path):
    bus, devices = tmp_path / "bus", tmp_path / "dev"
    bus.mkdir()
    devices.mkdir()
    add_card(bus, "0", "0x10de", "0x0001")  # NVIDIA's network card
    add_card(bus, "1", "0x1234", "0x1111", "0x030000")  # a virtual machine's screen
    (devices / "nvidiactl").touch()  # a driver without a card
    assert not machine.has_gpu(bus, devices)
    (devices / "nvidia1").touch()
    assert machine.has_gpu(bus, devices) and machine.has_gpu(tmp_path / "none", devices)
    add_card(bus, "2", "0x10de", "0x1eb8", "0x030200")  # T4
    assert machine.has_gpu(bus, tmp_path / "none")


@pytest.mark.parametrize(
    ("asked", "gpu", "tpu", "sees", "found"),
    [
        ("any", False, False, "", ""),
        ("cpu", False, False, "", ""),
        ("cpu", True, False, "gpu", ""),
        ("t4", True, False, "", ""),
        ("t4", True, False, "gpu", ""),
        ("t4", False, False, "", "neither GPU nor TPU.*quota.*ACCELERATOR=t4"),
        ("t4", False, True, "", "shows tpu"),
        ("t4", True, False, "cpu", "shows gpu, the backend sees only cpu; .*driver"),
        ("tpu", False, True, "", ""),
        ("tpu", False, True, "tpu", ""),
        ("tpu", True, False, "", "shows gpu.*ACCELERATOR=tpu.*docker_image"),
        ("tpu", False, True, "cpu", "the backend sees only cpu.*docker_image"),
    ],
)
def test_a_run_stops_where_its_accelerator_is_not_there(asked, gpu, tpu, sees, found, monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: gpu)
    monkeypatch.setattr(machine, "has_tpu", lambda: tpu)
    cfg = Config(accelerator=asked)
    if not found:
        machine.expect_accelerator(cfg, sees)
        return
    with pytest.raises(ConfigError, match=f"accelerator={asked}: .*{found}.*accelerator=any"):
        machine.expect_accelerator(cfg, sees)


class Stubbed:
    """Two T4 as jax has them, and what setup told the frameworks."""

    def __init__(self, monkeypatch, tf_is_used=False):
        t4 = SimpleNamespace(
            platform="gpu", process_index=0, device_kind="Tesla T4", compute_capability="7.5"
        )
        self.told = {}

        def hide(devices, kind):
            self.told["visible"] = (devices, kind)
            if tf_is_used:
                raise RuntimeError("Visible devices cannot be modified after being initialized")

        def tell(name):
            return lambda value: self.told.update({name: value})

        monkeypatch.setattr(machine, "_prepare", tell("backend"))
        monkeypatch.setattr(pytest.importorskip("jax"), "devices", lambda: [t4, t4])
        monkeypatch.setattr(machine, "_data_parallel", lambda keras, processes: "shared")
        monkeypatch.setattr(tf.config, "set_visible_devices", hide)
        monkeypatch.setattr(keras.distribution, "set_distribution", tell("distribution"))
        monkeypatch.setattr(keras.config, "set_dtype_policy", tell("precision"))


@pytest.mark.parametrize("tf_is_used", [False, True])
def test_jax_takes_several_gpus_and_compiles(monkeypatch, tf_is_used):
    stubbed = Stubbed(monkeypatch, tf_is_used)
    found = machine.setup(Config(backend="jax", accelerator="t4"))
    assert stubbed.told == {
        "backend": "jax",
        "visible": ([], "GPU"),
        "distribution": "shared",
        "precision": "mixed_float16",
    }
    assert (found.kind, found.devices, found.xla) == ("gpu", ("Tesla T4",) * 2, True)
    assert found.strategy is None and not found.fast_layers
    assert found.batch_size(33) == 34
    with pytest.raises(ConfigError, match="accelerator=tpu: "):
        machine.setup(Config(backend="jax", accelerator="tpu"))


def test_neither_framework_takes_all_memory_at_once(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "asked for")
    machine._prepare("tensorflow")
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "asked for"
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
    machine._prepare("tensorflow")
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


@pytest.mark.parametrize(
    ("kind", "backend", "count", "bfloat16", "precision", "xla"),
    [
        ("cpu", "tensorflow", 1, False, "float32", False),
        ("cpu", "jax", 8, False, "float32", True),
        ("gpu", "tensorflow", 1, True, "mixed_bfloat16", True),
        ("gpu", "tensorflow", 2, False, "mixed_float16", False),  # two T4
        ("gpu", "jax", 1, False, "mixed_float16", True),
        ("tpu", "jax", 8, True, "mixed_bfloat16", True),
    ],
)
def test_each_machine_has_its_precision_and_its_compiler(
    kind, backend, count, bfloat16, precision, xla
):
    cfg = Config()
    assert machine._precision(cfg, kind, bfloat16)[0] == precision
    assert machine._precision(cfg.replace(precision="float32"), kind, bfloat16)[0] == "float32"
    assert machine._xla(cfg, kind, backend, count)[0] is xla
    assert replace(ONE_DEVICE, backend=backend, xla=xla).fast_layers is (not xla)
    if kind == "gpu" and backend == "tensorflow":
        for word in ("on", "off"):
            is_on = machine._xla(cfg.replace(xla=word), kind, backend, count)[0]
            assert is_on is (word == "on")


def test_xla_on_a_cpu_is_refused():
    with pytest.raises(ConfigError, match="xla=on: .*expected auto or off"):
        machine._xla(Config(xla="on"), "cpu", "tensorflow", 1)


def test_a_gpu_that_a_notebook_has_used_already_keeps_its_memory():
    def is_in_use(gpu, on):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    about = {"device_name": "T4", "compute_capability": (7, 5)}
    experimental = SimpleNamespace(
        get_device_details=lambda gpu: about, set_memory_growth=is_in_use
    )
    gpus = [SimpleNamespace(name="GPU:0")]
    config = SimpleNamespace(list_physical_devices=lambda kind: gpus, experimental=experimental)
    assert machine._tf_devices(SimpleNamespace(config=config)) == (["T4"], "gpu", False)


@pytest.mark.parametrize(("name", "word"), [("RLIMIT_AS", "-v"), ("RLIMIT_DATA", "-d")])
def test_a_limit_of_memory_that_is_too_low_is_named(monkeypatch, name, word):
    limits = {getattr(resource, name): 0.9e9}

    def limit(which):
        return limits.get(which, resource.RLIM_INFINITY), resource.RLIM_INFINITY

    monkeypatch.setattr(memory.resource, "getrlimit", limit)
    with pytest.raises(InputError, match=f"ulimit {word}: .*0.9 GB.* need"):
        machine.setup(Config())
    limits[getattr(resource, name)] = 64e9
    memory.check_limit()
    limits.clear()
    memory.check_limit()


def _error(kind: str, words: str) -> Exception:
    return getattr(tf.errors, kind)(None, None, words)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (_error("ResourceExhaustedError", "failed to allocate memory"), True),
        (_error("InternalError", "Failed: CUDA_ERROR_OUT_OF_MEMORY: out of memory"), True),
        (_error("UnknownError", "CUDNN_STATUS_ALLOC_FAILED"), True),
        (_error("UnknownError", "_ArrayMemoryError: Unable to allocate 9.0 GiB"), True),
        (_error("InternalError", "wrong shape"), False),
        (ValueError("RESOURCE_EXHAUSTED"), False),
        (OSError(28, "disk"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error, is_memory):
    assert memory.ran_out(error) is is_memory
    assert isinstance(error, memory.errors()) or not is_memory


def test_errors_of_memory_of_jax():
    error = pytest.importorskip("jax", reason="jax is not installed").errors.JaxRuntimeError
    assert error in memory.errors()
    assert memory.ran_out(error("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes."))
    assert not memory.ran_out(error("INVALID_ARGUMENT: shapes do not match"))

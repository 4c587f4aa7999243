"""The machine's choices: batches by devices, backend, precision and compiler, errors of memory."""

import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tensorflow as tf

from carcls import machine
from carcls.config import Config
from carcls.errors import ConfigError
from carcls.machine import ONE_DEVICE


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("JAX_NUM_PROCESSES", "TPU_NAME", "TPU_ACCELERATOR_TYPE"):
        monkeypatch.delenv(name, raising=False)


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
    def add_card(number, vendor, device):
        (tmp_path / number).mkdir()
        (tmp_path / number / "vendor").write_text(f"{vendor}\n")
        (tmp_path / number / "device").write_text(f"{device}\n")

    add_card("0", "0x1ae0", "0x0042")  # Google's network card
    add_card("1", "0x10de", "0x0063")  # another vendor's
    assert not machine.has_tpu(tmp_path)
    add_card("2", "0x1ae0", "0x0063")  # TPU v5e
    assert machine.has_tpu(tmp_path)
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    assert machine.has_tpu(tmp_path / "none")


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
    assert machine.is_out_of_memory(error) is is_memory
    assert isinstance(error, machine.memory_errors()) or not is_memory


def test_errors_of_memory_of_jax():
    error = pytest.importorskip("jax", reason="jax is not installed").errors.JaxRuntimeError
    assert error in machine.memory_errors()
    assert machine.is_out_of_memory(error("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes."))
    assert not machine.is_out_of_memory(error("INVALID_ARGUMENT: shapes do not match"))

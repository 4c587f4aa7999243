"""The machine's choices: batches by devices, processes by variables, TPUs by the bus, errors of memory by their words."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tensorflow as tf

from carcls import machine as runtime
from carcls.config import Config
from carcls.data import files as inputs
from carcls.errors import ConfigError, InputError

RT = runtime.Runtime("tensorflow", ("cpu",), "float32", xla=False, fast_layers=True)
VARIABLES = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
    "TPU_NAME",
    "TPU_ACCELERATOR_TYPE",
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
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
    assert replace(RT, devices=("x",) * devices).batch_size(wanted, rows) == batch


def test_processes_are_counted_from_the_variables_of_jax(monkeypatch):
    assert runtime.process_of() == (0, 1)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    for process, address, message in (
        ("", "a:1", "JAX_PROCESS_ID='': expected a whole number"),
        ("4", "a:1", "JAX_PROCESS_ID=4: expected 0 to 3"),
        ("3", "a", "JAX_COORDINATOR_ADDRESS='a': expected host:port"),
    ):
        monkeypatch.setenv("JAX_PROCESS_ID", process)
        monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", address)
        with pytest.raises(ConfigError, match=message):
            runtime.process_of()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.1:1234")
    assert runtime.process_of() == (3, 4)
    with pytest.raises(ConfigError, match="backend=tensorflow: JAX_NUM_PROCESSES=4, and only jax"):
        runtime.setup(Config(backend="tensorflow"))


def test_a_run_folder_belongs_to_one_run_at_a_time(monkeypatch, tmp_path):
    (tmp_path / "b").mkdir()
    with runtime.alone(tmp_path):
        with pytest.raises(InputError, match=f"out={tmp_path}: another run is at work in it"):
            runtime.alone(tmp_path).__enter__()
        with pytest.raises(ZeroDivisionError), runtime.alone(tmp_path / "b"):
            _ = 1 / 0
        monkeypatch.setattr(runtime, "process_of", lambda: (1, 2))
        with runtime.alone(tmp_path):  # another process of the same run
            pass
        monkeypatch.undo()
    with runtime.alone(tmp_path), runtime.alone(tmp_path / "b"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_only_process_keeps_its_place_and_another_gets_its_own(monkeypatch, tmp_path):
    place = inputs.Place(
        tmp_path,
        tmp_path / "out",
        tmp_path / "scratch",
        None,
        tmp_path,
        tmp_path,
        tmp_path,
        False,
        None,
    )
    assert runtime.apart(place) is place
    assert runtime.agree(RT, 0.1) == 0.1
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "a:1")
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back after
    other = runtime.apart(place)
    sys.stdout.close()
    assert other.out.parent == place.scratch
    assert replace(other, out=place.out) == place


def test_a_tpu_is_seen_on_the_bus_and_a_network_card_is_none(monkeypatch, tmp_path):
    def card(number, vendor, device):
        (tmp_path / number).mkdir()
        (tmp_path / number / "vendor").write_text(f"{vendor}\n")
        (tmp_path / number / "device").write_text(f"{device}\n")

    card("0", "0x1ae0", "0x0042")  # Google's network card
    card("1", "0x10de", "0x0063")  # another vendor's
    assert not runtime.has_tpu(tmp_path)
    card("2", "0x1ae0", "0x0063")  # TPU v5e
    assert runtime.has_tpu(tmp_path)
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    assert runtime.has_tpu(tmp_path / "none")


def test_errors_of_memory_are_told_from_others():
    errors = tf.errors
    for error in (
        MemoryError(),
        errors.ResourceExhaustedError(None, None, "failed to allocate memory"),
        errors.InternalError(
            None, None, "Failed to launch: CUDA_ERROR_OUT_OF_MEMORY: out of memory"
        ),
        errors.UnknownError(None, None, "CUDNN_STATUS_ALLOC_FAILED"),
        errors.UnknownError(
            None, None, "_ArrayMemoryError: Unable to allocate 9.0 GiB for an array"
        ),
    ):
        assert isinstance(error, runtime.memory_errors())
        assert runtime.is_out_of_memory(error)
    for error in (
        ValueError("RESOURCE_EXHAUSTED"),
        errors.InternalError(None, None, "wrong shape"),
        OSError(28, "disk"),
    ):
        assert not runtime.is_out_of_memory(error)


def test_a_gpu_that_a_notebook_has_used_already_keeps_its_memory():
    def started(gpu, on):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    gpu = SimpleNamespace(name="GPU:0")
    details = SimpleNamespace(
        get_device_details=lambda _: {"device_name": "T4", "compute_capability": (7, 5)},
        set_memory_growth=started,
    )
    used = SimpleNamespace(
        config=SimpleNamespace(list_physical_devices=lambda kind: [gpu], experimental=details)
    )
    assert runtime._tf_devices(used) == (["T4"], "gpu", False)


def test_memory_errors_of_jax():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    error = jax.errors.JaxRuntimeError
    assert error in runtime.memory_errors()
    assert runtime.is_out_of_memory(
        error("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3221225472 bytes.")
    )
    assert not runtime.is_out_of_memory(error("INVALID_ARGUMENT: shapes do not match"))


@pytest.mark.parametrize(
    ("kind", "backend", "count", "bfloat16", "precision", "xla"),
    [
        ("cpu", "tensorflow", 1, False, "float32", False),
        ("cpu", "jax", 8, False, "float32", True),
        ("gpu", "tensorflow", 1, True, "mixed_bfloat16", None),  # the clock will say
        ("gpu", "tensorflow", 2, False, "mixed_float16", False),  # two T4
        ("gpu", "jax", 1, False, "mixed_float16", True),
        ("tpu", "jax", 8, True, "mixed_bfloat16", True),
    ],
)
def test_each_machine_gets_its_precision_and_its_compiler(
    kind, backend, count, bfloat16, precision, xla
):
    cfg = Config()
    assert runtime._precision(cfg, kind, bfloat16)[0] == precision
    assert runtime._xla(cfg, kind, backend, count)[0] is xla
    assert runtime._precision(cfg.replace(precision="float32"), kind, bfloat16) == (
        "float32",
        "as set",
    )
    if kind == "gpu" and backend == "tensorflow":
        assert runtime._xla(cfg.replace(xla="on"), kind, backend, count) == (True, "as set")

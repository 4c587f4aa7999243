"""Backend, devices, precision and compiler: each choice is made here, once, and has its reason."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from carcls import hosts, memory
from carcls.config import Config
from carcls.errors import ConfigError

HEAD = "head"  # name of the output layer; of several processes each gets all of its logits


@dataclass(frozen=True)
class Machine:
    """What a run computes on."""

    backend: str  # "tensorflow" or "jax"
    devices: tuple[str, ...]  # of all processes
    precision: str = "float32"  # a Keras dtype policy
    xla: bool = False  # steps are compiled
    kind: str = "cpu"  # of the devices; or "gpu", "tpu"
    strategy: Any = None  # tf.distribute strategy with several GPUs
    process: int = 0  # of several that train together; only process 0 writes and prints
    processes: int = 1
    reasons: tuple[str, ...] = ()  # a line for each choice

    @property
    def fast_layers(self) -> bool:
        """Whether nets.fast's kernels are taken: where TensorFlow computes without a compiler."""
        return self.backend == "tensorflow" and not self.xla

    def batch_size(self, wanted: int, rows: int | None = None) -> int:
        """Photos a step, all devices together: the multiple of their number nearest to ``wanted``.

        Of ``rows``, for training, at most as many as all devices can share evenly; always at least
        one photo a device.
        """
        devices = len(self.devices)
        batch = (wanted + devices // 2) // devices * devices
        if rows is not None:
            batch = min(batch, rows // devices * devices)
        return max(devices, batch)

    def agree(self, value: float) -> float:
        """The same value in all processes, each of which has to call this."""
        return hosts.agree(value) if self.processes > 1 else value


ONE_DEVICE = Machine("tensorflow", ("any",))  # for batches that no machine has asked for


def setup(cfg: Config) -> Machine:
    """Choose and prepare everything that must be ready before the first layer is built.

    It comes before any import of Keras, which then reads its backend. Raises ConfigError where
    Keras has another one already, or the settings do not go together.
    """
    memory.check_limit()
    process, processes = hosts.process_of()
    backend, why_backend = _backend(cfg, processes)
    _prepare(backend)
    if processes > 1:
        hosts.join(process, processes)

    import keras
    import tensorflow as tf

    if backend == "jax":
        with suppress(RuntimeError):  # a notebook has used them already
            tf.config.set_visible_devices([], "GPU")  # TensorFlow only feeds, and must leave them
        devices, kind, has_bfloat16 = _jax_devices(keras, processes)
        if cfg.backend == "auto" and processes == 1 and kind == "cpu":
            raise ConfigError(
                "backend=auto: a TPU is attached, but jax finds none; restart the machine, install "
                "jax[tpu], or set backend=tensorflow"
            )
    else:
        devices, kind, has_bfloat16 = _tf_devices(tf)
        if kind == "cpu":
            # The same run from the same seed, byte for byte. On a GPU it would forbid XLA.
            tf.config.experimental.enable_op_determinism()
    expect_accelerator(cfg, kind)
    precision, why_precision = _precision(cfg, kind, has_bfloat16)
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(cfg.seed)
    xla, why_xla = _xla(cfg, kind, backend, len(devices))
    is_mirrored = backend == "tensorflow" and kind == "gpu" and len(devices) > 1
    strategy = tf.distribute.MirroredStrategy() if is_mirrored else None
    found = "no accelerator found" if kind == "cpu" else "the fastest one here"
    machine = Machine(backend, tuple(devices), precision, xla, kind, strategy, process, processes)
    reasons = (
        f"backend    {backend}: {why_backend}",
        f"device     {len(devices)} × {kind} ({devices[0]}): {found}",
        *_shares(cfg, machine),
        f"precision  {precision}: {why_precision}",
        f"XLA        {'on' if xla else 'off'}: {why_xla}",
        *_kernels(machine),
    )
    return replace(machine, reasons=reasons)


# --- The choices, each with its reason ------------------------------------------------------------


def _backend(cfg: Config, processes: int) -> tuple[str, str]:
    if cfg.backend == "tensorflow" and processes > 1:
        raise ConfigError(
            f"backend=tensorflow: JAX_NUM_PROCESSES={processes}, and only jax trains in several "
            "processes; expected auto or jax"
        )
    if importlib.util.find_spec("jax") is None and (cfg.backend == "jax" or processes > 1):
        raise ConfigError(
            "backend=jax: jax is not installed; expected auto or tensorflow, or pip install jax"
        )
    if cfg.backend != "auto":
        return cfg.backend, "as set"
    if processes > 1:
        return "jax", "it trains in several processes"
    if has_tpu():
        return "jax", "a TPU is attached, which this TensorFlow cannot drive"
    return "tensorflow", "no TPU is attached"


def _prepare(backend: str) -> None:
    """Set what Keras and TensorFlow read when they are imported."""
    if "keras" in sys.modules and (found := sys.modules["keras"].backend.backend()) != backend:
        raise ConfigError(
            f"backend={backend}: keras is already imported with {found}; set "
            f"KERAS_BACKEND={backend} first"
        )
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # As TensorFlow is told below: JAX alone would take three quarters of every GPU at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # By itself TensorFlow takes oneDNN's kernels only with AVX-512; without it they take a third
    # off a step (MEASUREMENTS: oneDNN).
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    memory.keep_freed()


# As in jax/_src/hardware_utils.py of jax 0.7.2; Google's network cards have other device numbers.
_GOOGLE, _TPUS = "0x1ae0", {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}
_NVIDIA, _AMD, _DISPLAY = "0x10de", "0x1002", "0x03"
_PCI = Path("/sys/bus/pci/devices")


def has_tpu(pci: Path = _PCI) -> bool:
    """Whether the environment or the PCI bus shows a TPU; jax, once imported, would hold it."""
    if os.environ.get("TPU_NAME") or os.environ.get("TPU_ACCELERATOR_TYPE"):
        return True
    on_bus = any((card / "device").read_text().strip() in _TPUS for card in _cards(pci, _GOOGLE))
    return on_bus or Path("/dev/accel0").exists()


def has_gpu(pci: Path = _PCI, devices: Path = Path("/dev")) -> bool:
    """Whether the PCI bus or a driver shows a GPU that a framework might use."""
    if any(any(devices.glob(name)) for name in ("nvidia[0-9]*", "kfd", "dxg")):
        return True
    cards = _cards(pci, _NVIDIA, _AMD)
    return any((card / "class").read_text().startswith(_DISPLAY) for card in cards)


def _cards(pci: Path, *makers: str) -> list[Path]:
    return [v.parent for v in pci.glob("*/vendor") if v.read_text().strip() in makers]


def expect_accelerator(cfg: Config, kind: str = "") -> None:
    """Raise ConfigError where the accelerator that a kernel was pushed for is not there.

    kind: of the devices that the backend sees; "": what the system shows, before any is imported.
    """
    wanted = {"t4": "gpu", "tpu": "tpu"}.get(cfg.accelerator)
    if not wanted or kind == wanted:
        return
    shown = [name for name, is_there in (("gpu", has_gpu()), ("tpu", has_tpu())) if is_there]
    if not kind and wanted in shown:
        return
    found = f"this machine shows {' and '.join(shown) or 'neither GPU nor TPU'}"
    why = (
        "is the week's quota used up (`kaggle quota`), or machine_shape not what make push "
        f"ACCELERATOR={cfg.accelerator} writes (in the editor: Settings → Accelerator)"
    )
    if wanted in shown:
        found += f", the backend sees only {kind}"
        why = "is a driver or the backend's package for it missing, or CUDA_VISIBLE_DEVICES set"
    if wanted == "tpu":
        why += ", or a docker_image pinned, with which there is no TPU"
    raise ConfigError(
        f"accelerator={cfg.accelerator}: {found}; {why}? accelerator=any runs on what there is"
    )


def _tf_devices(tf: Any) -> tuple[list[str], str, bool]:
    """Names, kind, and whether bfloat16 is native."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return [f"{platform.machine()}, {os.cpu_count()} cores"], "cpu", False
    for gpu in gpus:
        with suppress(RuntimeError):  # a notebook has used it already: its memory stays as it is
            tf.config.experimental.set_memory_growth(gpu, True)
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    names = [str(d.get("device_name", gpu.name)) for d, gpu in zip(details, gpus, strict=True)]
    return names, "gpu", all(d.get("compute_capability", (0, 0)) >= (8, 0) for d in details)


def _jax_devices(keras: Any, processes: int) -> tuple[list[str], str, bool]:
    """Names, kind, and whether bfloat16 is native; several train in parallel from here on."""
    import jax

    devices = jax.devices()
    each = [sum(d.process_index == process for d in devices) for process in range(processes)]
    if len(set(each)) > 1:
        raise ConfigError(
            f"JAX_NUM_PROCESSES={processes}: the processes have {each} devices; expected as many "
            "in each"
        )
    if len(devices) > 1:
        keras.distribution.set_distribution(_data_parallel(keras, processes))
    kind = devices[0].platform
    has_bfloat16 = kind == "tpu"
    if kind in ("gpu", "cuda", "rocm"):
        kind = "gpu"
        # "7.5" of a T4, "8.0" of an A100; ROCm's are no numbers, and its cards have bfloat16.
        capable = [str(getattr(d, "compute_capability", "")) for d in devices]
        has_bfloat16 = all(not c.replace(".", "").isdecimal() or float(c) >= 8 for c in capable)
    return [d.device_kind for d in devices], kind, has_bfloat16


def _data_parallel(keras: Any, processes: int) -> Any:
    """Each device holds the network and a share of every batch, which its process makes."""

    class Replicas(keras.distribution.DataParallel):
        def get_tensor_layout(self, path: str) -> Any:
            # A process has the logits of all photos, which ``predict`` returns, not of its own.
            if processes > 1 and path.split("/")[-2:] == [HEAD, "output"]:
                return keras.distribution.TensorLayout([None, None], self.device_mesh)
            return super().get_tensor_layout(path)

    return Replicas(auto_shard_dataset=False)


def _precision(cfg: Config, kind: str, bfloat16: bool) -> tuple[str, str]:
    if cfg.precision != "auto":
        return cfg.precision, "as set"
    if kind == "cpu":
        return "float32", "bfloat16 measured slower on a CPU"
    if bfloat16:
        return "mixed_bfloat16", "native here, and needs no loss scaling"
    return "mixed_float16", "this GPU's tensor cores have no bfloat16"


def _xla(cfg: Config, kind: str, backend: str, count: int) -> tuple[bool, str]:
    """Whether steps are compiled, and why."""
    if backend == "jax":
        return True, "JAX always compiles"
    if kind == "cpu":
        # Keras refuses it, too, where operations are deterministic.
        if cfg.xla == "on":
            raise ConfigError("xla=on: 10 times slower on a CPU; expected auto or off")
        return False, "10 times slower on a CPU"
    if cfg.xla != "auto":
        return cfg.xla == "on", "as set"
    if count > 1:
        # keras issues 21366 and 20763: loss scaling under MirroredStrategy fails when compiled.
        return False, "fails on several GPUs in mixed precision; backend=jax compiles there"
    return True, "on one GPU it fuses the small operations"


def _shares(cfg: Config, machine: Machine) -> list[str]:
    """How several processes and devices share the members' batches."""
    lines, devices = [], len(machine.devices)
    if machine.processes > 1:
        lines = [f"processes  {machine.processes}: JAX_NUM_PROCESSES; process 0 writes and prints"]
    for asked in sorted({member.batch for member in cfg.member_cfgs()}) if devices > 1 else ():
        batch = machine.batch_size(asked)
        nearest = f"; nearest to batch={asked}" if batch != asked else ""
        lines.append(f"batch      {batch}: {batch // devices} a device{nearest}")
    return lines


def _kernels(machine: Machine) -> list[str]:
    """Which kernels compute, where TensorFlow does without a compiler."""
    if not machine.fast_layers:
        return ["batch norm Keras: the compiler fuses it"]
    lines = ["batch norm fused where it can be: faster than Keras's operations, same numbers"]
    if machine.kind == "cpu":
        asked = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
        if asked is None:
            lines.append("CPU maths  TensorFlow's choice: it was imported before this run")
        elif asked == "0":
            lines.append("CPU maths  TensorFlow's own kernels: TF_ENABLE_ONEDNN_OPTS=0")
        else:
            lines.append("CPU maths  oneDNN: faster than TensorFlow's own kernels")
    return lines

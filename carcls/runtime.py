"""Backend, devices, precision and threads: each choice is made here, once, and has its reason."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carcls.config import Config, ConfigError


@dataclass(frozen=True)
class Runtime:
    """What the run computes on."""

    backend: str  # "tensorflow" or "jax"
    devices: tuple[str, ...]
    precision: str  # a Keras dtype policy
    xla: bool
    fused_bn: bool  # TensorFlow's own kernel for batch normalisation
    strategy: Any = None  # tf.distribute strategy with several GPUs
    reasons: tuple[str, ...] = field(default=())  # a line for each choice (S50)
    kind: str = "cpu"  # or "gpu", "tpu"


def setup(cfg: Config) -> Runtime:
    """Choose and prepare everything that must be ready before the first layer is built.

    Keras reads its backend when it is imported, so this comes before any import of it.
    Raises ConfigError if Keras is already there with another backend.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # a Kaggle script's output is block-buffered
    backend, why_backend = _backend(cfg)
    if "keras" in sys.modules and sys.modules["keras"].backend.backend() != backend:
        found = sys.modules["keras"].backend.backend()
        raise ConfigError(
            f"backend={backend}: keras is already imported with {found}; set KERAS_BACKEND={backend} first"
        )
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # TensorFlow uses oneDNN's CPU kernels by itself only on processors with AVX-512 VNNI. On two cores with AVX2 alone a
    # step of Lite0 at 128 px, timed in a loop with and without them, took 0.65 of the time (46 images/s against 30);
    # `make bench` measures them together with fused batch normalisation.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    keep_memory()

    import keras
    import tensorflow as tf

    if backend == "jax":
        devices, kind, bfloat16 = _jax_devices(keras)
        tf.config.set_visible_devices([], "GPU")  # tf.data only
    else:
        devices, kind, bfloat16 = _tf_devices(tf)
        if kind == "cpu":
            # Byte for byte the same run from the same seed. On a GPU it would forbid XLA.
            tf.config.experimental.enable_op_determinism()
    precision, why_precision = _precision(cfg, kind, bfloat16)
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(cfg.seed)
    odd = [mine.batch for mine in cfg.of_members() if mine.batch % len(devices)]
    if backend == "jax" and odd:
        raise ConfigError(
            f"batch={odd[0]}: {len(devices)} devices share a batch; expected a multiple of {len(devices)}"
        )
    xla, why_xla = _xla(cfg, kind, backend, len(devices))
    fused = backend == "tensorflow" and not xla
    strategy = (
        tf.distribute.MirroredStrategy() if backend == "tensorflow" and kind == "gpu" and len(devices) > 1 else None
    )
    reasons = (
        f"backend    {backend}: {why_backend}",
        f"device     {len(devices)} × {kind} ({devices[0]}): "
        + ("no accelerator found" if kind == "cpu" else "the fastest one here"),
        f"precision  {precision}: {why_precision}",
        f"XLA        {'on' if xla else 'off'}: {why_xla}",
        *([f"CPU maths  {_cpu_maths()}"] if kind == "cpu" and backend == "tensorflow" else []),
        f"batch norm {'fused' if fused else 'Keras'}: " + (
            "TensorFlow's kernel is faster than Keras's chain of operations, same numbers" if fused else
            "the compiler fuses it"),
    )  # fmt: skip
    return Runtime(backend, tuple(devices), precision, xla, fused, strategy, reasons, kind)


def _cpu_maths() -> str:
    if os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0":
        return "TensorFlow's own kernels: TF_ENABLE_ONEDNN_OPTS=0 says so"
    return "oneDNN: faster than TensorFlow's own kernels, which it prefers on processors without AVX-512"


def _backend(cfg: Config) -> tuple[str, str]:
    if cfg.backend == "jax" and importlib.util.find_spec("jax") is None:
        raise ConfigError("backend=jax: jax is not installed; expected auto or tensorflow, or pip install jax")
    if cfg.backend != "auto":
        return cfg.backend, "as set"
    if os.environ.get("TPU_NAME") or os.environ.get("TPU_ACCELERATOR_TYPE") or Path("/dev/accel0").exists():
        return "jax", "a TPU is attached, which this TensorFlow cannot drive"
    return "tensorflow", "no TPU is attached"


def _tf_devices(tf: Any) -> tuple[list[str], str, bool]:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return [f"{platform.machine()}, {os.cpu_count()} cores"], "cpu", False
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    names = [str(d.get("device_name", gpu.name)) for d, gpu in zip(details, gpus, strict=True)]
    return names, "gpu", all(d.get("compute_capability", (0, 0)) >= (8, 0) for d in details)


def _jax_devices(keras: Any) -> tuple[list[str], str, bool]:
    import jax

    devices = jax.devices()
    if len(devices) > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    kind = devices[0].platform
    return [d.device_kind for d in devices], "gpu" if kind in ("cuda", "rocm") else kind, kind == "tpu"


def _precision(cfg: Config, kind: str, bfloat16: bool) -> tuple[str, str]:
    if cfg.precision != "auto":
        return cfg.precision, "as set"
    if kind == "cpu":
        return "float32", "bfloat16 measured slower on a CPU"
    if bfloat16:
        return "mixed_bfloat16", "native here, and needs no loss scaling"
    return "mixed_float16", "this GPU's tensor cores have no bfloat16"


def _xla(cfg: Config, kind: str, backend: str, count: int) -> tuple[bool, str]:
    if backend == "jax":
        return True, "JAX always compiles"
    if kind == "cpu":
        # Measured 10 times slower, and Keras refuses it where operations are deterministic.
        if cfg.xla == "on":
            raise ConfigError("xla=on: TensorFlow on a CPU trains 10 times slower with it; expected auto or off")
        return False, "10 times slower on a CPU"
    if cfg.xla != "auto":
        return cfg.xla == "on", "as set"
    if count > 1:
        # keras issues 21366 and 20763: loss scaling under MirroredStrategy fails inside a compiled step.
        return False, "does not go together with several GPUs and mixed precision"
    return True, "fuses the small operations"


def is_out_of_memory(error: BaseException) -> bool:
    import tensorflow as tf

    return isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError)) or "RESOURCE_EXHAUSTED" in str(error)


def keep_memory() -> None:
    """Let glibc keep large freed blocks instead of returning them to the system.

    TensorFlow frees and takes its activations at every operation; above 32 MB each becomes a new
    mapping whose pages fault one by one. Measured: relu6 on 50 MB took 30 ms, 6.4 ms with this.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value in (
        (-3, 1 << 30),
        (-1, 2**31 - 1),
        (-2, 256 << 20),
    ):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
        libc.mallopt(option, value)

"""Backend, devices, processes, precision and threads: each choice is made here, once, and has its reason."""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import importlib.util
import io
import os
import platform
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from carcls.config import Config
from carcls.data import files as inputs
from carcls.errors import ConfigError, InputError

HEAD = (
    "head"  # name of the network's output layer; with several processes each gets all of its logits
)


@dataclass(frozen=True)
class Runtime:
    """What the run computes on."""

    backend: str  # "tensorflow" or "jax"
    devices: tuple[str, ...]  # of all processes
    precision: str  # a Keras dtype policy
    xla: bool
    fast_layers: (
        bool  # TensorFlow's faster kernels (module fast), where XLA does not compile the step
    )
    strategy: Any = None  # tf.distribute strategy with several GPUs
    reasons: tuple[str, ...] = field(default=())  # a line for each choice (S50)
    kind: str = "cpu"  # of the devices; or "gpu", "tpu"
    process: int = (
        0  # number of this one of several that train together; only process 0 writes and prints
    )
    processes: int = 1
    xla_open: bool = False  # timing.xla is to settle it

    def batch_size(self, wanted: int, rows: int | None = None) -> int:
        """Photos per step, all devices together: each device gets as many, so a multiple of their number.

        It is the multiple nearest to ``wanted``; with ``rows``, for training, at most as many as whole devices' shares
        of them make. Never less than one photo a device.
        """
        devices = len(self.devices)
        batch = (wanted + devices // 2) // devices * devices
        if rows is not None:
            batch = min(batch, rows // devices * devices)
        return max(devices, batch)


def setup(cfg: Config) -> Runtime:
    """Choose and prepare everything that must be ready before the first layer is built.

    Keras reads its backend when it is imported, so this comes before any import of it.
    Raises ConfigError if Keras is already there with another backend.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # a Kaggle script's output is block-buffered
    process, processes = process_of()
    backend, why_backend = _backend(cfg, processes)
    if "keras" in sys.modules and sys.modules["keras"].backend.backend() != backend:
        found = sys.modules["keras"].backend.backend()
        raise ConfigError(
            f"backend={backend}: keras is already imported with {found}; set KERAS_BACKEND={backend} first"
        )
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # TensorFlow uses oneDNN's CPU kernels by itself only on processors with AVX-512 VNNI. On two
    # cores with AVX2 alone a step of Lite0 at 128 px, timed in a loop with and without them, took
    # 0.65 of the time (46 images/s against 30); `make bench` measures them together with what
    # module fast does.
    if "tensorflow" not in sys.modules:  # it reads this once
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    keep_memory()
    if processes > 1:
        _join(process, processes)  # before anything asks JAX for its devices

    import keras
    import tensorflow as tf

    if backend == "jax":
        tf.config.set_visible_devices(
            [], "GPU"
        )  # tf.data only; before anything of TensorFlow looks at the GPU
        devices, kind, bfloat16 = _jax_devices(keras, processes)
        if cfg.backend == "auto" and processes == 1 and kind == "cpu":
            raise ConfigError(
                "backend=auto: a TPU is attached, but jax finds none; restart the machine, install jax[tpu], or set "
                "backend=tensorflow to train on the CPU"
            )
    else:
        devices, kind, bfloat16 = _tf_devices(tf)
        if kind == "cpu":
            # Byte for byte the same run from the same seed. On a GPU it would forbid XLA.
            tf.config.experimental.enable_op_determinism()
    precision, why_precision = _precision(cfg, kind, bfloat16)
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(cfg.seed)
    xla, why_xla = _xla(cfg, kind, backend, len(devices))
    strategy = (
        tf.distribute.MirroredStrategy()
        if backend == "tensorflow" and kind == "gpu" and len(devices) > 1
        else None
    )
    rt = with_xla(
        Runtime(
            backend,
            tuple(devices),
            precision,
            True,
            False,
            strategy,
            kind=kind,
            process=process,
            processes=processes,
        ),
        xla,
    )
    reasons = (
        f"backend    {backend}: {why_backend}",
        f"device     {len(devices)} × {kind} ({devices[0]}): "
        + ("no accelerator found" if kind == "cpu" else "the fastest one here"),
        *(
            [f"processes  {processes}: JAX_NUM_PROCESSES says so; process 0 writes and prints"]
            if processes > 1
            else []
        ),
        *_shares(cfg, rt),
        f"precision  {precision}: {why_precision}",
        f"XLA        {'to be timed' if rt.xla_open else 'on' if xla else 'off'}: {why_xla}",
        *([f"CPU maths  {_cpu_maths()}"] if kind == "cpu" and backend == "tensorflow" else []),
        *([] if rt.xla_open else [batch_norm(rt)]),
    )
    return replace(rt, reasons=reasons)


def with_xla(rt: Runtime, on: bool | None) -> Runtime:
    """The same, compiled by XLA or not; None: that is open, and on until it is settled."""
    return replace(
        rt,
        xla=on is not False,
        xla_open=on is None,
        fast_layers=rt.backend == "tensorflow" and on is False,
    )


def batch_norm(rt: Runtime) -> str:
    """The line that says which kernels normalise, and what else is not as Keras has it."""
    if rt.fast_layers:
        more = (
            "; large depthwise filter gradients without oneDNN: it is slow at them"
            if rt.kind == "cpu"
            else ""
        )
        return f"batch norm fused: TensorFlow's kernel is faster than Keras's chain of operations, same numbers{more}"
    return "batch norm Keras: the compiler fuses it"


def _shares(cfg: Config, rt: Runtime) -> list[str]:
    """How several devices share the members' batches."""
    devices = len(rt.devices)
    wanted = sorted({mine.batch for mine in cfg.of_members()}) if devices > 1 else []
    return [
        f"batch      {batch}: {batch // devices} a device"
        + (
            f"; batch={asked} is no multiple of {devices}, this is the nearest"
            if batch != asked
            else ""
        )
        for asked in wanted
        for batch in [rt.batch_size(asked)]
    ]


def _cpu_maths() -> str:
    asked = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    if asked is None:
        return "TensorFlow's own choice of kernels: it was imported before this run"
    if asked == "0":
        return "TensorFlow's own kernels: TF_ENABLE_ONEDNN_OPTS=0 says so"
    return "oneDNN: faster than TensorFlow's own kernels, which it prefers on processors without AVX-512"


def _backend(cfg: Config, processes: int) -> tuple[str, str]:
    if cfg.backend == "tensorflow" and processes > 1:
        raise ConfigError(
            f"backend=tensorflow: JAX_NUM_PROCESSES={processes}, and only jax trains in several processes; "
            "expected auto or jax, or that variable unset"
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


# As jax/_src/hardware_utils.py of jax 0.7.2 has them. Google's network cards have the same vendor
# and other numbers.
_GOOGLE, _TPUS = "0x1ae0", {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}


def has_tpu(pci: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether the environment or the PCI bus shows a TPU. Without importing jax, which would then hold it."""
    if (
        os.environ.get("TPU_NAME")
        or os.environ.get("TPU_ACCELERATOR_TYPE")
        or Path("/dev/accel0").exists()
    ):
        return True
    cards = [
        (vendor.read_text().strip(), vendor.with_name("device")) for vendor in pci.glob("*/vendor")
    ]
    return any(device.read_text().strip() in _TPUS for vendor, device in cards if vendor == _GOOGLE)


def process_of() -> tuple[int, int]:
    """(number of this process, how many train together), from the variables that jax.distributed is started with.

    JAX_COORDINATOR_ADDRESS is host:port of process 0, JAX_NUM_PROCESSES how many there are, JAX_PROCESS_ID which one
    this is. (0, 1) where JAX_NUM_PROCESSES is unset or 1. Raises ConfigError if they do not go together.
    """
    found = {name: os.environ.get(name, "") for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")}
    if found["JAX_NUM_PROCESSES"] in ("", "1"):
        return 0, 1
    for name, value in found.items():
        if not value.isdecimal():
            raise ConfigError(
                f"{name}={value!r}: expected a whole number, as JAX_NUM_PROCESSES is set"
            )
    process, processes = int(found["JAX_PROCESS_ID"]), int(found["JAX_NUM_PROCESSES"])
    if not process < processes:
        raise ConfigError(
            f"JAX_PROCESS_ID={process}: expected 0 to {processes - 1}, as JAX_NUM_PROCESSES={processes}"
        )
    address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    if not address.rpartition(":")[2].isdecimal():
        raise ConfigError(f"JAX_COORDINATOR_ADDRESS={address!r}: expected host:port of process 0")
    return process, processes


def _join(process: int, processes: int) -> None:
    import jax

    jax.config.update(
        "jax_cpu_collectives_implementation", "gloo"
    )  # CPUs have none of their own; others ignore it
    jax.distributed.initialize(os.environ["JAX_COORDINATOR_ADDRESS"], processes, process)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a run folder to this run meanwhile, all its processes. Raises InputError if another run has it."""
    if process_of()[0]:
        yield
        return
    lock = os.open(
        folder, os.O_RDONLY
    )  # the folder's own: nothing is left in it, whatever ends the run
    held = True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InputError(
            f"out={folder}: another run is at work in it; wait for its end, or choose another folder"
        ) from None
    except OSError as error:  # some network file systems know no locks
        held = False
        print(
            f"warning: {folder} cannot be locked ({error.strerror}): two runs in it at a time would spoil each other"
        )
    try:
        yield
    finally:
        if held:
            fcntl.flock(
                lock, fcntl.LOCK_UN
            )  # closing would not do where a forked process has it open too
        os.close(lock)


def apart(place: inputs.Place) -> inputs.Place:
    """The same place, for process 0 and for the only process.

    Any other one gets a run folder of its own that vanishes with it, and no output: its run is the same as that of
    process 0, whose files are the run's. Errors still reach stderr.
    """
    if process_of()[0] == 0:
        return place
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # for as long as the process lives
    place.scratch.mkdir(parents=True, exist_ok=True)
    out = tempfile.mkdtemp(dir=place.scratch, prefix="process-")
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    return replace(place, out=Path(out))


def same_files(rt: Runtime, place: inputs.Place) -> None:
    """Copy the files that process 0 has in its run folder, but for scratch, into the other processes' run folders.

    A run that goes on from its files must find the same ones in every process. Every process has to call it.
    """
    if rt.processes == 1:
        return
    packed = io.BytesIO()
    if rt.process == 0:
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(place.out.rglob("*")):
                if path.is_file() and place.scratch not in path.parents:
                    archive.write(path, path.relative_to(place.out))
    mine = packed.getvalue()
    size = int(_from_first(np.uint32(len(mine))))
    sent = _from_first(
        np.frombuffer(mine, np.uint8) if rt.process == 0 else np.zeros(size, np.uint8)
    )
    if rt.process:
        with zipfile.ZipFile(io.BytesIO(sent.tobytes())) as archive:
            archive.extractall(place.out)


def agree(rt: Runtime, value: float) -> float:
    """Process 0's value, in every process: what depends on a clock must not differ between them.

    Every process has to call it, equally often, or they wait for each other for ever. In float32.
    """
    return float(_from_first(np.float32(value))) if rt.processes > 1 else value


def _from_first(value: Any) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(value))


def memory_errors() -> tuple[type[BaseException], ...]:
    """What to catch and then ask ``is_out_of_memory`` about: errors of the machine, not of our code."""
    found: list[type[BaseException]] = [MemoryError]
    if "tensorflow" in sys.modules:
        errors = sys.modules["tensorflow"].errors
        # cuDNN's and XLA's failures to get memory arrive as InternalError or UnknownError.
        found += [errors.ResourceExhaustedError, errors.InternalError, errors.UnknownError]
    if "jax" in sys.modules:
        found.append(sys.modules["jax"].errors.JaxRuntimeError)  # XlaRuntimeError is the same class
    return tuple(found)


_NO_MEMORY = (
    "RESOURCE_EXHAUSTED",
    "out of memory",
    "OUT_OF_MEMORY",
    "OOM when allocating",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MemoryError",  # of Python code inside tf.data, which is where batches are made
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host's or the device's memory did not suffice, so that a smaller batch may do.

    True for MemoryError, TensorFlow's ResourceExhaustedError, and TensorFlow's and JAX's errors that say so in their
    message (JAX has no class of its own for it).
    """
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, memory_errors()):
        return False
    exhausted = (
        "tensorflow" in sys.modules and sys.modules["tensorflow"].errors.ResourceExhaustedError
    )
    return bool(exhausted and isinstance(error, exhausted)) or any(
        word in str(error) for word in _NO_MEMORY
    )


def _tf_devices(tf: Any) -> tuple[list[str], str, bool]:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return [f"{platform.machine()}, {os.cpu_count()} cores"], "cpu", False
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    for gpu in gpus:
        with suppress(
            RuntimeError
        ):  # in use already, by what a notebook has done before: its memory stays as it is
            tf.config.experimental.set_memory_growth(gpu, True)
    names = [str(d.get("device_name", gpu.name)) for d, gpu in zip(details, gpus, strict=True)]
    return names, "gpu", all(d.get("compute_capability", (0, 0)) >= (8, 0) for d in details)


def _jax_devices(keras: Any, processes: int) -> tuple[list[str], str, bool]:
    import jax

    devices = jax.devices()
    each = [sum(d.process_index == process for d in devices) for process in range(processes)]
    if len(set(each)) > 1:
        raise ConfigError(
            f"JAX_NUM_PROCESSES={processes}: the processes have {each} devices; expected as many in each"
        )
    if len(devices) > 1:
        keras.distribution.set_distribution(_data_parallel(keras, processes))
    kind = devices[0].platform
    if kind in ("gpu", "cuda", "rocm"):
        # A string such as "7.5" (T4), "8.0" (A100); ROCm's are not numbers, and its cards have
        # bfloat16.
        capable = [str(getattr(d, "compute_capability", "")) for d in devices]
        native = all(not c.replace(".", "").isdecimal() or float(c) >= 8 for c in capable)
        return [d.device_kind for d in devices], "gpu", native
    return [d.device_kind for d in devices], kind, kind == "tpu"


def _data_parallel(keras: Any, processes: int) -> Any:
    """Each device holds the network and a share of every batch; a process makes the batches' share of its own devices."""

    class Replicas(keras.distribution.DataParallel):  # which keras it is, is known at run time only
        def get_tensor_layout(self, path: str) -> Any:
            # Else a process would hold the logits of its own photos only, and predict could not
            # return the others.
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


def _xla(cfg: Config, kind: str, backend: str, count: int) -> tuple[bool | None, str]:
    """On, off, or None where only the clock can tell; and why."""
    if backend == "jax":
        return True, "JAX always compiles"
    if kind == "cpu":
        # Measured 10 times slower, and Keras refuses it where operations are deterministic.
        if cfg.xla == "on":
            raise ConfigError(
                "xla=on: TensorFlow on a CPU trains 10 times slower with it; expected auto or off"
            )
        return False, "10 times slower on a CPU"
    if cfg.xla != "auto":
        return cfg.xla == "on", "as set"
    if count > 1:
        # keras issues 21366 and 20763: loss scaling under MirroredStrategy fails inside a compiled
        # step.
        return False, "does not go together with several GPUs and mixed precision"
    return None, "on one GPU it fuses the small operations, and costs compilations for each size"


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

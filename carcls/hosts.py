"""Several hosts that train as one with JAX: which one this is, and what they have to agree on.

Process 0 writes and prints; the others run the same in a folder of their own that vanishes.
"""

from __future__ import annotations

import atexit
import io
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from carcls.errors import ConfigError


def process_of() -> tuple[int, int]:
    """(number of this process, how many train together), from jax.distributed's variables.

    (0, 1) where JAX_NUM_PROCESSES is unset or 1. Raises ConfigError if they do not go together.
    """
    found = {name: os.environ.get(name, "") for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")}
    if found["JAX_NUM_PROCESSES"] in ("", "1"):
        return 0, 1
    for name, value in found.items():
        if not value.isdecimal():
            raise ConfigError(
                f"{name}={value!r}: expected a whole number, as JAX_NUM_PROCESSES is set"
            )
    processes, process = map(int, found.values())
    if process >= processes:
        raise ConfigError(
            f"JAX_PROCESS_ID={process}: expected 0 to {processes - 1}, as "
            f"JAX_NUM_PROCESSES={processes}"
        )
    address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    host, _, port = address.rpartition(":")
    is_host = re.fullmatch(r"[^\s/:@]+|\[[\w:.%]+\]", host)
    if not is_host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"JAX_COORDINATOR_ADDRESS={address!r}: expected host:port of process 0")
    return process, processes


def join(process: int, processes: int) -> None:
    """Meet the other processes, before anything asks JAX for its devices."""
    import jax

    # CPUs have no collectives of their own; other devices ignore this.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(os.environ["JAX_COORDINATOR_ADDRESS"], processes, process)


def own_folder(scratch: Path) -> Path:
    """A run folder that vanishes with its process, not process 0, which prints no more."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # for as long as the process lives
    scratch.mkdir(parents=True, exist_ok=True)
    out = tempfile.mkdtemp(dir=scratch, prefix="process-")
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    return Path(out)


def share_files(out: Path, scratch: Path) -> None:
    """Copy process 0's run folder, but for scratch, to the other processes' ones.

    A run that goes on from its files must find the same ones everywhere. Every process calls it.
    """
    process, processes = process_of()
    if processes == 1:
        return
    packed = io.BytesIO()
    if process == 0:
        with zipfile.ZipFile(packed, "w") as archive:
            for path in sorted(out.rglob("*")):
                if path.is_file() and scratch not in path.parents:
                    archive.write(path, path.relative_to(out))
    own = np.frombuffer(packed.getvalue(), np.uint8)
    size = int(_from_first(np.uint32(len(own))))
    sent = _from_first(own if process == 0 else np.zeros(size, np.uint8))
    if process:
        with zipfile.ZipFile(io.BytesIO(sent.tobytes())) as archive:
            archive.extractall(out)


def agree(value: float) -> float:
    """Process 0's value, everywhere, in float32: what depends on a clock must not differ.

    Every process has to call it, equally often, or they wait for each other for ever.
    """
    return float(_from_first(np.float32(value)))


def _from_first(value: Any) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(value))

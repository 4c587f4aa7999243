"""Memory: what keeps it, whether there may be enough, and which errors say that there was not."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys

from carcls.errors import InputError

# What TensorFlow and a run on a few small photos take, with some room.
_LEAST = {"RLIMIT_AS": ("v", 3.8e9), "RLIMIT_DATA": ("d", 2.0e9)}
_NO_MEMORY = (
    "RESOURCE_EXHAUSTED",
    "out of memory",
    "OUT_OF_MEMORY",
    "OOM when allocating",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MemoryError",  # of Python code inside tf.data, where batches are made
)


def keep_freed() -> None:
    """Let glibc keep large freed blocks instead of returning them to the system.

    TensorFlow takes and frees its activations at every operation; above 32 MB each is a new mapping
    whose pages fault one by one: relu6 on 50 MB takes 30 ms, with this 6.4 ms.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
    for option, value in ((-3, 1 << 30), (-1, 2**31 - 1), (-2, 256 << 20)):
        libc.mallopt(option, value)


def check_limit() -> None:
    """Raise InputError where a limit of this process is too low: TensorFlow ends with no word."""
    for name, (letter, least) in _LEAST.items():
        limit = resource.getrlimit(getattr(resource, name))[0]
        if resource.RLIM_INFINITY != limit < least:
            raise InputError(
                f"ulimit -{letter}: this process may take {limit / 1e9:.1f} GB of memory; "
                f"TensorFlow and a small run need {least / 1e9:.1f} GB; raise it, or set it to "
                "unlimited"
            )


def errors() -> tuple[type[BaseException], ...]:
    """What to catch and then ask ``ran_out`` about: errors of the machine."""
    found: list[type[BaseException]] = [MemoryError]
    if "tensorflow" in sys.modules:
        tf_errors = sys.modules["tensorflow"].errors
        # cuDNN's and XLA's failures to get memory arrive as InternalError or UnknownError.
        found += [tf_errors.ResourceExhaustedError, tf_errors.InternalError, tf_errors.UnknownError]
    if "jax" in sys.modules:
        found.append(sys.modules["jax"].errors.JaxRuntimeError)  # XlaRuntimeError is the same class
    return tuple(found)


def ran_out(error: BaseException) -> bool:
    """Whether the host's or the device's memory did not suffice, so that a smaller batch may do."""
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return True
    # JAX has no class of its own for it, and TensorFlow not for all of its libraries.
    return isinstance(error, errors()) and any(word in str(error) for word in _NO_MEMORY)

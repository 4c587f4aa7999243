"""What decoders of photos, which know no file's name, print about them on stderr."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

_OF_DECODERS = re.compile(rb"JPEG|JFIF|Adobe|progression")  # libjpeg's warnings
one_at_a_time = threading.RLock()  # also for large photos: two locks could wait for each other
_known: set[str] = set()  # files about which something was printed


@contextmanager
def overheard(path: str) -> Iterator[list[str]]:
    """The lines that the decoder of this file prints meanwhile, which are shown no more."""
    said: list[str] = []
    with one_at_a_time, tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            for line in file:
                if _OF_DECODERS.search(line):
                    said.append(line.decode(errors="replace").strip())
                    _known.add(path)
                else:  # of another thread
                    with suppress(OSError):
                        os.write(2, line)


def hushed(path: str | Path) -> AbstractContextManager[object]:
    """Nothing is printed about a file again once it was overheard."""
    return overheard(str(path)) if str(path) in _known else nullcontext()

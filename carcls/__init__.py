"""carcls: a folder of car photos in, a submission.csv out. Importing it imports nothing heavy."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
__all__ = ["Config", "run"]


class _Package(ModuleType):
    """`carcls.run` is the function, although a module has that name, which Python would put there once it is imported."""

    def __getattr__(self, name: str) -> Any:  # when asked for: `import carcls` stays below 50 ms
        if name == "Config":
            from carcls.config import Config

            return Config
        if name == "run":
            from carcls.run import run

            return run
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.run if name == "run" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package

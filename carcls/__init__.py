"""carcls: a folder of car photos in, a submission.csv out. Importing it imports nothing heavy.

``carcls.run`` is the function; of the module with that name, ``from carcls.run import …`` gives the parts.
"""

import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
__all__ = ["Config", "run"]


def __getattr__(name: str):  # PEP 562: `import carcls` stays below 50 ms
    if name == "Config":
        from carcls.config import Config

        return Config
    if name == "run":
        from carcls.run import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Python makes a module, once imported, an attribute of its package: this one would hide the function.
        if not (name == "run" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

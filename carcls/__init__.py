"""carcls: a folder of car photos in, a submission.csv out. Importing it imports nothing heavy."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Config", "export", "predict", "run"]


def __getattr__(name: str) -> Any:  # PEP 562: `import carcls` stays below 50 ms
    if name == "Config":
        from carcls.config import Config

        return Config
    if name == "run":
        from carcls.spine import run

        return run
    if name == "predict":
        from carcls.desk.predictions import predict

        return predict
    if name == "export":
        from carcls.desk.exports import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

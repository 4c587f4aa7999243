"""What a run may end with, as one tree."""


class CarclsError(Exception):
    """Anything that the package itself raises; the message is for the person who runs it."""


class ConfigError(CarclsError, ValueError):
    """A setting that cannot be used: its name, what was found, what was expected."""


class InputError(CarclsError, ValueError):
    """Files that cannot be used: their names, what was found, what was expected."""


class TrainingDiverged(CarclsError, RuntimeError):  # noqa: N818  (it says what happened)
    """The loss is no longer a number. Arguments: where it happened, and what to try."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


class Stopped(BaseException):
    """The run was told to end (SIGTERM); what it has done so far is in the run folder."""

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


# What ends a run without a traceback, on the command line and in a kernel, with its exit code.
EXIT_CODES: dict[type[BaseException], int] = {
    ConfigError: 2,
    InputError: 2,
    OSError: 2,  # a full disk, a folder that may not be read, another in a file's place
    TrainingDiverged: 3,
    KeyboardInterrupt: 130,
    Stopped: 143,
}


def exit_code(error: BaseException) -> int:
    """The exit code of a process that this error ends; 1 if it is not in EXIT_CODES."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def last_words(error: BaseException) -> str:
    """The one line that such a process prints on stderr."""
    if isinstance(error, KeyboardInterrupt):
        return "carcls: stopped by hand; the same command goes on from the last whole epoch"
    if isinstance(error, Stopped):
        return f"carcls: stopped by {error}"
    if isinstance(error, OSError) and error.filename:
        return f"carcls: {error.filename}: {error.strerror}"
    return f"carcls: {error}"

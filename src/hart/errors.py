"""Errors that are not the program's fault, and the warning about prompts."""

import errno
from importlib.util import find_spec

DISTRIBUTION = "hart-image"
"""This package's name on package indexes, where `hart` is a different project."""


class HartError(ValueError):
    """Bad input: one line that says what was wrong and what to do. The command line prints it and exits with 2."""


def missing_package(name: str | None, extra: str) -> HartError:
    """Return the error for an optional package that is not installed. extra: this project's extra that installs it."""
    return not_installed(name, f"'{DISTRIBUTION}[{extra}]'")


def not_installed(what: str | None, requirement: str) -> HartError:
    """Return the same error for anything that pip can install. requirement: its name there."""
    # environments made by uv have no pip: the shell's pip would install elsewhere
    pip = "uv pip" if find_spec("pip") is None else "pip"
    return HartError(f"{what} is not installed: run {pip} install {requirement}")


def lacks_memory(error: BaseException) -> bool:
    """Return whether the machine ran out of memory, which is not bad input."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


class Stopped(BaseException):
    """An orderly end after a signal: one line says what was kept and how to resume. Exit code 128 + `signal`.

    Not a `KeyboardInterrupt`, whose message the argument parser would drop.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class PromptWarning(UserWarning):
    """A prompt is used, but not as written: the text encoder drops words, or does not know them."""


class AdapterWarning(UserWarning):
    """A LoRA adapter is used with other weights than it was trained on."""

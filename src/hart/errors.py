"""Errors that are not the program's fault, and the warning about prompts."""

import errno
from importlib.util import find_spec

DISTRIBUTION = "hart-image"
"""This package's name on package indexes, where `hart` is another project."""


class HartError(ValueError):
    """Bad input: one line that says what was wrong and what to do. The command line prints it and exits with 2."""


def missing_package(name: str | None, extra: str) -> HartError:
    """The error for an optional package that is not installed. extra: the extra of this project that brings it."""
    return not_installed(name, f"'{DISTRIBUTION}[{extra}]'")


def not_installed(what: str | None, requirement: str) -> HartError:
    """The same for anything that pip can install. requirement: what it is called there."""
    # environments that uv makes have no pip: the shell's would install elsewhere
    pip = "uv pip" if find_spec("pip") is None else "pip"
    return HartError(f"{what} is not installed: run {pip} install {requirement}")


def lacks_memory(error: BaseException) -> bool:
    """Whether the machine had no memory left, which is nobody's bad input."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


class Stopped(BaseException):
    """An orderly end by a signal: one line says what was kept and how to resume. Exit code 128 + `signal`.

    Not a `KeyboardInterrupt`, whose message the argument parser would drop.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class PromptWarning(UserWarning):
    """A prompt is used, but not as written: the text encoder leaves words out, or does not know them."""


class AdapterWarning(UserWarning):
    """A LoRA adapter is used with other weights than those it was trained on."""

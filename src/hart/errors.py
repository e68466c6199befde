"""What ends a command in a way that is no fault of the program, and the warning about prompts."""

DISTRIBUTION = "hart-image"
"""What this package is called where packages are published; `hart` is another project there."""


class HartError(ValueError):
    """Bad input, in one line that says what was wrong and what to do. The command line prints it and exits with 2."""


def missing_package(name: str | None, extra: str) -> HartError:
    """The error for an optional package that is not installed. extra: the one of this project that brings it."""
    return HartError(f"{name} is not installed: run {install_command(extra)}")


def install_command(extra: str) -> str:
    return f"pip install '{DISTRIBUTION}[{extra}]'"


class Stopped(BaseException):
    """Ended by a signal, in order; says in one line what was kept and how to go on. Exit code 128 + `signal`.

    No `KeyboardInterrupt`, which the argument parser would take for one that has nothing to say.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class PromptWarning(UserWarning):
    """A prompt is drawn, but not as it was written: the text encoder leaves words out, or does not know them."""

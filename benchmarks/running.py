"""Runs the programs of this folder: errors that the user can fix are one line, as in `hart`."""

from __future__ import annotations

from collections.abc import Callable

from hart.errors import HartError


def run_program(main: Callable[[], None]) -> None:
    """Run `main`; exit with the message of a `HartError` as one line."""
    try:
        main()
    except HartError as error:
        raise SystemExit(f"error: {error}") from None

"""How a program of this folder is run: what its user can mend is one line, as in `hart`."""

from __future__ import annotations

from collections.abc import Callable

from hart.errors import HartError


def run_program(main: Callable[[], None]) -> None:
    """Exits with the line of a `HartError`."""
    try:
        main()
    except HartError as error:
        raise SystemExit(f"error: {error}") from None

"""What the tests of locks run in processes of their own, which import this module by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hart.commands.locks import locked
from hart.errors import HartError


def try_lock(folder: str, barrier: Any, results: Any) -> None:
    """Lock when all others are about to; hold it until all have tried."""
    barrier.wait()
    try:
        with locked(Path(folder), "training"):
            results.put((os.getpid(), ""))
            barrier.wait()
    except HartError as error:
        results.put((os.getpid(), str(error)))
        barrier.wait()


def hold_and_die(folder: str) -> None:
    with locked(Path(folder), "training"):
        os._exit(9)

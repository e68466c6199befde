"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds, far more than anything takes: what never comes fails the test, in place of hanging it."""
PAUSE_SECONDS = 0.002
"""Between two looks."""


def until(condition: Callable[[], T]) -> T:
    """Returns what `condition` gives once that is true; it may raise when there is nothing to wait for any more."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(PAUSE_SECONDS)
    return found

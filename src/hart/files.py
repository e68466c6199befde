"""Files that appear whole or not at all, and the folder for those that can be fetched again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def default_cache() -> Path:
    """The platform's folder for files that can be fetched again, with `hart` below it."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "hart"


def atomic_write(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a neighbouring file, flush it to disk, rename it to `path`; missing folders are made.

    Readers see the old file or the whole new one. When `write` fails, the old file stays, nothing is left
    beside it, and the error is passed on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

"""Folders that data sets are written to: only into what is empty or its own, and refused while they are not finished.

A builder of sets writes `MARKER` first and `INDEX` last; an encoded set has its own index, see `hart.data.encoded`.
"""

from __future__ import annotations

import re
from pathlib import Path

from hart.errors import HartError
from hart.files import FileError, read_json

MARKER = "building.json"
INDEX = "dataset.json"


def require_own_folder(folder: Path, own: str) -> None:
    """Raises `HartError` when a folder holds anything but hidden files and names that match `own` wholly."""
    foreign = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    foreign = [name for name in foreign if not re.fullmatch(own, name)]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise HartError(f"{folder}: holds other files ({', '.join(foreign[:3])}{more}): give an empty or a new folder")


def require_finished(folder: Path) -> None:
    """Raises `HartError` for a set that its builder began and did not end."""
    if (folder / INDEX).is_file() or not (folder / MARKER).is_file():
        return
    try:
        marker = read_json(folder / MARKER)
    except FileError:
        return
    if marker.keys() == {"fingerprint"}:
        raise HartError(f"{folder}: the set is not finished: run the same command again that builds it")

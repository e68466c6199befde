"""Folders that data sets are written to, if empty or the set's own; an unfinished set cannot be opened.

`begin_set` writes `MARKER`, `finish_set` writes `INDEX`; an encoded set has its own index, see `hart.data.encoded`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hart.errors import HartError
from hart.files import FileError, read_json, require_own_folder, write_json

MARKER = "building.json"
INDEX = "dataset.json"


def begin_set(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Begin a set, or resume it; return what `finish_set` wrote if it is already finished.

    fingerprint: identifies the set, so that no two are mixed. Raises `HartError` for a folder with anything else in it,
    or with a damaged marker or index.
    """
    for name in (INDEX, MARKER):
        if not (folder / name).is_file():
            continue
        try:
            found = read_json(folder / name)
        except FileError as error:
            raise HartError(f"{error}: delete it and run again") from None
        if found.get("fingerprint") != fingerprint:
            raise HartError(f"{folder} holds a set with other settings: choose another folder or empty it")
        return found if name == INDEX else None
    require_own_folder(folder)
    write_json(folder / MARKER, {"fingerprint": fingerprint})
    return None


def finish_set(folder: Path, fingerprint: str, index: Mapping[str, Any]) -> None:
    """Mark a set as complete, and record `index`."""
    write_json(folder / INDEX, {"fingerprint": fingerprint, **index})


def require_finished(folder: Path) -> None:
    """Raise `HartError` for a set that was begun and not finished."""
    if (folder / INDEX).is_file() or not (folder / MARKER).is_file():
        return
    try:
        marker = read_json(folder / MARKER)
    except FileError:
        return
    if marker.keys() == {"fingerprint"}:
        raise HartError(f"{folder}: the set is not finished: run the command that builds it again")

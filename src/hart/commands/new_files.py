"""Names for files that commands add to a folder: nothing that is there is ever written over."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

NUMBERED = re.compile(r"([0-9]{3,9})-.*\.png")


class NumberedFiles:
    """PNG files of one command: numbered on from those that the folder has, so that names sort as they were written.

    Other commands may write into the same folder meanwhile: a name that is taken is passed over.
    """

    def __init__(self, folder: Path, count: int) -> None:
        """count: how many files are to come; the numbers are as wide as the last one."""
        found = (NUMBERED.fullmatch(entry.name) for entry in os.scandir(folder))
        first = max((int(match[1]) + 1 for match in found if match is not None), default=0)
        self._folder = folder
        self._width = max(3, len(str(first + count - 1)))
        self._numbers = itertools.count(first)

    def write(self, name: str, save: Callable[[Path], None]) -> Path:
        """Let `save` write the next file, `name` behind its number; `save` raises `FileExistsError` for a taken name.

        Returns the path that was written.
        """
        return write_new((self._folder / f"{number:0{self._width}}-{name}.png" for number in self._numbers), save)


def write_new(paths: Iterator[Path], save: Callable[[Path], None]) -> Path:
    """Let `save` write the first of `paths` that is free, and return it."""
    while True:
        path = next(paths)
        try:
            save(path)
        except FileExistsError:
            if not os.path.lexists(path):  # the folder is no folder any more
                raise
        else:
            return path


def with_suffixes(path: Path) -> Iterator[Path]:
    """`path`, then the same with -2, -3, ... at the end of its name."""
    yield path
    for number in itertools.count(2):
        yield path.with_stem(f"{path.stem}-{number}")

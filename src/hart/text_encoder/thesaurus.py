"""Names that words and pairs of words are read as: `thesaurus.json.gz` in the folder of a model, which an author's tool
has found (for the model that comes with hart, `projects/emoji`).

It is unpacked when the first word that no caption had is read, since most prompts have none.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from hart.errors import HartError
from hart.files import FileError, atomic_write, parse_json, read_bytes

THESAURUS_FILE = "thesaurus.json.gz"
LARGEST = 2**24
"""Bytes of it, packed or not."""


@dataclass(frozen=True)
class Thesaurus:
    """Words and pairs of words, in lower case.

    things: with the name that stands for each, wherever it is. alone: with the name that stands for each where it is
    all that a prompt says. left: that are read as they are.
    """

    things: Mapping[str, str]
    alone: Mapping[str, str]
    left: Set[str]

    def save(self, folder: Path) -> None:
        """Written so that words stand by their names, which is half as long."""
        content = {"things": _by_name(self.things), "alone": _by_name(self.alone), "left": {"": sorted(self.left)}}
        packed = gzip.compress(TypeAdapter(dict[str, dict[str, list[str]]]).dump_json(content), mtime=0)
        StoredThesaurus(packed, THESAURUS_FILE).save(folder)


class StoredThesaurus:
    """That of a folder, unpacked when it is first asked for."""

    def __init__(self, content: bytes, where: str) -> None:
        """content: of the file `where`, as `Thesaurus.save` writes it."""
        self._content = content
        self._where = where

    @classmethod
    def load(cls, folder: Path) -> StoredThesaurus | None:
        """Of the model in a folder; None without one."""
        file = folder / THESAURUS_FILE
        return cls(read_bytes(file, LARGEST), str(file)) if file.exists() else None

    def save(self, folder: Path) -> None:
        atomic_write(folder / THESAURUS_FILE, lambda file: file.write(self._content))

    @cached_property
    def words(self) -> Thesaurus:
        """Raises `HartError` if the file is damaged."""
        try:
            text = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(self._content, LARGEST)
            lists = TypeAdapter(dict[str, dict[str, list[str]]]).validate_python(parse_json(text, self._where))
            things, alone = (
                {word: name for name, words in lists[kind].items() for word in words} for kind in ("things", "alone")
            )
            return Thesaurus(things, alone, frozenset(lists["left"][""]))
        except (zlib.error, ValidationError, KeyError, FileError):
            raise HartError(f"{self._where}: is no thesaurus that hart wrote: copy the model again") from None


def _by_name(readings: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word, name in sorted(readings.items(), key=lambda reading: (reading[1], reading[0])):
        found.setdefault(name, []).append(word)
    return found

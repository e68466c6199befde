"""Names that words and pairs of words are read as: `thesaurus.json.gz` in the folder of a model, which an author's tool
has found (for the model that comes with hart, `projects/emoji`).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from hart.errors import HartError
from hart.files import FileError, atomic_write, parse_json, read_bytes

THESAURUS_FILE = "thesaurus.json.gz"
LARGEST = 2**24
"""Bytes of it, packed or not."""
GZIP = zlib.MAX_WBITS | 16
LISTS = TypeAdapter(dict[str, dict[str, list[str]]])


@dataclass(frozen=True)
class Thesaurus:
    """Words and pairs of words, in lower case.

    things: with the name that stands for each, wherever it is. alone: with the name that stands for each where it is
    all that a prompt says. left: that are read as they are.
    """

    things: Mapping[str, str]
    alone: Mapping[str, str]
    left: Set[str]

    @classmethod
    def load(cls, folder: Path) -> Thesaurus | None:
        """Of the model in a folder; None without one. Raises `HartError` if the file is damaged."""
        file = folder / THESAURUS_FILE
        if not file.exists():
            return None
        try:
            text = zlib.decompressobj(GZIP).decompress(read_bytes(file, LARGEST), LARGEST)
            lists = LISTS.validate_python(parse_json(text, str(file)))
            things, alone = (
                {word: name for name, words in lists[kind].items() for word in words} for kind in ("things", "alone")
            )
            return cls(things, alone, frozenset(lists["left"][""]))
        except (zlib.error, ValidationError, KeyError, FileError):
            raise HartError(f"{file}: is no thesaurus that hart wrote: copy the model again") from None

    def save(self, folder: Path) -> None:
        """Written so that words stand by their names, which is half as long."""
        content = {"things": _by_name(self.things), "alone": _by_name(self.alone), "left": {"": sorted(self.left)}}
        # not by gzip.compress, whose header is another one from Python 3.13 on
        packed = zlib.compress(LISTS.dump_json(content), zlib.Z_BEST_COMPRESSION, GZIP)
        atomic_write(folder / THESAURUS_FILE, lambda file: file.write(packed))


def _by_name(readings: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word, name in sorted(readings.items(), key=lambda reading: (reading[1], reading[0])):
        found.setdefault(name, []).append(word)
    return found

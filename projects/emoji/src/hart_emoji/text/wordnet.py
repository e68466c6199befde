"""Reads the WordNet 3.0 database files (`data.noun` and so on, as Debian's `wordnet-base` installs them)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hart import HartError
from hart.files import read_text

T = TypeVar("T")

FILE_LIMIT = 2**28
"""Largest size of a file in bytes."""
DEPICTABLE = {"05", "06", "08", "12", "13", "17", "18", "19", "20", "25"}
"""Lexicographer files: animal, artifact, body, feeling, food, object, person, phenomenon, plant, shape."""


@dataclass(frozen=True)
class Synset:
    """gloss: definition, often with examples. thing: it can be drawn. proper: it is the name of a person or place."""

    gloss: str
    thing: bool
    proper: bool


def require_files(folder: Path, names: Sequence[str]) -> None:
    """Raise `HartError` if a database file is missing."""
    for name in names:
        if not (folder / name).is_file():
            raise HartError(f"{folder / name}: not found; install WordNet (Debian: wordnet-base) or correct the path")


def entries(path: Path, read: Callable[[str], T]) -> Iterator[T]:
    """Yield what `read` makes of each line of a file, skipping the licence, which is indented.

    Raises `HartError` if `read` fails.
    """
    for line in read_text(path, FILE_LIMIT).split("\n"):
        if line and not line.startswith("  "):
            try:
                yield read(line)
            except (ValueError, LookupError):
                raise HartError(
                    f"{path}: damaged at {line[:40]!r}, or not from the WordNet beside it; install WordNet "
                    "(Debian: wordnet-base) again"
                ) from None


def lemmas(folder: Path, part: str) -> Iterator[tuple[str, list[str]]]:
    """Yield words and phrases of a part of speech ("noun"), each with its synsets' offsets, most used first."""
    return entries(folder / f"index.{part}", _lemma)


def explained_lemmas(folder: Path, part: str) -> Iterator[tuple[str, list[Synset]]]:
    """Do the same with the synsets themselves."""
    synsets = dict(entries(folder / f"data.{part}", _synset))

    def explained(line: str) -> tuple[str, list[Synset]]:
        lemma, offsets = _lemma(line)
        return lemma, [synsets[offset] for offset in offsets]

    return entries(folder / f"index.{part}", explained)


def _synset(line: str) -> tuple[str, Synset]:
    offset, lexical_file, part, _, word, _ = line.split(" ", 5)
    # the first word shows whether it is a proper noun: the name of a person, place or genus
    proper = part == "n" and word != word.lower()
    return offset, Synset(line.split(" | ", 1)[1].strip(), lexical_file in DEPICTABLE and not proper, proper)


def _lemma(line: str) -> tuple[str, list[str]]:
    fields = line.split()
    return fields[0].replace("_", " "), fields[-int(fields[2]) :]

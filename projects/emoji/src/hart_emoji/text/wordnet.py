"""The WordNet 3.0 database files (`data.noun` and so on, as Debian's `wordnet-base` installs them), line by line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hart import HartError
from hart.files import read_text

FILE_LIMIT = 2**28
"""Bytes of one file."""
DEPICTABLE = {"05", "06", "08", "12", "13", "17", "18", "19", "20", "25"}
"""Lexicographer files: animal, artifact, body, feeling, food, object, person, phenomenon, plant, shape."""


@dataclass(frozen=True)
class Synset:
    """gloss: its definition, often with examples. thing: it can be drawn. proper: a name of somebody or a place."""

    gloss: str
    thing: bool
    proper: bool


def require_files(folder: Path, names: Sequence[str]) -> None:
    """Raise `HartError` for database files that are not there."""
    for name in names:
        if not (folder / name).is_file():
            raise HartError(f"{folder / name}: not found; install WordNet (Debian: wordnet-base) or correct the path")


def lines(path: Path) -> Iterator[str]:
    """Of a file, without its licence, which is indented."""
    return (line for line in read_text(path, FILE_LIMIT).split("\n") if line and not line.startswith("  "))


def lemmas(folder: Path, part: str) -> Iterator[tuple[str, list[str]]]:
    """Words and phrases of a part of speech ("noun"), each with the offsets of its synsets, the most used first."""
    return map(_lemma, lines(folder / f"index.{part}"))


def explained_lemmas(folder: Path, part: str) -> Iterator[tuple[str, list[Synset]]]:
    """The same with the synsets themselves."""
    synsets = dict(map(_synset, lines(folder / f"data.{part}")))
    return ((lemma, [synsets[offset] for offset in offsets]) for lemma, offsets in lemmas(folder, part))


def _synset(line: str) -> tuple[str, Synset]:
    offset, lexical_file, part, _, word, _ = line.split(" ", 5)
    # the first word tells whether it is a proper noun: names of people, places and genera
    proper = part == "n" and word != word.lower()
    return offset, Synset(line.split(" | ", 1)[1].strip(), lexical_file in DEPICTABLE and not proper, proper)


def _lemma(line: str) -> tuple[str, list[str]]:
    fields = line.split()
    return fields[0].replace("_", " "), fields[-int(fields[2]) :]

"""Senses of English words in the WordNet 3.0 database files, and each sense's share of its word's uses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hart_emoji.text.wordnet import Synset, entries, explained_lemmas, require_files

PARTS_OF_SPEECH = {"noun": "1", "verb": "2", "adj": "3", "adv": "4"}
"""Ending of a file's name -> number in sense keys; adjective satellites have a number of their own."""
SATELLITE = "5"
UNCOUNTED = 0.5
"""Added to the counted uses of a word's first sense; its n-th sense gets an n-th of that."""
ENDINGS = (
    *(("ies", "y"), ("es", ""), ("s", ""), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e")),
    *(("er", ""), ("er", "e"), ("est", ""), ("est", "e")),
)
"""Endings of inflected forms, and what the dictionary has in their place."""


@dataclass(frozen=True)
class Sense:
    """share: of its word's uses, 0 to 1. thing: it can be drawn. proper: it is the name of a person or place."""

    gloss: str
    share: float
    thing: bool
    proper: bool


class Senses:
    """Maps words in lower case to their senses, most used first. words: all words in WordNet."""

    def __init__(self, folder: Path) -> None:
        """folder: has the database files. Raises `HartError` if they are missing."""
        self._of: defaultdict[str, list[tuple[str, Synset]]] = defaultdict(list)
        self._bases: dict[str, str] = {}
        every = (f"{kind}.{part}" for part in PARTS_OF_SPEECH for kind in ("data", "index"))
        require_files(folder, (*every, "cntlist.rev"))
        for part, number in PARTS_OF_SPEECH.items():
            for lemma, synsets in explained_lemmas(folder, part):
                self._of[lemma] += [(number, synset) for synset in synsets]
            if (folder / f"{part}.exc").is_file():
                self._bases |= dict(entries(folder / f"{part}.exc", _exception))
        self._uses = dict(entries(folder / "cntlist.rev", _uses))
        self._counted = {word for (word, _, _), uses in self._uses.items() if uses}

    @property
    def words(self) -> Iterator[str]:
        return iter(self._of)

    def __call__(self, word: str) -> list[Sense]:
        """Return the senses of a word or phrase, or of its base form; none if it is not in WordNet."""
        base = self._base(word)
        found: list[tuple[float, Synset]] = []
        number: defaultdict[str, int] = defaultdict(int)
        for part, synset in self._of.get(base, ()):
            number[part] += 1
            uses = self._uses.get((base, part, number[part]), 0) + UNCOUNTED / number[part]
            found.append((uses, synset))
        total = sum(uses for uses, _ in found)
        found.sort(key=lambda sense: -sense[0])
        return [
            Sense(one.gloss.split('; "', maxsplit=1)[0].strip(), uses / total, one.thing, one.proper)
            for uses, one in found
        ]

    def used(self, word: str) -> bool:
        """Return whether the word occurs in the texts in which WordNet's authors counted senses."""
        return word in self._counted

    def _base(self, word: str) -> str:
        if word in self._of:
            return word
        shorter = (word.removesuffix(end) + instead for end, instead in ENDINGS if word.endswith(end))
        return next((base for base in (self._bases.get(word, ""), *shorter) if base in self._of), word)


def thing_share(senses: Sequence[Sense]) -> float:
    """Return the share of a word's uses that mean something that can be drawn."""
    return sum(sense.share for sense in senses if sense.thing)


def _exception(line: str) -> tuple[str, str]:
    form, base = line.split()[:2]
    return form.replace("_", " "), base.replace("_", " ")


def _uses(line: str) -> tuple[tuple[str, str, int], int]:
    """Return (lemma, part of speech, number of the sense), and how often it was counted."""
    key, number, count = line.split()
    lemma, rest = key.split("%")
    part = rest.split(":", 1)[0]
    return (lemma.replace("_", " "), "3" if part == SATELLITE else part, int(number)), int(count)

"""Finds readings for words that are in no caption: `thesaurus.json.gz` of the shipped model.

Words for things that can be drawn are read as the name that they most likely mean, wherever they stand. Other words
("furious", "galloping") are read so only as a whole prompt: in a sentence they describe a thing that is named.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from hart.text_encoder import KnownWords, Thesaurus
from hart_emoji.data.captions import Keywords, mentions, plain_names
from hart_emoji.data.catalogue import Concept
from hart_emoji.text.corpus import read_wordnet
from hart_emoji.text.meanings import ConceptWords, Meanings, Space
from hart_emoji.text.senses import Senses, thing_share
from hart_emoji.text.teacher import SentenceTeacher
from hart_emoji.text.word_vectors import WordVectors

LEAST = 0.1
"""Lowest probability at which a word is read as a name: half of the readings below it would be wrong."""
LEAST_PAIR = 0.3
"""The same for pairs of words."""
THING_SHARE = 0.25
"""Lowest share of a word's uses that must mean a thing for the word to stand for one."""
COLOUR = re.compile(r"\bcolors?\b")
"""Found in the definitions of colours, which are never read as things."""
MOST_RARE = 9_000
MOST_PAIRS = 3_000
"""How many of WordNet's rare words and of its pairs are considered, the most used first."""


def find_thesaurus(
    known: KnownWords,
    concepts: Sequence[Concept],
    keywords: Keywords,
    wordnet: Path,
    teacher: str,
    vectors: WordVectors,
) -> Thesaurus:
    """Return readings of unknown words as names of concepts.

    teacher: see `SentenceTeacher`. Raises `HartError` as `SentenceTeacher` and `Senses` do.
    """
    encoder = SentenceTeacher(teacher)
    senses = Senses(wordnet)
    words = [ConceptWords(plain_names(c), keywords.standing_alone(c), keywords.beside_name(c)) for c in concepts]
    spaces = [Space(lambda texts: encoder.encode(texts).float(), senses), Space(vectors.encode)]
    meanings = Meanings(words, spaces)
    meanings.fit(practice_words(words))

    rank = {piece: place for place, piece in enumerate(encoder.pieces) if piece.isalpha() and len(piece) > 1}

    def needed(word: str) -> bool:
        """Return whether a word needs a reading: it is unknown, lacks the letters of a name and is no known plural."""
        forms = known.singulars(word)
        plural = any(form in known.words for form in forms) or (
            thing_share(senses(word)) > 0 and any(form in rank for form in forms)
        )
        return bool(known.unknown(word)) and not known.spelt(word) and not plural

    unknown = [word for word in senses.words if word.isalpha() and known.unknown(word)]
    colours = {word for word in unknown if any(not s.thing and COLOUR.search(s.gloss) for s in senses(word)[:1])}
    common = [word for word in rank if needed(word) and word not in colours]
    listed = (word for word in read_wordnet(wordnet, rank).things if word not in colours)
    things = [word for word in listed if known.unknown(word) and not known.spelt(word)]
    rare = [word for word in things if word.isalpha() and word not in rank]
    rare = sorted(rare, key=lambda word: not senses.used(word))[:MOST_RARE]
    pairs = [word for word in things if len(word.split()) == 2 and word.replace(" ", "").isalpha()][:MOST_PAIRS]

    spoken = [spoken_name(concept) for concept in concepts]
    found = Readings(senses)
    found.add(common, most_likely(meanings, common, spoken), LEAST)
    found.add(rare, most_likely(meanings, rare, spoken), LEAST)
    found.add(pairs, most_likely(meanings, pairs, spoken), LEAST_PAIR)
    # a leotard is no misspelt leopard, but a chopstick is one of the chopsticks
    spelt = {word for word in unknown if needed(word) and known.corrected(word) not in ("", word + "s", word + "es")}
    left = {*common, *colours, *spelt} - found.things.keys() - found.alone.keys()
    return Thesaurus(found.things, found.alone, left)


class Readings:
    """Words -> the names they are read as: `things` anywhere in a prompt, `alone` only as a whole prompt."""

    def __init__(self, senses: Senses) -> None:
        self._senses = senses
        self.things: dict[str, str] = {}
        self.alone: dict[str, str] = {}

    def add(self, words: Sequence[str], likely: Sequence[tuple[str, float]], least: float) -> None:
        for word, (name, probability) in zip(words, likely, strict=True):
            own = self._senses(word)
            if probability >= least and not (own and all(sense.proper for sense in own)):
                (self.things if thing_share(own) >= THING_SHARE else self.alone)[word] = name


def practice_words(concepts: Sequence[ConceptWords]) -> dict[str, list[int]]:
    """Return keywords that stand alone and are in no name -> the numbers of their concepts."""
    owners: defaultdict[str, list[int]] = defaultdict(list)
    for number, concept in enumerate(concepts):
        for word in concept.keywords:
            owners[word].append(number)
    names = {name for concept in concepts for name in concept.names}
    inside = {word for name in names for word in owners if mentions(name, frozenset({word}))}
    return {word: numbers for word, numbers in owners.items() if word not in inside}


def most_likely(meanings: Meanings, words: Sequence[str], spoken: Sequence[str]) -> list[tuple[str, float]]:
    """Return the likeliest name and its probability for each word. spoken: a name for each concept."""
    names = sorted(set(spoken))
    place = {name: at for at, name in enumerate(names)}
    into = torch.tensor([place[name] for name in spoken])
    found = meanings(words)
    best = torch.zeros(len(words), len(names)).index_add_(1, into, found).max(dim=1)
    return [(names[at], value) for at, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def spoken_name(concept: Concept) -> str:
    """Return the name that fits into a sentence: a shorter one that is part of it ("book"), or it ("closed book")."""
    names = plain_names(concept)
    inside = [name for name in names if set(name.split()) < set(names[0].split())]
    return min(inside, key=len, default=names[0])

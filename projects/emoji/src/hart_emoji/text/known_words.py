"""Finds the words of captions, the names of things and the readings of other words: `known_words.json` and
`thesaurus.json.gz` of the shipped model."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hart.files import default_cache
from hart.text_encoder import KnownWords, Thesaurus, find_text_encoder, load_text_encoder
from hart_emoji.data.build import STYLES
from hart_emoji.data.captions import head_of, plain_names
from hart_emoji.data.ink import DARK, ON_DARK, TEMPLATES
from hart_emoji.data.plain import PlainEmoji
from hart_emoji.data.recolour import BACKGROUND_SHADES, COLOUR_WORDS
from hart_emoji.data.rewriting import NUMBERS, ONE_THING, plural
from hart_emoji.text.corpus import require_wordnet
from hart_emoji.text.senses import Senses, thing_share
from hart_emoji.text.thesaurus import THING_SHARE, find_thesaurus
from hart_emoji.text.word_vectors import WordVectors

NOT_THINGS = frozenset({"flags", "symbols", "other"})
"""Groups of concepts whose names are never a reading of another word."""
CONNECTING = """a an the and with of in on at against to background emoji style noto light dark medium medium-light
medium-dark skin tone big small next beside left right above below over under beneath"""
"""Words that captions of scenes and skin tones use."""
SHORTEST = 3
"""Fewest letters of a word: WordNet has "or" for Oregon."""


def find_words(model: str, wordnet: Path, teacher: str) -> tuple[KnownWords, Thesaurus]:
    """Return the known words and the readings of others. Known are the words in captions of the emoji set and of
    scenes, with the WordNet nouns that `PlainEmoji` uses; some of them are only parts of names.

    model: its text encoder finds these nouns. Raises `HartError` as `PlainEmoji.find_nouns` and `find_thesaurus` do.
    """
    require_wordnet(wordnet)
    encoder = load_text_encoder(*find_text_encoder(model, tokens=1, instruction=False))
    images = PlainEmoji(default_cache(), 1)
    images.find_nouns(encoder, wordnet)
    concepts = {icon.concept.slug: icon.concept for icon in images.icons}
    names: set[str] = set()
    templates = (*ONE_THING, *itertools.chain.from_iterable(TEMPLATES.values()))
    anywhere = [CONNECTING, *(re.sub(r"\{\w+\}", "", text) for text in templates), *BACKGROUND_SHADES, *COLOUR_WORDS]
    anywhere += [*ON_DARK, *DARK]
    anywhere += [said for number in NUMBERS.values() for said in number]
    anywhere += [style.word for style in STYLES.values()]
    texts: list[str] = []
    for slug, concept in concepts.items():
        own = plain_names(concept)
        texts += [*own, *(many for name in own if (many := plural(name)))]
        texts += images.keywords.standing_alone(concept)
        texts += [f"{own[0]}, {word}" for word in images.keywords.beside_name(concept)]
        texts += [noun for noun in images.nouns.get(slug, ()) if not only_modifies(noun, own)]
        if concept.group not in NOT_THINGS:
            names.update(own)
    known = KnownWords.of([*anywhere, *texts], tuple(sorted(names)))
    known = replace(known, parts=find_parts(known, texts, anywhere, Senses(wordnet)))
    things = [concept for concept in concepts.values() if concept.group not in NOT_THINGS]
    return known, find_thesaurus(known, things, images.keywords, wordnet, teacher, WordVectors(default_cache()))


def find_parts(
    known: KnownWords, captions: Iterable[str], anywhere: Iterable[str], senses: Senses
) -> Mapping[str, tuple[str, ...]]:
    """Return words for things that captions have only beside other words -> those words, the most frequent first. The
    model knows "kitchen" from knives and cooks, and cannot draw a kitchen.

    anywhere: texts with words that can stand beside any thing, such as colours.
    """
    common = KnownWords.of(anywhere, ()).words
    alone = set[str]()
    beside = defaultdict[str, Counter[str]](Counter)
    for text in captions:
        words = KnownWords.of([text], ()).words - common
        if len(words) == 1:
            alone |= words
        for word in words:
            beside[word].update(words - {word})
    alone.update([one for word in alone for one in known.singulars(word)])
    return {
        word: tuple(sorted(others, key=lambda other: (-others[other], other)))
        for word, others in sorted(beside.items())
        if len(word) >= SHORTEST
        and alone.isdisjoint([word, *known.singulars(word)])
        and thing_share(senses(word)) >= THING_SHARE
    }


def only_modifies(noun: str, names: Sequence[str]) -> bool:
    """Return whether a noun is part of some of a thing's names but the head of none: "kitchen" of "kitchen knife".

    This is stricter than `hart_emoji.data.plain.may_mean`: "blood" may caption a drop of blood, but a user who asks for
    "blood" alone is told that captions have it only beside other words.
    """
    words = noun.split()
    longer = [name.lower() for name in names if set(words) < set(name.lower().split())]
    heads = (head_of(name).split() for name in longer)
    return bool(longer) and not any(head[-len(words) :] == words for head in heads)

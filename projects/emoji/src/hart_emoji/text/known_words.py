"""The words of the captions and the names of things, and what other words are read as: `known_words.json` and
`thesaurus.json.gz` of the shipped model."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

from hart.files import default_cache
from hart.text_encoder import KnownWords, Thesaurus, find_text_encoder, load_text_encoder
from hart_emoji.data.build import STYLES
from hart_emoji.data.captions import plain_names
from hart_emoji.data.ink import DARK, ON_DARK, TEMPLATES
from hart_emoji.data.plain import PlainEmoji
from hart_emoji.data.recolour import BACKGROUND_SHADES, COLOUR_WORDS
from hart_emoji.data.rewriting import NUMBERS, ONE_THING, plural
from hart_emoji.text.corpus import require_wordnet
from hart_emoji.text.parts import find_parts, only_modifies
from hart_emoji.text.senses import Senses
from hart_emoji.text.thesaurus import find_thesaurus
from hart_emoji.text.word_vectors import WordVectors

NOT_THINGS = frozenset({"flags", "symbols", "other"})
"""Groups of concepts whose names stand for no other word."""
CONNECTING = """a an the and with of in on at against to background emoji style noto light dark medium medium-light
medium-dark skin tone big small next beside left right above below over under beneath"""
"""Of scenes and skin tones."""


def find_words(model: str, wordnet: Path, teacher: str) -> tuple[KnownWords, Thesaurus]:
    """Words of the captions of the emoji set and of scenes, with the nouns of WordNet that `PlainEmoji` takes; which of
    them are only parts of names; what others are read as.

    model: whose text encoder finds these nouns. Raises `HartError` as `PlainEmoji.find_nouns` and `find_thesaurus` do.
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

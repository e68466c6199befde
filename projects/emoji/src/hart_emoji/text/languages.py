"""What words of other languages are read as: the names of things in CLDR, by way of emojibase, and small words.

A word that English has too is read as English, but for nouns behind an article ("un chat") and colours behind a noun
("une pomme rouge").
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hart.text_encoder import KnownWords, Thesaurus, plain_words
from hart_emoji.data.build import NAMES
from hart_emoji.data.catalogue import Concept, slug_of
from hart_emoji.data.npm import fetch_package, read_json
from hart_emoji.data.recolour import COLOUR_WORDS
from hart_emoji.text.senses import Senses, thing_share
from hart_emoji.text.thesaurus import THING_SHARE, spoken_name

SMALL_WORDS: Mapping[str, Mapping[str, str]] = tomllib.loads(
    files("hart_emoji.text").joinpath("languages.toml").read_text(encoding="utf-8")
)
"""By language, the first of which wins: English words, and all forms that stand for each."""
ARTICLE = "a"
LEAST = 3
SHARED = 0.75
"""Of the things that one of two words describes, those that both describe, from which on the words mean the same."""


def add_languages(
    english: Thesaurus, known: KnownWords, concepts: Iterable[Concept], senses: Senses, packages: Path
) -> Thesaurus:
    """A thesaurus with words of other languages, as far as it does not read them already.

    concepts: things. packages: folder of the npm archives. Raises `HartError` where they cannot be fetched or read.
    """
    spoken = {concept.slug: spoken_name(concept) for concept in concepts}
    members = [f"{language}/data.json" for language in ("en", *SMALL_WORDS)]
    entries, *others = read_json(fetch_package(NAMES, packages), *members)
    entry_of = {entry["hexcode"]: entry for entry in entries if slug_of(entry) in spoken}

    def is_english(word: str) -> bool:
        return not known.unknown(word) or bool(known.spelt(word)) or senses.used(word)

    def may_be_read(form: str) -> bool:
        return known.unknown(form) != [] and not (form in english.things and senses.used(form))

    def is_thing(word: str) -> bool:
        return not known.unknown(word) and thing_share(senses(word)) >= THING_SHARE

    added, by_hand = dict[str, str](), dict[str, str]()
    for small, other in zip(SMALL_WORDS.values(), others, strict=True):
        both = [(entry_of[entry["hexcode"]], entry) for entry in other if entry["hexcode"] in entry_of]
        names = {" ".join(_words(entry["label"])): spoken[slug_of(said)] for said, entry in reversed(both)}
        forms = [(form, name) for name, every in small.items() for form in plain_words(every).split() if form != name]
        nouns = names | same_words(both, is_thing) | {form: name for form, name in forms if name in spoken.values()}
        nouns = {noun: name for noun, name in nouns.items() if noun != name}
        found = {noun: name for noun, name in nouns.items() if not is_english(noun)}
        by_hand = {form: name for form, name in forms if may_be_read(form)} | by_hand
        for noun, name in nouns.items():
            for form, meant in forms:
                if meant == ARTICLE and (is_english(noun) or not known.unknown(form)):
                    found[f"{form} {noun}"] = f"{meant} {name}"
                elif meant in COLOUR_WORDS and not known.unknown(form):
                    found[f"{noun} {form}"] = f"{meant} {name}"
        added = {words: name for words, name in found.items() if words.count(" ") < 2} | added
    things = added | dict(english.things) | by_hand
    alone = {word: name for word, name in english.alone.items() if word not in things}
    return Thesaurus(things, alone, english.left - things.keys())


def same_words(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], is_thing: Callable[[str], bool]
) -> dict[str, str]:
    """Words of another language, each to the English one that describes the same `LEAST` things or more.

    pairs: entries of emojibase in English and in the language. is_thing: whether an English word may stand for others.
    """
    english: dict[str, set[int]]
    english, theirs = defaultdict(set), defaultdict[str, set[int]](set)
    for number, pair in enumerate(pairs):
        for words, entry in zip((english, theirs), pair, strict=True):
            for word in _words(" ".join([entry["label"], *entry.get("tags", ())])):
                words[word].add(number)
    english = {word: things for word, things in english.items() if is_thing(word)}
    found = {}
    for word, things in theirs.items():
        if len(things) >= LEAST:
            shares = {name: len(things & own) / len(things | own) for name, own in english.items()}
            best = max(shares, key=lambda name: (shares[name], -len(name)))  # of a word and its plural, the word
            if shares[best] >= SHARED:
                found[word] = best
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_][\w'-]*", plain_words(text).replace("œ", "oe"))

"""Short image prompts for distilling a text encoder: emoji names and keywords, WordNet words, and templates of both.

Sources: the npm archives `emojibase-data` and `emojilib` (MIT) and the WordNet 3.0 database files
(`hart_emoji.text.wordnet`).
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from hart_emoji.data.build import KEYWORDS, NAMES
from hart_emoji.data.captions import indefinite_article
from hart_emoji.data.npm import fetch_package, read_json
from hart_emoji.text.wordnet import explained_lemmas, lemmas, require_files


@dataclass(frozen=True)
class Phrase:
    """A prompt, how often it is sampled relative to others, and the text that it means (empty: itself)."""

    text: str
    weight: float
    meaning: str = ""


@dataclass(frozen=True)
class EmojiWords:
    """names: concept names; keywords: their tags; symbols: (emoji, name) for every emoji, skin tones included."""

    names: tuple[str, ...]
    keywords: tuple[str, ...]
    symbols: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class WordNetWords:
    """Lemmas, most used first. things: those that can be depicted. glosses: short definitions of things."""

    things: tuple[str, ...]
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    verbs: tuple[str, ...]
    glosses: tuple[str, ...]


_WORDS: dict[str, list[str]] = tomllib.loads(
    files("hart_emoji.text").joinpath("prompt_words.toml").read_text(encoding="utf-8")
)


def distinct(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words in order, without repetitions."""
    return tuple(dict.fromkeys(word for word in words if word))


def with_article(name: str) -> str:
    """ "owl" -> "an owl"; names that look plural or already have an article stay as they are."""
    if name.startswith(("a ", "an ", "the ")) or (name.endswith("s") and not name.endswith("ss")):
        return name
    return f"{indefinite_article(name)} {name}"


def read_emoji_words(packages: Path) -> EmojiWords:
    """Read the npm archives in `packages`, fetching missing ones; raises `HartError` if that fails."""
    names, keywords, symbols = [], [], []
    (entries,) = read_json(fetch_package(NAMES, packages), "en/data.json")
    for entry in entries:
        name = entry["label"].lower()
        if "regional indicator" not in name:
            names.append(name)
        keywords += [tag.lower() for tag in entry.get("tags", ())]
        symbols += [(variant["emoji"], variant["label"].lower()) for variant in (entry, *entry.get("skins", ()))]
    (listed,) = read_json(fetch_package(KEYWORDS, packages), "dist/emoji-en-US.json")
    keywords += [word.replace("_", " ").lower() for words in listed.values() for word in words]
    known = set(names)
    keywords = [word for word in distinct(keywords) if word not in known and any(map(str.isalpha, word))]
    return EmojiWords(distinct(names), tuple(keywords), tuple(symbols))


def require_wordnet(folder: Path) -> None:
    """Raise `HartError` if files of `read_wordnet` are missing in `folder`; called before long work."""
    require_files(folder, ("index.noun", "data.noun", "index.adj", "index.verb"))


def read_wordnet(folder: Path, rank: Mapping[str, int]) -> WordNetWords:
    """Return lemmas whose words are all in `rank` (word -> rank, 0 for the most common), in that order.

    Rare single words for things are included too. Raises `HartError` if the database files are not in `folder`.
    """
    require_wordnet(folder)
    nouns, things, gloss_of = [], [], {}
    for lemma, senses in explained_lemmas(folder, "noun"):
        nouns.append(lemma)
        if any(sense.thing for sense in senses[:2]):
            things.append(lemma)
            gloss = senses[0].gloss.split(";", maxsplit=1)[0].split("(", maxsplit=1)[0].strip()
            if senses[0].thing and 2 <= len(gloss.split()) <= 10:
                gloss_of[lemma] = gloss

    def by_use(words: Iterable[str], rare: bool = False) -> list[str]:
        ranks = {lemma: _rank(lemma, rank) for lemma in words if len(lemma) > 1}
        if rare:  # single words that are no known word pieces: shorter ones are taken as more common
            ranks |= {lemma: 30_000 + 500 * len(lemma) for lemma, r in ranks.items() if r is None and lemma.isalpha()}
        return sorted((lemma for lemma, r in ranks.items() if r is not None), key=lambda lemma: ranks[lemma] or 0)

    ordered = by_use(things, rare=True)
    others = [by_use(lemma for lemma, _ in lemmas(folder, part)) for part in ("adj", "verb")]
    short = distinct([gloss_of[lemma] for lemma in ordered if lemma in gloss_of])
    return WordNetWords(tuple(ordered), tuple(by_use(nouns)), tuple(others[0]), tuple(others[1]), short)


def _rank(lemma: str, rank: Mapping[str, int]) -> int | None:
    """Return the rank of a lemma by its rarest word and its length; None if a word is unknown or it has no letters."""
    ranks = [rank.get(word.strip("'.")) for word in lemma.replace("-", " ").split()]
    if not ranks or any(r is None for r in ranks) or not any(map(str.isalpha, lemma)):
        return None
    return max(r for r in ranks if r is not None) * len(ranks)


def build_corpus(emoji: EmojiWords, wordnet: WordNetWords, combinations: int, generator: random.Random) -> list[Phrase]:
    """Return distinct phrases, with weights that give each source its share of the samples.

    combinations: how many phrases are made from templates for two or more words.
    """
    names = [name for name in emoji.names if not name.startswith("flag: ")]
    short_names = [name for name in names if len(name.split()) <= 2 and ":" not in name]
    things = list(wordnet.things[:6000])
    groups: list[tuple[float, list[Phrase]]] = [
        (0.10, [Phrase(name, 1.0) for name in emoji.names]),
        (0.06, [Phrase(with_article(name), 1.0) for name in names]),
        (0.10, [Phrase(word, 1.0) for word in emoji.keywords]),
        (0.02, [Phrase(with_article(word), 1.0) for word in emoji.keywords if " " not in word]),
        (0.04, [Phrase(symbol, 1.0, name) for symbol, name in emoji.symbols]),
        (0.12, _by_frequency(wordnet.things[:20_000])),
        (0.06, _by_frequency([with_article(word) for word in things])),
        (0.05, _by_frequency(wordnet.nouns[:12_000])),
        (0.04, _by_frequency(wordnet.adjectives)),
        (0.03, _by_frequency(wordnet.verbs)),
        (0.03, _by_frequency(wordnet.glosses[:6000])),
    ]

    def thing() -> str:
        """Return a thing to depict; common things are chosen more often."""
        uniform = generator.random()
        if uniform < 0.35:
            return generator.choice(short_names)
        if uniform < 0.55:
            return generator.choice(_WORDS["animals"] + _WORDS["people"])
        return things[int(len(things) * generator.random() ** 2)]

    def adjective() -> str:
        return generator.choice(_WORDS["colours"] if generator.random() < 0.5 else _WORDS["qualities"])

    def image() -> str:
        what = generator.choice(names) if generator.random() < 0.6 else thing()
        what = with_article(what) if generator.random() < 0.5 else what
        return generator.choice(_WORDS["images"]).format(what, style=generator.choice(_WORDS["styles"]))

    def skin() -> str:
        who = generator.choice([*_WORDS["people"], *(name for name in names if "person" in name or "man" in name)])
        tone = generator.choice(_WORDS["skin_tones"]) + " skin"
        return generator.choice(
            (f"{who}, {tone} tone", f"{who} with {tone}", f"{with_article(who)} with {tone} tone", f"{tone} {who}")
        )

    def two() -> str:
        one, other = thing(), thing()
        return generator.choice(
            (f"{one} and {other}", f"{with_article(one)} and {with_article(other)}",
             f"{with_article(one)} with {with_article(other)}", f"{one} with {other}",
             f"{with_article(one)} holding {with_article(other)}", f"{with_article(one)} on {with_article(other)}")
        )  # fmt: skip

    def scene() -> str:
        who = generator.choice(_WORDS["animals"] + _WORDS["people"]) if generator.random() < 0.7 else thing()
        who = f"{adjective()} {who}" if generator.random() < 0.3 else who
        what = (
            f"wearing {generator.choice(_WORDS['clothing'])}"
            if generator.random() < 0.5
            else generator.choice(_WORDS["places"])
        )
        return f"{with_article(who)} {what}"

    def described() -> str:
        what = f"{adjective()} {thing()}"
        if generator.random() < 0.15:
            what = f"{adjective()} {what}"
        return with_article(what) if generator.random() < 0.6 else what

    makers: list[tuple[float, Callable[[], str]]] = [
        (0.12, described), (0.09, image), (0.05, two), (0.06, scene), (0.03, skin),
    ]  # fmt: skip
    total = sum(share for share, _ in makers)
    for share, make in makers:
        made = distinct([make() for _ in range(round(combinations * share / total))])
        groups.append((share, [Phrase(text, 1.0) for text in made]))

    weights: dict[tuple[str, str], float] = {}
    for share, phrases in groups:
        mass = sum(phrase.weight for phrase in phrases)
        for phrase in phrases:
            key = (phrase.text, phrase.meaning)
            weights[key] = weights.get(key, 0.0) + share * phrase.weight / mass
    return [Phrase(text, weight, meaning) for (text, meaning), weight in weights.items()]


def _by_frequency(words: Sequence[str]) -> list[Phrase]:
    """Return words, given in order of use, as phrases weighted by a flattened Zipf law."""
    return [Phrase(word, (position + 300) ** -0.6) for position, word in enumerate(words)]

"""Captions for emoji images: the Unicode name in several wordings, keywords, style and skin tone."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Iterable

from hart_emoji.data.catalogue import Concept
from hart_emoji.data.words import EVERYDAY, NO_ARTICLE, PROPER, UNCOUNTABLE, VAGUE

AMBIGUOUS_ABOVE = 6
"""A keyword shared by more concepts than this is never a caption on its own."""

DEFAULT_STYLE = "noto"
"""The style that a caption without a style means: images of other styles have one such caption; the rest name theirs.

The same caption for seven designers' images is a mixture, and a small model generates its average.
"""

_PLAIN_QUOTES = {0x2019: "'", 0x201C: None, 0x201D: None, 0x229B: None}
"""Replacements for curly quotes and for the mark that emojibase puts before names that are not final."""
_KEYS = {"#": "hash", "*": "asterisk"}
HEAD_ENDS = re.compile(r"\b(with|of|in|on|at|and|behind|from|over|to|for|between|holding|showing)\b")
_AN = re.compile(
    r"(?!eu|ewe|on(?:e|ce)\b|u(?:n?\b|[fv]|biq|ganda|k|nanim|ni(?!dent|mag|mp|n[a-z])|r(?:[aeiou]|l\b)|s(?:[abdeu]|\b)"
    r"|t(?:[aeio]|c\b)))[aeiou]|hour|heir|honou?r|honest|[fhlmnrsx]\b|SOS|NG\b|MRI",
    re.IGNORECASE,
)
"""Matches words that take "an": they begin with a spoken vowel, a silent h, or a letter such as S ("ess")."""
_COUNTRIES_WITH_THE = re.compile(
    "Island|Republic|United|Territor|Netherlands|Bahamas|Philippines|Emirates|Maldives|Gambia|Comoros|European Union|"
    "Isle of|Seychelles"
)


def readable_name(label: str) -> str:
    """Return a Unicode name as a person would write it: "woman: blond hair" -> "woman with blond hair"."""
    name = label.translate(_PLAIN_QUOTES).strip()
    name = re.sub(r"\s*\([^)]*\)", "", name)
    head, colon, tail = name.partition(": ")
    if not colon:
        return name
    parts = [part.strip() for part in tail.split(",")]
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    if head == "flag":
        the = "the " if _COUNTRIES_WITH_THE.search(tail) else ""
        return f"flag of {the}{tail}"
    if tail.startswith("facing "):
        return f"{head} {tail}"
    special = {
        "keycap": f"keycap {_KEYS.get(tail, tail)}",
        "kiss": f"kiss between {listed}",
        "couple with heart": f"couple of {listed} with heart",
    }
    hair = {"bald": f"bald {head}", "beard": f"{head} with a beard"}
    return special.get(head) or hair.get(tail) or f"{head} with {listed}"


def head_of(name: str) -> str:
    """Return a name without what follows its head: "glass of milk" -> "glass"."""
    return HEAD_ENDS.split(name)[0].strip() or name


def with_article(name: str) -> str:
    """ "red apple" -> "a red apple"; plural and uncountable names stay as they are."""
    last = head_of(name).split()[-1].lower()
    first = name.split(maxsplit=1)[0]
    if first in {"person", "man", "woman"}:
        return f"a {name}"
    if first in {"people", "men", "women"} or first in PROPER or name.lower() in NO_ARTICLE:
        return name
    if name.startswith("flag of "):
        return f"the {name}"
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is", "'s"))
    if plural or last in {"people", "men", "women", "dice"} or last in UNCOUNTABLE:
        return name
    if "o'clock" in name or name.endswith("-thirty") or name[0].isdigit():
        return name
    return f"{indefinite_article(first)} {name}"


def indefinite_article(word: str) -> str:
    """ "an" before "hourglass", "a" before "unicorn"."""
    return "an" if _AN.match(word) else "a"


def plain_names(concept: Concept) -> list[str]:
    """Return the name first, then others that people use; no other concept has any of them."""
    name = readable_name(concept.label)
    names = [name]
    if concept.group == "flags" and name.startswith("flag of "):
        names.append(f"{name.removeprefix('flag of ').removeprefix('the ')} flag")
    if "o'clock" in name or name.endswith("-thirty"):
        names.append(f"clock showing {name}")
    return [*names, *EVERYDAY.get(concept.slug, ())]


class Keywords:
    """Decides which keywords each concept may use: vague and held-out ones never, ambiguous ones only with the name.

    held_out: words that no training caption may contain.
    """

    def __init__(self, concepts: Collection[Concept], held_out: Iterable[str] = ()) -> None:
        self.held_out = frozenset(held_out)
        self._names = Counter(name.lower() for concept in concepts for name in plain_names(concept))
        self._uses = Counter(word for concept in concepts for word in (*concept.keywords, *concept.hints))

    def is_name(self, text: str) -> bool:
        """Return whether `text` is a concept's name, ignoring case."""
        return text.lower() in self._names

    def standing_alone(self, concept: Concept) -> list[str]:
        return [w for w in concept.keywords if self._usable(concept, w) and self._clear(w)]

    def beside_name(self, concept: Concept) -> list[str]:
        """Return ambiguous keywords and those that only one source gives."""
        ambiguous = [w for w in concept.keywords if self._usable(concept, w) and not self._clear(w)]
        return ambiguous + [w for w in concept.hints if self._usable(concept, w)]

    def _clear(self, word: str) -> bool:
        # "king" is a keyword of the crown, but on its own it should not mean one.
        return self._uses[word] <= AMBIGUOUS_ABOVE and not self._names[word]

    def _usable(self, concept: Concept, word: str) -> bool:
        inside_name = set(re.findall(r"\w+", word)) <= set(re.findall(r"\w+", readable_name(concept.label).lower()))
        return word not in VAGUE and not inside_name and not mentions(word, self.held_out)


def mentions(text: str, words: frozenset[str]) -> bool:
    """Return whether `text` contains one of `words` (words or phrases) as whole words, ignoring case."""
    tokens = re.findall(r"[\w'-]+", text.lower())
    pieces = {" ".join(tokens[a:b]) for a in range(len(tokens)) for b in range(a + 1, min(a + 4, len(tokens)) + 1)}
    return not words.isdisjoint(pieces)


def _toned(name: str, tone: str, rng: random.Random) -> str:
    words = tone.replace("-", " ")
    return rng.choice([f"{name} with {tone} skin tone", f"{name}, {tone} skin tone", f"{name} with {words} skin"])


def styled(text: str, style: str, rng: random.Random) -> str:
    """Return the text with a style's word added."""
    return rng.choice([f"{text} in {style} style", f"{text}, {style} style", f"{text}, {style}"])


def captions(concept: Concept, style: str, tone: str | None, keywords: Keywords, rng: random.Random) -> list[str]:
    """Return 8 to 16 captions. About half have only name, style and tone; repeats make a caption more likely.

    style: the style's readable word ("old noto"); all captions but the first name it, for `DEFAULT_STYLE` only some.
    tone: one of `TONES`, which every caption then names, or None.
    """

    def tell(name: str) -> str:
        return _toned(name, tone, rng) if tone else name

    names = plain_names(concept)
    name, short = names[0], rng.choice(names)
    with_style = [f"{short}, {style} style", f"{style} emoji of {with_article(short)}", f"{short} emoji, {style}"]
    listed = [name, name, with_article(name), with_article(name)]
    listed += [text for other in names[1:3] for text in (other, with_article(other))]
    listed += [f"an emoji of {with_article(rng.choice(names))}", f"{with_article(name)} in {style} style"]
    listed.append(rng.choice(with_style))
    alone = keywords.standing_alone(concept)
    for word in rng.sample(alone, min(3, len(alone))):
        beside = rng.random() < 0.3
        listed.append(f"{name}, {word}" if beside else rng.choice([word, f"{word} emoji", f"{word}, {style} style"]))
    hints = keywords.beside_name(concept)
    for word in rng.sample(hints, min(2, len(hints))):
        listed.append(rng.choice([f"{name}, {word}", f"{with_article(short)}, {word}"]))
    if tone is None:
        listed.append(f"{with_article(name)} emoji")
    else:
        listed = [*(_toned(text, tone, rng) for text in listed), f"{tone} skin tone {name} emoji"]
    if style == DEFAULT_STYLE:
        return listed
    return [listed[0], *(text if style in text else styled(text, style, rng) for text in listed[1:])]

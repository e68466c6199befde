"""Words that a model's captions had, and what other words are read as: by a thesaurus, or else as a name with similar
letters or the nearest name, as in kNN-Diffusion (arXiv 2204.02849), but word by word, so that colours, places and
counts of a prompt stay as they are.

A transformer learns the words of its captions and little around them, although the text encoder places other words
close to them. `known_words.json` in a model's folder lists them; without it, all words are read as they are. Its
thesaurus, `thesaurus.json.gz`, is made by an author's tool (for the model shipped with hart, `projects/emoji`).
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import to_json
from torch import Tensor
from torch.nn import functional as F

from hart.errors import HartError
from hart.files import FileError, atomic_write, parse_json, read_bytes, read_json, write_text

KNOWN_WORDS_FILE = "known_words.json"
THESAURUS_FILE = "thesaurus.json.gz"
LARGEST = 2**24
"""Largest thesaurus in bytes, packed or not."""
GZIP = zlib.MAX_WBITS | 16
LISTS = TypeAdapter(dict[str, dict[str, list[str]]])
LEAST_COSINE = 0.64
"""Words farther from all names are read as they are."""
KEPT_WORDS = 4096
"""Words whose nearest names are remembered: a server reads everybody's words."""
SPELT = range(5, 31)
"""Lengths of words that may be misspelt: many shorter ones are words of another language."""
STEM = 4
"""Letters that two words of one stem share, and the fewest letters of known words that are written together."""
_LETTER = "a-zß-öø-ɏ"
_WORD = re.compile(rf"[{_LETTER}]+(?:['-][{_LETTER}]+)*", re.IGNORECASE)
"""Marks at a word's ends are quotation marks and dashes."""
_SOUNDS = (
    ("^kn", "n"),
    ("^([grw])h", r"\1"),
    ("ph", "f"),
    ("c(?=[eiy])", "s"),
    ("ck|[cq]", "k"),
    ("x", "ks"),
    ("y", "i"),
    ("z", "s"),
    (r"([^aeiou])\1e?$", r"\1"),
    (r"([^aeiou])\1", r"\1"),
)
"""Spellings, and one spelling for all that sound alike."""
_DOUBLED = re.compile(r"[aeiou]([bdgklmnprtvz])\1$")
_ARTICLES = frozenset({"a", "an", "the"})
_JOINED = re.compile(r"\b(and|at|from|in|of|on|over|to|with)\b")
"""In names whose last word does not take the plural."""

Encode = Callable[[Sequence[str]], Tensor]
"""Maps texts to the features (B, E) of their meaning."""


@dataclass(frozen=True)
class KnownWords:
    """words: of captions, in lower case, without accents. names: of things; other words are read as these.
    complete: whether the model has learned no other captions; false after further training or with merged adapters.
    parts: words for things that captions only have together with others, such as "kitchen" in "kitchen knife", and
    these others, the most frequent first.
    """

    words: frozenset[str]
    names: tuple[str, ...]
    complete: bool = True
    parts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[str], names: tuple[str, ...]) -> KnownWords:
        """Return an instance with all words of the `texts`."""
        return cls(frozenset(_plain(word) for text in texts for word in _WORD.findall(_composed(text))), names)

    @classmethod
    def load(cls, folder: Path) -> KnownWords | None:
        """Load that of the model in a folder; None without a list. Raises `HartError` if it is damaged."""
        file = folder / KNOWN_WORDS_FILE
        if not file.exists():
            return None
        try:
            return TypeAdapter(cls).validate_python(read_json(file))
        except ValidationError:
            raise HartError(f"{file}: holds no lists of words and names") from None

    def save(self, folder: Path) -> None:
        content: dict[str, Any] = {"words": sorted(self.words), "names": self.names}
        if not self.complete:
            content["complete"] = False
        if self.parts:
            content["parts"] = self.parts
        write_text(folder / KNOWN_WORDS_FILE, to_json(content).decode() + "\n")

    def unknown(self, text: str) -> list[str]:
        """Return words of a text that captions do not have, in order."""
        return [word for word in _WORD.findall(_composed(text)) if _plain(word) not in self.words]

    def parts_in(self, text: str) -> dict[str, tuple[str, ...]]:
        """Return those of `parts` in a text that has none of their others."""
        words = [_plain(word) for word in _WORD.findall(_composed(text))]
        found = {word: self.parts[word] for word in words if word in self.parts}
        return {word: others for word, others in found.items() if set(words).isdisjoint(others)}

    def singulars(self, word: str) -> list[str]:
        """Return what a word may be the plural of, by the usual English forms."""
        endings = (("ies", "y"), ("ves", "f"), ("es", ""), ("s", ""))
        return [word.removesuffix(end) + one for end, one in endings if word.endswith(end) and len(word) > len(end) + 1]

    def plural(self, name: str) -> str:
        """Return the plural of a name, if captions have it; else the name."""
        formed = (name[:-1] + "ies" if name.endswith("y") else name + "s", name + "es")
        whole = not _JOINED.search(name)
        return next((many for many in formed if whole and not self.unknown(many)), name)

    @cached_property
    def _lower_names(self) -> frozenset[str]:
        return frozenset(map(_plain, self.names))

    @cached_property
    def _run_together(self) -> dict[str, str]:
        """Map names without their separators to names: "icecream" and "ice-cream" -> "ice cream"."""
        return {_letters(name): name for name in self.names}

    def spelt(self, words: str) -> str:
        """Return the name that has the same letters; "" if none has, and for a name."""
        return "" if words in self._lower_names else self._run_together.get(_letters(words), "")

    @cached_property
    def _in_names(self) -> frozenset[str]:
        """Return single words of names, and their plurals."""
        words = {word for name in self._lower_names for word in _WORD.findall(name)}
        return frozenset(words | set(map(self.plural, words)))

    @cached_property
    def _sounding(self) -> dict[str, set[str]]:
        """Return words of names by how they sound."""
        found: dict[str, set[str]] = {}
        for word in self._in_names:
            found.setdefault(_sound(word), set()).add(word)
        return found

    def corrected(self, word: str) -> str:
        """Return the only word of names that this is a misspelling of: after its first letter it has one letter too
        few, too many or wrong, or two swapped; or else it sounds the same, as "dolfin" and "kamel" do. "" if there is
        none, or more than one."""
        found = set[str]()
        for at in range(1, len(word) + 1) if len(word) in SPELT else ():
            before, after = word[:at], word[at:]
            found |= {before + after[1:], before + after[1:2] + after[:1] + after[2:]}
            found |= {before + letter + rest for letter in ascii_lowercase for rest in (after, after[1:])}
        found &= self._in_names
        if not found and len(word) in SPELT:
            found |= self._sounding.get(_sound(word), set())
        return found.pop() if len(found) == 1 else ""

    def apart(self, word: str) -> str:
        """Return two known words that hyphens join or that are written as one: "dark-green", "lightblue" -> "light
        blue"; "" if there is no such split."""
        places = range(STEM, len(word) - STEM + 1) if len(word) in SPELT else ()
        ways = (word.replace("-", " "), *(f"{word[:at]} {word[at:]}" for at in places))
        return next((way for way in ways if way != word and not self.unknown(way)), "")


@dataclasses.dataclass(frozen=True)  # nothing to check: a file's content is checked as it is read
class Thesaurus:
    """Words and pairs of words, in lower case.

    things: with the name that stands for each, wherever it is. alone: with the name that stands for each if it is the
    whole prompt. left: words that are read as they are.
    """

    things: Mapping[str, str]
    alone: Mapping[str, str]
    left: Set[str]

    @classmethod
    def load(cls, folder: Path) -> Thesaurus | None:
        """Load that of the model in a folder; None without one. Raises `HartError` if the file is damaged."""
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
            raise HartError(f"{file}: is not a thesaurus written by hart: copy the model again") from None

    def save(self, folder: Path) -> None:
        """Write words grouped by their names, which is half as long."""
        content = {"things": _by_name(self.things), "alone": _by_name(self.alone), "left": {"": sorted(self.left)}}
        # not by gzip.compress, whose header changed in Python 3.13
        packed = zlib.compress(LISTS.dump_json(content), zlib.Z_BEST_COMPRESSION, GZIP)
        atomic_write(folder / THESAURUS_FILE, lambda file: file.write(packed))


class Replaced(NamedTuple):
    """Unknown words. said: as they were written. name: their replacement, "" if they stay. start: where the
    replacement, or the word that stays, begins in the text as it is read."""

    said: str
    name: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.name or self.said)


class WordReader:
    """Replaces unknown words by names.

    In turn: the name with the same letters, the known word that it is a plural or possessive of, the thesaurus's entry,
    the word of names that it is a misspelling of, the known words that it joins, and the name nearest by the text
    encoder. Names are encoded when first needed.
    """

    def __init__(self, known: KnownWords, thesaurus: Thesaurus | None, encode: Encode, tokens: int) -> None:
        """tokens: how many are read of a text. Each word takes at least one: words beyond that are not looked up."""
        self.known = known
        self.thesaurus = thesaurus
        self._encode = encode
        self._tokens = tokens
        self._names: Tensor | None = None
        self._near: dict[str, str] = {}

    def __call__(self, text: str) -> tuple[str, list[Replaced]]:
        """Return the text as it is to be read, and its unknown words in order, up to where it is read."""
        text = _composed(text)
        words = list(_WORD.finditer(text))
        said_alone = sum(_plain(match[0]) not in _ARTICLES for match in words)
        read, replaced, end, at = "", list[Replaced](), 0, 0
        for _ in range(self._tokens):
            if at == len(words):
                break
            count, name = self._read(text, words[at : at + 2], said_alone)
            start, at = words[at].start(), at + count
            if name is not None:
                read += text[end:start]
                end = words[at - 1].end()
                replaced.append(Replaced(text[start:end], name, len(read)))
                read += name or text[start:end]
        return read + text[end:], replaced

    def _read(self, text: str, words: Sequence[re.Match[str]], said_alone: int) -> tuple[int, str | None]:
        """Return how many of the next words are read together, and as what: "" and None leave them, None as known ones.

        said_alone: number of words in the whole text except articles.
        """
        first, *more = (_plain(match[0]) for match in words)
        beside = bool(more) and text[words[0].end() : words[1].start()].isspace()
        if beside and (pair := self._pair(first, more[0], said_alone == 2)):
            return 2, pair
        return 1, None if first in self.known.words else self._word(first, said_alone == 1)

    def _pair(self, first: str, second: str, alone: bool) -> str:
        """Return the name for two words, at least one of them unknown or both one word in it; "" if there is none."""
        both = f"{first} {second}"
        if (name := self.known.spelt(both)) and " " not in name:
            return name
        return "" if {first, second} <= self.known.words else self._listed(both, alone) or ""

    def _word(self, word: str, alone: bool) -> str:
        """Return the name for an unknown word; "" if there is none."""
        if name := self.known.spelt(word):
            return name
        word = word.removesuffix("'s")
        for one in (word, *self.known.singulars(word)):
            if one in self.known.words:
                return one
        if (listed := self._listed(word, alone)) is not None:
            return listed
        # "weeding" is not "wedding", and "clipping" not "clip ping"
        if any(base in self.known.words or self._listed(base, True) is not None for base in _bases(word)):
            return self._nearest(word)
        # the text encoder would make "dark-green" a "green leaf", and "pumkin" a "fuel pump"
        return self.known.corrected(word) or self.known.apart(word) or self._nearest(word)

    def _listed(self, words: str, alone: bool) -> str | None:
        """Return the thesaurus's entry: a name, "" to leave the words as they are, None if it does not have them."""
        if (lists := self.thesaurus) is None:
            return None
        if alone and words in lists.alone:
            return lists.alone[words]
        if words in lists.things:
            return lists.things[words]
        for one in self.known.singulars(words):
            if one in lists.things:
                return self.known.plural(lists.things[one])
            if one in lists.left:
                return ""
        return "" if words in lists.alone or words in lists.left else None

    def _nearest(self, word: str) -> str:
        """Return the name nearest to a word; empty if none is near."""
        if (near := self._near.get(word)) is not None:
            return near
        if self._names is None:
            self._names = F.normalize(self._encode(self.known.names).float(), dim=1)
        cosine, place = (self._names @ F.normalize(self._encode([word]).float(), dim=1)[0]).max(dim=0)
        name = self.known.names[int(place)]
        near = name if cosine >= LEAST_COSINE and _of_one_stem(word, name) else ""
        if len(self._near) >= KEPT_WORDS:
            self._near.clear()
        self._near[word] = near
        return near


def _composed(text: str) -> str:
    """Return text with each letter and its accent as one character, so that words are found."""
    return unicodedata.normalize("NFC", text)


def _plain(words: str) -> str:
    """Return words in lower case, without accents, like the word pieces: "Piñata" -> "pinata"."""
    apart = unicodedata.normalize("NFD", words.lower())
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def _of_one_stem(word: str, name: str) -> bool:
    """Return whether a word contains the beginning of a word in a name. Without that, the nearest name has similar
    letters ("poop" for "pomme") as often as a similar meaning."""
    return any(len(part) >= STEM and part[:STEM] in word for part in _WORD.findall(_plain(name)))


def _bases(word: str) -> Iterator[str]:
    """Yield what a word may be a form of, by the usual English forms: "stories", "smiled", "clipping", "whiter"."""
    for end in ("s", "es", "ed", "ing", "er", "est"):
        base = word.removesuffix(end)
        if base != word and len(base) >= STEM - 1:
            yield base
            if end != "s":
                yield from (f"{base}e", re.sub("i$", "y", base), base[:-1] if _DOUBLED.search(base) else base)


def _letters(words: str) -> str:
    return re.sub("[ '-]", "", _plain(words))


def _sound(word: str) -> str:
    for spelling, sound in _SOUNDS:
        word = re.sub(spelling, sound, word)
    return word


def _by_name(readings: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word, name in sorted(readings.items(), key=lambda reading: (reading[1], reading[0])):
        found.setdefault(name, []).append(word)
    return found

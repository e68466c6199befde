"""Words that a model's captions had, and what others are read as: what a thesaurus says, or else a name of like letters
or the nearest one, as in kNN-Diffusion (arXiv 2204.02849), but word by word, so that colours, places and counts of a
prompt stay as they are.

A transformer learns the words of its captions and little around them, although the text encoder puts others next to
them. `known_words.json` in the folder of a model lists them; without it, all words are read as they are. Its thesaurus,
`thesaurus.json.gz`, has been found by an author's tool (for the model that comes with hart, `projects/emoji`).
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
"""Bytes of a thesaurus, packed or not."""
GZIP = zlib.MAX_WBITS | 16
LISTS = TypeAdapter(dict[str, dict[str, list[str]]])
LEAST_COSINE = 0.64
"""Words that are farther from all names are read as they are."""
KEPT_WORDS = 4096
"""Whose nearest names are remembered: a server reads the words of everybody."""
SPELT = range(5, 31)
"""Letters of words that may be misspelt: of shorter ones many are words of another language."""
STEM = 4
"""Letters that say that two words are of one stem, and the fewest of known words that are written together."""
_LETTER = "a-zß-öø-ɏ"
_WORD = re.compile(rf"[{_LETTER}]+(?:['-][{_LETTER}]+)*", re.IGNORECASE)
"""Marks at its ends are quotation marks and dashes."""
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
"""Spellings, and one for all that sound alike."""
_DOUBLED = re.compile(r"[aeiou]([bdgklmnprtvz])\1$")
_ARTICLES = frozenset({"a", "an", "the"})
_JOINED = re.compile(r"\b(and|at|from|in|of|on|over|to|with)\b")
"""In names whose last word does not take the plural."""

Encode = Callable[[Sequence[str]], Tensor]
"""Texts to the features (B, E) of what they mean."""


@dataclass(frozen=True)
class KnownWords:
    """words: of captions, in lower case, without accents. names: what things are called, as which others are read.
    complete: whether the model has learned no captions but those; not where it was trained on, or has adapters merged.
    parts: words for things that captions have only together with others, such as "kitchen" in "kitchen knife", and
    these others, the most frequent first.
    """

    words: frozenset[str]
    names: tuple[str, ...]
    complete: bool = True
    parts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[str], names: tuple[str, ...]) -> KnownWords:
        """With all words of the `texts`."""
        return cls(frozenset(_plain(word) for text in texts for word in _WORD.findall(_composed(text))), names)

    @classmethod
    def load(cls, folder: Path) -> KnownWords | None:
        """Of the model in a folder; None without a list. Raises `HartError` for one that is damaged."""
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
        """Words of a text that captions do not have, in its order."""
        return [word for word in _WORD.findall(_composed(text)) if _plain(word) not in self.words]

    def parts_in(self, text: str) -> dict[str, tuple[str, ...]]:
        """Those of `parts` in a text that has none of their others."""
        words = [_plain(word) for word in _WORD.findall(_composed(text))]
        found = {word: self.parts[word] for word in words if word in self.parts}
        return {word: others for word, others in found.items() if set(words).isdisjoint(others)}

    def singulars(self, word: str) -> list[str]:
        """What a word may be the plural of, as English forms most."""
        endings = (("ies", "y"), ("ves", "f"), ("es", ""), ("s", ""))
        return [word.removesuffix(end) + one for end, one in endings if word.endswith(end) and len(word) > len(end) + 1]

    def plural(self, name: str) -> str:
        """Of a name, where captions have it; else the name."""
        formed = (name[:-1] + "ies" if name.endswith("y") else name + "s", name + "es")
        whole = not _JOINED.search(name)
        return next((many for many in formed if whole and not self.unknown(many)), name)

    @cached_property
    def _lower_names(self) -> frozenset[str]:
        return frozenset(map(_plain, self.names))

    @cached_property
    def _run_together(self) -> dict[str, str]:
        """Names by their letters: "icecream" and "ice-cream" -> "ice cream"."""
        return {_letters(name): name for name in self.names}

    def spelt(self, words: str) -> str:
        """The name that has the same letters; "" if none has, and for a name."""
        return "" if words in self._lower_names else self._run_together.get(_letters(words), "")

    @cached_property
    def _in_names(self) -> frozenset[str]:
        """Single words of names, and their plurals."""
        words = {word for name in self._lower_names for word in _WORD.findall(name)}
        return frozenset(words | set(map(self.plural, words)))

    @cached_property
    def _sounding(self) -> dict[str, set[str]]:
        """Words of names by how they sound."""
        found: dict[str, set[str]] = {}
        for word in self._in_names:
            found.setdefault(_sound(word), set()).add(word)
        return found

    def corrected(self, word: str) -> str:
        """The one word of names of which another is a misspelling: after its first letter there is one too few, too
        many or wrong, or two are the other way round; or else it sounds alike, as "dolfin" and "kamel" do. "" if there
        is none, or more than one."""
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
        """Two known words that hyphens join or that are written as one: "dark-green" and "lightblue" -> "light blue";
        "" if there is no such way."""
        places = range(STEM, len(word) - STEM + 1) if len(word) in SPELT else ()
        ways = (word.replace("-", " "), *(f"{word[:at]} {word[at:]}" for at in places))
        return next((way for way in ways if way != word and not self.unknown(way)), "")


@dataclasses.dataclass(frozen=True)  # nothing to check: what a file holds is checked as it is read
class Thesaurus:
    """Words and pairs of words, in lower case.

    things: with the name that stands for each, wherever it is. alone: with the name that stands for each where it is
    all that a prompt says. left: that are read as they are.
    """

    things: Mapping[str, str]
    alone: Mapping[str, str]
    left: Set[str]

    @classmethod
    def load(cls, folder: Path) -> Thesaurus | None:
        """Of the model in a folder; None without one. Raises `HartError` if the file is damaged."""
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
            raise HartError(f"{file}: is no thesaurus that hart wrote: copy the model again") from None

    def save(self, folder: Path) -> None:
        """Written so that words stand by their names, which is half as long."""
        content = {"things": _by_name(self.things), "alone": _by_name(self.alone), "left": {"": sorted(self.left)}}
        # not by gzip.compress, whose header is another one from Python 3.13 on
        packed = zlib.compress(LISTS.dump_json(content), zlib.Z_BEST_COMPRESSION, GZIP)
        atomic_write(folder / THESAURUS_FILE, lambda file: file.write(packed))


class Replaced(NamedTuple):
    """Words that are not known. said: as they were written. name: what stands for them, "" where they stay. start:
    where the one or the other begins in the text as it is read."""

    said: str
    name: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.name or self.said)


class WordReader:
    """Puts a name in the place of words that are not known.

    In turn: the name with the same letters, the known word of which one is the plural or that owns something, what the
    thesaurus says, the word of names of which it is a misspelling, the known words that it joins, and the name nearest
    by the text encoder. Names are encoded when first needed.
    """

    def __init__(self, known: KnownWords, thesaurus: Thesaurus | None, encode: Encode, tokens: int) -> None:
        """tokens: that are read of a text. Each word takes at least one: words beyond so many are not looked up."""
        self.known = known
        self.thesaurus = thesaurus
        self._encode = encode
        self._tokens = tokens
        self._names: Tensor | None = None
        self._near: dict[str, str] = {}

    def __call__(self, text: str) -> tuple[str, list[Replaced]]:
        """The text as it is to be read, and its words that are not known, in their order, as far as it is read."""
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
        """How many of the next words are read together, and as what: "" and None leave them, None as known ones.

        said_alone: words of the whole text but for articles.
        """
        first, *more = (_plain(match[0]) for match in words)
        beside = bool(more) and text[words[0].end() : words[1].start()].isspace()
        if beside and (pair := self._pair(first, more[0], said_alone == 2)):
            return 2, pair
        return 1, None if first in self.known.words else self._word(first, said_alone == 1)

    def _pair(self, first: str, second: str, alone: bool) -> str:
        """The name for two words, of which one at least is not known or that are one in it; "" if there is none."""
        both = f"{first} {second}"
        if (name := self.known.spelt(both)) and " " not in name:
            return name
        return "" if {first, second} <= self.known.words else self._listed(both, alone) or ""

    def _word(self, word: str, alone: bool) -> str:
        """The name for a word that is not known; "" if there is none."""
        if name := self.known.spelt(word):
            return name
        word = word.removesuffix("'s")
        for one in (word, *self.known.singulars(word)):
            if one in self.known.words:
                return one
        if (listed := self._listed(word, alone)) is not None:
            return listed
        # "weeding" is no "wedding", and "clipping" no "clip ping"
        if any(base in self.known.words or self._listed(base, True) is not None for base in _bases(word)):
            return self._nearest(word)
        # by the text encoder "dark-green" would be a "green leaf", and "pumkin" a "fuel pump"
        return self.known.corrected(word) or self.known.apart(word) or self._nearest(word)

    def _listed(self, words: str, alone: bool) -> str | None:
        """What the thesaurus says: a name, "" to leave the words as they are, None if it does not have them."""
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
        """The name nearest to a word; empty if none is near."""
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
    """With each letter and its accent as one character, by which words are found."""
    return unicodedata.normalize("NFC", text)


def _plain(words: str) -> str:
    """In lower case, without accents, as the word pieces are: "Piñata" -> "pinata"."""
    apart = unicodedata.normalize("NFD", words.lower())
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def _of_one_stem(word: str, name: str) -> bool:
    """Whether a word has the beginning of one in a name. The nearest of others is as often one of like letters ("poop"
    for "pomme") as of like meaning."""
    return any(len(part) >= STEM and part[:STEM] in word for part in _WORD.findall(_plain(name)))


def _bases(word: str) -> Iterator[str]:
    """What a word may be a form of, as English makes most: "stories", "smiled", "clipping", "whiter"."""
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

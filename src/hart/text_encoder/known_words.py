"""Words that a model's captions had, and what other words are read as: the nearest name, as in kNN-Diffusion
(arXiv 2204.02849), but word by word, so that colours, places and counts of a prompt stay as they are.

A transformer learns the words of its captions and little around them, although the text encoder puts others next to
them. `known_words.json` in the folder of a model lists them; without it, all words are read as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from hart.errors import HartError
from hart.files import read_json, write_text

KNOWN_WORDS_FILE = "known_words.json"
LEAST_COSINE = 0.64
"""Words that are farther from all names are read as they are."""
_WORD = re.compile(r"[a-z][a-z'-]*", re.IGNORECASE)

Encode = Callable[[Sequence[str]], Tensor]
"""Texts to the features (B, E) of what they mean."""


@dataclass(frozen=True)
class KnownWords:
    """words: of captions, in lower case. names: what things are called in them; nearest ones stand for other words."""

    words: frozenset[str]
    names: tuple[str, ...]

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

    def save(self, folder: Path, *, overwrite: bool = True) -> None:
        words, names = " ".join(sorted(self.words)), list(self.names)
        content = TypeAdapter(dict[str, list[str]]).dump_json({"words": words.split(), "names": names})
        write_text(folder / KNOWN_WORDS_FILE, content.decode() + "\n", overwrite=overwrite)

    def unknown(self, text: str) -> list[str]:
        """Words of a text that captions do not have, in its order."""
        return [word for word in _WORD.findall(text) if word.lower() not in self.words]


class WordReader:
    """Puts the nearest name in the place of each word that is not known. The names are encoded when first needed."""

    def __init__(self, known: KnownWords, encode: Encode) -> None:
        self.known = known
        self._encode = encode
        self._names: Tensor | None = None
        self._read: dict[str, str] = {}

    def __call__(self, text: str) -> tuple[str, dict[str, str]]:
        """The text as it is to be read, and its words that are not known with the name that stands for each, or ""."""
        others = {word: self._nearest(word.lower()) for word in self.known.unknown(text)}
        return _WORD.sub(lambda match: others.get(match[0]) or match[0], text), others

    def _nearest(self, word: str) -> str:
        """The name nearest to a word; empty if none is near."""
        if word not in self._read:
            if self._names is None:
                self._names = F.normalize(self._encode(self.known.names).float(), dim=1)
            cosine, place = (self._names @ F.normalize(self._encode([word]).float(), dim=1)[0]).max(dim=0)
            self._read[word] = self.known.names[int(place)] if cosine >= LEAST_COSINE else ""
        return self._read[word]

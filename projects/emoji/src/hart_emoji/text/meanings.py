"""Finds which concept a word means by vectors of texts: the nearer the word is to a concept's words, the likelier.

Several kinds of vectors are used, such as a sentence encoder's and word vectors; the weight of each measure of nearness
is fitted to keywords whose concepts are known. Shapes: W words, C concepts, R words of concepts, D width of a vector,
M measures.
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
"""Maps texts to normalised embeddings (B, D)."""

MOST_SENSES = 3
"""Most senses considered per word; the others are hardly ever meant."""
SHARPNESS = 14.0
"""How fast the weight of a concept's word falls with its cosine to the word looked up."""
WEIGHTS = {"names": 1.0, "keywords": 0.6, "hints": 0.4}
MEASURES = 3
"""Measures per space."""
NOTHING = 1e-6
DECAY = 1e-3
"""Decay of the fitted weights."""
STEPS = 60
CHUNK = 256


@dataclass(frozen=True)
class ConceptWords:
    """A concept's names, the words that stand for it alone, and the words that go beside its names."""

    names: Sequence[str]
    keywords: Sequence[str]
    hints: Sequence[str]


class Space:
    """Computes vectors of texts and of words."""

    def __init__(self, embed: Embed, senses: Callable[[str], Sequence[Sense]] | None = None) -> None:
        """senses: if given, a word's vector is the mean of its own and of those of its senses ("yacht: an expensive
        vessel ..."), weighted by use.
        """
        self.embed = embed
        self._senses = senses

    def vectors(self, words: Sequence[str]) -> Tensor:
        """Return (W, D), normalised."""
        if self._senses is None:
            return self.embed(words)
        texts, shares, of = list(words), [], []
        for number, word in enumerate(words):
            for sense in self._senses(word)[:MOST_SENSES]:
                texts.append(f"{word}: {sense.gloss}")
                shares.append(sense.share)
                of.append(number)
        embedded = self.embed(texts)
        own, explained = embedded[: len(words)], embedded[len(words) :]
        meant = torch.zeros_like(own).index_add_(
            0, torch.tensor(of, dtype=torch.long), explained * torch.tensor(shares)[:, None]
        )
        return F.normalize(own + F.normalize(meant, dim=1), dim=1)


class WordsOfConcepts:
    """All words of all concepts, one row each."""

    def __init__(self, concepts: Sequence[ConceptWords]) -> None:
        rows = [
            (number, word.lower(), weight)
            for number, concept in enumerate(concepts)
            for field, weight in WEIGHTS.items()
            for word in getattr(concept, field)
        ]
        self.count = len(concepts)
        self.concept = torch.tensor([number for number, _, _ in rows])
        self._rows_of: defaultdict[str, list[int]] = defaultdict(list)
        for row, (_, word, _) in enumerate(rows):
            self._rows_of[word].append(row)
        # a word of many concepts says little about each
        owners = Counter(word for _, word in {(number, word) for number, word, _ in rows})
        self.weight = torch.tensor([weight / owners[word] for _, word, weight in rows])
        self.is_name = torch.tensor([weight == WEIGHTS["names"] for _, _, weight in rows])
        self.distinct = list(self._rows_of)
        place = {word: at for at, word in enumerate(self.distinct)}
        self.place = torch.tensor([place[word] for _, word, _ in rows])
        self.known_well = torch.tensor([len(concept.keywords) for concept in concepts]).float().log1p()

    def rows(self, words: Sequence[str]) -> Tensor:
        """Return (W, R) bool: the rows that equal a word; it is looked up as if no concept had it."""
        own = torch.zeros(len(words), len(self.concept), dtype=torch.bool)
        for at, word in enumerate(words):
            own[at, self._rows_of.get(word, [])] = True
        return own


class Meanings:
    """Maps words to probabilities of concepts."""

    def __init__(self, concepts: Sequence[ConceptWords], spaces: Sequence[Space]) -> None:
        self._words = WordsOfConcepts(concepts)
        self._spaces = [(space, space.embed(self._words.distinct)[self._words.place]) for space in spaces]
        self._fitted = torch.ones(len(spaces) * MEASURES + 1)

    def fit(self, right: Mapping[str, Sequence[int]]) -> None:
        """Fit the measures' weights. right: words -> right concepts; each is looked up as if no concept had it."""
        measures = self._measures(list(right))
        wanted = torch.zeros(len(right), self._words.count, dtype=torch.bool)
        for row, numbers in enumerate(right.values()):
            wanted[row, list(numbers)] = True
        weights = torch.zeros_like(self._fitted).requires_grad_()
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
        """Return probabilities (W, C), which add up to 1 for each word."""
        parts = [words[at : at + CHUNK] for at in range(0, len(words), CHUNK)]
        return torch.cat([(self._measures(part) @ self._fitted).softmax(dim=1) for part in parts])

    def _measures(self, words: Sequence[str]) -> Tensor:
        """Return (W, C, M): the measures of all spaces, and how many keywords a concept has."""
        own = self._words.rows(words)
        found = [_measures(space.vectors(words) @ bank.T, own, self._words) for space, bank in self._spaces]
        return torch.cat([*found, self._words.known_well.expand(len(words), -1)[..., None]], dim=-1)


def _measures(cosine: Tensor, own: Tensor, concepts: WordsOfConcepts) -> Tensor:
    """Return (W, C, 3) from cosines (W, R) without `own`: nearest name, nearness to all of a concept's words, mean."""
    into = concepts.concept.expand(len(cosine), -1)
    least = torch.full((len(cosine), concepts.count), -1.0)
    nearest = least.scatter_reduce(1, into, cosine.masked_fill(own | ~concepts.is_name, -1.0), "amax")
    counted = (concepts.weight * torch.exp(SHARPNESS * (cosine - 1))).masked_fill(own, 0.0)
    near = torch.zeros_like(least).scatter_add(1, into, counted).add(NOTHING).log() / SHARPNESS
    number = torch.zeros_like(least).scatter_add(1, into, (~own).float()).clamp_min(1)
    mean = torch.zeros_like(least).scatter_add(1, into, cosine.masked_fill(own, 0.0)) / number
    return torch.stack([nearest, near, mean], dim=-1)

"""What is random about data, as a function of the seed and the place alone: generators, and the order of a set."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from hart.errors import HartError


def numpy_generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """The generator of (seed, purpose, place): the same in every process, whatever was drawn before.

    purpose: a word such as "picture", so that two draws at one place are independent.
    place: numbers from 0 up, for instance step and position in the global batch.
    """
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(purpose.encode()), *place]))


class SampleOrder:
    """Which images a step sees.

    Draws run in rounds of N. In each, image i comes N * w_i / sum(w) times, rounded up or down at random
    (systematic sampling), in random order: with equal weights every image exactly once. A resumed run needs no
    state but the step. The round last asked for is kept, since the next step mostly goes on in it.
    """

    def __init__(self, weights: Tensor, seed: int) -> None:
        """Raises `HartError` for weights that are negative, not finite, or all zero."""
        total = weights.double().sum()
        if not (torch.isfinite(total) and total > 0 and bool((weights >= 0).all())):
            raise HartError("weights must be finite, not negative, and not all zero")
        edges = weights.double().cumsum(0)
        # Divided by the last edge itself, so that the line ends at exactly N whatever the rounding.
        self._edges = edges / edges[-1] * len(weights)
        self.seed = seed
        self._round = -1
        self._rows = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int, batch_size: int) -> Tensor:
        """The images of training step `step`: (batch_size,) int64, always the same for the same arguments."""
        count = len(self._edges)
        first = step * batch_size
        parts = []
        for number in range(first // count, (first + batch_size - 1) // count + 1):
            rows = self._rows_of_round(number)
            parts.append(rows[max(first - number * count, 0) : first + batch_size - number * count])
        return torch.cat(parts)

    def anywhere(self, uniform: float) -> int:
        """An image by its weight for a draw in [0, 1)."""
        count = len(self._edges)
        return int(torch.searchsorted(self._edges, torch.tensor(uniform * count, dtype=torch.float64), right=True))

    def _rows_of_round(self, number: int) -> Tensor:
        if number != self._round:
            count = len(self._edges)
            # no more bits than a generator takes, whatever the seed
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
            start = torch.rand((), generator=generator, dtype=torch.float64)
            place = torch.randperm(count, generator=generator)
            self._round, self._rows = number, torch.searchsorted(self._edges, place + start, right=True)
        return self._rows

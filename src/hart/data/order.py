"""The order in which a set is read, as a function of the seed and the step alone."""

from __future__ import annotations

import torch
from torch import Tensor

from hart.errors import HartError
from hart.randomness import epoch_generator


class SampleOrder:
    """Which images each step sees.

    An epoch has N samples. In each, image i comes N * w_i / sum(w) times, rounded up or down at random
    (systematic sampling), in random order: with equal weights every image exactly once. A resumed run needs no
    state but the step. The epoch last asked for is kept, since the next step is mostly in it too.
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
        self._epoch = -1
        self._rows = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int, batch_size: int) -> Tensor:
        """The images of training step `step`: (batch_size,) int64, always the same for the same arguments."""
        count = len(self._edges)
        first = step * batch_size
        parts = []
        for number in range(first // count, (first + batch_size - 1) // count + 1):
            rows = self._rows_of_epoch(number)
            parts.append(rows[max(first - number * count, 0) : first + batch_size - number * count])
        return torch.cat(parts)

    def anywhere(self, uniform: float) -> int:
        """The image that a number in [0, 1) picks, each as often as its weight says."""
        count = len(self._edges)
        return int(torch.searchsorted(self._edges, torch.tensor(uniform * count, dtype=torch.float64), right=True))

    def _rows_of_epoch(self, number: int) -> Tensor:
        if number != self._epoch:
            count = len(self._edges)
            generator = epoch_generator(self.seed, number)
            start = torch.rand((), generator=generator, dtype=torch.float64)
            place = torch.randperm(count, generator=generator)
            self._epoch, self._rows = number, torch.searchsorted(self._edges, place + start, right=True)
        return self._rows

"""The order in which a set is read, as a function of seed and step only.

A run may have images of several shapes: each goes to the nearest of a few shapes, and all images of a step share one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hart.data.images import upright_size
from hart.data.samples import Damage, Sample
from hart.data.sources import Source, read_row
from hart.errors import HartError
from hart.randomness import epoch_generator, numpy_generator

BLOCK = 4096
"""Steps over which every bucket gets its share, in random order."""

Size = tuple[int, int]
"""Width and height in pixels."""


class SampleOrder:
    """Which images each step sees.

    An epoch has N samples. In each, image i comes N * w_i / sum(w) times, rounded up or down at random (systematic
    sampling of the images in random order), in random order: with equal weights every image exactly once. A resumed run
    needs no state but the step. The last epoch is kept, since the next step is mostly in it too.
    """

    def __init__(self, weights: Tensor, seed: int) -> None:
        """Raise `HartError` for weights that are negative, not finite, or all zero."""
        total = weights.double().sum()
        if not (torch.isfinite(total) and total > 0 and bool((weights >= 0).all())):
            raise HartError("the weights of the images are all 0, or not numbers from 0 up: give some a weight above 0")
        self._weights, self._edges = weights.double(), _edges(weights.double())
        self.seed = seed
        self._epoch = -1
        self._rows = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Return the images of training step `step`: (batch_size,) int64, always the same for the same arguments."""
        count = len(self._edges)
        first = step * batch_size
        parts = []
        for number in range(first // count, (first + batch_size - 1) // count + 1):
            rows = self._rows_of_epoch(number)
            parts.append(rows[max(first - number * count, 0) : first + batch_size - number * count])
        return torch.cat(parts)

    def anywhere(self, uniform: float) -> int:
        """Return the image that a number in [0, 1) picks, with probabilities given by the weights."""
        count = len(self._edges)
        return int(torch.searchsorted(self._edges, torch.tensor(uniform * count, dtype=torch.float64), right=True))

    def _rows_of_epoch(self, number: int) -> Tensor:
        if number != self._epoch:
            count = len(self._edges)
            generator = epoch_generator(self.seed, number)
            start = torch.rand((), generator=generator, dtype=torch.float64)
            place, line = (torch.randperm(count, generator=generator) for _ in range(2))
            chosen = torch.searchsorted(_edges(self._weights[line]), place + start, right=True)
            self._epoch, self._rows = number, line[chosen]
        return self._rows


def _edges(weights: Tensor) -> Tensor:
    """Return where the part of each image ends on a line of length N."""
    edges = weights.cumsum(0)
    # divided by the last edge itself, so that the line ends at exactly N despite rounding
    return edges / edges[-1] * len(weights)


def nearest_shape(size: Size, shapes: Sequence[Size]) -> int:
    """Return which of some sizes has the aspect ratio nearest to that of `size`."""

    def distance(shape: Size) -> float:
        return abs(math.log(shape[0] * size[1]) - math.log(shape[1] * size[0]))

    return min(range(len(shapes)), key=lambda i: distance(shapes[i]))


def shape_of(sample: Sample | Damage, shapes: Sequence[Size]) -> int:
    """Return the shape of an image; the first if it cannot be read, which is noticed when it is decoded."""
    if isinstance(sample, Damage) or len(shapes) == 1:
        return 0
    try:
        return nearest_shape(upright_size(sample.image), shapes)
    except ValueError:
        return 0


def buckets_of(source: Source, shapes: Sequence[Size]) -> Tensor:
    """Return the shape of every row: (N,) int64. With more than one shape, reads every file once."""
    if len(shapes) == 1:
        return torch.zeros(len(source), dtype=torch.int64)
    return torch.tensor([shape_of(read_row(source, row), shapes) for row in range(len(source))])


class BucketOrder:
    """Which images each step sees, all of one bucket; with a single bucket the order is `SampleOrder`'s.

    A bucket's share of every `BLOCK` steps is its images' share of the weight, at least one step; within a bucket, the
    order is that of its own `SampleOrder`.
    """

    def __init__(self, buckets: Tensor, weights: Tensor, seed: int) -> None:
        """buckets: (N,) int64, from 0. weights: (N,). Raises `HartError` for invalid weights."""
        numbers = buckets[weights > 0].unique().tolist()
        SampleOrder(weights, seed)  # checks all weights together
        self._rows = [(buckets == number).nonzero().flatten() for number in numbers]
        self._orders = [SampleOrder(weights[rows], seed) for rows in self._rows]
        self._numbers = numbers
        self._steps = _shares([float(weights[rows].double().sum()) for rows in self._rows])
        self._seed = seed
        self._block, self._turns = -1, torch.empty(0, dtype=torch.int64)

    def bucket(self, step: int) -> int:
        """Return the bucket of all images of a step."""
        return self._numbers[self._turn(step)[0]]

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Return the images of a step: (batch_size,) int64, always the same for the same arguments."""
        which, before = self._turn(step)
        return self._rows[which][self._orders[which].batch(before, batch_size)]

    def anywhere(self, uniform: float, step: int) -> int:
        """Return the image of the step's bucket that a number in [0, 1) picks, with probability by weight."""
        which, _ = self._turn(step)
        return int(self._rows[which][self._orders[which].anywhere(uniform)])

    def _turn(self, step: int) -> tuple[int, int]:
        """Return the bucket of a step, and how many steps that bucket had before."""
        block, place = divmod(step, BLOCK)
        if block != self._block:
            turns = torch.arange(len(self._steps)).repeat_interleave(torch.tensor(self._steps))
            order = numpy_generator(self._seed, "buckets", block).permutation(BLOCK)
            self._block, self._turns = block, turns[torch.from_numpy(order)]
        which = int(self._turns[place])
        return which, block * self._steps[which] + int((self._turns[:place] == which).sum())


def _shares(weights: Sequence[float]) -> list[int]:
    """Return whole steps of a block in these proportions, at least one each, by largest remainders."""
    exact = [1 + (BLOCK - len(weights)) * weight / sum(weights) for weight in weights]
    steps = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(steps)), key=lambda i: steps[i] - exact[i])
    for i in by_remainder[: BLOCK - sum(steps)]:
        steps[i] += 1
    return steps

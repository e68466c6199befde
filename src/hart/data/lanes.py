"""The lanes of a stream: lane l reads units l, l + lanes, ... and feeds fixed places of every batch.

The number of lanes follows from the batch and the units, never from the processes; ranks and workers share the lanes
out. To resume, a lane passes over what came before without decoding it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from hart.data.batches import BatchRecipe, ImageBatch
from hart.data.order import draw_generator
from hart.data.samples import Damage, Sample
from hart.data.sources import Stream
from hart.errors import HartError

MAX_LANES = 64


def lane_count(units: int, batch_size: int) -> int:
    """Into how many lanes a stream is divided: the largest divisor of the batch that the units can fill."""
    return max(lanes for lanes in range(1, min(units, batch_size, MAX_LANES) + 1) if batch_size % lanes == 0)


class StreamSteps:
    """The lanes of one rank in every step of a `Stream`; each worker makes the part of its lanes."""

    def __init__(
        self, stream: Stream, recipe: BatchRecipe, batch_size: int, rank: int, world: int, workers: int, buffer: int
    ) -> None:
        """buffer: encoded pictures over all lanes. Raises `HartError` when there are too few lanes."""
        lanes = lane_count(len(stream.units), batch_size)
        self.parts = max(workers, 1)
        if lanes % world:
            raise HartError(
                f"the stream has {lanes} lanes, which {world} processes cannot share evenly: give more shards (at "
                f"least as many as processes) and a batch_size that is a multiple of {world}, or read local shards as "
                "'shards'"
            )
        mine = lanes // world
        if self.parts > mine:
            raise HartError(
                f"the stream has {lanes} lanes, {mine} a process: ask for at most {mine} workers, or give more shards"
            )
        edges = [rank * mine + mine * part // self.parts for part in range(self.parts + 1)]
        self._own = [range(first, last) for first, last in itertools.pairwise(edges)]
        self._stream = stream
        self._recipe = recipe
        self._lanes = lanes
        self._per_lane = batch_size // lanes
        self._buffer = max(buffer // lanes, 1)

    def items(self, first: int, worker: int, workers: int) -> Iterator[ImageBatch]:
        own, each = self._own[worker], self._per_lane
        # dealt once for the whole run: a lane then knows its length after one epoch
        deal = draw_generator(self._recipe.seed, "lanes").permutation(len(self._stream.units)).tolist()
        lanes = {
            number: _Lane(
                self._stream, deal[number :: self._lanes], number, self._recipe.seed, self._buffer, skip=first * each
            )
            for number in own
        }
        places = range(own.start * each, own.stop * each)
        for step in itertools.count(first):
            batch = self._recipe.batch(step, places, lambda place: lanes[place // each].candidates())
            damaged = [damage for lane in lanes.values() for damage in lane.unreadable()]
            yield replace(batch, damaged=(*damaged, *batch.damaged))


class _Lane:
    """The samples of some units of a stream, epoch after epoch, each in another order.

    An epoch shuffles the units and draws from a buffer that it empties at its end, so that every epoch has the same
    length and whole ones can be passed over.
    """

    def __init__(self, stream: Stream, units: Sequence[int], number: int, seed: int, buffer: int, skip: int) -> None:
        """skip: samples that earlier steps took. They are read, for one epoch at most twice, but not decoded."""
        self._stream = stream
        self._units = units
        self._number = number
        self._seed = seed
        self._buffer = buffer
        self._samples = self._endless(skip)
        self._ahead: deque[Sample] = deque()
        self._damaged: list[Damage] = []

    def candidates(self) -> Iterator[Sample]:
        """The next picture, then those that may stand in for it, which keep their own turns.

        So every place takes exactly one sample, whatever is damaged, and nobody need decode to count them.
        """
        if self._ahead:
            self._ahead.popleft()
        for number in itertools.count():
            if number == len(self._ahead):
                self._ahead.append(next(self._samples))
            yield self._ahead[number]

    def unreadable(self) -> list[Damage]:
        """What was met and is no sample, since the last call."""
        found, self._damaged = self._damaged, []
        return found

    def _endless(self, skip: int) -> Iterator[Sample]:
        epoch = 0
        while True:
            length = 0
            for sample in self._epoch(epoch):
                length += 1
                if skip:
                    skip -= 1
                else:
                    yield sample
            if not length:
                names = ", ".join(self._stream.units[unit] for unit in self._units[:3])
                raise HartError(f"{names}: no picture in them: give shards with .webp, .png or .jpg members")
            epoch += 1 + skip // length
            skip %= length

    def _epoch(self, epoch: int) -> Iterator[Sample]:
        draws = draw_generator(self._seed, "shuffle", self._number, epoch)
        order = draws.permutation(len(self._units))
        buffer: list[Sample] = []
        for place in order:
            for sample in self._stream.read_unit(self._units[place]):
                if isinstance(sample, Damage):
                    self._damaged.append(sample)
                    continue
                buffer.append(sample)
                if len(buffer) > self._buffer:
                    yield _take(buffer, draws)
        while buffer:
            yield _take(buffer, draws)


def _take(buffer: list[Sample], draws: np.random.Generator) -> Sample:
    """Remove one sample, drawn evenly; the last takes its place."""
    place = int(draws.integers(len(buffer)))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()

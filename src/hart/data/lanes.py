"""The lanes of a stream: see `hart.data.loader`."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from torch.utils.data import get_worker_info

from hart.data.batch_parts import MAX_REPLACEMENTS, Part, Picture, PictureRecipe, hopeless, join
from hart.data.draws import draw_generator
from hart.data.read_ahead import StepStream
from hart.data.samples import Damage, DamagedSample, Sample
from hart.data.sources import Stream
from hart.errors import HartError

MAX_LANES = 64


def lane_count(units: int, batch_size: int) -> int:
    """Into how many lanes a stream is divided: the largest divisor of the batch that the units can fill."""
    return max(lanes for lanes in range(1, min(units, batch_size, MAX_LANES) + 1) if batch_size % lanes == 0)


def share_lanes(lanes: int, world: int, workers: int) -> list[list[range]]:
    """The lanes of each worker of each rank, in order. Raises `HartError` when there are too few."""
    if lanes % world:
        raise HartError(
            f"the stream has {lanes} lanes, which {world} processes cannot share evenly: give more shards (at least as "
            f"many as processes) and a batch_size that is a multiple of {world}, or read local shards as 'shards'"
        )
    mine, parts = lanes // world, max(workers, 1)
    if parts > mine:
        raise HartError(
            f"the stream has {lanes} lanes, {mine} a process: ask for at most {mine} workers, or give more shards"
        )
    edges = [mine * part // parts for part in range(parts + 1)]
    return [
        [range(rank * mine + edges[part], rank * mine + edges[part + 1]) for part in range(parts)]
        for rank in range(world)
    ]


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
        self._buffer = max(buffer, 1)
        self._samples = self._endless(skip)
        self._ahead: deque[Sample] = deque()
        self._damaged: list[Damage] = []

    def picture(self, recipe: PictureRecipe, step: int, place: int, damaged: list[Damage]) -> Picture:
        """The next picture; a damaged one is replaced by one of those after it, which keep their own turns.

        So every place takes exactly one sample, whatever is damaged, and nobody need decode to count them.
        """
        failed: list[Damage] = []
        picture: Picture | None = None
        for number in range(MAX_REPLACEMENTS):
            if number == len(self._ahead):
                self._ahead.append(next(self._samples))
            sample = self._ahead[number]
            try:
                picture = recipe.picture(sample, step, place, number)
                break
            except DamagedSample as error:
                failed.append(Damage(sample.key, str(error)))
        if picture is None:
            raise HartError(hopeless(failed))
        self._ahead.popleft()
        damaged += self._damaged + failed
        self._damaged.clear()
        return picture

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


class StreamSteps(StepStream):
    """The lanes of one rank in every step of a `Stream`, from `first` on; each worker yields the part of its lanes."""

    def __init__(
        self, stream: Stream, recipe: PictureRecipe, mine: Sequence[range], lanes: int, per_lane: int, buffer: int
    ) -> None:
        """mine: the lanes of each worker of this rank. per_lane: places of a batch that a lane feeds."""
        self._stream = stream
        self._recipe = recipe
        self._mine = mine
        self._lanes = lanes
        self._per_lane = per_lane
        self._buffer = buffer
        self._first = 0

    def starting_at(self, step: int) -> Self:
        """The same steps from `step` on."""
        other = copy.copy(self)
        other._first = step
        return other

    def __iter__(self) -> Iterator[Part | HartError]:
        worker = get_worker_info()
        numbers = self._mine[worker.id if worker else 0]
        seed, count = self._recipe.seed, len(self._stream.units)
        # dealt once for the whole run: a lane then knows its length after one epoch
        deal = draw_generator(seed, "lanes").permutation(count).tolist()
        try:
            lanes = {
                number: _Lane(
                    self._stream,
                    deal[number :: self._lanes],
                    number,
                    seed,
                    self._buffer,
                    skip=self._first * self._per_lane,
                )
                for number in numbers
            }
            for step in itertools.count(self._first):
                pictures: list[Picture] = []
                damaged: list[Damage] = []
                for number, lane in lanes.items():
                    for place in range(number * self._per_lane, (number + 1) * self._per_lane):
                        pictures.append(lane.picture(self._recipe, step, place, damaged))
                yield join(pictures, damaged)
        except HartError as error:
            yield error


def _take(buffer: list[Sample], draws: np.random.Generator) -> Sample:
    """Remove one sample, drawn evenly; the last takes its place."""
    place = int(draws.integers(len(buffer)))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()

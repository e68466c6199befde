"""Batches of pictures by step, sharded over ranks and read ahead by worker processes.

The global batch of step n is a function of (seed, n) alone: a rank takes its part of it, and neither the number of
ranks nor that of workers changes a picture, a crop or a caption. A resumed run asks for its next step; no state is
kept. Two ways lead there:

- A `Source` has rows. `SampleOrder` says which rows step n sees.
- A `Stream` can only be read in order. It is divided into lanes: lane l reads units l, l + lanes, ... and feeds fixed
  places of every batch. The number of lanes follows from the batch and the units, never from the processes; ranks and
  workers share the lanes out. To resume, a lane passes over what came before without decoding it.

A damaged picture is replaced (by one drawn at random from a `Source`, by the next of its lane in a `Stream`) and
counted. Shapes: B pictures of a rank's batch, H W image.
"""

from __future__ import annotations

import copy
import itertools
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from hart.data.datasets import SampleOrder
from hart.data.draws import draw_generator
from hart.data.samples import Condition, Damage, DamagedSample, Sample, one_line, require_mostly_sound
from hart.data.sources import Source, Stream
from hart.data.transforms import ImageTransform, to_signed
from hart.errors import HartError

MAX_LANES = 64
MAX_REPLACEMENTS = 50
"""Damaged pictures in a row before a batch is given up."""
MIN_SEEN = 200
"""A stream does not say how many pictures it has: damage is judged against at least so many."""


@dataclass(frozen=True)
class ImageBatch:
    """One rank's part of a step.

    images: (B, 3, H, W) uint8, 0 to 255. captions: one a picture, drawn evenly among its own; empty unless asked for.
    labels: (B,) int64; None unless asked for. keys: where the pictures are from.
    replaced: for each picture, how many damaged ones it stands in for; like all else a function of (seed, step).
    """

    step: int
    images: Tensor
    captions: tuple[str, ...]
    labels: Tensor | None
    keys: tuple[str, ...]
    replaced: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, rows: slice) -> ImageBatch:
        """Some of the pictures."""
        labels = None if self.labels is None else self.labels[rows]
        return ImageBatch(
            self.step, self.images[rows], self.captions[rows], labels, self.keys[rows], self.replaced[rows]
        )

    def signed(self, device: torch.device | str = "cpu") -> Tensor:
        """(B, 3, H, W) float32 in [-1, 1] on `device`; sent there as uint8, a quarter of the bytes."""
        return to_signed(self.images.to(device))


@dataclass(frozen=True)
class _Picture:
    pixels: Tensor
    caption: str
    label: int
    key: str
    replaced: int


@dataclass(frozen=True)
class _Part:
    """What a worker hands over: pictures of consecutive places, and what it had to skip for them."""

    images: Tensor
    captions: tuple[str, ...]
    labels: tuple[int, ...]
    keys: tuple[str, ...]
    replaced: tuple[int, ...]
    damaged: tuple[Damage, ...]


@dataclass(frozen=True)
class _Recipe:
    """How a stored sample becomes a picture of a batch; everything drawn comes from (seed, step, place)."""

    transform: ImageTransform
    condition: Condition
    seed: int

    def picture(self, sample: Sample, step: int, place: int, replaced: int) -> _Picture:
        """Raises `DamagedSample` when the image does not decode or its condition is missing."""
        draws = draw_generator(self.seed, "picture", step, place)
        sample.require(self.condition)
        caption, label = "", -1
        if self.condition == "caption":
            caption = sample.captions[int(draws.random() * len(sample.captions))]
        elif sample.label is not None:
            label = sample.label
        return _Picture(sample.pixels(self.transform, draws), caption, label, sample.key, replaced)


class ImageLoader:
    """Batches of a set by step. Ask for steps in their order: others are right too, but start the workers anew."""

    def __init__(
        self,
        source: Source | Stream,
        transform: ImageTransform,
        *,
        batch_size: int,
        seed: int,
        condition: Condition = "none",
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        max_damaged: float = 0.05,
        shuffle_buffer: int = 4096,
    ) -> None:
        """batch_size: of all ranks together. rank, world: this process, and how many there are.

        workers: processes that read ahead; 0 reads when asked. max_damaged: share of damaged pictures above which
        `batch` gives up. shuffle_buffer: encoded pictures of a stream, over all lanes, among which the next is drawn.
        Raises `HartError` for numbers that do not fit each other or the set.
        """
        require_sharing(batch_size, rank, world)
        if condition not in {"none", "caption", "label"}:
            raise HartError(f"condition is {condition!r}: give none, caption or label")
        if seed < 0 or workers < 0 or not 0 <= max_damaged <= 1:
            raise HartError("seed and workers must be 0 or more, and max_damaged from 0 to 1")
        self._source = source
        self._max_damaged = max_damaged
        recipe = _Recipe(transform, condition, seed)
        self._condition = condition
        part = batch_size // world
        self.places = range(rank * part, (rank + 1) * part)
        dataset: _RowSteps | _StreamSteps
        if isinstance(source, Stream):
            lanes = lane_count(len(source.units), batch_size)
            mine = _share_lanes(lanes, world, workers)[rank]
            dataset = _StreamSteps(source, recipe, mine, lanes, batch_size // lanes, shuffle_buffer // lanes)
        else:
            dataset = _RowSteps(source, recipe, batch_size, self.places)
        self._ahead = ReadAhead(dataset, workers)
        self._last: ImageBatch | None = None
        self._damaged: dict[str, str] = {}
        self._seen = 0
        self._report(() if isinstance(source, Stream) else source.damaged)

    @property
    def workers(self) -> int:
        """Processes that read ahead."""
        return self._ahead.workers

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """Everything skipped so far by this process, each once."""
        return tuple(Damage(key, reason) for key, reason in self._damaged.items())

    def batch(self, step: int) -> ImageBatch:
        """This rank's part of step `step`, from 0.

        Raises `HartError` when a shard is missing, or when more than `max_damaged` of the pictures (of a set with rows;
        of a stream, of those seen by this process) are damaged.
        """
        if self._last is None or self._last.step != step:
            self._last = self._read(step)
        return self._last

    def rows(self, step: int, rows: slice) -> ImageBatch:
        """Places `rows` of the global batch of a step, which must be of this rank: a share of an accumulated step.

        The batch last asked for is kept, so that its shares cost nothing more.
        """
        return self.batch(step).select(within(rows, self.places))

    def _read(self, step: int) -> ImageBatch:
        parts = self._ahead.parts(step)
        self._seen += sum(len(part.keys) for part in parts)
        self._report([damage for part in parts for damage in part.damaged])
        labels = torch.tensor([label for part in parts for label in part.labels])
        return ImageBatch(
            step,
            parts[0].images if len(parts) == 1 else torch.cat([part.images for part in parts]),
            tuple(caption for part in parts for caption in part.captions) if self._condition == "caption" else (),
            labels if self._condition == "label" else None,
            tuple(key for part in parts for key in part.keys),
            tuple(count for part in parts for count in part.replaced),
        )

    def close(self) -> None:
        """End the worker processes; a later `batch` starts them again."""
        self._ahead.close()

    def _report(self, damaged: Iterable[Damage]) -> None:
        self._damaged.update((damage.key, damage.reason) for damage in damaged)
        if isinstance(self._source, Stream):
            total = max(self._seen, MIN_SEEN)
        else:
            total = len(self._source) + len(self._source.damaged)
        where, option = self._source.description, "reading.max_damaged"
        require_mostly_sound(self.damaged, total, self._max_damaged, where, option)


def lane_count(units: int, batch_size: int) -> int:
    """Into how many lanes a stream is divided: the largest divisor of the batch that the units can fill."""
    return max(lanes for lanes in range(1, min(units, batch_size, MAX_LANES) + 1) if batch_size % lanes == 0)


class ReadAhead:
    """Steps in their order through torch's `DataLoader`, whose worker processes run ahead.

    dataset: gives a step by its number; or, as an `IterableDataset` with `starting_at`, endless steps of which each
    worker makes a part. Errors that the user can mend come out of it as values, since exceptions lose their type and
    their one line on the way between processes.
    """

    def __init__(self, dataset: Dataset[Any], workers: int) -> None:
        self._dataset = dataset
        self.workers = workers
        self._next = -1
        self._iterator: Iterator[Any] | None = None

    def parts(self, step: int) -> list[Any]:
        """The parts of a step in the order of the workers. Raises `HartError`, also one from a worker."""
        if step < 0:
            raise HartError(f"step is {step}: steps count from 0")
        if self._iterator is None or step != self._next:
            self.close()
            self._iterator = self._start(step)
        count = max(self.workers, 1) if isinstance(self._dataset, IterableDataset) else 1
        self._next = step + 1
        try:
            parts = [next(self._iterator) for _ in range(count)]
        except RuntimeError as error:
            self.close()
            if "DataLoader worker" not in str(error):
                raise
            raise HartError(
                f"a process that reads data was killed ({one_line(error)}): memory may have run out; use fewer workers"
            ) from None
        for part in parts:
            if isinstance(part, HartError):
                self.close()
                raise part
        return parts

    def close(self) -> None:
        """End the worker processes: they go with the iterator that holds them."""
        self._iterator = None

    def _start(self, step: int) -> Iterator[Any]:
        dataset, sampler = self._dataset, None
        if isinstance(dataset, _StreamSteps):
            dataset = dataset.starting_at(step)
        else:
            sampler = itertools.count(step)
        # a generator of its own: the loader would otherwise draw from the global one, which models use
        generator = torch.Generator().manual_seed(0)
        return iter(
            DataLoader(
                dataset,
                batch_size=None,
                sampler=sampler,
                num_workers=self.workers,
                collate_fn=as_it_is,
                generator=generator,
                worker_init_fn=_leave_interrupts,
            )
        )


class _RowSteps(Dataset[Any]):
    """The places of one rank in every step of a `Source`."""

    def __init__(self, source: Source, recipe: _Recipe, batch_size: int, places: range) -> None:
        self._source = source
        self._recipe = recipe
        self._batch_size = batch_size
        self._places = places
        self._order = SampleOrder(source.weights, recipe.seed)

    def __getitem__(self, step: int) -> _Part | HartError:
        rows = self._order.batch(step, self._batch_size).tolist()
        damaged: list[Damage] = []
        try:
            pictures = [self._picture(rows[place], step, place, damaged) for place in self._places]
        except HartError as error:
            return error
        return _join(pictures, damaged)

    def _picture(self, row: int, step: int, place: int, damaged: list[Damage]) -> _Picture:
        others = draw_generator(self._recipe.seed, "replacement", step, place)
        for number in range(MAX_REPLACEMENTS):
            try:
                return self._recipe.picture(self._source.read(row), step, place, number)
            except DamagedSample as error:
                damaged.append(Damage(self._source.key(row), str(error)))
                row = self._order.anywhere(others.random())
        raise HartError(_hopeless(damaged))


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

    def picture(self, recipe: _Recipe, step: int, place: int, damaged: list[Damage]) -> _Picture:
        """The next picture; a damaged one is replaced by one of those after it, which keep their own turns.

        So every place takes exactly one sample, whatever is damaged, and nobody need decode to count them.
        """
        failed: list[Damage] = []
        picture: _Picture | None = None
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
            raise HartError(_hopeless(failed))
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


class _StreamSteps(IterableDataset[Any]):
    """The lanes of one rank in every step of a `Stream`, from `first` on; each worker yields the part of its lanes."""

    def __init__(
        self, stream: Stream, recipe: _Recipe, mine: Sequence[range], lanes: int, per_lane: int, buffer: int
    ) -> None:
        """mine: the lanes of each worker of this rank. per_lane: places of a batch that a lane feeds."""
        self._stream = stream
        self._recipe = recipe
        self._mine = mine
        self._lanes = lanes
        self._per_lane = per_lane
        self._buffer = buffer
        self._first = 0

    def starting_at(self, step: int) -> _StreamSteps:
        """The same steps from `step` on."""
        other = copy.copy(self)
        other._first = step
        return other

    def __iter__(self) -> Iterator[_Part | HartError]:
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
                pictures: list[_Picture] = []
                damaged: list[Damage] = []
                for number, lane in lanes.items():
                    for place in range(number * self._per_lane, (number + 1) * self._per_lane):
                        pictures.append(lane.picture(self._recipe, step, place, damaged))
                yield _join(pictures, damaged)
        except HartError as error:
            yield error


def require_sharing(batch_size: int, rank: int, world: int) -> None:
    """Raises `HartError` for a batch that the processes cannot share evenly, or a rank that is not among them."""
    if world < 1 or not 0 <= rank < world:
        raise HartError(f"rank {rank} of {world}: ranks count from 0 to the number of processes less 1")
    if batch_size < 1 or batch_size % world:
        raise HartError(f"batch_size {batch_size} cannot be shared by {world} processes: make it a multiple of {world}")


def within(rows: slice, places: range) -> slice:
    """A slice of the global batch as one of a rank's part. Raises `HartError` when it reaches outside."""
    start, stop = rows.start or 0, places.stop if rows.stop is None else rows.stop
    if not places.start <= start < stop <= places.stop:
        raise HartError(f"rows {start} to {stop} are not of this process, which has {places.start} to {places.stop}")
    return slice(start - places.start, stop - places.start)


def _share_lanes(lanes: int, world: int, workers: int) -> list[list[range]]:
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


def _join(pictures: Sequence[_Picture], damaged: Sequence[Damage]) -> _Part:
    return _Part(
        torch.stack([picture.pixels for picture in pictures]),
        tuple(picture.caption for picture in pictures),
        tuple(picture.label for picture in pictures),
        tuple(picture.key for picture in pictures),
        tuple(picture.replaced for picture in pictures),
        tuple(damaged),
    )


def _take(buffer: list[Sample], draws: np.random.Generator) -> Sample:
    """Remove one sample, drawn evenly; the last takes its place."""
    place = int(draws.integers(len(buffer)))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()


def _hopeless(damaged: Sequence[Damage]) -> str:
    last = damaged[-1]
    return f"{MAX_REPLACEMENTS} pictures in a row are damaged, the last is {last.key}: {last.reason}; mend the set"


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal: what to do about it is for the one that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def as_it_is(item: Any) -> Any:
    """What a `DataLoader` is to do with an item that is whole already."""
    return item

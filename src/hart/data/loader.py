"""Batches of images by step, sharded over ranks and read ahead by worker processes.

The global batch of step n is a function of (seed, n) only: each rank takes its share of it, and neither the number of
ranks nor that of workers changes an image, a crop or a caption. A resumed run asks for its next step; no state is
kept.

- A `Source` has rows; `SampleOrder` says which of them step n sees.
- A `Stream` can only be read in order. It is divided into lanes of about the same number of images, each of which reads
  some of the units and feeds fixed places of every batch. The number of lanes follows from the batch and the units,
  never from the processes; ranks and workers divide the lanes among them. On resuming, a lane skips earlier samples
  without decoding them.

A damaged image is counted and replaced: by a random one of a `Source`, or by the next of its lane in a `Stream`.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from hart.data.kinds import Condition
from hart.data.order import BucketOrder, Size, buckets_of
from hart.data.read_ahead import MAX_NUMBER, MAX_WORKERS, StepLoader, places_of, row_items
from hart.data.samples import Damage, DamagedSample, Sample, first_reasons
from hart.data.sources import DamageCount, Source, Stream, read_row
from hart.data.transforms import ImageTransform, to_signed
from hart.errors import HartError
from hart.randomness import numpy_generator
from hart.strict import counted, shown, whole_number

MAX_LANES = 64
MAX_REPLACEMENTS = 50
"""Damaged images in a row after which a batch is given up."""
SIDES = re.compile(r"\b(left|right|(anti|counter)?-?clockwise)", re.IGNORECASE)
"""Words that make a caption wrong for the mirrored image; images with such captions are not mirrored."""


@dataclass(frozen=True)
class ImageBatch:
    """One rank's share of a step, or some rows of it.

    images: (B, 3, H, W) uint8, 0 to 255. captions: one per image, chosen at random among its own; empty unless
    requested. labels: (B,) int64; None unless requested. keys: where the images are from.
    replaced: for each image, how many damaged ones it replaces; like everything else a function of (seed, step).
    damaged: the damaged images encountered, in the whole share.
    """

    images: Tensor
    captions: tuple[str, ...]
    labels: Tensor | None
    keys: tuple[str, ...]
    replaced: tuple[int, ...]
    damaged: tuple[Damage, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, rows: slice) -> ImageBatch:
        """Return some of the images."""
        labels = None if self.labels is None else self.labels[rows]
        own = self.images[rows], self.captions[rows], labels, self.keys[rows], self.replaced[rows]
        return ImageBatch(*own, self.damaged)

    @staticmethod
    def cat(parts: Sequence[ImageBatch]) -> ImageBatch:
        """Join parts of a step, one after the other."""
        labels = [part.labels for part in parts if part.labels is not None]
        return ImageBatch(
            torch.cat([part.images for part in parts]),
            tuple(caption for part in parts for caption in part.captions),
            torch.cat(labels) if labels else None,
            tuple(key for part in parts for key in part.keys),
            tuple(count for part in parts for count in part.replaced),
            tuple(damage for part in parts for damage in part.damaged),
        )

    def signed(self, device: torch.device | str = "cpu") -> Tensor:
        """Return (B, 3, H, W) float32 in [-1, 1] on `device`; sent there as uint8, a quarter of the bytes."""
        return to_signed(self.images.to(device))


@dataclass(frozen=True)
class BatchRecipe:
    """How stored samples become images of a batch; all randomness comes from (seed, step, place)."""

    transform: ImageTransform
    condition: Condition
    seed: int

    def batch(self, step: int, places: range, candidates: Callable[[int], Iterator[Sample | Damage]]) -> ImageBatch:
        """Return the first sound candidate of each place."""
        chosen: list[tuple[Tensor, str, int | None, str, int]] = []
        damaged: list[Damage] = []
        for place in places:
            for number, sample in enumerate(itertools.islice(candidates(place), MAX_REPLACEMENTS)):
                try:
                    chosen.append((*self._image(sample, step, place), sample.key, number))
                    break
                except DamagedSample as error:
                    damaged.append(Damage(sample.key, str(error)))
            else:
                said = f"{MAX_REPLACEMENTS} images in a row are damaged, the last is {damaged[-1]}"
                raise HartError(f"{said}; fix the set")
        pixels, captions, labels, keys, replaced = zip(*chosen, strict=True)
        captions = captions if self.condition == "caption" else ()
        numbers = torch.tensor(labels) if self.condition == "label" else None
        return ImageBatch(torch.stack(pixels), captions, numbers, keys, replaced, tuple(damaged))

    def _image(self, sample: Sample | Damage, step: int, place: int) -> tuple[Tensor, str, int | None]:
        """Return pixels, one of the captions, and the label. Raises `DamagedSample`."""
        if isinstance(sample, Damage):
            raise DamagedSample(sample.reason)
        rng = numpy_generator(self.seed, "picture", step, place)
        sample.require(self.condition)
        caption, transform = "", self.transform
        if self.condition == "caption":
            caption = sample.captions[int(rng.random() * len(sample.captions))]
            if transform.flip and SIDES.search(caption):
                transform = transform.replace(flip=0.0)
        return sample.pixels(transform, rng), caption, sample.label


class ImageLoader(StepLoader[ImageBatch]):
    """Batches of a set by step."""

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
        shapes: Sequence[Size] = (),
    ) -> None:
        """batch_size: of all ranks together. rank, world: this process, and how many there are.

        shapes: sizes in place of the transform's; an image is cropped to the one with the nearest aspect ratio, and all
        images of a step have the same size. Only for a `Source`; every file is then read once at the start.

        workers: processes that read ahead; 0 reads on demand. max_damaged: largest share of damaged images that
        `batch` tolerates. shuffle_buffer: encoded images of a stream, over all lanes, from which the next one is
        chosen. Raises `HartError` for numbers that do not fit together or the set, and for an unknown condition.
        """
        items: Callable[[int, int, int], Iterator[ImageBatch]]
        seed, workers = whole_number("seed", seed, 0, MAX_NUMBER), whole_number("workers", workers, 0, MAX_WORKERS)
        if condition not in get_args(Condition):
            raise HartError(f"condition {shown(condition)}: give one of {', '.join(get_args(Condition))}")
        recipe, places = BatchRecipe(transform, condition, seed), places_of(rank, world, batch_size)
        parts = 1
        if isinstance(source, Stream):
            if len(shapes) > 1:
                raise HartError(
                    "a stream cannot be sorted by the shape of its images: read local shards as 'shards', or encode it"
                )
            shares = _lanes_of_workers(source, batch_size, rank, world, max(workers, 1))
            items, parts = partial(_stream_items, source, recipe, batch_size, shares, shuffle_buffer), len(shares)
        else:
            shapes = shapes or [(transform.width, transform.height)]
            recipes = [replace(recipe, transform=transform.replace(size=shape)) for shape in shapes]
            order = BucketOrder(buckets_of(source, shapes), source.weights, seed)
            items = partial(row_items, partial(_batch_of_rows, source, recipes, order, places), order, batch_size)
        super().__init__(items, places=places, workers=workers, parts=parts)
        self._damage = DamageCount(source, max_damaged, "reading.max_damaged")

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """Return everything this process has skipped so far, each once."""
        return self._damage.found

    def join(self, parts: Sequence[ImageBatch]) -> ImageBatch:
        batch = ImageBatch.cat(parts) if len(parts) > 1 else parts[0]
        self._damage.add(batch.damaged, len(batch))
        return batch


def _batch_of_rows(
    source: Source, recipes: Sequence[BatchRecipe], order: BucketOrder, places: range, step: int, rows: Sequence[int]
) -> ImageBatch:
    """recipes: one per bucket."""
    recipe = recipes[order.bucket(step)]

    def candidates(place: int) -> Iterator[Sample | Damage]:
        """Yield the image of a place, then random others to replace it."""
        yield read_row(source, rows[place])
        others = numpy_generator(recipe.seed, "replacement", step, place)
        while True:
            yield read_row(source, order.anywhere(others.random(), step))

    return recipe.batch(step, places, candidates)


def lane_count(sizes: Sequence[int], batch_size: int) -> int:
    """Return the number of lanes of a stream with units of these sizes: the largest divisor of the batch size with
    which no lane has more than twice the images of another."""
    for count in range(min(len(sizes), batch_size, MAX_LANES), 1, -1):
        if batch_size % count == 0:
            images = [sum(sizes[unit] for unit in lane) for lane in _dealt(range(len(sizes)), sizes, count)]
            if max(images) <= 2 * min(images):
                return count
    return 1


def _dealt(units: Iterable[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """Return the units of each lane: the largest first, each assigned to the lane with the fewest images."""
    lanes: list[list[int]] = [[] for _ in range(count)]
    images = [0] * count
    for unit in sorted(units, key=lambda unit: -sizes[unit]):
        lane = images.index(min(images))
        lanes[lane].append(unit)
        images[lane] += sizes[unit]
    return lanes


def _lanes_of_workers(stream: Stream, batch_size: int, rank: int, world: int, workers: int) -> list[range]:
    """Return the lanes that each worker of a rank reads. Raises `HartError` if there are too few."""
    lanes = counted(count := lane_count(stream.sizes, batch_size), "lane")
    if count % world:
        raise HartError(
            f"the stream has {lanes}, which {world} processes cannot share evenly: give more shards (at least as many "
            f"as processes) and a batch_size that is a multiple of {world}, or read local shards as 'shards'"
        )
    mine = count // world
    if workers > mine:
        raise HartError(
            f"the stream has {lanes}, {mine} a process: ask for at most {counted(mine, 'worker')}, or give more shards"
        )
    edges = [rank * mine + mine * worker // workers for worker in range(workers + 1)]
    return [range(first, last) for first, last in itertools.pairwise(edges)]


def _stream_items(
    stream: Stream, recipe: BatchRecipe, batch_size: int, shares: Sequence[range], buffer: int, *start: int
) -> Iterator[ImageBatch]:
    """Yield the rows that a worker makes of every step: those of its own lanes.

    shares: the lanes of each worker. buffer: encoded images over all lanes. start: first step, worker, workers.
    """
    first, worker, _ = start
    count = lane_count(stream.sizes, batch_size)
    each = batch_size // count
    # assigned once for the whole run, so that a lane knows its length after one epoch
    units = numpy_generator(recipe.seed, "lanes").permutation(len(stream.units)).tolist()
    deal = _dealt(units, stream.sizes, count)
    met: list[Damage] = []
    lanes = {
        lane: _Lane(stream, deal[lane], lane, recipe.seed, max(buffer // count, 1), first * each, met)
        for lane in shares[worker]
    }
    places = range(shares[worker].start * each, shares[worker].stop * each)
    for step in itertools.count(first):
        batch = recipe.batch(step, places, lambda place: lanes[place // each].candidates())
        yield replace(batch, damaged=(*met, *batch.damaged))
        met.clear()


@dataclass(eq=False)
class _Lane:
    """The samples of some units of a stream, epoch after epoch, each in a different order.

    An epoch shuffles the units, and draws samples from a buffer that is emptied at its end, so that all epochs have the
    same length and whole ones can be skipped.
    """

    stream: Stream
    units: Sequence[int]
    number: int
    seed: int
    buffer: int
    skip: int
    """Samples that earlier steps took. They are read (those of at most two epochs), but not decoded."""
    met: list[Damage]
    """Collects the damaged samples encountered."""

    def __post_init__(self) -> None:
        self._samples = self._endless(self.skip)
        self._ahead: deque[Sample] = deque()

    def candidates(self) -> Iterator[Sample]:
        """Yield the next image, then those that may replace it; these still get their own turns.

        So every place takes exactly one sample, whatever is damaged, and counting needs no decoding.
        """
        # not `itertools.tee`, which holds up to 57 samples after their turns
        if self._ahead:
            self._ahead.popleft()
        for number in itertools.count():
            if number == len(self._ahead):
                self._ahead.append(next(self._samples))
            yield self._ahead[number]

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
                names = ", ".join(self.stream.units[unit] for unit in self.units[:3])
                why = f" ({first_reasons(self.met[-1:])})" if self.met else ""
                raise HartError(f"{names}: no images in it{why}: leave it out, or give another set")
            epoch += 1 + skip // length
            skip %= length

    def _epoch(self, epoch: int) -> Iterator[Sample]:
        rng = numpy_generator(self.seed, "shuffle", self.number, epoch)
        buffer: list[Sample] = []

        def taken() -> Sample:
            """Take a random sample from the buffer; the last one takes its place."""
            place = int(rng.integers(len(buffer)))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            return buffer.pop()

        for place in rng.permutation(len(self.units)):
            for sample in self.stream.read_unit(self.units[place]):
                if isinstance(sample, Damage):
                    self.met.append(sample)
                    continue
                buffer.append(sample)
                if len(buffer) > self.buffer:
                    yield taken()
        while buffer:
            yield taken()

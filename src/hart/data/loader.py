"""Batches of pictures by step, sharded over ranks and read ahead by worker processes.

The global batch of step n is a function of (seed, n) alone: a rank takes its part of it, and neither the number of
ranks nor that of workers changes a picture, a crop or a caption. A resumed run asks for its next step; no state is
kept. Two ways lead there:

- A `Source` has rows. `SampleOrder` says which rows step n sees.
- A `Stream` can only be read in order. It is divided into lanes, see `hart.data.lanes`.

A damaged picture is replaced (by one drawn at random from a `Source`, by the next of its lane in a `Stream`) and
counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from hart.data.batches import BatchRecipe, ImageBatch
from hart.data.lanes import StreamSteps
from hart.data.order import SampleOrder, draw_generator
from hart.data.read_ahead import StepLoader, Steps, places_of
from hart.data.samples import Condition, Damage, Sample, require_mostly_sound
from hart.data.sources import Source, Stream, read_row
from hart.data.transforms import ImageTransform
from hart.errors import HartError

MIN_SEEN = 200
"""A stream does not say how many pictures it has: damage is judged against at least so many."""


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
    ) -> None:
        """batch_size: of all ranks together. rank, world: this process, and how many there are.

        workers: processes that read ahead; 0 reads when asked. max_damaged: share of damaged pictures above which
        `batch` gives up. shuffle_buffer: encoded pictures of a stream, over all lanes, among which the next is drawn.
        Raises `HartError` for numbers that do not fit each other or the set.
        """
        if condition not in {"none", "caption", "label"}:
            raise HartError(f"condition is {condition!r}: give none, caption or label")
        if seed < 0 or workers < 0 or not 0 <= max_damaged <= 1:
            raise HartError("seed and workers must be 0 or more, and max_damaged from 0 to 1")
        recipe = BatchRecipe(transform, condition, seed)
        places = places_of(rank, world, batch_size)
        steps: Steps
        if isinstance(source, Stream):
            steps = StreamSteps(source, recipe, batch_size, rank, world, workers, shuffle_buffer)
        else:
            steps = _RowSteps(source, recipe, batch_size, places)
        super().__init__(steps, places=places, workers=workers)
        self._source = source
        self._max_damaged = max_damaged
        self._damaged: dict[str, str] = {}
        self._seen = 0
        self._report(() if isinstance(source, Stream) else source.damaged)

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """Everything skipped so far by this process, each once."""
        return tuple(Damage(key, reason) for key, reason in self._damaged.items())

    def join(self, parts: Sequence[ImageBatch]) -> ImageBatch:
        """Raises `HartError` when more than `max_damaged` of the pictures (of a set with rows; of a stream, of those
        seen by this process) are damaged."""
        batch = ImageBatch.cat(parts)
        self._seen += len(batch)
        self._report(batch.damaged)
        return batch

    def _report(self, damaged: Iterable[Damage]) -> None:
        self._damaged.update((damage.key, damage.reason) for damage in damaged)
        if isinstance(self._source, Stream):
            total = max(self._seen, MIN_SEEN)
        else:
            total = len(self._source) + len(self._source.damaged)
        require_mostly_sound(self.damaged, total, self._max_damaged, self._source.description, "reading.max_damaged")


class _RowSteps:
    """The places of one rank in every step of a `Source`; a worker makes whole steps."""

    parts = 1

    def __init__(self, source: Source, recipe: BatchRecipe, batch_size: int, places: range) -> None:
        self._source = source
        self._recipe = recipe
        self._batch_size = batch_size
        self._places = places
        self._order = SampleOrder(source.weights, recipe.seed)

    def items(self, first: int, worker: int, workers: int) -> Iterator[ImageBatch]:
        for step in itertools.count(first + worker, workers):
            rows = self._order.batch(step, self._batch_size).tolist()
            yield self._recipe.batch(step, self._places, partial(self._candidates, rows, step))

    def _candidates(self, rows: Sequence[int], step: int, place: int) -> Iterator[Sample | Damage]:
        """The picture of a place, then others drawn at random in its stead."""
        yield read_row(self._source, rows[place])
        others = draw_generator(self._recipe.seed, "replacement", step, place)
        while True:
            yield read_row(self._source, self._order.anywhere(others.random()))

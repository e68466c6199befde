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

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hart.data.batch_parts import MAX_REPLACEMENTS, Part, Picture, PictureRecipe, hopeless, join
from hart.data.datasets import SampleOrder
from hart.data.draws import draw_generator
from hart.data.lanes import StreamSteps, lane_count, share_lanes
from hart.data.read_ahead import ReadAhead, require_sharing, within
from hart.data.samples import Condition, Damage, DamagedSample, require_mostly_sound
from hart.data.sources import Source, Stream
from hart.data.transforms import ImageTransform, to_signed
from hart.errors import HartError

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
        recipe = PictureRecipe(transform, condition, seed)
        self._condition = condition
        part = batch_size // world
        self.places = range(rank * part, (rank + 1) * part)
        dataset: _RowSteps | StreamSteps
        if isinstance(source, Stream):
            lanes = lane_count(len(source.units), batch_size)
            mine = share_lanes(lanes, world, workers)[rank]
            dataset = StreamSteps(source, recipe, mine, lanes, batch_size // lanes, shuffle_buffer // lanes)
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


class _RowSteps(Dataset[Any]):
    """The places of one rank in every step of a `Source`."""

    def __init__(self, source: Source, recipe: PictureRecipe, batch_size: int, places: range) -> None:
        self._source = source
        self._recipe = recipe
        self._batch_size = batch_size
        self._places = places
        self._order = SampleOrder(source.weights, recipe.seed)

    def __getitem__(self, step: int) -> Part | HartError:
        rows = self._order.batch(step, self._batch_size).tolist()
        damaged: list[Damage] = []
        try:
            pictures = [self._picture(rows[place], step, place, damaged) for place in self._places]
        except HartError as error:
            return error
        return join(pictures, damaged)

    def _picture(self, row: int, step: int, place: int, damaged: list[Damage]) -> Picture:
        others = draw_generator(self._recipe.seed, "replacement", step, place)
        for number in range(MAX_REPLACEMENTS):
            try:
                return self._recipe.picture(self._source.read(row), step, place, number)
            except DamagedSample as error:
                damaged.append(Damage(self._source.key(row), str(error)))
                row = self._order.anywhere(others.random())
        raise HartError(hopeless(damaged))

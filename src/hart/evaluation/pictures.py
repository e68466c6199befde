"""The pictures that a suite measures: a fixed part of any data set, in batches, damaged ones counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from hart.data.loader import MIN_SEEN
from hart.data.samples import Damage, DamagedSample, Sample, require_mostly_sound
from hart.data.sources import Source, Stream, read_row
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from hart.evaluation.metrics.features import FeatureExtractor, Features
from hart.evaluation.suites.base import Progress

MAX_DAMAGED = 0.05

T = TypeVar("T")


@dataclass(frozen=True)
class PictureBatch:
    """pixels: (B, 3, H, W) uint8, 0 to 255. samples: what is said about each."""

    pixels: Tensor
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.samples)


class Pictures:
    """Up to `limit` pictures of a set, always the same ones for the same arguments.

    Of a set with rows they are drawn at random by `seed`, since sets lie sorted on disks; of a stream they are the
    first ones.
    """

    def __init__(
        self, source: Source | Stream, transform: ImageTransform, *, limit: int | None = None, seed: int = 0
    ) -> None:
        """transform: without random draws. Raises `HartError` for a limit below 1."""
        if limit is not None and limit < 1:
            raise HartError(f"limit is {limit}: ask for at least 1 picture")
        self.description = source.description
        self.damaged: list[Damage] = []
        self._source = source
        self._transform = transform
        self._limit = limit
        self._seed = seed

    @property
    def total(self) -> int | None:
        """How many there are at most; None where a stream does not say."""
        if isinstance(self._source, Stream):
            return self._limit
        return len(self._source) if self._limit is None else min(self._limit, len(self._source))

    def batches(self, size: int) -> Iterator[PictureBatch]:
        """All pictures, `size` at a time. Raises `HartError` when none or too few of them can be read."""
        self.damaged = []
        pixels: list[Tensor] = []
        samples: list[Sample] = []
        count = 0
        for sample in self._samples():
            if isinstance(sample, Damage):
                self.damaged.append(sample)
                continue
            try:
                pixels.append(sample.pixels(self._transform))
            except DamagedSample as error:
                self.damaged.append(Damage(sample.key, str(error)))
                continue
            samples.append(sample)
            if len(samples) == size:
                yield PictureBatch(torch.stack(pixels), tuple(samples))
                count += size
                pixels, samples = [], []
        if samples:
            yield PictureBatch(torch.stack(pixels), tuple(samples))
            count += len(samples)
        # few pictures of a stream say little about its damage
        least = MIN_SEEN if isinstance(self._source, Stream) else 1
        total = max(count + len(self.damaged), least)
        require_mostly_sound(self.damaged, total, MAX_DAMAGED, self.description, option="")
        if not count:
            raise HartError(f"{self.description}: no picture could be read")

    def _samples(self) -> Iterator[Sample | Damage]:
        if isinstance(self._source, Stream):
            yield from self._first_of(self._source)
            return
        for row in self._rows(self._source):
            yield read_row(self._source, row)

    def _first_of(self, stream: Stream) -> Iterator[Sample | Damage]:
        left = self._limit
        for unit in range(len(stream.units)):
            for sample in stream.read_unit(unit):
                if left == 0:
                    return
                yield sample
                if left is not None:
                    left -= 1

    def _rows(self, source: Source) -> list[int]:
        """In the order of the set, whatever was drawn."""
        count = len(source)
        if self._limit is None or self._limit >= count:
            return list(range(count))
        generator = torch.Generator().manual_seed(self._seed)
        drawn: list[int] = torch.randperm(count, generator=generator)[: self._limit].tolist()
        return sorted(drawn)


def features_of_set(
    pictures: Pictures,
    extractor: FeatureExtractor,
    batch_size: int,
    keep: Callable[[Sample], T],
    progress: Progress,
) -> tuple[Features, list[T]]:
    """Features of a set, and of each picture what `keep` takes: the encoded pictures would fill the memory."""
    parts: list[Features] = []
    kept: list[T] = []
    for batch in pictures.batches(batch_size):
        progress(len(kept), pictures.total, "features of the set")
        parts.append(extractor(batch.pixels))
        kept += [keep(sample) for sample in batch.samples]
    return Features.cat(parts), kept

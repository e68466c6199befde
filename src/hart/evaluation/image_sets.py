"""The images that a suite measures: a fixed part of any data set, in batches, with damaged ones counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from hart.data.samples import Damage, DamagedSample, Sample, decoded, require_mostly_sound
from hart.data.sources import MIN_SEEN, Source, Stream, iterate, read_row
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from hart.evaluation.metrics.features import FeatureExtractor, Features
from hart.evaluation.metrics.figures import require_images
from hart.evaluation.suites.base import Progress
from hart.types import Rows

MAX_DAMAGED = 0.05

T = TypeVar("T")


@dataclass(eq=False)
class ImageSet:
    """Up to `limit` images of a set, at least 1, always the same ones for the same arguments.

    From a set with rows they are chosen at random by `seed`, since sets are often sorted; from a stream they are the
    first ones. transform: without random numbers.
    """

    source: Source | Stream
    transform: ImageTransform
    _: KW_ONLY
    limit: int | None = None
    seed: int = 0
    damaged: list[Damage] = field(default_factory=list, init=False)
    """Images that the last `batches` left out."""

    @property
    def total(self) -> int | None:
        """Return the maximum number of images; None if a stream does not say."""
        if isinstance(self.source, Stream):
            return self.limit
        return len(self.source) if self.limit is None else min(self.limit, len(self.source))

    def require(self, least: int) -> None:
        """Raise `HartError` for a set that is known to have too few images, or too many damaged ones, before any is
        read."""
        source = self.source
        if isinstance(source, Stream):
            return
        if self.total == len(source):
            total = len(source) + len(source.damaged)
            require_mostly_sound(source.damaged, total, MAX_DAMAGED, source.description)
        advice = "take --split all, or give a set of more"
        require_images(len(source), least, f"{source.description}: the suite", advice)

    def said(self) -> list[Sample] | None:
        """Return the notes on the images, without their bytes, leaving out damaged notes. None for a stream, which has
        them only with its images."""
        if isinstance(self.source, Stream):
            return None
        found = []
        for row in self._rows(self.source):
            with suppress(DamagedSample):  # `batches` counts them
                found.append(self.source.said(row))
        return found

    def batches(self, size: int) -> Iterator[tuple[Tensor, tuple[Sample, ...]]]:
        """Yield all images, `size` at a time: (B, 3, H, W) uint8, 0 to 255, and the notes on each.

        Raises `HartError` if none or too few of them can be read.
        """
        self.damaged.clear()
        sound = decoded(self._samples(), self.transform, self.damaged)
        count = 0
        while part := list(islice(sound, size)):
            samples, pixels = zip(*part, strict=True)
            yield torch.stack(pixels), samples
            count += len(part)
        # a few images of a stream say little about its damage
        least = MIN_SEEN if isinstance(self.source, Stream) else 0
        seen = count + len(self.damaged)
        require_mostly_sound(self.damaged, seen, MAX_DAMAGED, self.source.description, least=least)
        if not count:
            raise HartError(f"{self.source.description}: no image could be read")

    def _samples(self) -> Iterator[Sample | Damage]:
        source = self.source
        if isinstance(source, Stream):
            return islice(iterate(source), self.limit)
        rows = self._rows(source)
        return iterate(source) if len(rows) == len(source) else (read_row(source, row) for row in rows)

    def _rows(self, source: Source) -> Sequence[int]:
        """Return the rows of the images, in the order of the set."""
        if self.limit is None or self.limit >= len(source):
            return range(len(source))
        chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(self.seed))[: self.limit]
        return sorted(chosen.tolist())


def features_of_set(
    images: ImageSet, extractor: FeatureExtractor, batch_size: int, keep: Callable[[Sample], T], progress: Progress
) -> tuple[Features, list[T]]:
    """Return features of a set, and what `keep` takes of each image: all encoded images would fill the memory."""
    parts: list[Features] = []
    kept: list[T] = []
    for pixels, samples in images.batches(batch_size):
        progress(len(kept), images.total, "features of the set")
        parts.append(extractor(pixels))
        kept += map(keep, samples)
    return Rows.cat(parts), kept

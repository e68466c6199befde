"""How stored samples become a batch of pictures, damaged ones replaced and counted. B: pictures of a rank's batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hart.data.order import draw_generator
from hart.data.samples import Condition, Damage, DamagedSample, Sample
from hart.data.transforms import ImageTransform, to_signed
from hart.errors import HartError

MAX_REPLACEMENTS = 50
"""Damaged pictures in a row before a batch is given up."""


@dataclass(frozen=True)
class ImageBatch:
    """One rank's part of a step, or a part of that.

    images: (B, 3, H, W) uint8, 0 to 255. captions: one a picture, drawn evenly among its own; empty unless asked for.
    labels: (B,) int64; None unless asked for. keys: where the pictures are from.
    replaced: for each picture, how many damaged ones it stands in for; like all else a function of (seed, step).
    damaged: what was met, of the whole part.
    """

    images: Tensor
    captions: tuple[str, ...]
    labels: Tensor | None
    keys: tuple[str, ...]
    replaced: tuple[int, ...]
    damaged: tuple[Damage, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, rows: slice) -> ImageBatch:
        """Some of the pictures."""
        labels = None if self.labels is None else self.labels[rows]
        own = self.images[rows], self.captions[rows], labels, self.keys[rows], self.replaced[rows]
        return ImageBatch(*own, self.damaged)

    @staticmethod
    def cat(parts: Sequence[ImageBatch]) -> ImageBatch:
        """Parts of a step, one after the other."""
        columns = [[getattr(part, field.name) for part in parts] for field in fields(ImageBatch)]
        joined: list[object] = [
            column[0] if len(column) == 1 or column[0] is None
            else torch.cat(column) if isinstance(column[0], Tensor)
            else tuple(itertools.chain.from_iterable(column))
            for column in columns
        ]  # fmt: skip
        return ImageBatch(*joined)  # type: ignore[arg-type]

    def signed(self, device: torch.device | str = "cpu") -> Tensor:
        """(B, 3, H, W) float32 in [-1, 1] on `device`; sent there as uint8, a quarter of the bytes."""
        return to_signed(self.images.to(device))


@dataclass(frozen=True)
class BatchRecipe:
    """How stored samples become pictures of a batch; everything drawn comes from (seed, step, place)."""

    transform: ImageTransform
    condition: Condition
    seed: int

    def batch(self, step: int, places: range, candidates: Callable[[int], Iterator[Sample | Damage]]) -> ImageBatch:
        """For each place the first sound one of its candidates."""
        chosen: list[tuple[Tensor, str, int | None, str, int]] = []
        damaged: list[Damage] = []
        for place in places:
            for number, sample in enumerate(itertools.islice(candidates(place), MAX_REPLACEMENTS)):
                try:
                    chosen.append((*self._picture(sample, step, place), sample.key, number))
                    break
                except DamagedSample as error:
                    damaged.append(Damage(sample.key, str(error)))
            else:
                last = f"{damaged[-1].key}: {damaged[-1].reason}"
                raise HartError(f"{MAX_REPLACEMENTS} pictures in a row are damaged, the last is {last}; mend the set")
        pixels, captions, labels, keys, replaced = zip(*chosen, strict=True)
        captions = captions if self.condition == "caption" else ()
        numbers = torch.tensor(labels) if self.condition == "label" else None
        return ImageBatch(torch.stack(pixels), captions, numbers, keys, replaced, tuple(damaged))

    def _picture(self, sample: Sample | Damage, step: int, place: int) -> tuple[Tensor, str, int | None]:
        """Pixels, one of the captions, label. Raises `DamagedSample`."""
        if isinstance(sample, Damage):
            raise DamagedSample(sample.reason)
        draws = draw_generator(self.seed, "picture", step, place)
        sample.require(self.condition)
        caption = ""
        if self.condition == "caption":
            caption = sample.captions[int(draws.random() * len(sample.captions))]
        return sample.pixels(self.transform, draws), caption, sample.label

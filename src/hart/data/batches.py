"""How stored samples become a batch of pictures, damaged ones replaced and counted.

Shapes: B pictures of a rank's batch, H W image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

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
    damaged: those.
    """

    step: int
    images: Tensor
    captions: tuple[str, ...]
    labels: Tensor | None
    keys: tuple[str, ...]
    replaced: tuple[int, ...]
    damaged: tuple[Damage, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, rows: slice) -> ImageBatch:
        """Some of the pictures."""
        return replace(
            self,
            images=self.images[rows],
            captions=self.captions[rows],
            labels=None if self.labels is None else self.labels[rows],
            keys=self.keys[rows],
            replaced=self.replaced[rows],
        )

    @staticmethod
    def cat(parts: Sequence[ImageBatch]) -> ImageBatch:
        """Parts of a step, one after the other."""
        if len(parts) == 1:
            return parts[0]
        labels = [part.labels for part in parts if part.labels is not None]
        joined = {
            name: tuple(itertools.chain.from_iterable(getattr(part, name) for part in parts))
            for name in ("captions", "keys", "replaced", "damaged")
        }
        images = torch.cat([part.images for part in parts])
        return ImageBatch(parts[0].step, images, labels=torch.cat(labels) if labels else None, **joined)

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
        chosen: list[tuple[Sample, str, Tensor]] = []
        replaced, damaged = [], list[Damage]()
        for place in places:
            failed: list[Damage] = []
            for sample in itertools.islice(candidates(place), MAX_REPLACEMENTS):
                try:
                    if isinstance(sample, Damage):
                        raise DamagedSample(sample.reason)
                    chosen.append((sample, *self._picture(sample, step, place)))
                    break
                except DamagedSample as error:
                    failed.append(Damage(sample.key, str(error)))
            else:
                raise HartError(
                    f"{MAX_REPLACEMENTS} pictures in a row are damaged, the last is {failed[-1].key}: "
                    f"{failed[-1].reason}; mend the set"
                )
            replaced.append(len(failed))
            damaged += failed
        samples, captions, pixels = zip(*chosen, strict=True)
        return ImageBatch(
            step,
            torch.stack(pixels),
            captions if self.condition == "caption" else (),
            torch.tensor([sample.label for sample in samples]) if self.condition == "label" else None,
            tuple(sample.key for sample in samples),
            tuple(replaced),
            tuple(damaged),
        )

    def _picture(self, sample: Sample, step: int, place: int) -> tuple[str, Tensor]:
        """One of the captions, and pixels. Raises `DamagedSample`."""
        draws = draw_generator(self.seed, "picture", step, place)
        sample.require(self.condition)
        caption = ""
        if self.condition == "caption":
            caption = sample.captions[int(draws.random() * len(sample.captions))]
        return caption, sample.pixels(self.transform, draws)

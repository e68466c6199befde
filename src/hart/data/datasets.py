"""Captioned images in memory.

All images of a split are decoded once and kept: 3 * size**2 bytes each (0.2 GB for 18,000 at 64 px). Every later access
is instant, in any order, which suits up to a few 100,000 small images. Larger sets are read by `hart.data.loader`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hart.data.kinds import Condition
from hart.data.opening import open_source
from hart.data.samples import Damage, Sample, decoded, first_reasons
from hart.data.sources import Source, Stream, iterate
from hart.data.transforms import ImageTransform
from hart.devices import sent
from hart.errors import HartError


@dataclass(frozen=True)
class CaptionedImages:
    """Images with captions, by row.

    pixels: (N, 3, H, W) uint8, RGB, 0 to 255, on any device. texts: the captions of each image, possibly none.
    weights: (N,) float32, how often an image is sampled relative to others; 1 if the set does not say.
    records: the `.json` beside each image (concept, style and so on), else empty.
    keys: the location of each, for messages; empty if unknown. damaged: images that could not be read.
    labels: (N,) int64, the class of each, -1 for none; None if no image has one.
    """

    pixels: Tensor
    texts: tuple[tuple[str, ...], ...]
    weights: Tensor
    records: tuple[Mapping[str, Any], ...]
    damaged: tuple[Damage, ...] = ()
    labels: Tensor | None = None
    keys: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def key(self, row: int) -> str:
        """Return where a row is stored, for messages."""
        return self.keys[row] if self.keys else f"image {row}"

    def to(self, device: torch.device) -> CaptionedImages:
        """Return the same images with their pixels on `device`."""
        return replace(self, pixels=self.pixels.to(device))

    def images(self, rows: Tensor) -> Tensor:
        """Return (B, 3, H, W) uint8 for rows (B,) int64, where the pixels are."""
        return self.pixels[sent(rows, self.pixels.device)]

    def require_captions(self) -> None:
        """Raise `HartError` unless every image has a caption, which text-to-image training needs."""
        bare = [row for row, captions in enumerate(self.texts) if not captions]
        self._require_none(bare, "a caption", "add a .txt with the same name beside each")

    def require_labels(self) -> Tensor:
        """Return the class of each image, (N,) int64. Raises `HartError` unless every image has one."""
        labels = torch.full((len(self),), -1) if self.labels is None else self.labels
        bare = (labels < 0).nonzero().flatten().tolist()
        self._require_none(bare, "a class number", "give a folder per class, or records with a label")
        return labels

    def _require_none(self, bare: Sequence[int], what: str, advice: str) -> None:
        if bare:
            raise HartError(f"images without {what}: {len(bare)} of {len(self)} ({self.key(bare[0])}); {advice}")


def open_dataset(path: str | Path, split: str, size: int) -> CaptionedImages:
    """Read the images of one split, square and `size` pixels wide (see `hart.data.transforms.pil_to_pixels`).

    path, split: as for `hart.data.opening.open_source`, of any format.
    Unreadable files are skipped and listed as damaged. Raises `HartError` if nothing can be read.
    """
    return read_all(open_source(path, split), ImageTransform(size))


def read_all(source: Source | Stream, transform: ImageTransform, condition: Condition = "none") -> CaptionedImages:
    """Read every image of a set, in order. Raises like `open_dataset`.

    condition: an image without it counts as damaged.
    """
    room = sum(source.sizes) if isinstance(source, Stream) else len(source)
    found = gather(iterate(source), transform, condition, room)
    if not len(found):
        reasons = f"{len(found.damaged)} damaged ({first_reasons(found.damaged)})"
        # says how the set was read, which one stray image or caption may have decided
        raise HartError(f"{source.description}: no image could be read, {reasons}: fix the set, or name its kind")
    return found


def gather(
    samples: Iterable[Sample | Damage], transform: ImageTransform, condition: Condition, room: int
) -> CaptionedImages:
    """Decode the samples; damaged ones are listed. room: images for which memory is reserved at first."""
    pixels = torch.empty(max(room, 1), 3, transform.height, transform.width, dtype=torch.uint8)
    kept: list[Sample] = []
    damaged: list[Damage] = []
    for sample, image in decoded(samples, transform, damaged, condition):
        if len(kept) == len(pixels):
            pixels = torch.cat([pixels, torch.empty_like(pixels)])
        pixels[len(kept)] = image
        kept.append(replace(sample, image=b""))  # without the encoded file
    labels = torch.tensor([-1 if sample.label is None else sample.label for sample in kept], dtype=torch.int64)
    return CaptionedImages(
        pixels[: len(kept)],
        tuple(sample.captions for sample in kept),
        torch.tensor([sample.weight for sample in kept], dtype=torch.float32),
        tuple(sample.record for sample in kept),
        tuple(damaged),
        labels if bool((labels >= 0).any()) else None,
        tuple(sample.key for sample in kept),
    )

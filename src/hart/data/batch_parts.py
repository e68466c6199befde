"""Pictures of a batch: how a stored sample becomes one, and what a worker hands over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hart.data.draws import draw_generator
from hart.data.samples import Condition, Damage, Sample
from hart.data.transforms import ImageTransform

MAX_REPLACEMENTS = 50
"""Damaged pictures in a row before a batch is given up."""


@dataclass(frozen=True)
class Picture:
    pixels: Tensor
    caption: str
    label: int
    key: str
    replaced: int


@dataclass(frozen=True)
class Part:
    """What a worker hands over: pictures of consecutive places, and what it had to skip for them."""

    images: Tensor
    captions: tuple[str, ...]
    labels: tuple[int, ...]
    keys: tuple[str, ...]
    replaced: tuple[int, ...]
    damaged: tuple[Damage, ...]


@dataclass(frozen=True)
class PictureRecipe:
    """How a stored sample becomes a picture of a batch; everything drawn comes from (seed, step, place)."""

    transform: ImageTransform
    condition: Condition
    seed: int

    def picture(self, sample: Sample, step: int, place: int, replaced: int) -> Picture:
        """Raises `DamagedSample` when the image does not decode or its condition is missing."""
        draws = draw_generator(self.seed, "picture", step, place)
        sample.require(self.condition)
        caption, label = "", -1
        if self.condition == "caption":
            caption = sample.captions[int(draws.random() * len(sample.captions))]
        elif sample.label is not None:
            label = sample.label
        return Picture(sample.pixels(self.transform, draws), caption, label, sample.key, replaced)


def join(pictures: Sequence[Picture], damaged: Sequence[Damage]) -> Part:
    return Part(
        torch.stack([picture.pixels for picture in pictures]),
        tuple(picture.caption for picture in pictures),
        tuple(picture.label for picture in pictures),
        tuple(picture.key for picture in pictures),
        tuple(picture.replaced for picture in pictures),
        tuple(damaged),
    )


def hopeless(damaged: Sequence[Damage]) -> str:
    last = damaged[-1]
    return f"{MAX_REPLACEMENTS} pictures in a row are damaged, the last is {last.key}: {last.reason}; mend the set"

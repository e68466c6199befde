"""What a pipeline returns: images with what they were made from, previews, reconstructions.

Shapes: B images, H W pixels, D latent channels, h w latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hart.config import SamplingConfig
from hart.generation.arguments import Prompt


@dataclass(frozen=True)
class HartOutput:
    """Images in prompt-major order: all of the first prompt, then all of the second.

    images: in the requested `hart.generation.arguments.OutputType`, by default a list of PIL images.
    prompts: one per image; empty if features were given instead.
    seeds: one per image; drawn from the generators if those were given.
    sampling: the settings of each image.
    batch_size: images per batch; images with equal i // batch_size belong to one batch.
    """

    images: Any
    prompts: list[Prompt]
    seeds: list[int]
    sampling: list[SamplingConfig]
    batch_size: int

    def image(self, i: int) -> HartOutput:
        """Return image i by itself."""
        one = slice(i, i + 1)
        return HartOutput(self.images[one], self.prompts[one], self.seeds[one], self.sampling[one], 1)

    @staticmethod
    @torch.inference_mode(False)
    def cat(parts: Sequence[HartOutput], batch_size: int = 1) -> HartOutput:
        """Concatenate several outputs; without any, return an empty list of images."""
        images = [part.images for part in parts]
        if not images or isinstance(images[0], list):
            joined: Any = [image for part in images for image in part]
        else:
            joined = torch.cat(images) if isinstance(images[0], Tensor) else np.concatenate(images)
        return HartOutput(
            joined,
            [prompt for part in parts for prompt in part.prompts],
            [seed for part in parts for seed in part.seeds],
            [sampling for part in parts for sampling in part.sampling],
            batch_size,
        )


@dataclass(frozen=True)
class ScalePreview:
    """A batch after one of its scales, passed to `callback_on_scale`.

    k: 0-based scale; scales: how many there are.
    batch: 0-based batch; batches: how many there are.
    image_numbers: the images of the call that are in this batch.
    latent: (B, D, h, w), a copy of the running sum so far.
    """

    k: int
    scales: int
    batch: int
    batches: int
    image_numbers: range
    latent: Tensor
    _decode: Callable[[Tensor], Any]

    def images(self) -> list[Image.Image]:
        """Decode and return the images so far, at full size; a preview costs nothing unless this is called."""
        images: list[Image.Image] = self._decode(self.latent)
        return images


@dataclass(frozen=True)
class Reconstruction:
    """An image and its reconstructions by the tokenizer.

    original: cropped and resized to the model's size. discrete: from codes only. hybrid: from codes and exact residual
    tokens. The PSNRs are in dB against `original`; infinite if identical.
    """

    original: Image.Image
    discrete: Image.Image
    hybrid: Image.Image
    discrete_psnr: float
    hybrid_psnr: float


def psnr(image: Tensor, original: Tensor, peak: float = 1.0) -> Tensor:
    """Return the PSNR in dB (...) of images (..., 3, H, W) from 0 to `peak`; infinite if nothing is lost."""
    error = (image.float() - original.float()).square().mean(dim=(-3, -2, -1))
    return 10 * torch.log10(peak**2 / error)

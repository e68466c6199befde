"""What a pipeline hands out: pictures with what they were drawn from, previews, reconstructions.

Shapes: B pictures, D latent channels, n_K side of the latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from hart.config import SamplingConfig
from hart.generation.request import Prompt


@dataclass(frozen=True)
class HartOutput:
    """Pictures in prompt-major order: all of the first prompt, then all of the second.

    images, prompts, seeds: one entry a picture. sampling: the settings they were drawn with.
    batch_size: how many were drawn together; pictures i // batch_size belong to one batch.
    """

    images: list[Image.Image]
    prompts: list[Prompt]
    seeds: list[int]
    sampling: SamplingConfig
    batch_size: int


@dataclass(frozen=True)
class ScalePreview:
    """A batch after one of its scales, for `on_scale`.

    k: 0-based scale; scales: how many there are.
    batch: 0-based batch; batches: how many there are.
    pictures: which pictures of the call are in the batch.
    latent: (B, D, n_K, n_K), the running sum so far.
    """

    k: int
    scales: int
    batch: int
    batches: int
    pictures: range
    latent: Tensor
    _decode: Callable[[Tensor], Image.Image]

    def images(self) -> list[Image.Image]:
        """The pictures as they stand, at full size. Decoded at this call: who does not look does not pay."""
        return [self._decode(latent) for latent in self.latent]


@dataclass(frozen=True)
class Reconstruction:
    """An image as the tokenizer sees it, and how well it keeps it.

    original: cut and resized to the model's size. discrete: from the codes alone. hybrid: from codes and exact
    residual tokens. The PSNRs are in dB against `original`; infinite where nothing is lost.
    """

    original: Image.Image
    discrete: Image.Image
    hybrid: Image.Image
    discrete_psnr: float
    hybrid_psnr: float

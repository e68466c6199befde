"""What one image loses against another. Shapes: B batch, H W image."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

SSIM_WINDOW = 11
"""Pixels of its Gaussian window, of sigma 1.5."""


def ssim(image: Tensor, original: Tensor) -> Tensor:
    """Structural similarity (B,) of 8-bit images (B, 3, H, W) of at least `SSIM_WINDOW` pixels a side."""
    _, similarity = structural_similarity_index_measure(
        image.float(), original.float(), sigma=1.5, reduction="none", data_range=255.0, return_full_image=True
    )
    # over whole windows only, as published: torchmetrics' own mean includes windows of a mirrored border
    border = SSIM_WINDOW // 2
    return similarity[..., border:-border, border:-border].mean(dim=(1, 2, 3))

"""What one image loses against another. Shapes: B batch, H W image."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

IDENTICAL_PSNR = 100.0
"""dB that stand for an image of which nothing is lost; one value off by one in a 256 px image is 101 dB."""
SSIM_WINDOW = 11
"""Pixels of its Gaussian window, of sigma 1.5."""


def psnr(image: Tensor, original: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB (B,) of 8-bit images (B, 3, H, W); `IDENTICAL_PSNR` where nothing is lost."""
    ratios = peak_signal_noise_ratio(image.float(), original.float(), 255.0, reduction="none", dim=(1, 2, 3))
    return ratios.nan_to_num(posinf=IDENTICAL_PSNR)


def ssim(image: Tensor, original: Tensor) -> Tensor:
    """Structural similarity (B,) of 8-bit images (B, 3, H, W), of at least `SSIM_WINDOW` pixels a side."""
    _, similarity = structural_similarity_index_measure(
        image.float(), original.float(), sigma=1.5, reduction="none", data_range=255.0, return_full_image=True
    )
    # as published, of whole windows only: torchmetrics' own mean is also over windows of a mirrored border
    border = SSIM_WINDOW // 2
    return similarity[..., border:-border, border:-border].mean(dim=(1, 2, 3))

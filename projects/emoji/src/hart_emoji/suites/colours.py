"""Which of some renderings an image shares its colours with, wherever in the image they are: judge of styles and tones.

Pixel by pixel a misdrawn hand of the right colour is nearer to a paler one, because white stands where its fingers
should be; so the places of colours are left out. Each rendering is a distribution of colours, and an image goes to the
one under which its own pixels are likeliest (naive Bayes over pixels).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 16
"""Steps of each colour channel in a distribution."""
BLUR = 1.0
"""Standard deviation of the Gaussian that spreads a colour to its neighbours, in such steps."""
RARE = 1e-5
"""Added to each probability, so that a colour which no rendering has does not decide alone."""


def nearest_by_colours(image: Tensor, renderings: Tensor) -> int:
    """The number of the rendering, of `renderings` (N, 3, H, W), with the colours of `image` (3, H, W); both uint8.

    White is the ground and does not count.
    """
    bins = LEVELS**3
    seen = _bins(image)
    drawn = seen[seen != bins - 1]
    counts = torch.stack([torch.bincount(_bins(one), minlength=bins) for one in renderings])
    counts[:, -1] = 0
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)  # a rendering may be all white
    spread = _blurred(shares.view(-1, LEVELS, LEVELS, LEVELS))
    likelihood = (spread.flatten(1) + RARE).log()
    return int(likelihood[:, drawn].sum(dim=1).argmax())


def _bins(image: Tensor) -> Tensor:
    """Of each pixel of an image (3, H, W), the number of its colour."""
    red, green, blue = image.long().flatten(1) // (256 // LEVELS)
    return (red * LEVELS + green) * LEVELS + blue


def _blurred(volume: Tensor) -> Tensor:
    """(N, D, D, D), Gaussian along each channel."""
    reach = round(3 * BLUR)
    kernel = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * BLUR**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    for _ in range(3):  # the last axis becomes the first of the three
        rows = volume.reshape(-1, 1, LEVELS)
        volume = F.conv1d(rows, kernel, padding=reach).view_as(volume).movedim(-1, 1)
    return volume

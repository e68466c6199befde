"""Judges styles and tones: finds the rendering that shares an image's colours, wherever in the image they are.

Compared pixel by pixel, a misdrawn hand of the right colour is nearer to a paler one, because white stands where its
fingers should be; so the positions of colours are ignored. Each rendering is a distribution of colours, and an image is
assigned to the one under which its own pixels are likeliest (naive Bayes over pixels).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 16
"""Bins per colour channel in a distribution."""
BLUR = 1.0
"""Standard deviation, in bins, of the Gaussian that spreads a colour to its neighbours."""
RARE = 1e-5
"""Added to each probability, so that a colour which no rendering has does not decide on its own."""


def nearest_by_colours(image: Tensor, renderings: Tensor) -> int:
    """Return which of `renderings` (N, 3, H, W) has the colours of `image` (3, H, W); both are uint8.

    White is the background and does not count.
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
    """Return the colour bin of each pixel of an image (3, H, W)."""
    red, green, blue = image.long().flatten(1) // (256 // LEVELS)
    return (red * LEVELS + green) * LEVELS + blue


def _blurred(volume: Tensor) -> Tensor:
    """Blur (N, D, D, D) with a Gaussian along each channel."""
    reach = round(3 * BLUR)
    kernel = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * BLUR**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    for _ in range(3):  # the last axis becomes the first of the three
        rows = volume.reshape(-1, 1, LEVELS)
        volume = F.conv1d(rows, kernel, padding=reach).view_as(volume).movedim(-1, 1)
    return volume

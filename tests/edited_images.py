"""Images and masks of the size of the tiny models."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE = 8
"""Of the tiny models' images; a token of the last scale has two pixels."""
LEFT = (0, 0, SIDE // 2, SIDE)


def picture(width: int = SIDE, height: int = SIDE, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def mask_of(*box: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """White, which is redrawn, in a box; black elsewhere."""
    mask = Image.new("L", size)
    if box:
        mask.paste(255, box)
    return mask

"""Between image files and tensors. Pictures are never flipped here: emoji and flags carry text and direction."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def pil_to_pixels(image: Image.Image, size: int) -> Tensor:
    """Turn an image of any mode and shape into (3, size, size) uint8, 0 to 255, RGB.

    Follows the EXIF orientation, lays transparency on white, cuts the largest centred square and resizes it
    bicubically with antialiasing; an image that already fits is not resampled.
    """
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    image = image.convert("RGB")
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_signed(pixels: Tensor) -> Tensor:
    """uint8 pixels of any shape, 0 to 255 -> float32, -1 to 1: what the tokenizer takes."""
    return pixels.float().div_(127.5).sub_(1)


def unit_to_pil(image: Tensor) -> Image.Image:
    """(3, H, W) float, 0 to 1 (values outside are clipped) -> an RGB image."""
    pixels = image.detach().float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy(), "RGB")

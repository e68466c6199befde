"""Between image files and tensors. Nothing is flipped unless requested: flags and signs carry text and direction."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from pydantic import Field
from torch import Tensor

from hart.data.images import as_rgb
from hart.errors import HartError
from hart.strict import Config


class ImageTransform(Config):
    """Turns an image of any mode and shape into one of `size` pixels."""

    size: int | tuple[int, int]
    """Side of a square, or width and height."""
    fit: Literal["crop", "pad"] = "crop"
    """crop: fill that size and cut off the rest. pad: the whole image, on white."""
    crop: Literal["center", "random"] = "center"
    """Where a crop is cut."""
    shorter_side: Annotated[float, Field(ge=1)] = 1.0
    """How much larger an image is than its crop, on the side that limits it (VAR: 1.125, and random crops)."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of a mirror image, left to right."""

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1:
            raise HartError(f"ImageTransform.size must be at least 1, not {self.size}")
        if self.fit == "pad" and (self.crop, self.shorter_side) != ("center", 1.0):
            raise HartError("fit is pad, which cuts nothing: leave crop and shorter_side as they are")

    @property
    def width(self) -> int:
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def height(self) -> int:
        return self.size if isinstance(self.size, int) else self.size[1]

    @property
    def random(self) -> bool:
        """Return whether it needs random numbers."""
        return self.crop == "random" or self.flip > 0

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> Tensor:
        """Return (3, height, width) uint8, 0 to 255, RGB. `rng` is needed if the transform is random.

        Follows the EXIF orientation, lays transparency on white, resizes bicubically with antialiasing; an image
        that already fits is not resampled; see `hart.data.images.as_rgb`.
        """
        if self.random and rng is None:
            raise TypeError("a random transform needs a generator")
        # always three numbers, so that one option does not change those of another
        across, down, mirror = (0.0, 0.0, 1.0) if rng is None else rng.random(3)
        image = as_rgb(image)
        image = self._padded(image) if self.fit == "pad" else self._cropped(image, across, down)
        if mirror < self.flip:
            image = ImageOps.mirror(image)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def _cropped(self, image: Image.Image, across: float, down: float) -> Image.Image:
        """Crop and resize in one resampling: the window is in pixels of the source.

        across, down: in [0, 1), the position of a random window between left and right, top and bottom.
        """
        # the largest window of this shape; for a square, whole numbers stay exact
        limited = image.width * self.height <= image.height * self.width
        across_all = image.width if limited else image.height * self.width / self.height
        down_all = image.width * self.height / self.width if limited else image.height
        window = max(round(across_all / self.shorter_side), 1), max(round(down_all / self.shorter_side), 1)
        wide, high = image.width - window[0], image.height - window[1]
        left, top = (
            (wide // 2, high // 2) if self.crop == "center" else (int(across * (wide + 1)), int(down * (high + 1)))
        )
        box = (left, top, left + window[0], top + window[1])
        return image.resize((self.width, self.height), Image.Resampling.BICUBIC, box=box)

    def _padded(self, image: Image.Image) -> Image.Image:
        scale = min(self.width / image.width, self.height / image.height)
        width, height = (max(round(side * scale), 1) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        whole = Image.new("RGB", (self.width, self.height), "white")
        whole.paste(image, ((self.width - image.width) // 2, (self.height - image.height) // 2))
        return whole


def pil_to_pixels(image: Image.Image, size: int) -> Tensor:
    """Return the largest centred square of an image as (3, size, size) uint8; see `ImageTransform`."""
    return ImageTransform(size)(image)


def to_signed(pixels: Tensor) -> Tensor:
    """Convert uint8 pixels of any shape, 0 to 255, to float32, -1 to 1, as the tokenizer takes them."""
    return pixels.float().div_(127.5).sub_(1)


def slightly_moved(image: Tensor, uniform: Tensor) -> Tensor:
    """Turn each image of (B, 3, H, W) by up to 6 degrees, scale it by 0.85 to 1.1, shift it by up to 6% of its size.

    uniform: (4, B) random numbers in [0, 1), on the CPU. The border is repeated outside the image.
    """
    angle, scale, right, down = uniform
    angle, scale = (2 * angle - 1) * math.radians(6), 0.85 + 0.25 * scale
    right, down = 0.12 * (2 * right - 1), 0.12 * (2 * down - 1)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    ratio = image.shape[3] / image.shape[2]  # both sides of the grid are 2, whatever the image's
    rows = [torch.stack([cos, -sin / ratio, right], dim=1), torch.stack([sin * ratio, cos, down], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1).to(image), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(-1, 1)


def unit_to_pil(image: Tensor) -> Image.Image:
    """Convert (3, H, W) float, 0 to 1 (values outside are clipped), to an RGB image."""
    return pixels_to_pil(unit_to_pixels(image).cpu())


def unit_to_pixels(images: Tensor) -> Tensor:
    """Convert (..., 3, H, W) float, 0 to 1 (values outside are clipped), to (..., H, W, 3) uint8 on the same device."""
    return images.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).movedim(-3, -1).contiguous()


def pixels_to_pil(pixels: Tensor) -> Image.Image:
    """Convert (H, W, 3) uint8 on the CPU to an RGB image."""
    return Image.fromarray(pixels.numpy(), "RGB")

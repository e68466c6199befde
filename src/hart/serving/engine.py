"""The inputs of a server's model, and facts about it, without PyTorch: see `hart.serving.pipeline_engine`.

A row is one image of one request. Rows of an equal `group` may be sampled together, whoever asks for them; the result
depends on the row only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hart.config import SamplingConfig
from hart.errors import HartError
from hart.sizes import ImageSize

if TYPE_CHECKING:
    from PIL import Image

    from hart.generation.metadata import EditSource, ImageSettings


LARGEST = 2
"""Larger images, as multiples of the model's own number of pixels, become the nearest size."""


def largest(side: int, max_pixels: int | None) -> int:
    """Return the pixels of a model's largest image, if its own images have this side: `max_pixels` if given. Raises
    `HartError` if those are fewer than its own images have."""
    own = side**2
    most = LARGEST * own if max_pixels is None else max_pixels
    if most < own:
        raise HartError(f"--max-pixels {most}: the model's own images have {own}: give at least that")
    return most


@dataclass(frozen=True)
class Source:
    """The images that an edit or a variation starts from.

    image, style: upright, of any mode; the second lends its colours. mask: of the image's size, less than half opaque
    where it is redrawn; None for a variation, or with a source prompt. files: the uploaded files, as a record names
    them.
    """

    image: Image.Image
    mask: Image.Image | None
    style: Image.Image | None
    files: EditSource


@dataclass(frozen=True)
class Row:
    """One image, every value checked by `PipelineEngine.row`."""

    prompt: str
    seed: int
    size: ImageSize
    settings: ImageSettings
    """Everything else that determines it, as its record holds it."""
    scales: int
    """Number of scales; after each there is a preview."""
    tokens: int
    """Number of tokens over all scales."""
    edit: Any = None
    """The engine's form of the source."""


@dataclass(frozen=True)
class ModelFacts:
    """What a client may know about a model.

    sizes: that it was trained at, its own first. token_size: width of a token in pixels. styles: endings for prompts.
    classes: number for a class model, whose prompts are numbers, and which cannot edit.
    """

    sizes: tuple[ImageSize, ...]
    scales: int
    """Number of scales at its own size."""
    sampling: SamplingConfig
    token_size: int
    max_pixels: int
    """Pixels of the largest image."""
    styles: tuple[str, ...] = ()
    classes: int | None = None
    speed: str | None = None
    """The requested level, if any."""

    def nearest(self, width: float, height: float) -> ImageSize:
        """Return the size that is nearest in shape, then in area."""

        def distance(size: ImageSize) -> tuple[float, float]:
            shape, area = size.width / size.height, size.width * size.height
            return abs(math.log(shape * height / width)), abs(math.log(area / (width * height)))

        return min(self.sizes, key=distance)

"""What goes into a model of a server and what may be known of it, without PyTorch: see `hart.serving.pipeline_engine`.

A row is one image of one request. Rows of an equal `group` may be sampled together, whoever asks for them; what comes
out depends on the row alone.
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
"""Times the model's own number of pixels: larger images are made of the nearest size."""


def largest(side: int, max_pixels: int | None) -> int:
    """Pixels of the largest image of a model whose own have this side: `max_pixels` if it is given. Raises `HartError`
    where that is fewer than the own have."""
    own = side**2
    most = LARGEST * own if max_pixels is None else max_pixels
    if most < own:
        raise HartError(f"--max-pixels {most}: the model's own images have {own}: give at least that")
    return most


@dataclass(frozen=True)
class Source:
    """The images that an edit or a variation starts from.

    image, style: upright, of any mode; the colours of the second are taken. mask: of the image's size, less than half
    opaque where it is redrawn; None for a variation, or with a source prompt. files: that they came in, as a record
    says it.
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
    """All else that decides it, as its record holds it."""
    scales: int
    """After each there is a preview."""
    tokens: int
    """Over all scales."""
    edit: Any = None
    """What the engine made of the source."""


@dataclass(frozen=True)
class ModelFacts:
    """What a client may know of a model.

    sizes: that it was trained at, its own first. token_size: width of a token in pixels. styles: what prompts may end
    with. classes: of a class model, whose prompts are numbers, and which does not edit.
    """

    sizes: tuple[ImageSize, ...]
    scales: int
    """Of its own size."""
    sampling: SamplingConfig
    token_size: int
    max_pixels: int
    """Of the largest image."""
    styles: tuple[str, ...] = ()
    classes: int | None = None
    speed: str | None = None
    """The level that was asked for, if one was."""

    def nearest(self, width: float, height: float) -> ImageSize:
        """The size whose shape, then whose area, comes nearest."""

        def distance(size: ImageSize) -> tuple[float, float]:
            shape, area = size.width / size.height, size.width * size.height
            return abs(math.log(shape * height / width)), abs(math.log(area / (width * height)))

        return min(self.sizes, key=distance)

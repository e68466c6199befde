"""What the scheduler and the API ask of a model, so that tests can stand in one that needs no weights.

A row is one image of one request. Rows of an equal `group` may be sampled together, whoever asks for them; what comes
out depends on the row alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hart.config import SamplingConfig
from hart.errors import HartError

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
"""Width and height in pixels."""


class OutOfMemory(Exception):
    """The device has no memory for this many rows at once."""


class NotOffered(HartError):
    """The model cannot do this kind of work (yet)."""


@dataclass(frozen=True)
class Source:
    """The image that a row starts from.

    image: RGB. sha256: of the file that it came in. mask: mode L of the image's size, 255 where it is redrawn; None for
    a variation, or with a source prompt. source_prompt: what the image shows now, of an edit that changes what the
    prompt says otherwise. followed_scales: then the first scales that follow the image; None: most of them.
    kept_scales: how many scales are taken from the image; None: half in a variation without a style, else none. style:
    another RGB image. style_strength: how strongly what is generated has its colours, or those of the image; None: not
    at all without a style.
    """

    image: Image.Image
    sha256: str
    mask: Image.Image | None = None
    mask_sha256: str | None = None
    source_prompt: str | None = None
    followed_scales: int | None = None
    kept_scales: int | None = None
    style: Image.Image | None = None
    style_sha256: str | None = None
    style_strength: float | None = None


@dataclass(frozen=True)
class Mix:
    """A second prompt. switch: this many first scales are the first prompt's and the others the second's; None: half.
    weights: in its place, the second one's share at each scale."""

    prompt: str
    switch: int | None = None
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Row:
    """One image, every value checked by `Engine.row`."""

    prompt: str | int
    negative_prompt: str | None
    seed: int
    size: Size
    sampling: SamplingConfig
    scales: int
    """After each there is a preview."""
    tokens: int
    """Over all scales."""
    source: Source | None = None
    edit: Any = None
    """What the engine made of the source."""
    mix: Mix | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What a client may know of a model.

    sizes: that it was trained at, its own first. token_size: width of a token in pixels. styles: what prompts may end
    with. num_classes: of a class model, whose prompts are numbers. edits, variations: whether it offers them.
    """

    sizes: tuple[Size, ...]
    scales: int
    """Of its own size."""
    sampling: SamplingConfig
    token_size: int
    styles: tuple[str, ...] = ()
    num_classes: int | None = None
    edits: bool = False
    variations: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    speed: str | None = None
    """The level that was asked for."""

    def nearest(self, width: float, height: float) -> Size:
        """The size whose shape, then whose area, comes nearest."""

        def distance(size: Size) -> tuple[float, float]:
            shape, area = size[0] / size[1], size[0] * size[1]
            return abs(math.log(shape * height / width)), abs(math.log(area / (width * height)))

        return min(self.sizes, key=distance)


class Batch(Protocol):
    """Rows that are sampled together, named by their place in what `Engine.start` was given."""

    def advance(self) -> None:
        """Sample the next scale of all rows that are left."""
        ...

    def drop(self, places: Collection[int]) -> None:
        """Compute rows no further, from the next scale on. They must not be asked for again."""
        ...

    def images(self, places: Sequence[int]) -> list[Image.Image]:
        """RGB images of rows as they are now: previews, and after the last scale the results."""
        ...


class Engine(Protocol):
    """An opened model. `start` and what it returns are used by one thread, the rest by any."""

    @property
    def facts(self) -> ModelFacts: ...

    def nearest(self, width: int, height: int) -> Size:
        """This size if the model generates it, else the nearest of whole tokens. Where that is too large: its shape
        with about as many pixels as the model's own size. Where there is none: the nearest that it was trained at."""
        ...

    def misfit(self, width: int, height: int) -> str | None:
        """Why this size is not generated; None if it is."""
        ...

    def shaped(self, aspect: str) -> Size:
        """The size of a shape, "WIDTH:HEIGHT", about as large as the model's own, if it can be made or not."""
        ...

    def row(
        self,
        prompt: str,
        negative_prompt: str | None,
        seed: int,
        size: Size,
        settings: Mapping[str, Any],
        source: Source | None = None,
        mix: Mix | None = None,
    ) -> Row:
        """A row with the model's own settings but for those given. Raises `HartError` for what it cannot sample."""
        ...

    def remarks(self, prompt: str) -> list[str]:
        """What the author of a prompt should know: words that the model leaves out or does not know."""
        ...

    def group(self, row: Row) -> Hashable:
        """Equal for rows that may share a batch."""
        ...

    def start(self, rows: Sequence[Row]) -> Batch:
        """Begin a batch of rows of one group. This and all that a batch does may raise `OutOfMemory`."""
        ...

"""Image sizes and aspect ratios as callers write them, and the grids and schedules that follow from them.

In text the width comes first: `1024x576` pixels, `16:9`. A single number is a square. `hart.grids` has the rule by
which the schedule of any grid follows from a model's square one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from hart.config import HartConfig, TokenizerConfig
from hart.errors import HartError
from hart.grids import GROWTH, MAX_GRID_SIZE, MAX_SCALES, Grid, ScaleSchedule, grid_of_aspect, sizes_ending_at
from hart.presets import PUBLISHED_SCALES
from hart.strict import as_index, counted, shown


class ImageSize(NamedTuple):
    """Image size in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def stored(self) -> int | str:
        """Return the size for JSON: the side of a square as a number, other sizes as text."""
        return self.width if self.width == self.height else str(self)


class SizeOptions(TypedDict, total=False):
    """How callers specify a size, see `requested_schedule`."""

    size: int | str | None
    height: int | None
    width: int | None
    aspect: str | None


def parsed_size(text: str) -> ImageSize:
    """Parse `256` or `1024x576`. Raises `HartError`."""
    found = re.fullmatch(r"([0-9]{1,6})(?: ?[x\u00d7] ?([0-9]{1,6}))?", text.strip().lower())
    if found is None:
        raise HartError(f"size {shown(text)}: give pixels, such as 256 or 1024x576 (width x height)")
    width = int(found[1])
    return ImageSize(width, int(found[2] or width))


def requested_schedule(
    config: HartConfig, *, size: object = None, height: object = None, width: object = None, aspect: object = None
) -> ScaleSchedule:
    """Return the schedule of the images that a caller asks for, by default the model's own.

    size: side of a square in pixels, or text as `parsed_size` reads it. height, width: in pixels, in place of a size;
    if one is missing, it is the model's own. aspect: text such as `16:9`, with as many tokens as the square of this
    size. Raises `HartError` for a size that the model cannot make, naming the nearest ones.
    """
    own, downsampling = config.tokenizer.image_size, config.tokenizer.downsampling
    sides = {"width": width, "height": height}
    if size is not None and sides != {"width": None, "height": None}:
        raise HartError("give either size, or height and width")
    if size is None:
        wanted = ImageSize(*(own if side is None else _side(name, side) for name, side in sides.items()))
    else:
        wanted = parsed_size(size) if isinstance(size, str) else ImageSize(*[_side("size", size)] * 2)
    grid = grid_of_size(wanted, downsampling)
    if aspect is not None:
        if wanted.width != wanted.height:
            raise HartError(
                f"aspect {shown(aspect)} is the shape of images as large as a square: give one number as size"
            )
        grid = grid_of_aspect(str(aspect), grid.width)
    schedule = schedule_of_grid(config.tokenizer.scales, grid, config.transformer.most_scales)
    try:
        config.transformer.check_schedule(schedule)
    except HartError as error:
        raise HartError(f"size {size_of_grid(grid, downsampling)}: {error}") from None
    return schedule


def _side(name: str, value: object) -> int:
    number = as_index(value)
    if number is None:
        text = ', or text such as "1024x576" (width x height)' if name == "size" else ""
        raise HartError(f"{name} {shown(value)}: give a whole number of pixels{text}")
    return number


def trained_sizes(config: HartConfig) -> list[ImageSize]:
    """Return the sizes that a model was trained at."""
    return aspect_sizes(config.tokenizer, config.aspects)


def untrained_remark(size: ImageSize, trained: Sequence[ImageSize]) -> str | None:
    """Return what to expect at a size that a model was not trained at, and advice; None for a trained size."""
    if size in trained:
        return None
    return (
        f"the model was trained at {', '.join(map(str, trained))} px only: at {size} things come out stretched or "
        f"doubled, and far from that in pieces; for good images keep to a trained size, and resize before or after"
    )


def aspect_sizes(config: TokenizerConfig, aspects: Sequence[str]) -> list[ImageSize]:
    """Return sizes of these aspect ratios with as many tokens as the square; without any, the square.

    Raises `HartError` if one needs another number of scales: images of so few tokens cannot have that shape.
    """
    sizes = []
    for aspect in aspects or ("1:1",):
        grid = grid_of_aspect(aspect, config.scales[-1])
        if len(schedule_of_grid(config.scales, grid)) != len(config.scales):
            tokens = counted(config.scales[-1] ** 2, "token")
            raise HartError(f"aspect {aspect}: images of {tokens} are too small for it")
        sizes.append(size_of_grid(grid, config.downsampling))
    return sizes


def grid_of_size(size: ImageSize, downsampling: int) -> Grid:
    """Return the latent's grid. downsampling: pixels per position, along one side.

    Raises `HartError`, which names the nearest sizes, unless both sides are multiples of that, and at least two
    positions (a schedule has two scales).
    """
    grid = Grid(size.height // downsampling, size.width // downsampling)
    if size_of_grid(grid, downsampling) == size and min(grid) >= 2 and max(grid) <= MAX_GRID_SIZE:
        return grid
    nearest = ((side // downsampling, -(-side // downsampling)) for side in size)
    sides = [{min(max(side, 2), MAX_GRID_SIZE) for side in pair} for pair in nearest]
    near = [ImageSize(w * downsampling, h * downsampling) for w, h in itertools.product(*map(sorted, sides))]
    shown_near = list(map(str, near))
    if size.width == size.height:  # was given as one number
        shown_near = [str(each.width) for each in near if each.width == each.height]
    raise HartError(
        f"size {size.stored}: sides are multiples of {downsampling} px, from {2 * downsampling} to "
        f"{MAX_GRID_SIZE * downsampling}; near it: {', '.join(shown_near)}"
    )


def size_of_grid(grid: Grid, downsampling: int) -> ImageSize:
    return ImageSize(grid.width * downsampling, grid.height * downsampling)


def size_of_schedule(config: HartConfig, schedule: ScaleSchedule) -> ImageSize:
    """Return the image size that this schedule gives in a model."""
    return size_of_grid(schedule.final, config.tokenizer.downsampling)


def schedule_of_grid(scales: Sequence[int], grid: Grid, most: int = MAX_SCALES) -> ScaleSchedule:
    """Return the schedule of a latent of any shape, in a model with the square `scales`; see `ScaleSchedule.shaped`.

    A latent that is about as large as the model's own, and at least as long on one side, has the model's own number of
    scales. most: the most scales that the model takes, see `TransformerConfig.most_scales`.
    """
    size, own = grid.equal_square, scales[-1]
    near = max(size, own) ** 2 < GROWTH * min(size, own) ** 2  # less than half a step of the usual growth apart
    known = scales if near and max(grid) >= own else _ending_at(scales, size, most)
    return ScaleSchedule.shaped(known, grid)


def schedule_of_size(config: TokenizerConfig, size: tuple[int, int]) -> ScaleSchedule:
    """Return the schedule with which a tokenizer codes images of this width and height. Raises like `grid_of_size`."""
    return schedule_of_grid(config.scales, grid_of_size(ImageSize(*size), config.downsampling))


def scales_of_size(scales: Sequence[int], downsampling: int, size: int) -> tuple[int, ...]:
    """Return the square scales for images of `size` pixels in a model with `scales`. Raises `HartError`."""
    return _ending_at(scales, grid_of_size(ImageSize(size, size), downsampling).width, MAX_SCALES)


def _ending_at(scales: Sequence[int], last: int, most: int) -> tuple[int, ...]:
    """Published models use the published scales of 256, 512 and 1024 px; all others derive them from their own."""
    if tuple(scales) in PUBLISHED_SCALES.values() and len(published := PUBLISHED_SCALES.get(last, scales)) <= most:
        scales = published
    return sizes_ending_at(scales, last, most)

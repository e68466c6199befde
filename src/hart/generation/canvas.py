"""An image and a mask on the canvas of an edit: what is redrawn, and how images of other sizes are fitted.

Sizes: the whole image is scaled to fit the canvas and centred; what it does not cover is redrawn. Nothing is cropped,
and an image of the canvas's size is not resampled. If less than one token would be left over, the image is stretched
by that much instead.

Masks: if a mask has transparency, its transparent part is redrawn (as in OpenAI's API); any other mask is read as
grey, and its white part is redrawn. The threshold is one half for both.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops
from torch import Tensor

from hart.config import HartConfig
from hart.data.images import as_rgb, opacity, readable, upright
from hart.errors import HartError
from hart.grids import WIDEST, ScaleSchedule
from hart.sizes import ImageSize, requested_schedule, size_of_schedule
from hart.strict import shown


def require_image(name: str, image: object) -> Image.Image:
    """Return `image` if it is a PIL image that can be loaded whole. Raises `HartError`."""
    if not isinstance(image, Image.Image):
        how = "make one of it with PIL.Image.fromarray" if hasattr(image, "shape") else "open it with PIL.Image.open"
        raise HartError(f"{name} must be a PIL image, not {shown(image)}: {how}")
    if 0 in image.size:
        raise HartError(f"{name} has {ImageSize(*image.size)} pixels: give one with pixels")
    try:
        with readable():
            image.load()  # PIL reads the pixels only now
    except HartError as error:
        raise HartError(f"{name} {error}") from None
    return image


def canvas_schedule(config: HartConfig, image: Image.Image, **size: Any) -> ScaleSchedule:
    """Return the schedule of the requested canvas (see `hart.sizes.requested_schedule`), by default the image's own.

    That is the image's size if the model can make it and it has between half and twice as many pixels as the model's
    own size; otherwise the image's shape with as many tokens as the model's own. Raises `HartError` if no canvas has
    the image's shape.
    """
    if any(value is not None for value in size.values()):
        return requested_schedule(config, **size)
    width, height = ImageSize(*upright(image).size)
    own, most = config.tokenizer.image_size**2, 2 * config.tokenizer.image_size**2
    if config.transformer.position == "absolute":
        return config.transformer.schedule
    if own <= 2 * width * height and width * height <= most:
        with suppress(HartError):
            return requested_schedule(config, width=width, height=height)
    if max(width, height) > WIDEST * min(width, height):
        raise HartError(
            f"the image has {ImageSize(width, height)} pixels, and a canvas is at most {WIDEST} times as long as wide: "
            "give a size or aspect for the canvas, or crop the image"
        )
    return requested_schedule(config, aspect=f"{width}:{height}")


def redrawn_area(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Return a mode L image, 255 where a mask, which may be the image itself, says that `image` is redrawn.

    Raises `HartError` for a mask of another size.
    """
    visible = opacity(mask)
    if visible is None:
        visible = as_rgb(mask).convert("L").point(lambda value: 255 - value)
    if visible.size != (size := upright(image).size):
        raise HartError(
            f"the mask has {ImageSize(*visible.size)} pixels, the image {ImageSize(*size)}: make them equal"
        )
    return visible.point(lambda value: 255 if value < 128 else 0)


def stretched(image: Image.Image, config: HartConfig, schedule: ScaleSchedule) -> Tensor:
    """Return pixels (3, H, W) uint8 of an image stretched to fill the canvas: only its colours matter."""
    canvas = size_of_schedule(config, schedule)
    return torch.from_numpy(np.array(as_rgb(image).resize(canvas, Image.Resampling.BICUBIC))).permute(2, 0, 1)


def laid_out(
    image: Image.Image, redraw: Image.Image | None, config: HartConfig, schedule: ScaleSchedule
) -> tuple[Tensor, Tensor | None]:
    """Return the canvas's pixels (3, H, W) uint8 and its redrawn area (H, W) bool, None if everything is kept.

    redraw: from `redrawn_area`. Outside the image the canvas repeats the image's border, and redrawn transparent parts
    repeat the border of the rest: the soft border of an edit shows it.
    """
    step = config.tokenizer.downsampling
    canvas, rgb = size_of_schedule(config, schedule), as_rgb(image)
    scale = min(canvas.width / rgb.width, canvas.height / rgb.height)
    fitted = [max(1, round(side * scale)) for side in rgb.size]
    width, height = (whole if whole - side < step else side for side, whole in zip(fitted, canvas, strict=True))
    if redraw is not None and (alpha := opacity(image)) is not None:
        known = ImageChops.lighter(ImageChops.invert(redraw), alpha.point(lambda value: 255 if value >= 128 else 0))
        rgb.putalpha(known)  # so that resizing does not mix in colours of unknown pixels
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    if rgb.mode == "RGBA":
        rgb = _continued(rgb)
    left, top = (canvas.width - width) // 2, (canvas.height - height) // 2
    around = (top, canvas.height - height - top), (left, canvas.width - width - left)
    pixels = np.pad(np.asarray(rgb), (*around, (0, 0)), mode="edge")
    area = None
    if redraw is not None or any(map(any, around)):
        layer = np.zeros((height, width), np.uint8)
        if redraw is not None:
            layer = np.asarray(redraw.resize((width, height), Image.Resampling.NEAREST))
        area = torch.from_numpy(np.pad(layer, around, constant_values=255) > 0)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), area


def _continued(image: Image.Image) -> Image.Image:
    """Return an RGBA image as RGB; pixels less than half opaque take the nearest opaque colour in their row or column.

    Pixels without one there take theirs from those filled in this way. An image without opaque pixels stays as it is.
    """
    layers = np.array(image)
    pixels, known = layers[..., :3], layers[..., 3] >= 128
    for _ in range(2):
        found, distance = pixels.copy(), np.where(known, 0, max(image.size)).astype(np.int32)
        for turn in range(4):
            givers, colours, takers, away = (np.rot90(each, turn) for each in (known, pixels, found, distance))
            columns = np.arange(givers.shape[1], dtype=np.int32)
            last = np.maximum.accumulate(np.where(givers, columns, -1), axis=1)
            nearer = (last >= 0) & (columns - last < away)
            rows, places = nearer.nonzero()
            takers[nearer] = colours[rows, last[nearer]]
            away[nearer] = places.astype(np.int32) - last[nearer]
        pixels, known = found, distance < max(image.size)
    return Image.fromarray(pixels)

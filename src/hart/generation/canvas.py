"""An image and a mask on the canvas of an edit: what is redrawn, and how images of other sizes are fitted.

The one rule for sizes: an image is laid on the canvas whole, scaled to fit and centred; what it does not cover is
redrawn. Nothing is cut, and an image of the canvas's size is not resampled. Where less than one token would be left
over, the image is stretched by that much instead.

The one rule for masks: where a mask has transparency, what is transparent is redrawn (as in OpenAI's API); any other is
read as grey, and what is white is redrawn. Half is the limit of both.
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
    """`image`, if it is one of PIL whose file is whole and still open. Raises `HartError`."""
    if not isinstance(image, Image.Image):
        how = "make one of it with PIL.Image.fromarray" if hasattr(image, "shape") else "open it with PIL.Image.open"
        raise HartError(f"{name} must be a PIL image, not {shown(image)}: {how}")
    if 0 in image.size:
        raise HartError(f"{name} has {ImageSize(*image.size)} pixels: give one with pixels")
    try:
        with readable():
            image.load()  # which PIL does as late as it can
    except HartError as error:
        raise HartError(f"{name} {error}") from None
    return image


def canvas_schedule(config: HartConfig, image: Image.Image, **size: Any) -> ScaleSchedule:
    """The schedule of the canvas that a caller asks for (see `hart.sizes.requested_schedule`), by default the image's.

    That is the image's own size if the model makes it and it has at least half, at most twice as many pixels as the
    model's own; else its shape with as many tokens as the model's own. Raises `HartError` for an image whose shape no
    canvas has.
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
            "give a size or aspect for it to lie on, or cut it"
        )
    return requested_schedule(config, aspect=f"{width}:{height}")


def redrawn_area(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Mode L, 255 where a mask, which may be the image itself, says that `image` is redrawn.

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
    """Pixels (3, H, W) uint8 of an image that fills the canvas, whatever its shape: its colours count."""
    canvas = size_of_schedule(config, schedule)
    return torch.from_numpy(np.array(as_rgb(image).resize(canvas, Image.Resampling.BICUBIC))).permute(2, 0, 1)


def laid_out(
    image: Image.Image, redraw: Image.Image | None, config: HartConfig, schedule: ScaleSchedule
) -> tuple[Tensor, Tensor | None]:
    """Pixels (3, H, W) uint8 of the canvas, and where it is redrawn, (H, W) bool; None: no mask, and all is covered.

    redraw: as `redrawn_area` gives it. Outside the image the canvas repeats its border, and where transparent parts are
    redrawn that of the rest: the soft border of an edit shows it.
    """
    step = config.tokenizer.downsampling
    canvas, rgb = size_of_schedule(config, schedule), as_rgb(image)
    scale = min(canvas.width / rgb.width, canvas.height / rgb.height)
    fitted = [max(1, round(side * scale)) for side in rgb.size]
    width, height = (whole if whole - side < step else side for side, whole in zip(fitted, canvas, strict=True))
    if redraw is not None and (alpha := opacity(image)) is not None:
        known = ImageChops.lighter(ImageChops.invert(redraw), alpha.point(lambda value: 255 if value >= 128 else 0))
        rgb.putalpha(known)  # so that resizing mixes in no colours of what is not known
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
    """RGB of an RGBA image. A pixel less than half opaque takes the colour of the nearest other in its row or column.

    One that has none there takes it from those that have been given colours so. Nothing changes where there are none.
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

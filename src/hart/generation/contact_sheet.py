"""Several images in one: side by side, or a sheet with a labelled row for every prompt."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

from PIL import Image, ImageDraw, ImageFont, ImageOps

GAP = 4
LABEL_HEIGHT = 16
FONT_SIZE = 12
FONTS = ("DejaVuSans", "NotoSans-Regular", "Arial", "arial")
"""System fonts for labels beyond ASCII, for which Pillow's own font has few glyphs."""
SMALLEST_SHOWN = 128
"""Sheets enlarge smaller images to about this size, by a whole factor, so that images and labels are legible."""


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Return one row of images on white, as high as the highest."""
    width, height = sum(image.width + GAP for image in images), max(image.height for image in images)
    row = Image.new("RGB", (width + GAP, height + 2 * GAP), "white")
    left = GAP
    for image in images:
        row.paste(image, (left, GAP + (height - image.height) // 2))
        left += image.width + GAP
    return row


def contact_sheet(groups: Sequence[Sequence[Image.Image]], labels: Sequence[str]) -> Image.Image:
    """Return a sheet of groups of images, as square as possible; each group is a row under its label."""
    factor = max(1, SMALLEST_SHOWN // max(max(image.size) for group in groups for image in group))
    rows = [side_by_side([ImageOps.scale(image, factor) for image in group]) for group in groups]
    width, height = max(row.width for row in rows), LABEL_HEIGHT + max(row.height for row in rows)
    columns = _columns(len(rows), math.sqrt(len(rows) * height / width))
    sheet = Image.new("RGB", (columns * width, math.ceil(len(rows) / columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        left, top, font = i % columns * width, i // columns * height, _font(label.isascii())
        sheet.paste(row, (left, top + LABEL_HEIGHT))
        draw.text((left + GAP, top + GAP // 2), _fitting(label, font, width - 2 * GAP), "black", font)
    return sheet


def _columns(groups: int, square: float) -> int:
    """Return the number of columns for this many groups: the neighbour of `square` that leaves fewer places empty."""
    neighbours = {max(1, math.floor(square)), math.ceil(square)}
    return min(neighbours, key=lambda columns: (-groups % columns, abs(columns - square)))


@cache
def _font(is_ascii: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in () if is_ascii else FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, FONT_SIZE)
    return ImageFont.load_default(FONT_SIZE)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return the text on one line, shortened with an ellipsis to fit."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    # the longest prefix that fits, by bisection: measuring a text takes time in proportion to its length
    length = bisect_right(range(1, len(text) + 1), width, key=lambda n: math.ceil(font.getlength(text[:n] + "...")))
    return text[:length] + "..."

"""Puts images in rows on one sheet, for the figures of these pages."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image


def tiled(rows: Sequence[Sequence[Image.Image]], tile: int, ground: str) -> Image.Image:
    """Place square images in tiles of `tile` pixels, each with a 2-pixel border. All rows have equally many."""
    sheet = Image.new("RGB", (len(rows[0]) * tile, len(rows) * tile), ground)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image.resize((tile - 4, tile - 4), Image.Resampling.LANCZOS), (x * tile + 2, y * tile + 2))
    return sheet

"""Finished images and previews as PNG, JPEG or WebP that say how they were made.

A PNG is what `hart generate` writes: the same chunks, so that `--like` generates it again and the page restores its
settings. JPEG and WebP hold the XMP alone. The same row gives the same bytes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from hart.generation.metadata import ImageRecord

PREVIEW_LEVEL, LEVEL = 1, 4
"""Of PNG's compression: previews are looked at for a moment."""


def encoded(image: Image.Image, made_by: ImageRecord, form: str, quality: int, *, preview: bool = False) -> bytes:
    """form: png, jpeg or webp. quality: of the last two, 0 to 100."""
    from hart.generation.metadata import png_chunks, xmp

    file = io.BytesIO()
    if form == "png":
        image.save(file, "PNG", pnginfo=png_chunks(made_by), compress_level=PREVIEW_LEVEL if preview else LEVEL)
    else:
        image.save(file, form.upper(), quality=quality, xmp=xmp(made_by).encode())
    return file.getvalue()

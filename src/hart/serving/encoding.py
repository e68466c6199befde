"""Finished images and previews as PNG, JPEG or WebP that say how they were made.

A PNG is what `hart generate` writes: the same chunks, so that `--like` generates it again and the page restores its
settings. JPEG and WebP hold the XMP alone. The same row gives the same bytes.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from hart.serving.engine import ModelFacts, Row

if TYPE_CHECKING:
    from PIL import Image

    from hart.generation.metadata import ImageRecord

PREVIEW_LEVEL, LEVEL = 1, 4
"""Of PNG's compression: previews are looked at for a moment."""


def record(row: Row, facts: ModelFacts, model: str) -> ImageRecord:
    """What the settings of a row are, as `hart generate` stores them."""
    from hart import __version__
    from hart.generation.metadata import EditSource, ImageRecord, ImageSettings, MixSettings
    from hart.sizes import ImageSize

    edit, source = None, row.source
    if source is not None:
        edit = EditSource(
            image="image",
            image_sha256=source.sha256,
            mask=None if source.mask_sha256 is None else "mask",
            mask_sha256=source.mask_sha256,
            source_prompt=source.source_prompt,
            kept_scales=source.kept_scales or 0,
            followed_scales=source.followed_scales or 0,
            style=None if source.style_sha256 is None else "style",
            style_sha256=source.style_sha256,
            style_strength=source.style_strength or 0.0,
        )
    settings = ImageSettings(
        sampling=row.sampling,
        size=ImageSize(*row.size).stored,
        negative_prompt=row.negative_prompt,
        device=facts.device,
        dtype=facts.dtype,
        speed=facts.speed,
        edit=edit,
        mix=None if row.mix is None else MixSettings(row.mix.prompt, row.mix.weights or ()),
    )
    return ImageRecord(str(row.prompt), row.seed, model, settings, __version__)


def encoded(image: Image.Image, made_by: ImageRecord, form: str, quality: int, *, preview: bool = False) -> bytes:
    """form: png, jpeg or webp. quality: of the last two, 0 to 100."""
    from hart.generation.metadata import png_chunks, xmp

    file = io.BytesIO()
    if form == "png":
        image.save(file, "PNG", pnginfo=png_chunks(made_by), compress_level=PREVIEW_LEVEL if preview else LEVEL)
    else:
        image.save(file, form.upper(), quality=quality, xmp=xmp(made_by).encode())
    return file.getvalue()

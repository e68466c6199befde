"""Contact sheets of generated images, for `--grid`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hart.commands.console import slug, write_new
from hart.commands.options import ImageOptions
from hart.errors import HartError
from hart.sizes import ImageSize

if TYPE_CHECKING:
    from hart.generation.metadata import ImageRecord

GRID_PIXELS = 2**28
"""Largest contact sheet."""


def require_one_sheet(total: int, size: ImageSize) -> None:
    """Raise `HartError` if so many images are too many for a contact sheet."""
    from hart.generation.contact_sheet import SMALLEST_SHOWN

    if total * max(*size, SMALLEST_SHOWN) ** 2 > GRID_PIXELS:
        raise HartError(f"--grid: {total} images of {size} px are too many for one sheet")


def write_grid(images: Sequence[tuple[ImageRecord, Any]], options: ImageOptions) -> Path:
    """A contact sheet of all images of a command, a group for every prompt, in the folder of the options."""
    from hart.generation.contact_sheet import contact_sheet
    from hart.generation.metadata import write_sheet
    from hart.text_encoder.emoji import named_emoji

    records, drawn = zip(*images, strict=True)
    labels = [named_emoji(record.prompt) for record in records[:: options.each]]
    sheet = contact_sheet([drawn[i : i + options.each] for i in range(0, len(drawn), options.each)], labels)
    name = f"grid-{slug(labels[0])}-{records[0].seed}"
    paths = (options.place / f"{name}{f'-{number}' if number > 1 else ''}.png" for number in itertools.count(1))
    write = partial(write_sheet, sheet=sheet, records=records, credentials=options.credentials())
    return write_new(paths, write)

"""Contact sheets of generated images, for `--grid`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hart.commands.console import slug, write_new
from hart.errors import HartError
from hart.sizes import ImageSize

GRID_PIXELS = 2**28
"""Largest contact sheet."""


def require_one_sheet(total: int, size: ImageSize) -> None:
    """Raise `HartError` if so many images are too many for a contact sheet."""
    from hart.generation.contact_sheet import SMALLEST_SHOWN

    if total * max(*size, SMALLEST_SHOWN) ** 2 > GRID_PIXELS:
        raise HartError(f"--grid: {total} images of {size} px are too many for one sheet")


def write_sheet(folder: Path, images: Sequence[tuple[str, int, Any]], each: int) -> Path:
    """A contact sheet of images with their prompts and seeds, a group for every prompt, which has `each`."""
    from hart.generation.contact_sheet import contact_sheet
    from hart.generation.metadata import save_png

    prompts, seeds, sampled = zip(*images, strict=True)
    sheet = contact_sheet([sampled[i : i + each] for i in range(0, len(sampled), each)], prompts[::each])
    name = f"grid-{slug(prompts[0])}-{seeds[0]}"
    others = (folder / f"{name}-{number}.png" for number in itertools.count(2))
    return write_new(itertools.chain([folder / f"{name}.png"], others), partial(save_png, image=sheet, overwrite=False))

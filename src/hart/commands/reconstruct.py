"""`hart reconstruct`: images through a model's tokenizer and back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hart.commands.console import NumberedFiles, print_path, progress, require_output, slug
from hart.commands.from_config import options_from_config
from hart.commands.generate import note_speed
from hart.commands.options import ModelOptions


@options_from_config
def reconstruct(
    options: ModelOptions,
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
) -> None:
    """Encode and decode images with a model's tokenizer: input, discrete and hybrid side by side, with PSNR in dB."""
    from hart.data.images import open_image
    from hart.generation.metadata import save_png

    require_output(options.out)
    for path in images:
        open_image(path)
    from hart.generation.contact_sheet import side_by_side
    from hart.pipeline import HartPipeline

    name = options.source
    files = NumberedFiles(options.out, len(images))
    with progress(f"loading {name}") as report:
        pipe = HartPipeline.from_pretrained(name, device=options.device, dtype=options.dtype)
        note_speed(pipe)
        for i, path in enumerate(images):
            report(i, len(images), f"reconstructing {path.name}")
            result = pipe.reconstruct(open_image(path))
            row = side_by_side([result.original, result.discrete, result.hybrid])
            file = files.write(f"{slug(path.stem)}-reconstruction", partial(save_png, image=row, overwrite=False))
            print_path(file, f"  discrete {result.discrete_psnr:.2f} dB  hybrid {result.hybrid_psnr:.2f} dB")

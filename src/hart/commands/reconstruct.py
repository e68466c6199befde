"""`hart reconstruct`: images through a tokenizer and back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hart.commands.console import NumberedFiles, note, print_path, progress, slug
from hart.commands.from_config import options_from_config
from hart.commands.options import ModelOptions


@options_from_config
def reconstruct(
    options: ModelOptions,
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
) -> None:
    """Encode and decode images with a model's tokenizer or one alone: input, discrete and hybrid side by side, with
    PSNR in dB."""
    from hart.data.images import open_image
    from hart.generation.metadata import save_png

    files = NumberedFiles(options.place, len(images))
    for path in images:
        open_image(path)
    from hart.checkpoint.loading import load_tokenizer
    from hart.devices import resolve_device, resolve_dtype, slow_remarks
    from hart.generation.contact_sheet import side_by_side
    from hart.inference.components import Coder, prepared_tokenizer
    from hart.inference.speed import EXACT

    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    for remark in slow_remarks(dtype, device):
        note(remark)
    with progress(f"loading {options.source}") as report:
        tokenizer = prepared_tokenizer(load_tokenizer(options.source), device, dtype, EXACT)
        coder = Coder(tokenizer.requires_grad_(False), device, dtype)
        for i, path in enumerate(images):
            report(i, len(images), f"reconstructing {path.name}")
            result = coder.reconstruct(open_image(path))
            row = side_by_side([result.original, result.discrete, result.hybrid])
            file = files.write(f"{slug(path.stem)}-reconstruction", partial(save_png, image=row, overwrite=False))
            print_path(file, f"  discrete {result.discrete_psnr:.2f} dB  hybrid {result.hybrid_psnr:.2f} dB")

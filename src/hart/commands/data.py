"""`hart data`: precompute what training reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from hart.commands.console import needs_extra, note, owned, progress, writable_folder
from hart.commands.from_config import options_from_config
from hart.commands.locks import LOCK_FILE
from hart.commands.program import lazy_group
from hart.errors import HartError
from hart.evaluation.suites.base import ImageSetOptions
from hart.training.encode_options import EncodeOptions

app = lazy_group({}, add_completion=False)


class ReadOptions(ImageSetOptions, kw_only=True):
    """What is encoded, and where."""

    data: Annotated[str, Field(json_schema_extra={"metavar": "DATA", "positional": True})]
    split: str = "train"
    """Split to read: train, val, any other that the set has, or all of an undivided set."""
    device: str | None = None
    """cpu, cuda, cuda:1 or mps; by default CUDA if there is one, else the CPU."""
    image_column: str = ""
    """Field that holds the image, if its name is unusual."""
    caption_column: str = ""
    """Field that holds the captions, if its name is unusual."""
    label_column: str = ""
    """Field that holds the class, if its name is unusual."""


@app.callback()
def data() -> None:
    """Encode data sets."""


@app.command()
@options_from_config
def encode(
    images: ReadOptions,
    directory: Annotated[
        Path, typer.Argument(help="Folder to write; the same command resumes a run that was stopped.")
    ],
    options: EncodeOptions,
    tokenizer: Annotated[
        str, typer.Option(help="Trained tokenizer, or any model: folder, shipped model or Hugging Face id.")
    ],
    text_encoder: Annotated[
        str | None,
        typer.Option(
            help="Text encoder, or any model: folder, shipped model, or Hugging Face id of a Qwen2. Without it, class "
            "labels are stored."
        ),
    ] = None,
    text_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens per caption of a Qwen2; other text encoders have their own number.")
    ] = 300,
    text_instruction: Annotated[
        bool, typer.Option("--text-instruction", help="Put the enhancement instruction before every caption.")
    ] = False,
    scales: Annotated[
        str, typer.Option(metavar="1,2,...", help="Grid sizes of the scales; by default the tokenizer's own.")
    ] = "",
    size: Annotated[
        int | None,
        typer.Option(help="Image size in pixels, from which the scales follow; in place of --scales."),
    ] = None,
    aspect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="W:H",
            help="Shape of the images, such as 16:9; repeat it to give several: an image goes to the nearest one.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Precompute codes, residuals and text features of a data set, so that training the transformer runs no encoder."""
    with needs_extra("train"):
        from hart.checkpoint.starting import load_tokenizer, over_scales
    import torch

    from hart.data.transforms import ImageTransform
    from hart.devices import resolve_device
    from hart.sizes import parsed_scales, scales_of_size
    from hart.text_encoder import find_text_encoder, load_text_encoder
    from hart.training.encoding import Encoders, encode_dataset

    writable_folder(directory)
    where = resolve_device(images.device)
    codes = load_tokenizer(tokenizer)
    if scales and size is not None:
        raise HartError("--scales and --size both set the scales: give one of them")
    if scales:
        codes = over_scales(codes, parsed_scales(scales))
    elif size is not None:
        codes = over_scales(codes, scales_of_size(codes.config.scales, codes.config.downsampling, size))
    codes = codes.requires_grad_(False).to(where)
    text_model = None
    if text_encoder is not None:
        config, folder = find_text_encoder(text_encoder, tokens=text_tokens, instruction=text_instruction)
        text_model = load_text_encoder(config, folder).to(where, torch.float32)
    transform = ImageTransform(codes.config.image_size, fit=images.fit)
    opened = images.source(images.caption_column, images.label_column)
    note(opened.description)
    if text_model is None:
        note("without --text-encoder the encoded set has class labels only, no captions")
    # other processes may write other parts of the same set
    lock = re.sub(r"\W", "_", f"{images.split} {options.part}")
    with owned(directory, f"encoding of part {options.part}", f"{LOCK_FILE}-{lock}"), progress("encoding") as report:
        summary = encode_dataset(
            opened,
            transform,
            Encoders(codes, text_model, where),
            directory,
            images.split,
            options,
            progress=report,
            aspects=aspect or (),
        )
    if summary.cut:
        note(f"{summary.cut} of {summary.captions} captions are longer than the text encoder reads, and were cut")
    what = "" if summary.finished else " so far; other parts are not written yet"
    typer.echo(f"{directory}: {summary.images} images, {summary.captions} captions, {summary.damaged} damaged{what}")

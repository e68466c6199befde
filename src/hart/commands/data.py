"""`hart data`: precompute what training reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from hart.commands.console import needs_extra, note, owned, progress, says_when_stopped
from hart.commands.from_config import options_from_config
from hart.commands.locks import LOCK_FILE
from hart.commands.program import lazy_group
from hart.config import Aspect, Device, TextConditioning
from hart.evaluation.suites.base import Column, ImageSetOptions
from hart.files import require_writable
from hart.strict import Listed, counted, require
from hart.training.encode_options import EncodeOptions

app = lazy_group({}, add_completion=False)


class SetOptions(ImageSetOptions, kw_only=True):
    """What to encode, by which networks, and where."""

    data: Annotated[str, Field(json_schema_extra={"metavar": "DATA", "positional": True})]
    """Folder, file, pattern or URLs of shards, or hf:OWNER/NAME."""
    split: str = "train"
    """Split to read: train, val, any other that the set has, or all of an undivided set."""
    tokenizer: str
    """Trained tokenizer, or any model: folder, shipped model or Hugging Face id."""
    text_encoder: str | None = None
    """Text encoder, or any model: folder, shipped model, or Hugging Face id of a Qwen2. Without it, class labels are
    stored."""
    text_tokens: Annotated[int | None, Field(ge=1)] = None
    """Tokens per caption of a Qwen2, by default 300; other text encoders have their own number."""
    text_instruction: bool = False
    """Put the enhancement instruction before every caption."""
    scales: Listed[int] = ()
    """Grid sizes of the scales; by default the tokenizer's own."""
    size: int | None = None
    """Image size in pixels, from which the scales follow; in place of --scales."""
    aspect: Annotated[Listed[Aspect], Field(json_schema_extra={"metavar": "W:H"})] = ()
    """Shape of the images, such as 16:9; repeat it for several: an image goes to the nearest one."""
    device: Device = None
    caption_column: Column = ""
    label_column: Column = ""

    def __post_init__(self) -> None:
        require(not self.scales or self.size is None, "--scales and --size both set the scales: give one of them")
        of_captions = self.text_tokens is not None or self.text_instruction
        require(
            self.text_encoder is not None or not of_captions,
            "--text-tokens and --text-instruction are for captions: give --text-encoder too",
        )


@app.callback()
def data() -> None:
    """Encode data sets."""


@app.command()
@options_from_config
def encode(
    images: SetOptions,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to write; the same command resumes a run that was stopped.")
    ],
    options: EncodeOptions,
) -> None:
    """Precompute codes, residuals and text features of a data set, so that training the transformer runs no encoder."""
    with needs_extra("train"):
        from hart.checkpoint.loading import load_tokenizer, over_scales
    import torch

    from hart.data.transforms import ImageTransform
    from hart.devices import resolve_device
    from hart.sizes import scales_of_size
    from hart.text_encoder import load_text_encoder, require_text_encoder
    from hart.training.encoding import Encoders, encode_dataset, require_set_folder

    require_writable(directory)
    require_set_folder(directory)
    where = resolve_device(images.device)
    tokenizer = load_tokenizer(images.tokenizer)
    if images.scales:
        tokenizer = over_scales(tokenizer, images.scales)
    elif images.size is not None:
        own = tokenizer.config
        tokenizer = over_scales(tokenizer, scales_of_size(own.scales, own.downsampling, images.size))
    tokenizer = tokenizer.requires_grad_(False).to(where)
    found = None
    if images.text_encoder is not None:
        tokens = images.text_tokens or TextConditioning.tokens
        found = require_text_encoder(images.text_encoder, tokens=tokens, instruction=images.text_instruction)
    transform = ImageTransform(tokenizer.config.image_size, fit=images.fit)
    opened = images.source(images.caption_column, images.label_column, out=directory)
    note(opened.description)
    text_encoder = None if found is None else load_text_encoder(*found).to(where, torch.float32)
    if text_encoder is None:
        note("without --text-encoder the encoded set has class labels only, no captions")
    # other processes may write other parts of the same set
    lock = re.sub(r"\W", "_", f"{images.split} {options.part}")
    with (
        owned(directory, f"encoding of part {options.part}", f"{LOCK_FILE}-{lock}"),
        says_when_stopped(lambda: f"stopped: {directory} has the shards so far; the same command continues"),
        progress("encoding") as report,
    ):
        summary = encode_dataset(
            opened,
            transform,
            Encoders(tokenizer, text_encoder, where),
            directory,
            images.split,
            options,
            progress=report,
            aspects=images.aspect,
            note=note,
        )
    if summary.cut:
        note(f"captions longer than the text encoder reads, which were cut: {summary.cut} of {summary.captions}")
    what = "" if summary.finished else " so far; other parts are not written yet"
    made = f"{counted(summary.images, 'image')}, {counted(summary.captions, 'caption')}, {summary.damaged} damaged"
    typer.echo(f"{directory}: {made}{what}")

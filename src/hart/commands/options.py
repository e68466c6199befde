"""Options that several commands share, with one wording."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from hart.data.kinds import Kind

DATA_METAVAR = "DATA"
DATA_HELP = "Folder, file, pattern or URLs of shards, or hf:OWNER/NAME."

SplitOption = Annotated[
    str, typer.Option(help="Part of the set: train, val, another that it has, or all of a set that is not divided.")
]
KindOption = Annotated[Kind | None, typer.Option(help="Format of the set; told from DATA by default.")]
ImageColumn = Annotated[str, typer.Option(help="Field with the image, where it has an unusual name.")]
CaptionColumn = Annotated[str, typer.Option(help="Field with the captions, where it has an unusual name.")]
FitOption = Annotated[
    Literal["crop", "pad"], typer.Option(help="crop: the largest centred square. pad: all of it, on white.")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; by default CUDA where there is one.", show_default=False)
]

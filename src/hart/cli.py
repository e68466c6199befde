"""The command `hart` and its sub-commands. Exit code 1: `hart verify` found a difference; for other exit codes see
`hart.commands.program`."""

from __future__ import annotations

from typing import Annotated

import typer

from hart import __version__
from hart.commands.program import new_program, run_program

app = new_program(
    {
        "generate": ("hart.commands.generate:generate", "Generate images from prompts."),
        "edit": ("hart.commands.edit:edit", "Redraw a part of an image, or what a new description changes."),
        "vary": ("hart.commands.edit:vary", "Generate images that share an image's coarse scales."),
        "mix": ("hart.commands.edit:mix", "Generate images of two prompts: one's form, the other's look."),
        "reconstruct": ("hart.commands.models:reconstruct", "Encode and decode images with a model's tokenizer."),
        "info": ("hart.commands.models:info", "Show a model's scales, parameters and cost per image."),
        "convert": ("hart.commands.models:convert", "Write a model, with adapters merged, in hart's own layout."),
        "verify": ("hart.commands.models:verify", "Compare a model with recorded numbers of the reference."),
        "serve": ("hart.commands.serve:serve", "Serve a page and OpenAI's Images API."),
        "benchmark": ("hart.commands.benchmark:benchmark", "Time a model on this machine, part by part."),
        "train": ("hart.commands.train:train", "Train a model from a recipe."),
        "data": ("hart.commands.data:app", "Encode data sets."),
        "evaluate": ("hart.commands.evaluate:app", "Measure a model: figures, a table and image grids."),
    }
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hart {__version__}")
        raise typer.Exit


@app.callback()
def hart(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """HART: text to image with a hybrid autoregressive transformer."""


def main() -> None:
    """Entry point of the console script."""
    run_program(app, "hart")

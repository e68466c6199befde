"""The command `hart-emoji`: how the emoji model is made, step by step. Errors and exit codes are those of `hart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hart.cli import HartGroup
from hart.commands.console import owned, progress, writable_folder
from hart.errors import HartError
from hart.streams import outlive_readers
from hart_emoji.suites import commands

LOG_EVERY = 25
"""Steps between lines of the distillation."""

app = typer.Typer(cls=HartGroup, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def emoji() -> None:
    """Make the emoji model of hart: data, text encoder, evaluation. `hart train` trains the rest."""


@app.command()
def data(
    directory: Annotated[Path, typer.Argument(help="Folder to write.")],
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 128,
    cache: Annotated[
        Path | None, typer.Option(help="Where the npm packages lie or go; the user's cache folder by default.")
    ] = None,
    held_out_only: Annotated[
        bool, typer.Option("--held-out-only", help="Only the held-out images, for evaluation at another size.")
    ] = False,
) -> None:
    """Draw the open emoji sets with captions, as WebDataset shards; needs npm."""
    from hart_emoji.data import build_emoji

    writable_folder(directory)
    with progress("emoji") as report:
        summary = build_emoji(directory, size=size, cache=cache, progress=report, held_out_only=held_out_only)
    reused = " (was complete already)" if summary.reused else ""
    typer.echo(
        f"{summary.directory}: {summary.train} images to train on, {summary.val} held out, "
        f"{summary.concepts} concepts, {summary.skipped} icons skipped{reused}"
    )


@app.command()
def scenes(
    directory: Annotated[Path, typer.Argument(help="Folder to write; a stopped run goes on.")],
    count: Annotated[int, typer.Option(help="Images, a multiple of 1024; a larger count makes a set longer.")],
    model: Annotated[str, typer.Option(help="Whose tokenizer and text encoder encode.")] = "emoji",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
    part: Annotated[str, typer.Option(metavar="I/N", help="Write every N-th shard, as one of N processes.")] = "1/1",
) -> None:
    """Compose images of several emoji, in other colours, on grounds, and encode them for training."""
    from hart_emoji.data.bank import write_bank

    writable_folder(directory)
    with progress("scenes") as report:
        summary = write_bank(directory, count, model=model, seed=seed, part=part, progress=report)
    typer.echo(
        f"{directory}: {summary.pictures} images, {summary.captions} captions, {summary.damaged} could not be drawn"
    )


@app.command()
def text_encoder(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Sizes, teacher and settings.")],
    out: Annotated[Path, typer.Option(help="Folder for what is kept on the way and the finished encoder.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe, such as steps=10.")
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on with another recipe, teacher or words than before.")
    ] = False,
) -> None:
    """Distil the text encoder from a sentence encoder. Ctrl-C keeps it; run it again to go on."""
    from hart_emoji.text.distillation import distill_text_encoder
    from hart_emoji.text.recipe import TextDistillationRecipe

    read = TextDistillationRecipe.read(recipe, tuple(overrides or ()))

    def on_step(step: int, figures: dict[str, float]) -> None:
        if step % LOG_EVERY == 0 or step == read.steps:
            typer.echo("  ".join([f"step {step}", *(f"{name} {value:.4g}" for name, value in figures.items())]))

    writable_folder(out)
    with owned(out, "training"):
        distill_text_encoder(read, out, on_step, accept_changes=accept_changes)
    typer.echo(out)


app.command()(commands.agreement)
app.command()(commands.sampling)
app.command()(commands.copies)


@app.command()
def judge_scenes(model: Annotated[str, typer.Option(help="Shipped name, folder or hub id.")] = "emoji") -> None:
    """How often drawings follow words for colours, grounds and counts, judged from pixels alone."""
    from hart import HartPipeline
    from hart_emoji.suites.scenes import judge

    with progress(f"loading {model}") as report:
        rows = judge(HartPipeline.from_pretrained(model), report)
    for kind, (right, asked) in rows.items():
        typer.echo(f"{kind}: {right} of {asked} ({right / asked:.0%})")


@app.command()
def names(
    file: Annotated[Path, typer.Argument(help="hart's src/hart/text_encoder/emoji_names.txt.")],
) -> None:
    """Write what the compact text encoder reads in place of an emoji: the names of the captions."""
    from hart_emoji.text.names import write_names

    if not file.parent.is_dir():
        raise HartError(f"{file.parent}: no such folder: give the file of a clone of hart")
    write_names(file)
    typer.echo(file)


def main() -> None:
    """Entry point of the console script."""
    outlive_readers()
    app(prog_name="hart-emoji")

"""`hart data`: builds data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hart.commands.console import needs_extra, progress, writable_folder

app = typer.Typer(help="Build data sets.", no_args_is_help=False)


@app.callback()
def data() -> None:
    """Build data sets."""


@app.command()
def emoji(
    directory: Annotated[Path, typer.Argument(help="Folder to write.")],
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 128,
    cache: Annotated[
        Path | None, typer.Option(help="Where the npm packages lie or go; the user's cache folder by default.")
    ] = None,
) -> None:
    """Draw the open emoji sets with captions, as WebDataset shards; needs npm."""
    writable_folder(directory)
    with needs_extra("data"):
        from hart.data.emoji import build_emoji
    with progress("emoji") as report:
        summary = build_emoji(directory, size=size, cache=cache, progress=report)
    reused = " (was complete already)" if summary.reused else ""
    typer.echo(
        f"{summary.directory}: {summary.train} pictures to train on, {summary.val} held out, "
        f"{summary.concepts} concepts, {summary.skipped} icons skipped{reused}"
    )

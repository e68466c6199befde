"""The command `hart` and its sub-commands. Exit code 1: `hart verify` found a difference; for the others see
`hart.commands.program`."""

from __future__ import annotations

from typing import Annotated

import typer

from hart import __version__
from hart.commands import data, evaluate, generate, models, serve, train
from hart.commands.program import new_program, run_program

app = new_program()
app.command()(generate.generate)
app.command()(generate.reconstruct)
app.command()(models.info)
app.command()(models.convert)
app.command()(models.verify)
app.command()(train.train)
app.command()(serve.serve)
app.add_typer(data.app, name="data")
app.add_typer(evaluate.app, name="evaluate")


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

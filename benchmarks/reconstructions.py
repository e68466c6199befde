"""Several results of `hart evaluate tokenizer` as one Markdown table.

    python benchmarks/reconstructions.py FOLDER...

Each result has two lines, discrete and hybrid, named by its folder (by the whole path if names repeat); columns that a
result lacks stay empty.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import typer
from running import run_program

from hart.benchmark.report import table
from hart.errors import HartError
from hart.evaluation.metrics.figures import Figure
from hart.evaluation.report import FIGURES_FILE, figure_text
from hart.files import read_json

SUITE = "tokenizer"


def read(folder: Path) -> dict[str, dict[str, str]]:
    """Return a result's figures by kind and column, as text. Raises `HartError`, also for another suite's figures."""
    file = folder / FIGURES_FILE
    values = read_json(file)
    if values.get("suite") != SUITE:
        raise HartError(f"{file}: of the suite {values.get('suite')}: give what hart evaluate tokenizer wrote")
    return {
        kind: {"px": str(values["settings"]["size"]), "images": str(values["counts"]["images"])}
        | {column: figure_text(Figure(**figure)) for column, figure in figures.items()}
        for kind, figures in values["figures"].items()
    }


def markdown(folders: Sequence[Path]) -> str:
    """Return a table, in the order of the folders."""
    names = [folder.name for folder in folders]
    results = {
        name if names.count(name) == 1 else str(folder): read(folder)
        for name, folder in zip(names, folders, strict=True)
    }
    rows = {(name, kind): cells for name, kinds in results.items() for kind, cells in kinds.items()}
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    lines = ([name, kind, *map(cells.get, columns)] for (name, kind), cells in rows.items())
    return "\n".join(table(["", "latent", *columns], lines))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Results of hart evaluate tokenizer as one Markdown table.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="what --out named")
    typer.echo(markdown(parser.parse_args(arguments).folders))


if __name__ == "__main__":
    run_program(main)

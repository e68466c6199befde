"""Curves of training runs as one image.

    python benchmarks/curves.py RUN... --out curves.png [--figure cross_entropy] [--smooth 5]

Each figure has a panel, and each run a line, named by its folder. Reads each run's metrics.jsonl; a run that lacks a
figure is left out of its panel. Needs the extra `plots`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import typer
from panels import panels
from running import run_program

from hart.errors import HartError
from hart.files import parse_json, read_text, text_lines
from hart.training.trackers import LOG_FILE


def read(run: Path, figure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values (N,) of a run's figure; they are empty if it has none. Raises `HartError`."""
    file = run / LOG_FILE
    records = [parse_json(line.encode(), str(file)) for line in text_lines(read_text(file))]
    points = [(record["step"], record[figure]) for record in records if figure in record]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps), np.array(values)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Return the means (N,) of each value and up to `width` - 1 values before it."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - width, 0)
    return (total[last] - total[first]) / (last - first)


def draw(runs: Sequence[Path], figures: Sequence[str], smooth: int, out: Path) -> None:
    """Draw one panel for each of `figures`."""
    with panels(len(figures), out) as axes:
        for panel, figure in zip(axes, figures, strict=True):
            for run in runs:
                steps, values = read(run, figure)
                if len(steps):
                    panel.plot(steps, running_mean(values, smooth), label=run.name, linewidth=1.5)
            if not panel.lines:
                raise HartError(f"none of the runs has the figure {figure!r}")
            name = figure.replace("_", " ")
            panel.set_ylabel(name if smooth == 1 else f"{name}, mean of {smooth} log lines")
            panel.set_xlabel("step")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Curves of training runs as one image.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder that hart train wrote")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    parser.add_argument("--figure", nargs="+", default=["loss"], dest="figures", help="names in metrics.jsonl")
    parser.add_argument("--smooth", type=int, default=1, help="log lines averaged")
    options = parser.parse_args(arguments)
    if options.smooth < 1:
        parser.error("--smooth is a number of log lines, at least 1")
    draw(options.runs, options.figures, options.smooth, options.out)
    typer.echo(options.out)


if __name__ == "__main__":
    run_program(main)

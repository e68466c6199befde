"""Measures time and memory by resolution, shape, batch and depth: nothing may grow faster than the arithmetic.

    python benchmarks/scaling.py                        # results/scaling.json and .md, docs/figures/scaling.png

The model is narrow, with the parts and scales of the published ones, so that a CPU reaches 2048 px. In each series of
points one size grows and the others stay; "growth" is how much faster the time has grown than the counted operations
since the previous point: at most 1, apart from noise. The file is written after every series.
Needs the extra `plots`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from panels import panels
from running import run_program

from hart.benchmark.machine import device_clock, machine_facts, peak_memory
from hart.benchmark.measure import timed
from hart.benchmark.parts import GenerationTimer
from hart.benchmark.report import table
from hart.commands import require_writable_file
from hart.config import HartConfig, ResidualDiffusionConfig, TextConditioning, TokenizerConfig, TransformerConfig
from hart.devices import resolve_device
from hart.files import write_json, write_text
from hart.pipeline import HartPipeline
from hart.presets import SCALES_256

ROOT = Path(__file__).resolve().parent.parent
FILE, PLOT = ROOT / "benchmarks" / "results" / "scaling.json", ROOT / "docs" / "figures" / "scaling.png"
Row = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """size: width and height of the images in pixels. batch: images per call. depth, width: of the transformer."""

    size: str = "256x256"
    batch: int = 1
    depth: int = 4
    width: int = 64


SERIES = {
    "squares": [Point(size=f"{side}x{side}") for side in (256, 512, 1024, 2048)],
    "wide images": [Point(size=f"{2 * side}x{side // 2}") for side in (256, 512, 1024, 2048)],
    "batch": [Point(batch=batch) for batch in (1, 2, 4, 8)],
    # wide enough for blocks to be as fast per operation as the decoder
    "depth": [Point(depth=depth, width=512) for depth in (2, 4, 8, 16)],
}


def narrow(point: Point) -> HartConfig:
    """Return the config of a narrow text-to-image model with the scales of the published ones."""
    transformer = TransformerConfig(
        SCALES_256,
        codebook_size=512,
        width=point.width,
        depth=point.depth,
        heads=point.width // 32,
        text=TextConditioning(64, 32),
    )
    tokenizer = TokenizerConfig(SCALES_256, base_channels=16, norm_groups=8, codebook_size=512)
    return HartConfig(tokenizer, transformer, ResidualDiffusionConfig(point.width, 2))


def measured(point: Point, device: torch.device, seconds: float) -> Row:
    """Return the best time of the calls that fit into `seconds`, and the memory that they took in addition."""
    pipe = HartPipeline.from_config(narrow(point), device=device)
    timer = GenerationTimer(pipe, device_clock(device), point.size)
    before = peak_memory(device)()
    found = timed(timer, point.batch, repeats=5, seconds=seconds)
    return {
        **vars(point),
        "tokens": point.batch * sum(timer.cost.scale_tokens),
        "gflop": point.batch * 2 * timer.cost.total_macs / 1e9,
        "seconds": min(call.seconds for call in found.generations),
        "gib": None if found.peak is None or before is None else found.peak - before,
    }


def page(results: dict[str, Any]) -> str:
    lines = ["# Time and memory against resolution, batch and depth", ""]
    lines += [f"- {name}: {value}" for name, value in results["machine"].items()]
    header = [
        "width x height",
        "batch",
        "depth",
        "tokens",
        "GFLOP",
        "seconds",
        "growth",
        "GFLOP/s",
        "GiB",
        "KiB a token",
    ]
    for name, rows in results["series"].items():
        lines += ["", f"## {name.capitalize()}", "", f"`{results['commands'][name]}`", ""]
        lines += table(header, (_cells(row, before) for row, before in zip(rows, [None, *rows], strict=False)))
    return "\n".join(lines) + "\n"


def _cells(row: Row, before: Row | None) -> list[Any]:
    growth = None if before is None else row["seconds"] / before["seconds"] * before["gflop"] / row["gflop"]
    memory = None if row["gib"] is None else row["gib"] * 2**20 / row["tokens"]
    sizes = [row["size"], row["batch"], row["depth"], row["tokens"], row["gflop"]]
    return [*sizes, row["seconds"], growth, row["gflop"] / row["seconds"], row["gib"], memory]


def draw(results: dict[str, Any], file: Path) -> None:
    """Draw a panel for each series: time, operations and memory, each as a multiple of its first value."""
    with panels(len(results["series"]), file) as axes:
        for panel, (name, rows) in zip(axes, results["series"].items(), strict=True):
            grown = name if name in rows[0] else "tokens"
            xs = [row[grown] for row in rows]
            lines = {"operations": ("gflop", "--"), "seconds": ("seconds", "o-"), "memory": ("gib", "s-")}
            for label, (key, style) in lines.items():
                if all(row[key] for row in rows):
                    panel.plot(xs, [row[key] / rows[0][key] for row in rows], style, label=label)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log", base=2)
            panel.set_xticks(xs, [row["size"] if grown == "tokens" else str(row[grown]) for row in rows])
            panel.set_xlabel(name)
            panel.set_ylabel("times the first")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FILE, help="JSON file; a page is written beside it")
    parser.add_argument("--plot", type=Path, default=PLOT)
    parser.add_argument("--device", help="by default CUDA if there is one")
    parser.add_argument("--seconds", type=float, default=3.0, help="approximate time for each point; at least one call")
    parser.add_argument("--series", nargs="+", choices=SERIES, default=list(SERIES))
    parser.add_argument("--largest", type=int, default=4096, help="largest width, in pixels")
    options = parser.parse_args(arguments)
    for file in (options.out, options.plot):
        require_writable_file(file)
    device = resolve_device(options.device)
    words = sys.argv[1:] if arguments is None else arguments
    results: dict[str, Any] = {"machine": machine_facts(device), "commands": {}, "series": {}}
    for name in options.series:
        points = [point for point in SERIES[name] if int(point.size.split("x")[0]) <= options.largest]
        if not points:
            continue
        sys.stderr.write(f"{name}\n")
        results["commands"][name] = shlex.join(["python", "benchmarks/scaling.py", *words])
        results["series"][name] = [measured(point, device, options.seconds) for point in points]
        write_json(options.out, results)
        write_text(options.out.with_suffix(".md"), page(results))
    draw(results, options.plot)
    sys.stdout.write(page(results))


if __name__ == "__main__":
    run_program(main)

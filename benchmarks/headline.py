"""Measures the paper's headline: HART beside the models that the paper compares it with, on one machine.

    python benchmarks/headline.py --count                              # multiply-accumulates of all models
    python benchmarks/headline.py --time --sizes 512 --batch-size 1    # seconds, added to the same file
    python benchmarks/headline.py --time --clock cpu --seconds 5       # of one thread, on a busy machine

All models have random weights in the published sizes, with the paper's guidance and steps. They are measured from text
features to pixels, without text encoders. On a GPU every image is generated in full. On a CPU one step of a diffusion
model is timed and multiplied by its steps, a few of many equal blocks stand for all, and the decoder's seconds are
added, as the table says. Results are kept in one JSON file, and the page beside it is written from that; a run replaces
its own rows.
Needs the extra `headline`.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from headline_parts.measuring import NAMES, OURS, Row, Setting, counted, measured, sizes_of
from running import run_program

from hart.benchmark.machine import device_clock, host_clock, machine_facts
from hart.benchmark.report import table
from hart.commands import require_writable_file
from hart.devices import dtype_name, is_out_of_memory, resolve_device, resolve_dtype
from hart.evaluation.report import published_tables
from hart.files import read_json, write_json, write_text
from hart.strict import reason

FILE = Path(__file__).resolve().parent / "results" / "headline.json"
REFERENCE = {512: "HART 0.7B", 1024: "HART 0.7B", 256: "HART-d30"}
"""Size -> the model that others are compared with; at 256 px it is the one that the paper compares with MAR-L."""


def run(options: argparse.Namespace) -> None:
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    require_writable_file(options.out)
    results = read(options.out)
    chosen = [(name, size) for name in options.models for size in sizes_of(name) if size in options.sizes]
    if options.count:
        for name, size in chosen:
            say(f"counting {name}, {size} px")
            results["counts"][key(name, size)] = counted(name, size)
            write(options.out, results)
    if options.time:
        processor = options.clock == "cpu"
        if processor:
            torch.set_num_threads(1)
        clock = host_clock(time.process_time) if processor else device_clock(device)
        setting = Setting(device, dtype, clock, options.seconds, options.blocks)
        end = f"{dtype_name(dtype)}, {device.type}{', processor time' if processor else ''}"
        for batch, (name, size) in product(options.batch_size, chosen):
            label, single = (f"{key(name, size)}, batch {count}, {end}" for count in (batch, 1))
            if options.resume and label in results["times"]:
                continue
            say(f"timing {name}, {size} px, batch {batch}")
            row = {"batch": batch, "dtype": dtype_name(dtype), "clock": options.clock, **machine_facts(device)}
            row |= _timed(name, size, batch, setting, results["times"].get(single), options.longest)
            results["times"][label] = row
            gc.collect()
            write(options.out, results)


def _timed(name: str, size: int, batch: int, setting: Setting, single: Row | None, longest: float) -> Row:
    """Time one row. single: the row of batch 1; if by it a call would take over `longest` seconds, none is made."""
    if batch > 1 and single is not None and "call_s" in single:
        seconds = batch * single["call_s"]
        if seconds > longest:
            return {"how": f"not timed: a call would take about {seconds / 60:.0f} minutes"}
    try:
        return measured(name, size, batch, setting)
    except RuntimeError as error:
        return {"how": "out of memory" if is_out_of_memory(error) else f"failed: {reason(error)}"}


def key(name: str, size: int) -> str:
    return f"{name}, {size} px"


def read(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {"counts": {}, "times": {}}


def write(file: Path, results: dict[str, Any]) -> None:
    write_json(file, results)
    write_text(file.with_suffix(".md"), page(results))


def page(results: dict[str, Any]) -> str:
    lines = ["# HART beside what the paper compares it with", "", "Written by `python benchmarks/headline.py`.", ""]
    lines += ["## Multiply-accumulates of one image, in trillions", "", *counts_table(results["counts"]), ""]
    times = dict(sorted(results["times"].items(), key=_place))
    for machine in dict.fromkeys(map(where, times.values())):
        rows = {name: row for name, row in times.items() if where(row) == machine}
        lines += [f"## {machine}", "", *times_table(rows, results["counts"]), ""]
    return "\n".join(lines)


def where(row: Row) -> str:
    """Return clock, machine, type and torch version of a row: only rows that share them are compared."""
    clock = "Processor seconds" if row.get("clock") == "cpu" else "Seconds"
    threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
    machine = row.get("GPU") or f"{row['processor']}, {threads}"
    return f"{clock}: {machine}, {row['dtype']}, torch {row['torch']}"


def _place(item: tuple[str, Row]) -> tuple[int, int, int]:
    """Return a timed row's sort key: size and batch, then the order of the models."""
    model, size = split(item[0].split(", batch ")[0])
    return size, item[1]["batch"], NAMES.index(model)


def split(name: str) -> tuple[str, int]:
    """Return the model and the size of a key."""
    model, size = name.removesuffix(" px").rsplit(", ", 1)
    return model, int(size)


def counts_table(counts: dict[str, Row]) -> list[str]:
    """Return a table of TMACs; ratios are of the whole, with guidance and decoder, to that of HART at the same size."""

    def rows() -> Iterator[Sequence[Any]]:
        for name, row in counts.items():
            model, size = split(name)
            ours = counts.get(key(REFERENCE[size], size))
            ratio = whole(row) / whole(ours) if ours is not None else None
            printed_ratio = _number(model, size) / _number(REFERENCE[size], size) if _printed(model, size) else None
            tera = (row[part] / 1e12 for part in ("network", "attention", "plain", "decoder", "text"))
            yield [name, row["steps"], row["parameters"] / 1e6, *tera, ratio, _printed(model, size), printed_ratio]

    header = ["model", "steps", "parameters, M", "network", "of it attention", "without guidance", "decoder", "text"]
    return table([*header, "times HART's", "printed", "times HART's, printed"], rows())


def whole(row: Row) -> int:
    """Return the MACs of the network, with guidance, and of the decoder."""
    return row["network"] + row["decoder"]


def _printed(model: str, size: int) -> str:
    """Return the MACs in the paper's tables; "" if it prints none."""
    tables = published_tables()
    if size == 256:
        return dict(zip(tables["class_to_image"].columns, tables["class_to_image"].rows[model], strict=True))["MACs"]
    row = tables["text_cost"].rows[f"HART {size}" if model in OURS else model]
    text = row[4 if size == 512 else 7]
    return f"{text}T" if text else ""


def _number(model: str, size: int) -> float:
    """Return the printed MACs, in trillions."""
    text = _printed(model, size)
    return float(text[:-1]) * {"T": 1.0, "G": 1e-3}[text[-1]]


def printed_seconds(model: str, size: int, batch: int) -> float | None:
    """Return the paper's seconds per image on an A100: alone, in a batch of 8, or, with classes, in one of 64."""
    if size == 256:
        table = published_tables()["class_to_image"]
        return float(table.rows[model][table.columns.index("seconds")]) / 64
    row = published_tables()["text_cost"].rows[f"HART {size}" if model in OURS else model]
    seconds, rate = row[2:4] if size == 512 else row[5:7]
    return {1: float(seconds), 8: 1 / float(rate)}.get(batch) if seconds else None


def times_table(times: dict[str, Row], counts: dict[str, Row]) -> list[str]:
    """Return a table of seconds on one machine; ratios are to HART's at the same size and batch."""

    def rows() -> Iterator[Sequence[Any]]:
        for name, row in times.items():
            label, batch = name.split(", batch ")[0], row["batch"]
            model, size = split(label)
            latency = row.get("latency_s")
            ours = times.get(key(REFERENCE[size], size) + name.removeprefix(label), {}).get("latency_s")
            rate = 2 * batch * whole(counts[label]) / latency / 1e9 if latency and label in counts else None
            printed, printed_ours = (printed_seconds(which, size, batch) for which in (model, REFERENCE[size]))
            yield [
                label,
                batch,
                row.get("step_s"),
                row.get("decoder_s"),
                latency,
                latency / batch if latency else None,
                latency / ours if latency and ours else None,
                printed / printed_ours if printed and printed_ours else None,
                rate,
                row.get("peak_gib"),
                row["how"],
            ]

    parts = ["step", "decoder", "batch", "an image"]
    return table(["model", "batch size", *parts, "times HART's", "printed", "GFLOP/s", "peak GiB", "how"], rows())


def say(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true", help="count multiply-accumulates, which needs no memory")
    parser.add_argument("--time", action="store_true", help="time the models on this machine")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=str(NAMES))
    parser.add_argument("--sizes", nargs="+", type=int, choices=REFERENCE, default=list(REFERENCE))
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--device", help="by default CUDA if there is one")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor time of one thread")
    parser.add_argument("--seconds", type=float, default=60.0, help="approximate time for each part; at least one call")
    parser.add_argument("--blocks", type=int, default=3, help="how many equal blocks are timed on a CPU")
    parser.add_argument("--longest", type=float, default=900.0, help="a batch that would take longer is not timed")
    parser.add_argument("--resume", action="store_true", help="time only what has no row in the file yet")
    parser.add_argument("--out", type=Path, default=FILE, help="JSON file; a page of the same name is written too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    run(options)
    sys.stdout.write(page(read(options.out)))


if __name__ == "__main__":
    run_program(main)

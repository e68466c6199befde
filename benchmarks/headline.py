"""The paper's headline, measured: HART beside the models that the paper compares it with, on one machine.

    python benchmarks/headline.py --count                              # multiply-accumulates of all models
    python benchmarks/headline.py --time --sizes 512 --batch-size 1    # seconds, added to the same file

Random weights in the published sizes, guidance and steps of the paper; text features in, pixels out, text encoders left
out for all. On a GPU every image is generated in full. On a CPU one step of a diffusion model is timed and multiplied
by its steps, its decoder added, as the table says. Results are kept in one JSON file, from which the page beside it is
written; a run replaces its own rows. Needs `pip install 'hart-image[headline]'`.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from headline_parts.measuring import NAMES, OURS, Row, counted, measured, sizes_of

from hart.benchmark.machine import machine_facts
from hart.benchmark.report import table
from hart.devices import dtype_name, is_out_of_memory, resolve_device, resolve_dtype
from hart.evaluation.report import published_tables

FILE = Path(__file__).resolve().parent / "results" / "headline.json"
REFERENCE = {512: "HART 0.7B", 1024: "HART 0.7B", 256: "HART-d30"}
"""The models that the others are compared with, by size; at 256 px the one that the paper sets against MAR-L."""


def run(options: argparse.Namespace) -> None:
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    results = read(options.out)
    chosen = [(name, size) for name in options.models for size in sizes_of(name) if size in options.sizes]
    if options.count:
        for name, size in chosen:
            say(f"counting {name}, {size} px")
            results["counts"][key(name, size)] = counted(name, size)
            write(options.out, results)
    if options.time:
        for name, size in chosen:
            for batch in options.batch_size:
                say(f"timing {name}, {size} px, batch {batch}")
                row = {"batch": batch, "dtype": dtype_name(dtype), **machine_facts(device)}
                try:
                    row |= measured(name, size, batch, device, dtype, options.seconds)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    row |= {"how": "out of memory"}
                results["times"][f"{key(name, size)}, batch {batch}, {row['dtype']}, {device.type}"] = row
                gc.collect()
                write(options.out, results)


def key(name: str, size: int) -> str:
    return f"{name}, {size} px"


def read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {"counts": {}, "times": {}}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def write(file: Path, results: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(page(results), encoding="utf-8")


def page(results: dict[str, Any]) -> str:
    lines = ["# HART beside what the paper compares it with", "", "Written by `python benchmarks/headline.py`.", ""]
    lines += ["## Multiply-accumulates of one image", "", *counts_table(results["counts"]), ""]
    for machine in dict.fromkeys(map(where, results["times"].values())):
        rows = {name: row for name, row in results["times"].items() if where(row) == machine}
        lines += [f"## Seconds: {machine}", "", *times_table(rows, results["counts"]), ""]
    return "\n".join(lines)


def where(row: Row) -> str:
    """The machine and type that a row was measured on: only rows of one are compared."""
    return ", ".join(
        [row.get("GPU") or f"{row['processor']}, {row['threads']} threads", row["dtype"], f"torch {row['torch']}"]
    )


def split(name: str) -> tuple[str, int]:
    """The model and the size of a key."""
    model, size = name.removesuffix(" px").rsplit(", ", 1)
    return model, int(size)


def counts_table(counts: dict[str, Row]) -> list[str]:
    """TMACs; the ratio is of the whole, with guidance and decoder, over that of HART at the size."""

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
    """MACs of the network, with guidance, and of the decoder."""
    return row["network"] + row["decoder"]


def _printed(model: str, size: int) -> str:
    """The MACs in the paper's tables; nothing where it prints none."""
    tables = published_tables()
    if size == 256:
        return dict(zip(tables["class_to_image"].columns, tables["class_to_image"].rows[model], strict=True))["MACs"]
    row = tables["text_cost"].rows[f"HART {size}" if model in OURS else model]
    text = row[4 if size == 512 else 7]
    return f"{text}T" if text else ""


def _number(model: str, size: int) -> float:
    """The printed MACs, in trillions."""
    text = _printed(model, size)
    return float(text[:-1]) * {"T": 1.0, "G": 1e-3}[text[-1]]


def times_table(times: dict[str, Row], counts: dict[str, Row]) -> list[str]:
    """Seconds of rows of one machine; the ratio is over HART's at the same size and batch."""

    def rows() -> Iterator[Sequence[Any]]:
        for name, row in times.items():
            label = name.split(", batch ")[0]
            model, size = split(label)
            latency = row.get("latency_s")
            rest = name.removeprefix(label)
            ours = times.get(key(REFERENCE[size], size) + rest, {}).get("latency_s")
            rate = 2 * row["batch"] * whole(counts[label]) / latency / 1e9 if latency and label in counts else None
            yield [
                f"{model}, {size} px",
                row["batch"],
                row.get("step_s"),
                row.get("decoder_s"),
                latency,
                row["batch"] / latency if latency else None,
                latency / ours if latency and ours else None,
                rate,
                row.get("peak_gib"),
                row["how"],
            ]

    header = ["model", "batch", "step s", "decoder s", "latency s", "images/s", "x HART", "GFLOP/s", "peak GiB", "how"]
    return table(header, rows())


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
    parser.add_argument("--seconds", type=float, default=60.0, help="about so long for each model, or one call")
    parser.add_argument("--out", type=Path, default=FILE, help="JSON file; a page of the same name is written too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    run(options)
    sys.stdout.write(page(read(options.out)))


if __name__ == "__main__":
    main()

"""Figures as Markdown with aligned columns, which is readable in a terminal as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a Markdown table, numbers aligned right; empty without rows."""
    kept = list(rows)
    cells = [list(header), *([cell_text(value) for value in row] for row in kept)]
    if not kept:
        return []
    numbers = [all(_is_number(row[i]) for row in kept) for i in range(len(header))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numbers, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (width - 1) + ":") if right else "-" * width for width, right in zip(widths, numbers, strict=True)]
    return [line(cells[0]), line(rule), *map(line, cells[1:])]


def cell_text(value: Any) -> str:
    """Return a value as tables show it, numbers with four digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "**NO**"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    return str(value).replace("|", "/")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def markdown(result: Mapping[str, Any]) -> str:
    """Return the output of `hart benchmark`: `hart.benchmark.measure.benchmark`'s values, with model and command."""
    on = f"{result['dtype']}, {result['device']}"
    lines = [f"# {result['model']}, {result['weights']} weights, {on}", "", f"`{result['command']}`", ""]
    lines += [f"- {name}: {value}" for name, value in result["machine"].items()]
    shapes = list(dict.fromkeys(shape for rates in result["products_gflops"].values() for shape in rates))
    rates = result["products_gflops"]
    lines += ["", "Products, in billions of operations per second (2 per multiply-accumulate):", ""]
    lines += table(
        ["rows x inputs x outputs", *rates],
        ([shape, *(found.get(shape) for found in rates.values())] for shape in shapes),
    )
    lines += [f"- {name} is not measured: {reason}" for name, reason in result["products_not_measured"].items()]
    lines += ["", f"- copy: {result['copy_gb_s']:.1f} GB/s, read and written together"]
    lines += ["- a floor has products at the fastest rate of their type", *_levels(result)]
    for level in result["levels"]:
        lines += ["", f"## {level['level']}", "", *(f"- {remark}" for remark in level["does"])]
        lines += [f"- products in {level['products']}"]
        for batch in level["batches"]:
            if parts := part_table(batch["parts"]):
                lines += ["", f"Batch {batch['batch']}, the median call:", "", *parts]
    return "\n".join(lines) + "\n"


def _levels(result: Mapping[str, Any]) -> list[str]:
    """Return a row per level and batch size; "times the first" is how much faster it is than the first level."""
    first = {row["batch"]: row["median_s"] for row in result["levels"][0]["batches"]}
    what = "guidance on" if result["guidance"] else "no guidance"
    lines = ["", f"Images of {result['size']} px, from prompts to pixels, {what}, {result['clock']}:", ""]
    rows = [
        {
            "level": level["level"],
            "batch": row["batch"],
            "calls": len(row["latencies_s"]),
            "median s": row["median_s"],
            "best s": row["best_s"],
            "images/s": row["images_per_s"],
            "times the first": first[row["batch"]] / row["median_s"],
            "GFLOP": row["gflop"],
            "floor s": row["floor_s"],
            "time / floor": row["ratio"],
            "peak GiB": row["peak_gib"],
        }
        for level in result["levels"]
        for row in level["batches"]
    ]
    return lines + table(list(rows[0]), (list(row.values()) for row in rows))


def part_table(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the parts' work, floor and time for one batch; empty if they were not measured."""
    rows = [
        [name, part["gflop"], part["gb"], part["bound"], 1e3 * part["floor_s"], 1e3 * took, took / part["floor_s"]]
        for name, part in parts.items()
        if (took := part["measured_s"]) is not None
    ]
    return table(["part", "GFLOP", "GB", "bound by", "floor ms", "measured ms", "time / floor"], rows)

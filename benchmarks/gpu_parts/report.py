"""The state of a run as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hart.benchmark.report import cell_text, part_table, table

Row = dict[str, Any]
State = Mapping[str, Any]


def markdown(state: State) -> str:
    """Return the readable parts of `gpu.json`."""
    lines = [f"# {state['title']}", "", *(f"- {name}: {value}" for name, value in state["machine"].items()), ""]
    lines += [f"`{state['command']}`", ""]
    parts = ([name, part["outcome"], round(part["seconds"])] for name, part in state["parts"].items())
    lines += table(["part", "outcome", "seconds"], parts)
    for name, part in state["parts"].items():
        if part["rows"] or part["facts"]:
            lines += ["", f"## {name.capitalize()}", "", *SECTIONS[name](part["rows"])]
            lines += [f"- {fact}: {value}" for fact, value in part["facts"].items()]
            failed = [f"- {key}: {row['error']}" for key, row in part["rows"].items() if "error" in row]
            lines += ["", "Not measured:", "", *failed] if failed else []
        if part["stderr"]:
            lines += ["", f"Last lines of the process of part {name}:", "", "```", *part["stderr"], "```"]
    return "\n".join(lines) + "\n"


def correctness(rows: Mapping[str, Row]) -> list[str]:
    golden = {key: row for key, row in rows.items() if "keys" in row}
    lines = ["Golden numbers. Tolerances are those of float32; of bfloat16 the differences are to be read.", ""]
    lines += table(
        ["case", "type", "device", "quantities", "beyond tolerance", "largest difference / tolerance"],
        ([r["case"], r["dtype"], r["device"], r["compared"], len(r["failed"]), _worst(r)] for r in golden.values()),
    )
    lines += ["", "Images of tiny models; differences are means of a colour channel, of 255.", ""]
    figures = {"passed": "passed", "against the CPU in float32": "mean_difference_of_255"}
    figures |= {"the same type on the CPU": "same_type_on_cpu", "remark": "note"}
    checks = {key: row for key, row in rows.items() if "keys" not in row and "error" not in row}
    lines += figures_table("check", checks, figures)
    for case in dict.fromkeys(row["case"] for row in golden.values()):
        of_case = [row for row in golden.values() if row["case"] == case]
        columns = [f"{row['dtype']}, {row['device']}" for row in of_case]
        lines += ["", f"### {case}: largest difference by quantity", ""]
        lines += table(
            ["quantity", "tolerance", *columns],
            (
                [name, first["tolerance"], *(_difference(row["keys"].get(name)) for row in of_case)]
                for name, first in of_case[0]["keys"].items()
            ),
        )
    return [*lines, ""]


def _worst(row: Row) -> str:
    ratios = {name: key["difference"] / key["tolerance"] for name, key in row["keys"].items() if key["tolerance"] > 0}
    name = max(ratios, key=lambda name: ratios[name], default="")
    return f"{ratios[name]:.3g} ({name})" if name else "-"


def _difference(key: Row | None) -> str:
    """Return a difference as text, bold if it exceeds the tolerance; for indices, with how many differ."""
    if key is None:
        return "-"
    text = f"{key['difference']:.1e}" + (f" ({key['remark']})" if key["remark"] else "")
    return text if key["passed"] else f"**{text}**"


def generation(rows: Mapping[str, Row]) -> list[str]:
    ceilings = [row for key, row in rows.items() if key.startswith("ceilings") and "error" not in row]
    timed = {key: row | {"calls": len(row["latencies_s"])} for key, row in rows.items() if "parts" in row}
    profiles = {key: row for key, row in rows.items() if "seconds_profiled" in row}
    lines = [
        f"- fastest product {cell_text(row['fastest_tflops'])} TFLOP/s (squares: {row['tflops']}), "
        f"copy {cell_text(row['copy_gb_s'])} GB/s"
        for row in ceilings
    ]
    lines += ["", "From text features to pixels; the floor is the sum of the parts' floors.", ""]
    figures = {"calls": "calls", "median s": "median_s", "best s": "best_s", "images/s": "images_per_s"}
    figures |= {"floor s": "floor_s", "time / floor": "ratio", "peak GiB": "peak_gib"}
    lines += figures_table("images", timed, figures)
    lines += ["", "Kernels of one image, under the profiler.", ""]
    figures = {name: name for name in ("waits", "launches", "copies", "kernels")}
    lines += figures_table("", profiles, figures | {"kernels s": "kernels_s", "in all s": "seconds_profiled"})
    for key, row in timed.items():
        lines += ["", f"### {key}", ""]
        lines += part_table(row["parts"])
    for key, row in profiles.items():
        lines += ["", f"### {key}: longest kernels", ""] if row.get("longest") else []
        lines += table(["kernel", "calls", "ms"], ([k["kernel"], k["calls"], k["ms"]] for k in row.get("longest", [])))
    return [*lines, ""]


def training(rows: Mapping[str, Row]) -> list[str]:
    lines = [
        f"- fastest product {cell_text(row['tflops'])} TFLOP/s in {row['dtype']}"
        for key, row in rows.items()
        if key == "fastest product" and "error" not in row
    ]
    lines += ["", "Tokens are those that a step computes: text, and the scales with the kept part of the last.", ""]
    figures = {"steps": "steps", "median s": "median_s", "images/s": "images_per_s"}
    figures |= {"tokens an image": "tokens_an_image", "tokens/s": "tokens_per_s", "MFU": "mfu", "peak GiB": "peak_gib"}
    return [*lines, *figures_table("step", {key: row for key, row in rows.items() if "mfu" in row}, figures), ""]


def figures_table(first: str, rows: Mapping[str, Row], figures: Mapping[str, str]) -> list[str]:
    """Return a table of the rows' figures. figures: column -> key in a row. The first column has the rows' names."""
    return table([first, *figures], ([key, *(row.get(name) for name in figures.values())] for key, row in rows.items()))


SECTIONS = {"correctness": correctness, "generation": generation, "training": training}

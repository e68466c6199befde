"""Writes docs/leaderboard.md: the paper's tables as printed, each followed by this project's measurements.

    python benchmarks/leaderboard.py                            # the page, from what is there
    python benchmarks/leaderboard.py --measure tokenizer-emoji  # measures a row again, then writes the page
    python benchmarks/leaderboard.py --measure all

Published rows come from `hart.evaluation`, as in `hart evaluate`; measured ones come from results/suites/NAME.json, the
`figures.json` of a run. To add another run to the page, copy its figures there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from running import run_program

from hart import HartPipeline
from hart.checkpoint.loading import load_config
from hart.evaluation.metrics.figures import Figure
from hart.evaluation.report import FIGURES_FILE, PublishedTable, Result, figures_table, published_tables
from hart.strict import counted

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "leaderboard.md"
RESULTS = ROOT / "benchmarks" / "results" / "suites"
OUTPUTS = ROOT / "outputs" / "leaderboard"


SHIPPED = "emoji"
EMOJI_SET, PHOTOS = f"data/emoji{load_config(SHIPPED).tokenizer.image_size}", "data/photos-256-val.tar"
ORIGINS = {
    EMOJI_SET: f"run hart-emoji data {EMOJI_SET} (projects/emoji)",
    PHOTOS: "the 201 photographs of the committed row cannot be passed on; put any tar of photographs there "
    "(docs/data.md, WebDataset form), whose figures are then its own, or name the other rows",
}
"""Path of a set that is in no package, from the root of the repository -> how to get it."""
RUNS = {
    "tokenizer-emoji": f"hart evaluate tokenizer --model emoji --data {EMOJI_SET}",
    "tokenizer-photos": f"hart evaluate tokenizer --model emoji --data {PHOTOS}",
    "generation-emoji": f"hart evaluate generation --model emoji --data {EMOJI_SET}",
    "agreement-emoji": "hart-emoji evaluate agreement --model emoji --free-prompts "
    f"projects/emoji/recipes/free_prompts.toml --data {EMOJI_SET}",
    "cost-emoji": "hart evaluate cost --model emoji",
    "cost-0.7b-256": "hart evaluate cost --model hart-0.7b-256 --random-weights --batch-size 1 --warm-up 1 --repeats 3",
}
"""The commands that `--measure` runs."""

HEAD = """# Leaderboard

Written by `python benchmarks/leaderboard.py`; do not edit it by hand.

**Printed** rows are copied from the paper (arXiv 2410.10812) or from where their caption says; nothing in them was
measured here. **Measured** tables are this project's own runs, each with its command, weights and machine. Their
columns name the feature extractor. Figures of different extractors, sets or counts do not compare, and so far nothing
measured compares with a printed row. What the figures mean: [evaluation](evaluation.md). How a row is measured again:
[benchmarks](../benchmarks/README.md)."""


@dataclass(frozen=True)
class Section:
    """A heading, printed tables, and the suites whose results follow them."""

    title: str
    published: tuple[PublishedTable, ...]
    suites: tuple[str, ...]
    end: str = ""


TABLES = published_tables()
SECTIONS = (
    Section("Reconstruction", (TABLES["tokenizer"],), ("tokenizer",)),
    Section(
        "Text to image",
        (TABLES["text_to_image"], TABLES["geneval"]),
        ("mjhq", "coco", "geneval", "dpg", "generation", "agreement", "copies"),
    ),
    Section("Cost", (TABLES["text_cost"],), ("cost",)),
    Section("Class-conditional ImageNet", (TABLES["class_to_image"],), ("imagenet",)),
    Section(
        "Ablations",
        (TABLES["class_residual_tokens"], TABLES["text_residual_tokens"]),
        ("sampling",),
        "What this project measured of the paper's claims about training: [experiments](experiments.md).",
    ),
)


def page(results: Path = RESULTS) -> str:
    """Return the whole page, from the figures in `results`."""
    measured = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("*.json"))}
    parts = [HEAD]
    for section in SECTIONS:
        parts.append(f"## {section.title}")
        for published in section.published:
            parts += [f"Printed: {published.source}.", published.markdown()]
        for name, values in measured.items():
            if values["suite"] in section.suites:
                parts += measured_table(name, values)
        if section.end:
            parts.append(section.end)
    return "\n\n".join(parts) + "\n"


def measured_table(name: str, values: Mapping[str, Any]) -> list[str]:
    """Return a run's figures and what they were measured on. values: the content of its figures.json."""
    figures = {
        row: {column: Figure(**figure) for column, figure in columns.items()}
        for row, columns in values["figures"].items()
    }
    result = Result(title=values["title"], figures=figures, settings=values["settings"], counts=values["counts"])
    machine = values["environment"]
    processor = ", ".join([machine["processor"], counted(machine["cores"], "core"), *machine["gpus"]])
    load = machine["load_average"]
    facts = [
        f"command: `{values['command']}`",
        f"weights: {weights(values['settings'])}",
        f"machine: {processor}; threads used: {machine['threads']}; torch {machine['packages']['torch']}, "
        f"hart {machine['hart']}",
    ]
    if values["suite"] == "cost" and load is not None and load > machine["cores"]:
        facts.append(
            f"**busy machine**: load {load:.1f} on {counted(machine['cores'], 'core')}, so the times are too long"
        )
    if values["extractor"] is not None:
        facts.append(f"features: {values['extractor']['name']} (weights {values['extractor']['weights_sha256'][:12]})")
    facts += [f"note: {note}" for note in values["notes"]]
    return [f"### Measured: {name}", figures_table(result), "\n".join(f"- {fact}" for fact in facts)]


@cache
def shipped_weights() -> set[str]:
    """Return the hashes of the parts of the model that comes with the package."""
    return set(HartPipeline.from_pretrained(SHIPPED, device="cpu").fingerprints().values())


def weights(settings: Mapping[str, Any]) -> str:
    """Return the model's name with the first digits of its weights' hashes, if the run recorded them."""
    found = settings.get("weights", settings.get("weights_sha256", "not recorded"))
    hashes = {"": found} if isinstance(found, str) else found
    shown = ", ".join(f"{part} {digest[:12]}".strip() for part, digest in hashes.items())
    model = settings.get("model", settings.get("samples"))
    earlier = model == SHIPPED and not shipped_weights().issuperset(hashes.values())
    return f"{model} ({shown}){', **other weights than those shipped now**' if earlier else ''}"


def missing(names: Sequence[str], root: Path = ROOT) -> list[str]:
    """Return a line for each of these rows whose data is missing: what it is and what to do."""
    return [
        f"{name}: {data} is not there: {origin}"
        for name in names
        for data, origin in ORIGINS.items()
        if data in RUNS[name].split() and not (root / data).exists()
    ]


def measure(name: str) -> None:
    """Run a row of `RUNS` and keep its figures. Stops the program if the run fails."""
    out = OUTPUTS / name
    program, *arguments = shlex.split(RUNS[name])
    command = [sys.executable, "-m", program.replace("-", "_"), *arguments, "--out", str(out.relative_to(ROOT))]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(f"{name}: {program} failed, see above; the page stays as it was")
    RESULTS.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / FIGURES_FILE, RESULTS / f"{name}.json")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Writes docs/leaderboard.md.")
    parser.add_argument("--measure", nargs="+", choices=[*RUNS, "all"], default=[], metavar="NAME",
                        help=f"measure these rows first: {', '.join(RUNS)}, or all")  # fmt: skip
    chosen = parser.parse_args(arguments).measure
    names = list(RUNS) if "all" in chosen else chosen
    # before hours are spent on the rows that come first
    if lines := missing(names):
        sys.exit("\n".join(lines))
    for name in names:
        measure(name)
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)  # noqa: T201 - the program's output


if __name__ == "__main__":
    run_program(main)

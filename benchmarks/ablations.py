"""The paper's ablations of training at a size for two CPU cores; prints a table, keeps the runs and their curves.

    hart train tokenizer recipes/ablations/tokenizer.toml --out runs/ablations/tokenizer
    python benchmarks/ablations.py data/emoji64 data/emoji128 --out runs/ablations

- hybrid, discrete: with and without residual diffusion (paper, table 5).
- all-tokens: every token of the last scale is trained on, instead of half of its 64 (a step keeps 32 at least).
- 128-scratch, 128-from-64: at the doubled resolution, from random weights and from the hybrid run (paper, section 4.1),
  for a quarter of the steps with half of the batch.
- 128-all-tokens: 128-scratch with every token of the last scale, instead of about 20% of its 256 (paper, section 3.4).

A stopped run resumes where it was; results.json keeps what earlier calls measured. Losses are those of held-out images
with the averaged weights; speeds are comparable if nothing else ran on the machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from running import run_program
from torch import Tensor

from hart.benchmark.report import table
from hart.checkpoint.loading import load_model
from hart.commands import require_writable
from hart.data.datasets import open_dataset
from hart.evaluation.suites.base import Context
from hart.evaluation.suites.core import SUITES, GenerationOptions
from hart.files import read_json, write_json
from hart.losses.transformer_loss import sample_diffusion_noise, transformer_loss
from hart.randomness import generator_for
from hart.training.conditions import open_caption_encoder
from hart.training.config import TransformerRecipe
from hart.training.distributed import DistributedContext
from hart.training.image_sources import open_training_data
from hart.training.token_sources import TokenSource, encode_all
from hart.training.trainer import MODEL_FOLDER, Trainer
from hart.training.transformer_task import TransformerTask

RECIPE = Path(__file__).parent.parent / "recipes" / "ablations" / "transformer.toml"
RUNS = ("hybrid", "discrete", "all-tokens", "128-scratch", "128-from-64", "128-all-tokens")
LARGER_SCALES = (1, 2, 3, 5, 8, 12, 16)
CPU = torch.device("cpu")
BATCH = 64


@dataclass(frozen=True)
class Variant:
    """One run: its name, its recipe, and its image size in pixels."""

    name: str
    recipe: TransformerRecipe
    size: int


def variants(small: str, large: str, steps: int | None, out: Path) -> list[Variant]:
    """Return all runs in an order in which they can be made."""
    base = TransformerRecipe.read(RECIPE, (f"data={small}",))
    if steps is not None:
        base = base.replace(trainer=base.trainer.replace(steps=steps))
    # encoding all images first would take longer than encoding only those that these few steps use
    live = base.reading.replace(memory_gb=0.0)
    larger = base.replace(data=large, reading=live, transformer=base.transformer.replace(scales=LARGER_SCALES))
    trainer = base.trainer
    shorter = trainer.replace(steps=max(1, trainer.steps // 4), batch_size=trainer.batch_size // 2)
    larger = larger.replace(trainer=shorter)
    return [
        Variant("hybrid", base, 64),
        Variant("discrete", base.replace(diffusion=None), 64),
        Variant("all-tokens", base.replace(drop_last_scale=False), 64),
        Variant("128-scratch", larger, 128),
        Variant("128-from-64", larger.replace(init_from=str(out / "hybrid" / MODEL_FOLDER)), 128),
        Variant("128-all-tokens", larger.replace(drop_last_scale=False), 128),
    ]


def train(variant: Variant, folder: Path, encoded: dict[int, TokenSource]) -> None:
    """Train, or resume a run. encoded: token sources by image size, which runs share."""
    recipe = variant.recipe
    distributed = DistributedContext(recipe.trainer)
    data = open_training_data(recipe, variant.size)
    task = TransformerTask(recipe, data, distributed.device)
    task.tokens = encoded.setdefault(variant.size, task.tokens)
    Trainer(task, recipe, folder, distributed, on_log=lambda step, figures: _say(variant.name, step, figures)).run()


def _say(name: str, step: int, figures: dict[str, float]) -> None:
    typer.echo(f"{name}: step {step}  loss {figures['loss']:.3f}  {figures['images_per_second']:.1f} images/s")


@torch.inference_mode()
def held_out(variant: Variant, folder: Path, limit: int) -> dict[str, float]:
    """Return mean loss terms of held-out images: all tokens of all scales, with each image's last caption, which has
    the style."""
    recipe = variant.recipe
    model = load_model(folder / MODEL_FOLDER)
    data = open_dataset(Path(recipe.data), "val", variant.size)
    count = min(limit, len(data))
    maps = encode_all(model.tokenizer.eval(), recipe.transformer.schedule, data, CPU)
    texts = open_caption_encoder(recipe, CPU)
    assert texts is not None
    sums: dict[str, float] = {}
    for start in range(0, count, BATCH):
        rows = torch.arange(start, min(start + BATCH, count))
        chosen = maps.rows(rows)
        diffusion_noise = None
        if model.hart.residual is not None:
            tokens, channels = chosen.last_scale_continuous.shape[1:]
            diffusion_noise = sample_diffusion_noise(
                model.hart.residual, len(rows), tokens, channels, generator_for(0, "held out", start)
            )
        context = texts.context([data.texts[row][-1] for row in rows.tolist()])
        _, parts = transformer_loss(
            model.hart.eval(),
            model.tokenizer.quantizer.codebook,
            context,
            chosen,
            None,
            diffusion_noise,
            diffusion_weight=1.0,
        )
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(rows) / count
    return sums


def generated(variant: Variant, folder: Path, limit: int) -> dict[str, float]:
    """Return Frechet and kernel distance of generated images to all held-out ones, by EfficientNet-Lite0 features."""
    options = GenerationOptions(
        model=str(folder / MODEL_FOLDER), data=variant.recipe.data, limit=limit, batch_size=8, device="cpu"
    )
    result = SUITES["generation"](Context(options, folder / "generated"))
    return {name: figure.value for name, figure in result.figures["generated"].items()}


def speed(folder: Path) -> float:
    """Return the median of images per second over the run's log lines."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    values: Tensor = torch.tensor([json.loads(line)["images_per_second"] for line in lines])
    return float(values.median())


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """Return a table with a row for each run."""
    columns = list(dict.fromkeys(name for result in results.values() for name in result))
    rows = ([name, *map(result.get, columns)] for name, result in results.items())
    return "\n".join(table(["run", *columns], rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The paper's ablations of training, small.")
    parser.add_argument("small", help="emoji at 64 px, from hart-emoji data --size 64")
    parser.add_argument("large", help="emoji at 128 px, from hart-emoji data --size 128")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS, help="all by default")
    parser.add_argument("--steps", type=int, help="steps of the runs at 64 px; by default the recipe's")
    parser.add_argument("--limit", type=int, default=704, help="held-out images for the loss, and images to generate")
    options = parser.parse_args(arguments)
    require_writable(options.out)
    file = options.out / "results.json"
    results: dict[str, dict[str, Any]] = read_json(file) if file.exists() else {}
    encoded: dict[int, TokenSource] = {}
    for variant in variants(options.small, options.large, options.steps, options.out):
        if variant.name not in options.runs:
            continue
        folder = options.out / variant.name
        train(variant, folder, encoded)
        losses = held_out(variant, folder, options.limit)
        results[variant.name] = {
            "images/s": speed(folder),
            **{name: loss for name, loss in losses.items() if name.startswith(("cross_entropy", "diffusion_mse"))},
            **generated(variant, folder, options.limit),
        }
        write_json(file, results)
    typer.echo(markdown({name: results[name] for name in RUNS if name in results}))


if __name__ == "__main__":
    run_program(main)

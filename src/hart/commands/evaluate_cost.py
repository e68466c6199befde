"""`hart evaluate cost`: what drawing with a model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hart.commands.console import model_name, owned, progress, writable_folder
from hart.commands.evaluate import (
    DiscreteOnlyOption,
    GuidanceOption,
    OutOption,
    ResamplesOption,
    SeedOption,
    finish,
    sampling_of,
)
from hart.commands.options import DeviceOption


def cost(
    model: Annotated[
        str, typer.Option(help="Shipped name, folder or hub id; with --random-weights a preset or a config.json.")
    ] = "emoji",
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Use the model's sizes with random weights: nothing is downloaded.")
    ] = False,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Pictures drawn together; may be repeated; 1 and 8 by default.")
    ] = None,
    warm_up: Annotated[int, typer.Option(min=0, help="Runs before the clock starts.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each batch size.")] = 5,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; by default what the device is used with.")
    ] = None,
    guidance: GuidanceOption = None,
    discrete_only: DiscreteOnlyOption = False,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 100,
    device: DeviceOption = None,
    out: OutOption = Path("outputs/evaluate-cost"),
) -> None:
    """Parameters and MACs by part, latency, throughput and peak memory."""
    from hart.checkpoint.loading import load_config
    from hart.evaluation.cost import CostOptions, evaluate_cost
    from hart.pipeline import HartPipeline

    writable_folder(out)
    with owned(out, "an evaluation"), progress(f"loading {model}") as report:
        if random_weights:
            pipe = HartPipeline.from_config(load_config(model), seed=seed, device=device, dtype=dtype)
        else:
            pipe = HartPipeline.from_pretrained(model, device=device, dtype=dtype)
        result = evaluate_cost(
            pipe,
            sampling_of(pipe, guidance, None, discrete_only),
            CostOptions(tuple(batch_size or (1, 8)), warm_up, repeats, seed, resamples),
            {"model": model_name(model), "weights": "random" if random_weights else pipe.fingerprints()},
            report,
        )
    finish(out, result)

"""`hart benchmark`: latency, throughput and memory of a model on this machine, and each part against its floor."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import Field

from hart.commands.console import progress, require_writable_file
from hart.commands.from_config import options_from_config
from hart.commands.options import AspectRatio, Size
from hart.config import Config, Device, NumberType
from hart.errors import HartError
from hart.files import write_text
from hart.strict import Listed, counted

if TYPE_CHECKING:
    from hart.pipeline import HartPipeline

FORMATS = (".json", ".md")


class BenchmarkOptions(Config, kw_only=True):
    """What to measure, and for how long."""

    model: Annotated[str, Field(json_schema_extra={"positional": True})] = "emoji"
    """Shipped model, folder or Hugging Face id; or a preset or config.json, which gets random weights."""
    random_weights: bool = False
    """Use random weights in place of the model's: only its configuration is read."""
    size: Size = None
    aspect: AspectRatio = None
    speed: Listed[str] = ()
    """A level of hart generate, or published: an eager loop in the manner of the published program. Repeat it to
    compare several in one run. By default exact, or int8 for models stored in 8 bits."""
    batch_size: Annotated[Listed[Annotated[int, Field(ge=1)]], Field(min_length=1)] = (1, 4, 8)
    """Images generated together; each batch size is timed."""
    device: Device = None
    dtype: NumberType = None
    threads: Annotated[int | None, Field(ge=1)] = None
    """Threads on a CPU; by default PyTorch's own number."""
    repeats: Annotated[int, Field(ge=1)] = 5
    """Most timed calls per batch size."""
    warm_up: Annotated[int, Field(ge=0)] = 1
    """Calls before the timed ones."""
    seconds: Annotated[float, Field(gt=0)] = 60.0
    """Approximate time per batch size; one call is timed, however long it takes."""
    clock: Literal["wall", "cpu"] = "wall"
    """cpu: processor time, with --threads 1 on a machine that is busy with other work; not a latency."""
    output: Listed[Path] = ()
    """File for the figures, FILE.json or FILE.md; repeat it for both."""


@options_from_config
def benchmark(options: BenchmarkOptions) -> None:
    """Time a model on this machine, part by part, compared with the least time its products and copies allow."""
    for file in options.output:
        if file.suffix not in FORMATS:
            raise HartError(f"--output {file}: give a file that ends in {' or '.join(FORMATS)}")
        require_writable_file(file)
    if options.threads is not None and options.threads > (processors := os.cpu_count() or 1):
        raise HartError(f"--threads {options.threads}: this machine has {counted(processors, 'processor')}")
    import torch

    from hart.benchmark.machine import host_clock
    from hart.benchmark.measure import benchmark as measure
    from hart.benchmark.report import markdown
    from hart.devices import resolve_device

    if options.clock == "cpu" and (options.threads != 1 or resolve_device(options.device).type != "cpu"):
        raise HartError("--clock cpu needs --threads 1 and --device cpu: processor time adds up over threads")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with progress(f"loading {options.model}") as report:
        pipe, weights = _open(options)
        result: dict[str, Any] = {
            "model": options.model,
            "weights": weights,
            "command": shlex.join(["hart", *sys.argv[1:]]),
            "clock": f"{options.clock} clock",
        } | measure(
            pipe,
            options.batch_size,
            levels=options.speed,
            warm_up=options.warm_up,
            size=options.size,
            aspect=options.aspect,
            repeats=options.repeats,
            seconds=options.seconds,
            clock=host_clock(time.process_time) if options.clock == "cpu" else None,
            progress=lambda what: report(0, None, what),
        )
    text = markdown(result)
    typer.echo(text, nl=False)
    for file in options.output:
        write_text(file, text if file.suffix == ".md" else json.dumps(result, indent=1) + "\n")


def _open(options: BenchmarkOptions) -> tuple[HartPipeline, str]:
    """Return the pipeline, and whether its weights are random or stored."""
    from hart.benchmark.published import PUBLISHED
    from hart.checkpoint.loading import resolve_model
    from hart.devices import resolve_device
    from hart.inference.speed import EIGHT_BITS, resolve_speed
    from hart.pipeline import HartPipeline
    from hart.presets import PRESETS

    levels = ["plain" if level == PUBLISHED else level for level in options.speed]
    weights = [resolve_speed(level, resolve_device(options.device)).weights for level in levels]
    if any(before in EIGHT_BITS and before != after for before, after in pairwise(weights)):
        raise HartError("--speed: levels in 8 bits go last, since the model's own weights are gone after them")
    how: dict[str, Any] = {"device": options.device, "dtype": options.dtype, "speed": levels[0] if levels else None}
    if options.random_weights or options.model in PRESETS or options.model.endswith(".json"):
        return HartPipeline.from_config(options.model, **how), "random"
    return HartPipeline.from_pretrained(resolve_model(options.model, or_sizes=True), **how), "stored"

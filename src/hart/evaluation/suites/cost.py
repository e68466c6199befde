"""Suite `cost`: parameters and MACs by part, latency, throughput and peak memory of drawing.

MACs are those of `hart.inference.cost`, which `hart info` prints, with guidance (two rows, as pictures are drawn) and
without (one row). The paper does not say what its figures count; `printed_macs` is the count that they agree with.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from hart.checkpoint.loading import load_config
from hart.config import HartConfig, SamplingConfig
from hart.devices import dtype_name
from hart.evaluation.metrics.figures import Figure, bootstrap
from hart.evaluation.report import Result
from hart.evaluation.suites import base
from hart.evaluation.suites.base import STRICT, Context, SamplingOptions, Suite, SuiteOptions
from hart.generation.request import Prompt
from hart.inference.cost import MODULES, PARTS, model_cost
from hart.pipeline import HartPipeline

TOTAL = "total"
PARAMETERS = "parameters, millions"
MACS_GUIDED, MACS_PLAIN = "GMACs with guidance", "GMACs without guidance"
MACS_PRINTED = "GMACs as the paper seems to count"
LATENCY, THROUGHPUT, MEMORY = "seconds", "pictures a second", "peak memory, GiB"
PROMPT = "a picture of a mountain lake at sunrise"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CostOptions(SuiteOptions):
    """The settings of the model decide what is counted and timed."""

    model: Annotated[
        str, Field(description="Shipped name, folder or hub id; with --random-weights a preset or a config.json.")
    ] = "emoji"
    random_weights: Annotated[
        bool, Field(description="Use the model's sizes with random weights: nothing is downloaded.")
    ] = False
    batch_size: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, description="Pictures drawn together, each timed.")
    ] = (1, 8)
    warm_up: Annotated[int, Field(ge=0, description="Runs before the clock starts.")] = 2
    repeats: Annotated[int, Field(ge=1, description="Timed runs of each batch size.")] = 5
    dtype: Annotated[
        str | None, Field(description="float32, bfloat16 or float16; by default what the device is used with.")
    ] = None
    guidance: base.Guidance = None
    discrete_only: base.DiscreteOnly = False


def run(context: Context[CostOptions]) -> Result:
    """Count and time. Raises `HartError`."""
    options = context.options
    if options.random_weights:
        config = load_config(options.model)
        pipe = HartPipeline.from_config(config, seed=options.seed, device=options.device, dtype=options.dtype)
    else:
        pipe = HartPipeline.from_pretrained(options.model, device=options.device, dtype=options.dtype)
    sampling = SamplingOptions(guidance=options.guidance, discrete_only=options.discrete_only).sampling(pipe)
    figures = counted_figures(pipe.config.replace(sampling=sampling))
    place = f"{pipe.device.type}, {dtype_name(pipe.dtype)}"
    for batch in dict.fromkeys(options.batch_size):
        figures[f"batch {batch} ({place})"] = _measured(pipe, sampling, batch, context)
    return Result(
        title=f"one picture of {pipe.image_size} px",
        figures=figures,
        settings={
            "weights": "random" if options.random_weights else pipe.fingerprints(),
            "size": pipe.image_size,
            "device": pipe.device.type,
            "dtype": dtype_name(pipe.dtype),
            "sampling": sampling.to_dict(),
        },
        counts={"repeats": options.repeats},
        notes=(
            "MACs are matrix products and convolutions of one picture with the model's configured rounds, decoder "
            "included, a text model such as Qwen2 not; the paper does not say what it counts, and its figures are "
            "within 2.5% of parameters times positions, see the documentation",
            "seconds are the median of a whole call, from prompt to pixels; with random weights of a text model the "
            "text encoder is left out, which the paper's script times",
            "peak memory is the largest that torch allocated"
            if pipe.device.type == "cuda"
            else "peak memory is the process's largest so far, loading and earlier rows included",
        ),
        published=("text_cost" if pipe.num_classes is None else "class_to_image",),
    )


def counted_figures(config: HartConfig) -> dict[str, dict[str, Figure]]:
    """Parameters and MACs by part, and their sums; the sum also by `printed_macs`."""
    guided, plain = (model_cost(config, guided=on) for on in (True, False))
    figures: dict[str, dict[str, Figure]] = {}
    for name in dict.fromkeys((*MODULES, *PARTS)):
        row = {}
        if name in guided.parameters:
            row[PARAMETERS] = Figure(guided.parameters[name] / 1e6)
        if name in guided.macs:
            row[MACS_GUIDED] = Figure(guided.macs[name] / 1e9)
            row[MACS_PLAIN] = Figure(plain.macs[name] / 1e9)
        if row:
            figures[name] = row
    figures[TOTAL] = {
        PARAMETERS: Figure(guided.total_parameters / 1e6),
        MACS_GUIDED: Figure(guided.total_macs / 1e9),
        MACS_PLAIN: Figure(plain.total_macs / 1e9),
        MACS_PRINTED: Figure(printed_macs(config) / 1e9),
    }
    return figures


def printed_macs(config: HartConfig) -> int:
    """MACs of one picture in the convention that the paper's figures agree with; it names none.

    The transformer's parameters times its positions, without guidance and without the products of attention (adaptive
    norms count at every position, though they are computed once); the diffusion's parameters times positions and steps,
    with guidance; and, of models that draw from words, the decoder. The printed figures of HART and VAR are all within
    2.5% of this.
    """
    cost = model_cost(config)
    words, schedule = config.transformer.text, config.transformer.schedule
    # the last token of the context stands for the first map
    positions = schedule.total_tokens + (words.tokens - 1 if words is not None else 0)
    total = cost.parameters["transformer"] * positions
    if config.diffusion is not None and not config.sampling.discrete_only:
        steps = config.sampling.diffusion_steps or config.diffusion.sampling_steps
        total += 2 * cost.parameters["residual diffusion"] * schedule.token_counts[-1] * steps
    return total + (cost.macs["decoder"] if words is not None else 0)


def _measured(
    pipe: HartPipeline, sampling: SamplingConfig, batch: int, context: Context[CostOptions]
) -> dict[str, Figure]:
    options = context.options
    prompts: list[Prompt] = [PROMPT if pipe.num_classes is None else 0] * batch
    on_cuda = pipe.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(pipe.device)
    seconds = []
    runs = options.warm_up + options.repeats
    for number in range(runs):
        context.progress(number, runs, f"batch {batch}")
        _wait(pipe.device)
        start = time.perf_counter()
        pipe(prompts, seed=options.seed, batch_size=batch, sampling=sampling)
        # a call may return before the device has done its work
        _wait(pipe.device)
        seconds.append(time.perf_counter() - start)
    timed = torch.tensor(seconds[options.warm_up :], dtype=torch.float64)
    latency = bootstrap(
        lambda rows: float(timed[rows].quantile(0.5)), [len(timed)], context.generator(), options.resamples
    )
    figures = {LATENCY: latency, THROUGHPUT: Figure(batch / latency.value)}
    peak = torch.cuda.max_memory_allocated(pipe.device) if on_cuda else _peak_of_process()
    if peak is not None:
        figures[MEMORY] = Figure(peak / 2**30)
    return figures


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak_of_process() -> int | None:
    """Bytes; None where the system does not say, as on Windows."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


SUITE = Suite("cost", "Parameters and MACs by part, latency, throughput and peak memory.", CostOptions, run)

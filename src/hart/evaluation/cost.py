"""Suite `cost`: parameters and MACs by part, latency, throughput and peak memory of drawing.

MACs are those of `hart.inference.cost`, which `hart info` prints, with guidance (two rows) and without (one
row). The paper does not say what its figures count; `printed_macs` is the count that they agree with.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hart.config import HartConfig, SamplingConfig
from hart.devices import dtype_name
from hart.errors import HartError
from hart.evaluation.published_class import CLASS_TO_IMAGE
from hart.evaluation.published_cost import TEXT_COST
from hart.evaluation.report import Progress, Result
from hart.evaluation.statistics import RESAMPLES, Figure, bootstrap
from hart.generation.request import Prompt
from hart.inference.cost import MODULES, PARTS, model_cost
from hart.pipeline import HartPipeline

TOTAL = "total"
PARAMETERS = "parameters, millions"
MACS_GUIDED, MACS_PLAIN = "GMACs with guidance", "GMACs without guidance"
MACS_PRINTED = "GMACs as the paper seems to count"
LATENCY, THROUGHPUT, MEMORY = "seconds", "pictures a second", "peak memory, GiB"
PROMPT = "a picture of a mountain lake at sunrise"


@dataclass(frozen=True)
class CostOptions:
    """batch_sizes: pictures drawn together, each timed; 1 gives the latency. warm_up, repeats: runs of each, before and
    while the clock runs. seed: of pictures and statistics. resamples: of the intervals; 0 leaves them out."""

    batch_sizes: tuple[int, ...] = (1, 8)
    warm_up: int = 2
    repeats: int = 5
    seed: int = 0
    resamples: int = RESAMPLES


def evaluate_cost(
    pipe: HartPipeline,
    sampling: SamplingConfig,
    options: CostOptions,
    settings: Mapping[str, Any],
    progress: Progress = lambda _done, _total, _what: None,
) -> Result:
    """Count and time. Raises `HartError` for no or impossible batch sizes and repeats."""
    if not options.batch_sizes or min(options.batch_sizes) < 1 or options.repeats < 1 or options.warm_up < 0:
        raise HartError("give batch sizes and repeats of at least 1, and a warm-up of at least 0")
    figures = counted_figures(pipe.config.replace(sampling=sampling))
    place = f"{pipe.device.type}, {dtype_name(pipe.dtype)}"
    for batch in dict.fromkeys(options.batch_sizes):
        figures[f"batch {batch} ({place})"] = _measured(pipe, sampling, batch, options, progress)
    return Result(
        suite="cost",
        title=f"one picture of {pipe.image_size} px",
        figures=figures,
        settings={
            **settings,
            "size": pipe.image_size,
            "device": pipe.device.type,
            "dtype": dtype_name(pipe.dtype),
            "sampling": sampling.to_dict(),
            "warm_up": options.warm_up,
            "resamples": options.resamples,
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
        published=(TEXT_COST if pipe.num_classes is None else CLASS_TO_IMAGE,),
    )


def counted_figures(config: HartConfig) -> dict[str, dict[str, Figure]]:
    """Parameters and MACs by part, as `model_cost` counts them, and their sums; the sum also by `printed_macs`."""
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
    pipe: HartPipeline, sampling: SamplingConfig, batch: int, options: CostOptions, progress: Progress
) -> dict[str, Figure]:
    prompts: list[Prompt] = [PROMPT if pipe.num_classes is None else 0] * batch
    on_cuda = pipe.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(pipe.device)
    seconds = []
    runs = options.warm_up + options.repeats
    for run in range(runs):
        progress(run, runs, f"batch {batch}")
        _wait(pipe.device)
        start = time.perf_counter()
        pipe(prompts, seed=options.seed, batch_size=batch, sampling=sampling)
        # a call may return before the device has done its work
        _wait(pipe.device)
        seconds.append(time.perf_counter() - start)
    timed = torch.tensor(seconds[options.warm_up :], dtype=torch.float64)
    generator = torch.Generator().manual_seed(options.seed)
    latency = bootstrap(lambda rows: float(timed[rows].quantile(0.5)), [len(timed)], generator, options.resamples)
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

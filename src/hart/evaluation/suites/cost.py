"""Suite `cost`: parameters and MACs by part, latency, throughput and peak memory of generation.

MACs are those of `hart.inference.cost`, which `hart info` prints, with guidance (two rows, as images are generated) and
without (one row). The paper does not say what its figures count; `printed_macs` is a count that agrees with them.
"""

from __future__ import annotations

import math

import torch

from hart.benchmark.machine import device_clock
from hart.benchmark.measure import timed
from hart.benchmark.parts import GenerationTimer
from hart.config import HartConfig
from hart.devices import dtype_name
from hart.evaluation.metrics.figures import Figure, bootstrap
from hart.evaluation.report import Result, published_tables
from hart.evaluation.suites.base import Context, SamplingOptions
from hart.evaluation.suites.core import CostOptions
from hart.inference.cost import MODULES, PARTS, model_cost
from hart.pipeline import HartPipeline

TOTAL = "total"
PARAMETERS = "parameters, millions"
MACS_GUIDED, MACS_PLAIN = "GMACs with guidance", "GMACs without guidance"
MACS_PRINTED = "GMACs as the paper seems to count"
LATENCY, THROUGHPUT, MEMORY = "seconds", "images a second", "peak memory, GiB"


def run(context: Context[CostOptions]) -> Result:
    """Count and time. Raises `HartError`."""
    options = context.options
    if options.random_weights:
        pipe = HartPipeline.from_config(options.model, seed=options.seed, device=options.device, dtype=options.dtype)
    else:
        pipe = HartPipeline.from_pretrained(options.model, device=options.device, dtype=options.dtype)
    for remark in pipe.speed_remarks(chosen=False):
        context.note(remark)
    sampling = SamplingOptions(guidance=options.guidance, discrete_only=options.discrete_only).sampling(pipe)
    figures = counted_figures(pipe.config.replace(sampling=sampling))
    timer = GenerationTimer(pipe, device_clock(pipe.device), sampling=sampling)
    place = f"{pipe.device.type}, {dtype_name(pipe.dtype)}"
    for batch in dict.fromkeys(options.batch_size):
        figures[f"batch {batch} ({place})"] = _measured(timer, batch, context)
    return Result(
        title=f"one image of {pipe.image_size} px",
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
            "MACs are matrix products and convolutions of one image with the model's configured MaskGIT steps, decoder "
            "included, a text model such as Qwen2 not; the paper does not say what it counts, and its figures are "
            "within 2.5% of parameters times positions, see the documentation",
            "seconds are the median of a whole call, from prompt to pixels; with random weights of a text model the "
            "text encoder is left out, which the paper's script times",
            "peak memory is that of tensors on a GPU, and of the whole process elsewhere",
        ),
        published=(published_tables()["text_cost" if pipe.num_classes is None else "class_to_image"],),
    )


def counted_figures(config: HartConfig) -> dict[str, dict[str, Figure]]:
    """Return parameters and MACs by part, and their sums; the sum also by `printed_macs`."""
    guided, plain = (model_cost(config, guided=on) for on in (True, False))
    columns = {PARAMETERS: (guided.parameters, 1e6), MACS_GUIDED: (guided.macs, 1e9), MACS_PLAIN: (plain.macs, 1e9)}
    parts = dict.fromkeys((*MODULES, *PARTS))
    rows = {
        part: {column: Figure(counts[part] / unit) for column, (counts, unit) in columns.items() if part in counts}
        for part in parts
    }
    rows[TOTAL] = {column: Figure(sum(counts.values()) / unit) for column, (counts, unit) in columns.items()}
    rows[TOTAL][MACS_PRINTED] = Figure(printed_macs(config) / 1e9)
    return {part: row for part, row in rows.items() if row}


def printed_macs(config: HartConfig) -> int:
    """Return the MACs of one image in the convention that the paper's figures agree with; it names none.

    The transformer's parameters times its positions, without guidance and without the products of attention (adaptive
    norms count at every position, though they are computed once); the diffusion's parameters times positions and steps,
    with guidance; and, for text-to-image models, the decoder. The printed figures of HART and VAR are all within 2.5%
    of this.
    """
    cost = model_cost(config)
    sizes, schedule = config.transformer, config.transformer.schedule
    # the last token of the context takes the place of the first map
    positions = sizes.context_tokens + schedule.total_tokens - 1
    total = cost.parameters["transformer"] * positions
    if config.diffusion is not None and not config.sampling.discrete_only:
        steps = config.diffusion_steps(config.sampling)
        total += 2 * cost.parameters["residual diffusion"] * schedule.token_counts[-1] * steps
    return total + (cost.macs["decoder"] if sizes.text is not None else 0)


def _measured(timer: GenerationTimer, batch: int, context: Context[CostOptions]) -> dict[str, Figure]:
    options = context.options
    context.progress(0, None, f"batch {batch}")
    found = timed(timer, batch, repeats=options.repeats, seconds=math.inf, warm_up=options.warm_up)
    seconds = torch.tensor([call.seconds for call in found.generations], dtype=torch.float64)
    latency = bootstrap(
        lambda rows: float(seconds[rows].quantile(0.5)), [len(seconds)], context.generator(), options.resamples
    )
    figures = {LATENCY: latency, THROUGHPUT: Figure(batch / latency.value)}
    return figures if found.peak is None else figures | {MEMORY: Figure(found.peak)}

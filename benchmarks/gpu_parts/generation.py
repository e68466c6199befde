"""Part 2: images with random weights: latency, images a second, time over floor by part, memory, launches and waits.

The floor of a part is the larger of its counted operations over the fastest matrix product of the same process, and of
the bytes that it must at least move over the bandwidth of a copy: weights once a call, keys and values once a scale.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from timing import SEED, Clock, GenerationTimer, device_clock, model_products, product_rate, step_names
from torch import nn

from gpu_parts.cells import Cells, Row, peak_memory
from hart.checkpoint.loading import random_model
from hart.config import HartConfig, ResidualDiffusionConfig, TextConditioning, TokenizerConfig, TransformerConfig
from hart.pipeline import HartPipeline
from hart.presets import PRESETS
from hart.text_encoder.base import RandomTextFeatures

SIZES = (256, 512, 1024)
BATCHES = (1, 8)
REPEATS = 5
COPY_BYTES = 2**30
SQUARES = (4096, 8192)
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")


def tiny_config(size: int) -> HartConfig:
    """A model that takes seconds on a CPU, instead of the 0.7B model; the larger the size, the more scales."""
    scales = (1, 2, 3, 4)[: {256: 2, 512: 3, 1024: 4}[size]]
    transformer = TransformerConfig(
        scales, latent_channels=4, codebook_size=16, width=32, depth=2, heads=2, text=TextConditioning(12, 5)
    )
    tokenizer = TokenizerConfig(scales, 32, (1, 1), 1, latent_channels=4, codebook_size=16)
    return HartConfig(tokenizer, transformer, ResidualDiffusionConfig(16, 2, sampling_steps=4))


def run(cells: Cells, *, tiny: bool) -> None:
    device = cells.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    clock = device_clock(device)
    ceilings = Ceilings(device, dtype, clock, tiny=tiny)
    cells.fact("dtype", str(dtype).removeprefix("torch."))
    cells.cell("ceilings", ceilings.measure, limit=60)
    timers: dict[int, GenerationTimer] = {}

    def timer(size: int) -> GenerationTimer:
        if size not in timers:
            config = tiny_config(size) if tiny else PRESETS[f"hart-0.7b-{size}"]()
            timers[size] = GenerationTimer(random_pipeline(config, device, dtype), clock)
        return timers[size]

    plan: list[tuple[str, int, int]] = [("time", size, 1) for size in SIZES]
    plan += [("profile", size, 1) for size in (SIZES[0], SIZES[-1])]
    plan += [("time", size, batch) for batch in BATCHES[1:] for size in SIZES]
    for place, (what, size, batch) in enumerate(plan):
        # what a measurement leaves goes to those after it
        budget = max(cells.left / (len(plan) - place), 5.0)
        key = f"{'profile, ' if what == 'profile' else ''}{size} px, batch {batch}"

        def work(what: str = what, size: int = size, batch: int = batch, budget: float = budget) -> Row:
            if what == "profile":
                return profile(timer(size))
            return timed(timer(size), batch, ceilings, budget)

        cells.cell(key, work, limit=max(cells.left, 5.0), least=5.0 if not tiny else 0.5)
    cells.cell("ceilings, at the end", ceilings.measure, limit=60)


def random_pipeline(config: HartConfig, device: torch.device, dtype: torch.dtype) -> HartPipeline:
    """`HartPipeline.from_config` with random weights, made on the device."""
    tokenizer, hart = random_model(config, torch.Generator(device).manual_seed(SEED), dtype=dtype)
    text = config.transformer.text
    encoder = RandomTextFeatures(text, SEED) if text is not None else None
    return HartPipeline(config, tokenizer, hart, device=device, dtype=dtype, text_encoder=encoder)


class Ceilings:
    """The fastest product and copy that this process has seen."""

    def __init__(self, device: torch.device, dtype: torch.dtype, clock: Clock, *, tiny: bool) -> None:
        self.device, self.dtype, self.clock, self.tiny = device, dtype, clock, tiny
        self.rate = 0.0
        self.bandwidth = 0.0

    def measure(self) -> Row:
        rates = {}
        for size in (64,) if self.tiny else SQUARES:
            rates[f"{size}^3"] = self.product((size, size, size))
        self.bandwidth = max(self.bandwidth, self.copy(2**20 if self.tiny else COPY_BYTES))
        return {
            "tflops": {shape: round(rate / 1e12, 4) for shape, rate in rates.items()},
            "fastest_tflops": self.rate / 1e12,
            "copy_gb_s": self.bandwidth / 1e9,
        }

    def product(self, shape: tuple[int, int, int]) -> float:
        found = product_rate(*shape, self.dtype, self.clock, device=self.device, seconds=0.02 if self.tiny else 0.3)
        self.rate = max(self.rate, found)
        return found

    def copy(self, size: int) -> float:
        """Bytes a second, read and written ones together."""
        source = torch.randint(256, (size,), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        best = 0.0
        for _ in range(10):
            start = self.clock.mark()
            target.copy_(source)
            end = self.clock.mark()
            self.clock.wait()
            best = max(best, 2 * size / max(self.clock.between(start, end), 1e-9))
        return best


def timed(timer: GenerationTimer, batch: int, ceilings: Ceilings, budget: float) -> Row:
    """Median of up to `REPEATS` calls after one to warm up, in about `budget` seconds; one call where that is long."""
    peak = peak_memory(timer.pipe.device)
    if ceilings.rate == 0:  # an earlier process of this part measured them
        ceilings.measure()
    for shape in model_products(timer, batch):
        ceilings.product(shape)
    start = time.monotonic()
    timer.generate(batch)
    generations = []
    while not generations or (
        len(generations) < REPEATS and time.monotonic() - start + generations[-1].seconds < budget
    ):
        generations.append(timer.generate(batch))
    seconds = [generation.seconds for generation in generations]
    middle = sorted(generations, key=lambda generation: generation.seconds)[len(generations) // 2]
    floors = part_floors(timer, batch, ceilings)
    floor = sum(found["floor_s"] for found in floors.values())
    median = statistics.median(seconds)
    return {
        "batch": batch,
        "size": timer.pipe.image_size,
        "latencies_s": seconds,
        "median_s": median,
        "images_per_s": batch / median,
        "floor_s": floor,
        "ratio": median / floor,
        "peak_gib": peak(),
        "tflop_an_image": timer.cost.total_flops / 1e12,
        "parts": {name: found | {"measured_s": middle.parts[name]} for name, found in floors.items()},
    }


def part_floors(timer: GenerationTimer, batch: int, ceilings: Ceilings) -> dict[str, dict[str, Any]]:
    """By the names of an image's parts: the floor in seconds of a batch, and what sets it."""
    moved = part_bytes(timer, batch)
    floors = {}
    for name, flops in timer.part_flops().items():
        products, memory = batch * flops / ceilings.rate, moved[name] / ceilings.bandwidth
        floors[name] = {
            "floor_s": max(products, memory),
            "bound": "products" if products >= memory else "memory",
            "gflop": batch * flops / 1e9,
            "gb": moved[name] / 1e9,
        }
    return floors


def part_bytes(timer: GenerationTimer, batch: int) -> dict[str, int]:
    """The least bytes that a batch moves, by part: weights once a call, keys and values as often as they are needed.

    With guidance there are two rows an image. Activations are left out: what they move depends on the program.
    """
    pipe, sizes, counts = timer.pipe, timer.pipe.config.transformer, timer.cost.scale_tokens
    transformer, residual = pipe.components.hart.transformer, pipe.components.hart.residual
    rows = batch * (2 if pipe.config.sampling.guidance_scale > 0 else 1)
    seen = sizes.text.tokens if sizes.text is not None else 1
    token = 2 * sizes.depth * sizes.width * pipe.dtype.itemsize  # its key and value
    weights = _bytes(transformer.blocks, transformer.head)
    moved = {}
    for name, tokens in zip(step_names(timer.cost), (0, *counts[1:]), strict=True):
        seen += tokens
        moved[name] = weights + rows * seen * token
    moved["residual diffusion"] = 0
    if residual is not None:
        steps = pipe.config.sampling.diffusion_steps or residual.config.sampling_steps
        moved["residual diffusion"] = steps * _bytes(residual)
    moved["decoder"] = _bytes(pipe.tokenizer.decoder, pipe.tokenizer.post_quant_conv)
    return moved | {"rest": 0}


def _bytes(*modules: nn.Module) -> int:
    return sum(parameter.nbytes for module in modules for parameter in module.parameters())


def profile(timer: GenerationTimer) -> Row:
    """Kernels of one image: how many are launched, how long they run, and how often the host waits for the device."""
    timer.generate()
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_gpu = timer.pipe.device.type == "cuda"
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        generation = timer.generate()
    events = profiler.key_averages()
    row: Row = {"seconds_profiled": generation.seconds}
    if not on_gpu:
        return row | {"note": "no GPU: no kernels, no waits"}
    kernels = [event for event in events if str(event.device_type).endswith("CUDA")]
    kernels.sort(key=lambda event: -event.self_device_time_total)
    return row | {
        "waits": _count(events, WAITS),
        "launches": _count(events, LAUNCHES),
        "copies": _count(events, ("cudaMemcpyAsync",)),
        "kernels": sum(event.count for event in kernels),
        "kernels_s": sum(event.self_device_time_total for event in kernels) / 1e6,
        "longest": [
            {"kernel": event.key[:100], "calls": event.count, "ms": round(event.self_device_time_total / 1e3, 3)}
            for event in kernels[:12]
        ],
    }


def _count(events: Sequence[Any], names: tuple[str, ...]) -> int:
    return sum(event.count for event in events if event.key.startswith(names))

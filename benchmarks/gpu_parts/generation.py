"""Part 2: images with random weights: latency, images per second, time over floor by part, memory, launches and waits.

Measured as `hart benchmark` does, see `hart.benchmark`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from gpu_parts.cells import Cells, Row
from hart.benchmark.machine import SEED, SQUARES, device_clock
from hart.benchmark.measure import Ceilings, figures, model_products, product_type, timed
from hart.benchmark.parts import GenerationTimer
from hart.checkpoint.loading import random_model
from hart.config import HartConfig, ResidualDiffusionConfig, TextConditioning, TokenizerConfig, TransformerConfig
from hart.inference.speed import EXACT, Speed
from hart.pipeline import HartPipeline
from hart.presets import PRESETS
from hart.text_encoder.base import RandomTextFeatures

SIZES = (256, 512, 1024)
BATCHES = (1, 4, 8)
REPEATS = 5
LEVELS = {"graphs": Speed(weights="plain", graphs=True), "int8": "int8", "fp8": "fp8", "compiled": "compiled"}
"""Speed levels measured besides `exact`."""
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")


def tiny_config(size: int) -> HartConfig:
    """Return a model that takes seconds on a CPU, instead of the 0.7B model; larger sizes have more scales."""
    scales = (1, 2, 3, 4)[: {256: 2, 512: 3, 1024: 4}[size]]
    transformer = TransformerConfig(
        scales, latent_channels=4, codebook_size=16, width=32, depth=1, heads=2, text=TextConditioning(12, 5)
    )
    tokenizer = TokenizerConfig(scales, 32, (1, 1), 1, latent_channels=4, codebook_size=16)
    return HartConfig(tokenizer, transformer, ResidualDiffusionConfig(16, 1, sampling_steps=2))


def run(cells: Cells, *, tiny: bool) -> None:
    device = cells.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    clock = device_clock(device)
    ceilings = Ceilings(device, clock)
    cells.fact("dtype", str(dtype).removeprefix("torch."))

    def limits() -> Row:
        for size in (64,) if tiny else SQUARES[device.type]:
            ceilings.measure(dtype, [(size, size, size)], 0.02 if tiny else 0.3)
        ceilings.copy(2**20 if tiny else None)
        rates = {"x".join(map(str, shape)): rate / 1e12 for shape, rate in ceilings.rates[dtype].items()}
        return {"tflops": rates, "fastest_tflops": max(rates.values()), "copy_gb_s": ceilings.bandwidth / 1e9}

    cells.cell("ceilings", limits, limit=60)
    timers: dict[int, GenerationTimer] = {}

    def opened(size: int, level: Speed | str = EXACT) -> GenerationTimer:
        config = tiny_config(size) if tiny else PRESETS[f"hart-0.7b-{size}"]()
        pipe = random_pipeline(config, device, dtype)
        pipe.optimize(level)
        return GenerationTimer(pipe, clock)

    def timer(size: int) -> GenerationTimer:
        if size not in timers:
            timers[size] = opened(size)
        return timers[size]

    def profiled(size: int, _: float) -> Row:
        return profile(timer(size))

    def latency(size: int, batch: int, level: Speed | str, seconds: float) -> Row:
        one = timer(size) if level == EXACT else opened(size, level)
        if not ceilings.bandwidth:  # an earlier process of this part measured them
            limits()
        ceilings.measure(product_type(one.pipe), model_products(one, batch), 0.02 if tiny else 0.3)
        return {"size": size} | figures(timed(one, batch, repeats=1 if tiny else REPEATS, seconds=seconds), ceilings)

    some, batches = (SIZES[:1], BATCHES[-1:]) if tiny else ((SIZES[0], SIZES[-1]), BATCHES[1:])
    levels: Mapping[str, Speed | str] = {"plain": "plain"} if tiny else LEVELS
    plan: dict[str, Callable[[float], Row]] = {
        f"{size} px, batch 1": partial(latency, size, 1, EXACT) for size in SIZES
    }
    plan |= {f"profile, {size} px, batch 1": partial(profiled, size) for size in some}
    plan |= {f"{size} px, batch {batch}": partial(latency, size, batch, EXACT) for batch in batches for size in SIZES}
    plan |= {f"{size} px, {name}": partial(latency, size, 1, levels[name]) for name in levels for size in some}
    cells.share(plan, least=0.5 if tiny else 5.0)
    cells.cell("ceilings, at the end", limits, limit=60)


def random_pipeline(config: HartConfig, device: torch.device, dtype: torch.dtype) -> HartPipeline:
    """Do as `HartPipeline.from_config`, with random weights made on the device."""
    tokenizer, hart = random_model(config, torch.Generator(device).manual_seed(SEED), dtype=dtype)
    text = config.transformer.text
    encoder = RandomTextFeatures(text, SEED) if text is not None else None
    return HartPipeline(config, tokenizer, hart, device=device, dtype=dtype, text_encoder=encoder)


def profile(timer: GenerationTimer) -> Row:
    """Profile one image: how many kernels are launched, how long they run, and how often the host waits."""
    timer.generate()
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_gpu = timer.pipe.device.type == "cuda"
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    # acc_events: else PyTorch 2.11 warns of what later cycles, of which there are none, would drop
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
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

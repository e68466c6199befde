"""Latency, throughput, memory and time over floor of a pipeline, measured in one run.

The floor of a part is the larger of its operations over the fastest matrix product of the run, and the bytes that it
must move over the bandwidth of a copy; that of a call is the sum over its parts. Products and copy are measured before
and after the images, and the fastest of all counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hart.benchmark.machine import (
    SQUARES,
    Clock,
    copy_bandwidth,
    device_clock,
    machine_facts,
    peak_memory,
    product_rate,
)
from hart.benchmark.parts import Generation, GenerationTimer, Work, part_work
from hart.benchmark.published import PUBLISHED, REMARK, PublishedTimer
from hart.devices import dtype_name
from hart.inference.kernels import kernel_refusal
from hart.inference.memory import require_memory
from hart.inference.speed import EIGHT_BITS, resolve_speed
from hart.pipeline import HartPipeline

COMPARED = (torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn)
"""Types whose rates are measured besides the model's."""

OWN = "as opened"
"""Stands for the level of the pipeline as it is."""

Shape = tuple[int, int, int]
Progress = Callable[[str], object]


@dataclass(eq=False)
class Ceilings:
    """The fastest products and copy that this process has seen.

    rates: operations per second by type and by shape (rows, inputs, outputs). refusals: why a type has none.
    """

    device: torch.device
    clock: Clock
    rates: dict[torch.dtype, dict[Shape, float]] = field(default_factory=dict)
    refusals: dict[torch.dtype, str] = field(default_factory=dict)
    bandwidth: float = 0.0

    def measure(self, dtype: torch.dtype, shapes: Sequence[Shape], seconds: float = 0.3) -> None:
        """Measure products of these shapes; each keeps its best rate of all calls."""
        if dtype.itemsize == 1 and (refusal := kernel_refusal(dtype, self.device)) is not None:
            self.refusals[dtype] = refusal
            return
        found = self.rates.setdefault(dtype, {})
        for shape in shapes:
            found[shape] = max(product_rate(shape, dtype, self.device, self.clock, seconds), found.get(shape, 0.0))

    def copy(self, size: int | None = None) -> None:
        """Measure a copy. size: bytes copied."""
        self.bandwidth = max(self.bandwidth, copy_bandwidth(self.device, self.clock, size))


def model_products(timer: GenerationTimer, batch: int = 1) -> list[Shape]:
    """Return (rows, inputs, outputs) of the large layers of a model at its last scale, guidance included."""
    sizes = timer.config.transformer
    rows = 2 * batch * timer.cost.scale_tokens[-1]
    return [
        (rows, sizes.width, 3 * sizes.width),
        (rows, sizes.width, sizes.mlp_width),
        (rows, sizes.mlp_width, sizes.width),
    ]


def product_type(pipe: HartPipeline) -> torch.dtype:
    """Return the type in which the large layers multiply."""
    return EIGHT_BITS.get(pipe.speed.weights, pipe.dtype)


@dataclass(frozen=True)
class Timed:
    """Timed calls of one batch size.

    peak: GiB, see `machine.peak_memory`. work: per part, see `part_work`. products: the type of the large ones.
    """

    batch: int
    generations: Sequence[Generation]
    peak: float | None
    work: Mapping[str, Work]
    products: torch.dtype


def timed(timer: GenerationTimer, batch: int, *, repeats: int, seconds: float, warm_up: int = 1) -> Timed:
    """Time up to `repeats` calls after `warm_up` others, as many as end within about `seconds`, but at least one."""
    peak = peak_memory(timer.pipe.device)
    start = time.monotonic()
    for _ in range(warm_up):
        timer.generate(batch)
    generations = [timer.generate(batch)]
    while len(generations) < repeats and time.monotonic() - start + generations[-1].seconds < seconds:
        generations.append(timer.generate(batch))
    return Timed(batch, generations, peak(), part_work(timer, batch), product_type(timer.pipe))


def figures(measured: Timed, ceilings: Ceilings) -> dict[str, Any]:
    """Return the figures of one batch size as JSON values; parts are those of the median call."""
    batch, calls = measured.batch, sorted(measured.generations, key=lambda call: call.seconds)
    middle = calls[(len(calls) - 1) // 2]
    rate = max(ceilings.rates[measured.products].values())
    parts: dict[str, dict[str, Any]] = {}
    for name, work in measured.work.items():
        products, memory = work.flops / rate, work.moved / ceilings.bandwidth
        parts[name] = {
            "gflop": work.flops / 1e9,
            "gb": work.moved / 1e9,
            "floor_s": max(products, memory),
            "bound": "products" if products >= memory else "memory",
            "measured_s": middle.parts.get(name),
        }
    floor = sum(part["floor_s"] for part in parts.values())
    median = statistics.median(call.seconds for call in calls)
    return {
        "batch": batch,
        "latencies_s": [call.seconds for call in measured.generations],
        "median_s": median,
        "best_s": calls[0].seconds,
        "images_per_s": batch / median,
        "gflop": sum(part["gflop"] for part in parts.values()),
        "floor_s": floor,
        "ratio": median / floor,
        "peak_gib": measured.peak,
        "parts": parts,
    }


def _require_memory(timer: GenerationTimer, images: int, levels: Sequence[str]) -> None:
    """Raise `HartError` unless there is room for this many images together at each level."""
    pipe, config, weights = timer.pipe, timer.config, 0
    plain = ["plain" if level == PUBLISHED else level for level in levels]
    if {resolve_speed(level, pipe.device, own=pipe.speed.weights).weights for level in plain} - {pipe.speed.weights}:
        weights = sum(timer.cost.parameters[part] for part in ("transformer", "residual diffusion"))
    require_memory(
        config, pipe.components, timer.schedule, images, 1 + (config.sampling.guidance_scale > 0), (),
        besides=weights * pipe.dtype.itemsize, eager=PUBLISHED in levels,
    )  # fmt: skip


def benchmark(
    pipe: HartPipeline,
    batches: Sequence[int],
    *,
    levels: Sequence[str] = (),
    repeats: int,
    seconds: float,
    warm_up: int = 1,
    size: int | str | None = None,
    aspect: str | None = None,
    clock: Clock | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Return everything about one pipeline, as JSON values.

    levels: of speed, applied to the pipeline one after the other, or `PUBLISHED`; by default its current one. seconds:
    about how long per batch size, in which up to `repeats` calls are timed after `warm_up`. size, aspect: of the
    images, see `hart.sizes.requested_schedule`. Raises `HartError`.
    """
    device = pipe.device
    facts = machine_facts(device)
    clock = clock or device_clock(device)
    ceilings = Ceilings(device, clock)
    timer = GenerationTimer(pipe, clock, size, aspect)
    _require_memory(timer, max(batches), levels)
    squares = [(size, size, size) for size in SQUARES[device.type]]
    shapes = [*squares, *(shape for batch in dict.fromkeys(batches) for shape in model_products(timer, batch))]

    def ceiling(types: Sequence[torch.dtype]) -> None:
        progress("rates of products and copies")
        for kind in types:
            ceilings.measure(kind, shapes)
        ceilings.copy()

    ceiling(list(dict.fromkeys([product_type(pipe), *COMPARED])))
    measured: list[tuple[dict[str, Any], list[Timed]]] = []
    for level in levels or [OWN]:
        kind = PublishedTimer if level == PUBLISHED else GenerationTimer
        if level != OWN:
            pipe.optimize("plain" if level == PUBLISHED else level)
        timer, calls = kind(pipe, clock, size, aspect), []
        for batch in dict.fromkeys(batches):
            progress(f"{level}, batch {batch}")
            calls.append(timed(timer, batch, repeats=repeats, seconds=seconds, warm_up=warm_up))
        ceiling([product_type(pipe)])
        does = [REMARK] if level == PUBLISHED else pipe.speed_remarks()
        measured.append(({"level": level, "does": does, "products": dtype_name(product_type(pipe))}, calls))
    return {
        "size": str(timer.image_size),
        "device": device.type,
        "dtype": dtype_name(pipe.dtype),
        "guidance": pipe.config.sampling.guidance_scale > 0,
        "machine": facts,
        "products_gflops": {
            dtype_name(kind): {"x".join(map(str, shape)): rate / 1e9 for shape, rate in found.items()}
            for kind, found in ceilings.rates.items()
        },
        "products_not_measured": {dtype_name(kind): reason for kind, reason in ceilings.refusals.items()},
        "copy_gb_s": ceilings.bandwidth / 1e9,
        "levels": [row | {"batches": [figures(one, ceilings) for one in calls]} for row, calls in measured],
    }

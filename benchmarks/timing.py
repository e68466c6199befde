"""What the programs here share to time images: clocks, seconds by part, counted work by part, product rates."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hart.inference.cost import ModelCost, model_cost
from hart.pipeline import HartPipeline

SEED = 0


@dataclass(frozen=True)
class Clock:
    """mark: a point in time. between: seconds from one to another, once `wait` has returned."""

    mark: Callable[[], Any]
    between: Callable[[Any, Any], float]
    wait: Callable[[], None]


def host_clock(now: Callable[[], float] = time.perf_counter) -> Clock:
    return Clock(now, lambda start, end: end - start, lambda: None)


def device_clock(device: torch.device) -> Clock:
    """CUDA events on a GPU: marks are passed when the work before them is done. The host's clock elsewhere."""
    if device.type != "cuda":
        return host_clock()

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return Clock(mark, lambda start, end: start.elapsed_time(end) / 1000, torch.cuda.synchronize)


@dataclass
class Stopwatch:
    """Marks at the ends of modules, by name, a pair a call; several modules may share a name."""

    clock: Clock
    calls: dict[str, list[list[Any]]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def watching(self, spans: dict[str, tuple[nn.Module, nn.Module]]) -> Iterator[None]:
        """Mark entering the first module of each pair and leaving the second."""
        handles = []
        for name, (first, last) in spans.items():
            handles.append(
                first.register_forward_pre_hook(lambda *_, name=name: self.calls[name].append([self.clock.mark()]))
            )
            handles.append(
                last.register_forward_hook(lambda *_, name=name: self.calls[name][-1].append(self.clock.mark()))
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def seconds(self) -> dict[str, list[float]]:
        """Of each call; the clock must have waited."""
        return {name: [self.clock.between(*pair) for pair in pairs] for name, pairs in self.calls.items()}


@dataclass(frozen=True)
class Generation:
    """One timed call of a pipeline: seconds in all and of each part."""

    seconds: float
    parts: dict[str, float]


class GenerationTimer:
    """A pipeline that generates the same images again and again, from text features to pixels."""

    def __init__(self, pipe: HartPipeline, clock: Clock) -> None:
        self.pipe, self.clock = pipe, clock
        self.cost = model_cost(pipe.config)
        self.prompt: str | int = "a picture" if pipe.num_classes is None else 0

    def generate(self, count: int = 1) -> Generation:
        """Generate `count` images together, the first with `SEED`."""
        transformer, residual = self.pipe.components.hart.transformer, self.pipe.components.hart.residual
        spans: dict[str, tuple[nn.Module, nn.Module]] = {
            "blocks": (transformer.blocks[0], transformer.blocks[-1]),
            "head": (transformer.head, transformer.head),
            "decoder": (self.pipe.tokenizer.decoder, self.pipe.tokenizer.decoder),
        }
        if residual is not None:
            spans["residual diffusion"] = (residual.denoiser, residual.denoiser)
        watch = Stopwatch(self.clock)
        with watch.watching(spans):
            start = self.clock.mark()
            self.pipe(self.prompt, seed=SEED, num_images_per_prompt=count, batch_size=count)
            end = self.clock.mark()
        self.clock.wait()
        seconds = self.clock.between(start, end)
        return Generation(seconds, self._by_part(watch.seconds(), seconds))

    def _by_part(self, calls: dict[str, list[float]], seconds: float) -> dict[str, float]:
        """Seconds by the names of `part_flops`; "rest" is what is left: sampling, codes, embeddings, PIL."""
        scales = len(self.cost.scale_tokens)
        # the context is one call, or one for the texts and one for the null context
        context = len(calls["blocks"]) - len(calls["head"]) + 1
        blocks = [sum(calls["blocks"][:context]), *calls["blocks"][context:]]
        steps = [block + head for block, head in zip(blocks, calls["head"], strict=True)]
        parts = dict(zip(step_names(self.cost), [*steps[: scales - 1], sum(steps[scales - 1 :])], strict=True))
        for name in ("residual diffusion", "decoder"):
            parts[name] = sum(calls.get(name, []))
        return parts | {"rest": seconds - sum(parts.values())}

    def part_flops(self) -> dict[str, int]:
        """Counted FLOPs of one image by the names of its parts."""
        macs = dict(zip(step_names(self.cost), self.cost.step_macs, strict=True))
        macs |= {"residual diffusion": self.cost.macs["residual diffusion"], "decoder": self.cost.macs["decoder"]}
        return {name: 2 * count for name, count in macs.items()} | {"rest": 2 * self.cost.macs["codes"]}


def step_names(cost: ModelCost) -> list[str]:
    """Names of the transformer's steps: the context, then the scales from the second on."""
    return ["context", *(f"scale {k} ({n} tokens)" for k, n in enumerate(cost.scale_tokens[1:], start=2))]


@torch.inference_mode()
def product_rate(
    rows: int,
    inputs: int,
    outputs: int,
    dtype: torch.dtype,
    clock: Clock,
    *,
    device: torch.device = torch.device("cpu"),  # noqa: B008
    seconds: float = 0.5,
) -> float:
    """Best FLOP/s of a linear layer (rows, inputs) -> (rows, outputs) in about so many seconds, at most 20 times."""
    generator = torch.Generator(device).manual_seed(SEED)

    def numbers(*shape: int) -> torch.Tensor:
        if device.type == "cpu":
            return torch.ones(shape, dtype=dtype)
        # a GPU multiplies equal numbers faster than others
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    x, weight = numbers(rows, inputs), numbers(outputs, inputs)
    F.linear(x, weight)
    times: list[float] = []
    while not times or (sum(times) < seconds and len(times) < 20):
        start = clock.mark()
        F.linear(x, weight)
        end = clock.mark()
        clock.wait()
        times.append(max(clock.between(start, end), 1e-9))
    return 2 * rows * inputs * outputs / min(times)


def model_products(timer: GenerationTimer, images: int = 1) -> list[tuple[int, int, int]]:
    """(rows, inputs, outputs) of the large layers of a model at its last scale."""
    sizes = timer.pipe.config.transformer
    rows = 2 * images * timer.cost.scale_tokens[-1]
    return [
        (rows, sizes.width, 3 * sizes.width),
        (rows, sizes.width, sizes.mlp_width),
        (rows, sizes.mlp_width, sizes.width),
    ]

"""The parts of generating a batch: the least that each must compute and move, and how long each takes.

    text encoder -> context -> blocks of each scale, head, sampling -> residual diffusion -> decoder -> rest

"sampling" is guidance, filters, noise, codes and the next scale's input; "rest" is what is left of a call: pixels,
checks.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from hart.benchmark.machine import SEED, Clock
from hart.checkpoint.loading import build
from hart.config import HartConfig, SamplingConfig
from hart.devices import without_memory
from hart.errors import PromptWarning
from hart.generation.arguments import Prompt
from hart.generation.batch_settings import rows_of_scales
from hart.generation.last_scale import diffusion_calls, last_scale_calls, maskgit_step_sizes
from hart.grids import ScaleSchedule
from hart.inference.cost import TEXT_ENCODER, ModelCost, model_cost
from hart.inference.speed import EIGHT_BITS
from hart.pipeline import HartPipeline
from hart.sizes import ImageSize, requested_schedule, size_of_schedule
from hart.text_encoder import RandomTextFeatures, encoder_module

BLOCKS, HEAD, SAMPLING, DIFFUSION, DECODER, REST = "blocks", "head", "sampling", "residual diffusion", "decoder", "rest"
PROMPT = "a picture of a mountain lake at sunrise"


@dataclass(frozen=True)
class Work:
    """Operations (2 per MAC) and the bytes that must at least be read or written."""

    flops: float = 0.0
    moved: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.moved + other.moved)


@dataclass(frozen=True)
class Generation:
    """One timed call: total seconds, and those of each part, which add up to it."""

    seconds: float
    parts: Mapping[str, float]


@contextmanager
def quiet_prompts() -> Iterator[None]:
    """Silence what the text encoder reports about the prompts, which does not matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        yield


def step_names(cost: ModelCost) -> list[str]:
    """Return names of the transformer's steps: the context, then the scales from the second on."""
    return ["context", *(f"scale {k} ({n} tokens)" for k, n in enumerate(cost.scale_tokens[1:], start=2))]


class Stopwatch:
    """Records when modules begin and end, by name, one pair per call.

    Overlapping calls of several threads count as one, from when the first enters until the last leaves.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.calls: dict[str, list[list[Any]]] = defaultdict(list)
        self._inside: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def watching(self, spans: Mapping[str, tuple[nn.Module, nn.Module]]) -> Iterator[None]:
        """Record entering the first module of each pair and leaving the second."""
        handles = []
        for name, (first, last) in spans.items():
            handles += [
                first.register_forward_pre_hook(lambda *_, name=name: self._enter(name)),
                last.register_forward_hook(lambda *_, name=name: self._leave(name)),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> None:
        with self._lock:
            if not self._inside[name]:
                self.calls[name].append([self.clock.mark()])
            self._inside[name] += 1

    def _leave(self, name: str) -> None:
        with self._lock:
            self._inside[name] -= 1
            if not self._inside[name]:
                self.calls[name][-1].append(self.clock.mark())

    def seconds(self, name: str) -> list[float]:
        """Return the seconds of each call; wait for the clock first."""
        return [self.clock.between(*pair) for pair in self.calls[name]]


@dataclass(eq=False)
class GenerationTimer:
    """A pipeline that generates the same images repeatedly, from prompts to pixels."""

    pipe: HartPipeline
    clock: Clock
    size: int | str | None = None
    """Size of the images in pixels, as `hart.sizes.parsed_size` reads it; by default the model's own."""
    aspect: str | None = None
    sampling: SamplingConfig | None = None
    """By default the pipeline's own."""
    config: HartConfig = field(init=False)
    """The model's configuration with these settings."""
    schedule: ScaleSchedule = field(init=False)
    cost: ModelCost = field(init=False)

    def __post_init__(self) -> None:
        sampling = self.sampling or self.pipe.sampling
        self.config = self.pipe.config.replace(sampling=sampling)
        self.schedule = requested_schedule(self.config, size=self.size, aspect=self.aspect)
        self.cost = model_cost(self.config, self.schedule, guided=sampling.guidance_scale > 0)

    @property
    def whole_scales(self) -> bool:
        """Return whether blocks are compiled or recorded, and marks inside would be too.

        A scale's seconds are then those of its blocks, head, sampling and diffusion together.
        """
        return self.pipe.speed.compile or self.pipe.components.hart.transformer.graphs is not None

    @property
    def image_size(self) -> ImageSize:
        return size_of_schedule(self.config, self.schedule)

    def prompts(self, count: int) -> list[Prompt]:
        """Return `count` prompts or classes, a different one for each image."""
        classes = self.pipe.num_classes
        # the spaces make them different prompts, each read by itself
        return [PROMPT + " " * i if classes is None else i % classes for i in range(count)]

    def generate(self, count: int = 1) -> Generation:
        """Generate `count` images together."""
        watch, ends = Stopwatch(self.clock), list[tuple[Any, int]]()
        with watch.watching(self._spans()), quiet_prompts():
            start = self.clock.mark()
            self.pipe(
                self.prompts(count),
                seed=SEED,
                batch_size=count,
                size=self.size,
                aspect=self.aspect,
                sampling=self.config.sampling,
                callback_on_scale=lambda _: ends.append((self.clock.mark(), len(watch.calls[BLOCKS]))),
            )
            end = self.clock.mark()
        self.clock.wait()
        return self._by_part(watch, start, ends, end)

    def _spans(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        hart, decoder = self.pipe.components.hart, self.pipe.tokenizer.decoder
        transformer, residual = hart.transformer, hart.residual
        spans: dict[str, tuple[nn.Module, nn.Module]] = {DECODER: (decoder, decoder)}
        if not self.whole_scales:
            spans[BLOCKS] = transformer.blocks[0], transformer.blocks[-1]
            spans[HEAD] = transformer.head, transformer.head
            if residual is not None:
                spans[DIFFUSION] = residual.denoiser, residual.denoiser
        if (encoder := text_module(self.pipe)) is not None:
            spans[TEXT_ENCODER] = (encoder, encoder)
        return spans

    def _by_part(self, watch: Stopwatch, start: Any, ends: Sequence[tuple[Any, int]], end: Any) -> Generation:
        """ends: for each scale, the point in time, and how often the blocks had been called."""
        seconds, names = self.clock.between(start, end), step_names(self.cost)
        found = {name: sum(watch.seconds(name)) for name in (TEXT_ENCODER, HEAD, DIFFUSION, DECODER)}
        parts = {TEXT_ENCODER: found[TEXT_ENCODER]} if text_module(self.pipe) is not None else {}
        marks, calls = [start, *(mark for mark, _ in ends)], [0, *(calls for _, calls in ends)]
        if self.whole_scales:
            steps = [self.clock.between(*pair) for pair in pairwise(marks)]
            steps[0] -= found[TEXT_ENCODER]
            parts |= dict(zip(names, steps, strict=True))
        else:
            blocks = watch.seconds(BLOCKS)
            # the context may be one call or several, and so may the last scale
            steps = [sum(blocks[before:after]) for before, after in pairwise(calls)]
            inside = dict(zip(names, steps, strict=True)) | {HEAD: found[HEAD]}
            diffusion = {DIFFUSION: found[DIFFUSION]} if self.pipe.config.hybrid else {}
            all_scales = self.clock.between(watch.calls[BLOCKS][0][0], marks[-1])
            parts |= inside | {SAMPLING: all_scales - sum(inside.values()) - found[DIFFUSION]} | diffusion
        parts[DECODER] = found[DECODER]
        return Generation(seconds, parts | {REST: seconds - sum(parts.values())})


def text_module(pipe: HartPipeline) -> nn.Module | None:
    """Return the network that reads prompts; None for classes and random features."""
    if pipe.num_classes is not None or isinstance(pipe.text_encoder, RandomTextFeatures):
        return None
    return encoder_module(pipe.text_encoder)


def part_work(timer: GenerationTimer, batch: int) -> dict[str, Work]:
    """Return what a batch must compute and move, by the names of `Generation.parts`.

    This counts moving the weights once per step, keys and values once per scale, logits, and pixels. Other activations
    are left out: what they move depends on the program. One token of the null text is computed.
    """
    pipe, cost, config = timer.pipe, timer.cost, timer.config
    sizes, sampling, counts = config.transformer, config.sampling, cost.scale_tokens
    number, speed = pipe.dtype.itemsize, pipe.speed
    weight = 1 if speed.weights in EIGHT_BITS else number
    cached = {"model": number, "bfloat16": 2, "int8": 1}[speed.cache]
    rows = rows_of_scales(sampling, len(counts), guided=sampling.guidance_scale > 0)
    blocks, head = _parameter_counts(config)
    last_calls = len(last_scale_calls(config, timer.schedule))
    last_samples = len(maskgit_step_sizes(counts[-1], sampling.maskgit_steps))
    seen = sizes.context_tokens
    step_work, heads, samples = [], [], []
    for k, tokens in enumerate(counts):
        calls, sampled = (last_calls, last_samples) if k == len(counts) - 1 else (1, 1)
        seen += tokens if k else 0
        logits = batch * rows[k] * tokens * sizes.codebook_size * torch.float32.itemsize
        keys_and_values = 2 * batch * rows[k] * seen * sizes.depth * sizes.width * cached
        macs = cost.step_macs[k] - cost.head_macs[k] - (cost.null_macs if k == 0 else 0)
        step_work.append(Work(2 * batch * macs, calls * blocks * weight + keys_and_values))
        heads.append(Work(2 * batch * cost.head_macs[k], sampled * head * number + logits))
        samples.append(Work(2 * batch * cost.macs["codes"] * tokens / sum(counts), logits))
    diffusion_steps = config.diffusion_steps(sampling) * len(diffusion_calls(config, timer.schedule))
    diffusion = Work(
        2 * batch * cost.macs["residual diffusion"], diffusion_steps * cost.parameters["residual diffusion"] * weight
    )
    pixels = 3 * batch * timer.image_size.width * timer.image_size.height
    decoded = pipe.tokenizer.post_quant_conv.weight.dtype.itemsize
    encoder = text_module(pipe)
    parts = {}
    if encoder is not None:
        # prompts are read one by one
        weights = batch * sum(parameter.nbytes for parameter in encoder.parameters())
        parts[TEXT_ENCODER] = Work(2 * batch * cost.macs.get(TEXT_ENCODER, 0), weights)
    names = step_names(cost)
    if timer.whole_scales:
        samples[-1] += diffusion
        parts |= {n: sum(w, Work()) for n, w in zip(names, zip(step_work, heads, samples, strict=True), strict=True)}
    else:
        parts |= dict(zip(names, step_work, strict=True))
        parts |= {HEAD: sum(heads, Work()), SAMPLING: sum(samples, Work())}
        if config.hybrid:
            parts[DIFFUSION] = diffusion
    parts[DECODER] = Work(2 * batch * cost.macs["decoder"], (cost.parameters["decoder"] + pixels) * decoded)
    return parts | {REST: Work(0, pixels * (decoded + 1))}


def _parameter_counts(config: HartConfig) -> tuple[int, int]:
    """Return the parameters of the blocks and of the head."""
    with without_memory():
        transformer = build(config)[1].transformer
    blocks, head = (sum(p.numel() for p in part.parameters()) for part in (transformer.blocks, transformer.head))
    return blocks, head

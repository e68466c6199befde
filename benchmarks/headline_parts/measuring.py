"""MACs by one counter for all models, and seconds of their steps or of whole images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hart.benchmark.machine import Clock, device_clock, peak_memory
from hart.benchmark.measure import timed
from hart.benchmark.parts import GenerationTimer
from hart.checkpoint.loading import build
from hart.config import HartConfig
from hart.devices import without_memory
from hart.evaluation.suites.cost import printed_macs
from hart.inference.cost import model_cost
from hart.pipeline import HartPipeline
from hart.presets import hart_imagenet, preset, var_imagenet
from hart.text_encoder import RandomTextFeatures
from headline_parts import mar
from headline_parts.rivals import RIVALS, Network, Rival, Step, TextEncoder, qwen2

META = torch.device("meta")
OURS: dict[str, dict[int, Callable[[], HartConfig]]] = {
    "HART 0.7B": {size: lambda size=size: preset(f"hart-0.7b-{size}") for size in (512, 1024)},
    **{f"HART-d{depth}": {256: lambda depth=depth: hart_imagenet(depth)} for depth in (20, 24, 30)},
    **{f"VAR-d{depth}": {256: lambda depth=depth: var_imagenet(depth)} for depth in (20, 24, 30)},
}
NAMES = (*OURS, *RIVALS)
Row = dict[str, Any]


def sizes_of(name: str) -> tuple[int, ...]:
    """Image sizes in pixels at which a model is measured."""
    return tuple(OURS[name]) if name in OURS else RIVALS[name].sizes


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of matrix products and convolutions. attention: of these, those between tokens."""

    total: int = 0
    attention: int = 0

    def __add__(self, other: Macs) -> Macs:
        return Macs(self.total + other.total, self.attention + other.attention)

    def __mul__(self, times: int) -> Macs:
        return Macs(times * self.total, times * self.attention)


def macs(work: Callable[[], object]) -> Macs:
    """Counted by PyTorch, on tensors without memory, where attention is made of products of batches of matrices."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    attention = sum(flops for name, flops in counter.get_flop_counts()["Global"].items() if "bmm" in str(name))
    return Macs(counter.get_total_flops() // 2, attention // 2)


def counted(name: str, size: int) -> Row:
    """MACs of one image: all without memory, so that no machine is too small.

    network: all steps with guidance. attention: of these, products between tokens. plain: without guidance. decoder:
    once. text: the encoders of the prompt, and of the empty one of guidance (HART's is no text).
    """
    return _counted_ours(OURS[name][size]()) if name in OURS else _counted_rival(RIVALS[name], size)


def _counted_rival(rival: Rival, size: int) -> Row:
    with without_memory():
        network, decoder = rival.network(size), rival.decoder()
    channels, pixels = rival.latent
    latent = torch.empty(1, channels, size // pixels, size // pixels, device=META)
    images = (
        _mar_macs(network)
        if isinstance(network, mar.Mar)
        else macs(lambda: rival.step(network, 2, size, _shapes)) * rival.steps
    )
    return {
        "steps": rival.steps,
        "parameters": sum(p.numel() for p in network.parameters()),
        "network": images.total,
        "attention": images.attention,
        "plain": images.total // 2,
        "decoder": macs(lambda: decoder(latent)).total,
        "text": sum(2 * _text_macs(*text) for text in rival.texts),
    }


def _mar_macs(network: mar.Mar) -> Macs:
    """All steps, whose numbers of known tokens differ, and the diffusion of all tokens."""
    classes = torch.zeros(2, dtype=torch.long, device=META)
    sizes = mar.step_sizes()
    steps = (macs(partial(network.hidden, _shapes(2, known, mar.CHANNELS), classes)) for known in _before(sizes))
    inputs = (_shapes(2, mar.CHANNELS), _shapes(2, mar.FREQUENCIES), _shapes(2, network.mask.shape[-1]))
    return sum(steps, Macs()) + macs(partial(network.head, *inputs)) * (mar.TOKENS * mar.DIFFUSION_STEPS)


def _before(sizes: Sequence[int]) -> list[int]:
    """The sums of all sizes before each."""
    return list(accumulate(sizes, initial=0))[:-1]


def _counted_ours(config: HartConfig) -> Row:
    with without_memory():
        tokenizer, hart = build(config)
    text = config.transformer.text
    encoder = None if text is None else RandomTextFeatures(text, 0)
    pipe = HartPipeline(config, tokenizer, hart, device=META, dtype=torch.float32, text_encoder=encoder)
    context = pipe.encode_prompt(0 if text is None else "a picture")
    latent = torch.empty(1, config.tokenizer.latent_channels, *(2 * (config.tokenizer.scales[-1],)), device=META)
    cost = model_cost(config)
    # autocast, which the head turns off, knows no device without memory
    with patch.object(torch, "autocast", lambda *_, **__: nullcontext()):
        images = macs(lambda: pipe.generate(context))
        plain = macs(lambda: pipe.generate(context, guidance_scale=0.0))
    return {
        "steps": len(config.tokenizer.scales),
        "parameters": cost.parameters["transformer"] + cost.parameters["residual diffusion"],
        "network": images.total,
        "attention": images.attention,
        "plain": plain.total,
        "decoder": macs(lambda: pipe.tokenizer.decode(latent)).total,
        "text": 0 if text is None else _text_macs(qwen2, text.tokens),
        "as printed": printed_macs(config),
    }


def _text_macs(encoder: TextEncoder, tokens: int) -> int:
    with without_memory():
        network = encoder()
    return macs(lambda: network(input_ids=torch.zeros(1, tokens, dtype=torch.long, device=META))).total


def _shapes(*shape: int) -> Tensor:
    return torch.empty(shape, device=META)


def measured(name: str, size: int, batch: int, device: torch.device, dtype: torch.dtype, budget: float) -> Row:
    """Seconds of a batch from text features to pixels. budget: about so many seconds for each of its parts."""
    if name not in OURS:
        way = _in_full if device.type == "cuda" else _one_step
        return way(RIVALS[name], size, batch, device, dtype, budget)
    timer = GenerationTimer(_pipeline(OURS[name][size](), device, dtype), device_clock(device))
    found = timed(timer, batch, repeats=5, seconds=budget)
    seconds = sorted(call.seconds for call in found.generations)
    return {
        "how": f"in full, median of {len(seconds)} after one to warm up",
        "latency_s": seconds[(len(seconds) - 1) // 2],
        "peak_gib": found.peak,
    }


def _one_step(rival: Rival, size: int, batch: int, device: torch.device, dtype: torch.dtype, budget: float) -> Row:
    """One step and the decoder; the step counts as often as there are steps."""
    calls, step, memory = _step_timed(rival.network, rival.step, size, batch, device, dtype, budget)
    peak = peak_memory(device)
    decoder, latent = with_values(rival.decoder, device, dtype), _latent(rival, size, batch, _numbers(device, dtype))
    _, decoding = _best(partial(decoder, latent), device_clock(device), budget)
    return {
        "how": f"one step x {rival.steps} + decoder; the step is the best of {calls} call{'s' * (calls > 1)}",
        "step_s": step,
        "decoder_s": decoding,
        "latency_s": rival.steps * step + decoding,
        "peak_gib": max((found for found in (memory, peak()) if found is not None), default=None),
    }


@cache
def _step_timed(
    network: Network, step: Step, size: int, batch: int, device: torch.device, dtype: torch.dtype, budget: float
) -> tuple[int, float, float | None]:
    """Calls, seconds and GiB of a step; kept for rivals of the same sizes. The network is gone when it returns."""
    peak = peak_memory(device)
    work = partial(step, with_values(network, device, dtype, size), 2 * batch, size, _numbers(device, dtype))
    return *_best(work, device_clock(device), budget), peak()


def _pipeline(config: HartConfig, device: torch.device, dtype: torch.dtype) -> HartPipeline:
    """One of ours with random weights, made as those of the rivals are."""
    tokenizer, hart = (with_values(lambda part=part: build(config)[part], device, dtype) for part in (0, 1))
    text = config.transformer.text
    encoder = None if text is None else RandomTextFeatures(text, 0)
    return HartPipeline(config, tokenizer, hart, device=device, dtype=dtype, text_encoder=encoder)


def _in_full(rival: Rival, size: int, batch: int, device: torch.device, dtype: torch.dtype, budget: float) -> Row:
    """All steps and the decoder, without a scheduler's own work."""
    network, decoder = with_values(rival.network, device, dtype, size), with_values(rival.decoder, device, dtype)
    numbers = _numbers(device, dtype)
    latent = _latent(rival, size, batch, numbers)

    def generate() -> None:
        for _ in range(rival.steps):
            rival.step(network, 2 * batch, size, numbers)
        decoder(latent)

    peak = peak_memory(device)
    calls, seconds = _best(generate, device_clock(device), budget)
    return {"how": f"in full, best of {calls}", "latency_s": seconds, "peak_gib": peak()}


@torch.inference_mode()
def _best(work: Callable[[], object], clock: Clock, budget: float) -> tuple[int, float]:
    """How many of up to four calls end within about `budget` seconds, one at least; and the seconds of the fastest."""
    start = time.monotonic()
    calls = [clock.seconds(work)]
    while len(calls) < 4 and time.monotonic() - start + calls[-1] < budget:
        calls.append(clock.seconds(work))
    return len(calls), min(calls)


def _numbers(device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor]:
    return lambda *shape: torch.randn(shape, device=device).to(dtype)


def _latent(rival: Rival, size: int, batch: int, numbers: Callable[..., Tensor]) -> Tensor:
    channels, pixels = rival.latent
    return numbers(batch, channels, size // pixels, size // pixels).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def with_values(build: Callable[..., nn.Module], device: torch.device, dtype: torch.dtype, *sizes: int) -> nn.Module:
    """A module with random weights of variance 1 / inputs, its kernels channels-last."""
    with without_memory():
        module = build(*sizes)
    module.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    noise = torch.randn(2**22, device=device)
    for tensor in (*module.parameters(), *module.buffers()):
        if not tensor.is_floating_point():
            tensor.zero_()
            continue
        scale = 1 / math.sqrt(math.prod(tensor.shape[1:])) if tensor.dim() > 1 else 1.0
        flat = tensor.view(-1)
        for part in flat.split(len(noise)):
            part.copy_(noise[: len(part)] * scale)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

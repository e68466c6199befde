"""Counts the MACs of all models in the same way, and times their steps or whole images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hart.benchmark.machine import Clock, peak_memory
from hart.benchmark.parts import GenerationTimer, Stopwatch, quiet_prompts
from hart.checkpoint.loading import build
from hart.config import HartConfig, TokenizerConfig
from hart.devices import without_memory
from hart.evaluation.suites.cost import printed_macs
from hart.inference.cost import model_cost
from hart.pipeline import HartPipeline
from hart.presets import PRESETS, hart_imagenet, var_imagenet
from hart.text_encoder import RandomTextFeatures
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from headline_parts import mar
from headline_parts.rivals import RIVALS, Decoder, Network, Rival, Step, TextEncoder, qwen2

META = torch.device("meta")
OURS: dict[str, dict[int, Callable[[], HartConfig]]] = {
    "HART 0.7B": {size: lambda size=size: PRESETS[f"hart-0.7b-{size}"]() for size in (512, 1024)},
    **{f"HART-d{depth}": {256: lambda depth=depth: hart_imagenet(depth)} for depth in (20, 24, 30)},
    **{f"VAR-d{depth}": {256: lambda depth=depth: var_imagenet(depth)} for depth in (20, 24, 30)},
}
NAMES = (*OURS, *RIVALS)
Row = dict[str, Any]
Built = TypeVar("Built")
CACHED_BYTES = 2**26
"""More than a processor's caches can hold."""


def sizes_of(name: str) -> tuple[int, ...]:
    """Return the image sizes in pixels at which a model is measured."""
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
    """Count MACs with PyTorch, on tensors without memory, where attention consists of batched matrix products."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    attention = sum(flops for name, flops in counter.get_flop_counts()["Global"].items() if "bmm" in str(name))
    return Macs(counter.get_total_flops() // 2, attention // 2)


def counted(name: str, size: int) -> Row:
    """Return the MACs of one image, counted without memory so that no machine is too small.

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
    """Count all steps, which know different numbers of tokens, and the diffusion of all tokens."""
    classes = torch.zeros(2, dtype=torch.long, device=META)
    known = accumulate(mar.step_sizes()[:-1], initial=0)
    steps = (macs(partial(network.hidden, _shapes(2, count, mar.CHANNELS), classes)) for count in known)
    inputs = (_shapes(2, mar.CHANNELS), _shapes(2, mar.FREQUENCIES), _shapes(2, network.mask.shape[-1]))
    return sum(steps, Macs()) + macs(partial(network.head, *inputs)) * (mar.TOKENS * mar.DIFFUSION_STEPS)


def _counted_ours(config: HartConfig) -> Row:
    with without_memory():
        tokenizer, hart = build(config)
    text = config.transformer.text
    encoder = None if text is None else RandomTextFeatures(text, 0)
    pipe = HartPipeline(config, tokenizer, hart, device=META, dtype=torch.float32, text_encoder=encoder)
    context = pipe.encode_prompt(0 if text is None else "a picture")
    latent = torch.empty(1, config.tokenizer.latent_channels, *(2 * (config.tokenizer.scales[-1],)), device=META)
    cost = model_cost(config)
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


@dataclass(frozen=True)
class Setting:
    """How all are timed. budget: approximate seconds for a part's calls (at least one), of which the fastest counts.

    blocks: how many of many equal blocks are timed on a CPU; they stand for all.
    """

    device: torch.device
    dtype: torch.dtype
    clock: Clock
    budget: float
    blocks: int


@dataclass(frozen=True)
class Best:
    """The fastest of `calls` calls, in seconds, and the peak GiB during them.

    call: seconds that the call itself took, without those of blocks that others stand for.
    """

    calls: int
    seconds: float
    call: float
    peak: float | None

    @property
    def how(self) -> str:
        """Remarks for the table."""
        calls = f", best of {self.calls} calls" if self.calls > 1 else ""
        return calls + (", some of its equal blocks timed for all" if self.seconds > self.call else "")


def measured(name: str, size: int, batch: int, setting: Setting) -> Row:
    """Time a batch from text features to pixels; on a CPU, its parts' seconds are added up."""
    if setting.device.type == "cuda":
        best = _in_full(name, size, batch, setting)
        return {"how": f"in full{best.how}", "latency_s": best.seconds, "call_s": best.call, "peak_gib": best.peak}
    if name in OURS:
        config = OURS[name][size]()
        steps, step, decoder = 1, _ours_timed(config, batch, setting), _our_decoder_timed(config.tokenizer, setting)
    else:
        rival = RIVALS[name]
        steps, step = rival.steps, _step_timed(rival.network, rival.step, size, batch, setting)
        decoder = _decoder_timed(rival.decoder, *rival.latent, size, setting)
    network = "all steps" if name in OURS else f"one step x {steps}"
    return {
        "how": f"{network} + decoder x {batch}{step.how}",
        "step_s": None if name in OURS else step.seconds,
        "decoder_s": batch * decoder.seconds,
        "latency_s": steps * step.seconds + batch * decoder.seconds,
        "call_s": step.call,
        "peak_gib": None
        if step.seconds > step.call
        else max((b.peak for b in (step, decoder) if b.peak), default=None),
    }


def _in_full(name: str, size: int, batch: int, setting: Setting) -> Best:
    """Time all steps and the decoder, without a scheduler's own work."""
    if name in OURS:
        tokenizer, hart = built(lambda: build(OURS[name][size]()))
        pipe = _pipeline(OURS[name][size](), filled(tokenizer, setting), filled(hart, setting), setting)
        return _best(_generation(pipe, batch, setting, "pil"), setting)
    rival = RIVALS[name]
    network, decoder = filled(built(rival.network, size), setting), filled(built(rival.decoder), setting)
    latent = _latent(*rival.latent, size, batch, setting)

    def generate() -> None:
        for _ in range(rival.steps):
            rival.step(network, 2 * batch, size, _numbers(setting))
        decoder(latent)

    return _best(generate, setting)


def _ours_timed(config: HartConfig, batch: int, setting: Setting) -> Best:
    """Time everything of an image except its decoder."""
    tokenizer, hart = built(lambda: build(config))
    stands_for = shortened(hart, setting.blocks)
    pipe = _pipeline(config, filled(tokenizer, setting), filled(hart, setting), setting)
    return _best(_generation(pipe, batch, setting, "latent"), setting, pipe.components.hart, stands_for)


@cache
def _our_decoder_timed(config: TokenizerConfig, setting: Setting) -> Best:
    """Time the decoder on one image, as the pipeline decodes."""
    tokenizer = filled(built(lambda: HybridTokenizer(config)), setting)
    latent = _numbers(setting)(1, config.latent_channels, *(2 * (config.scales[-1],)))
    return _best(lambda: tokenizer.decode(latent), setting)


@cache
def _step_timed(network: Network, step: Step, size: int, batch: int, setting: Setting) -> Best:
    """Time one step; the result is cached for rivals of the same sizes, and the network is freed."""
    module = built(network, size)
    stands_for = shortened(module, setting.blocks)
    work = partial(step, filled(module, setting), 2 * batch, size, _numbers(setting))
    return _best(work, setting, module, stands_for)


@cache
def _decoder_timed(decoder: Decoder, channels: int, pixels: int, size: int, setting: Setting) -> Best:
    """Time the decoder on one image."""
    latent = _latent(channels, pixels, size, 1, setting)
    return _best(partial(filled(built(decoder), setting), latent), setting)


def _pipeline(config: HartConfig, tokenizer: nn.Module, hart: nn.Module, setting: Setting) -> HartPipeline:
    text = config.transformer.text
    encoder = None if text is None else RandomTextFeatures(text, 0)
    return HartPipeline(config, tokenizer, hart, device=setting.device, dtype=setting.dtype, text_encoder=encoder)


def _generation(pipe: HartPipeline, batch: int, setting: Setting, output_type: str) -> Callable[[], object]:
    prompts = GenerationTimer(pipe, setting.clock).prompts(batch)

    def generate() -> None:
        with quiet_prompts():
            pipe(prompts, seed=0, batch_size=batch, output_type=output_type)

    return generate


def shortened(network: nn.Module, kept: int) -> dict[str, float]:
    """Keep only `kept` equal blocks of every long list, in place; return their names -> how many each stands for.

    Short lists stay whole, and so do lists of small blocks: those would stay in the processor's cache and so be faster
    than in the whole network.
    """
    found: dict[str, float] = {}
    for name, blocks in list(network.named_modules()):
        if not isinstance(blocks, nn.ModuleList):
            continue
        equal = [i for i, block in enumerate(blocks) if _shapes_in(block) == _shapes_in(blocks[0])]
        if len(equal) < 2 * kept or 2 * kept * sum(map(math.prod, _shapes_in(blocks[0]))) < CACHED_BYTES:
            continue
        for i in reversed(equal[kept:]):
            del blocks[i]
        found |= {f"{name}.{i}": len(equal) / kept for i in equal[:kept]}
    return found


def _shapes_in(module: nn.Module) -> list[torch.Size]:
    return [parameter.shape for parameter in module.parameters()]


@torch.inference_mode()
def _best(
    work: Callable[[], object],
    setting: Setting,
    network: nn.Module | None = None,
    stands_for: Mapping[str, float] = MappingProxyType({}),
) -> Best:
    """Return the best of up to four calls within about the budget. stands_for: blocks of `network`, see `shortened`."""
    peak, start = peak_memory(setting.device), time.monotonic()
    calls: list[tuple[float, float]] = []
    while not calls or (len(calls) < 4 and time.monotonic() - start + calls[-1][1] < setting.budget):
        watch = Stopwatch(setting.clock)
        spans = {name: (network.get_submodule(name),) * 2 for name in stands_for} if network is not None else {}
        with watch.watching(spans):
            call = setting.clock.seconds(work)
        calls.append((call + sum((n - 1) * sum(watch.seconds(name)) for name, n in stands_for.items()), call))
    return Best(len(calls), *min(calls), peak())


def _numbers(setting: Setting) -> Callable[..., Tensor]:
    return lambda *shape: torch.randn(shape, device=setting.device).to(setting.dtype)


def _latent(channels: int, pixels: int, size: int, batch: int, setting: Setting) -> Tensor:
    """Return a random latent. pixels: per position along a side."""
    shape = (batch, channels, size // pixels, size // pixels)
    return _numbers(setting)(*shape).contiguous(memory_format=torch.channels_last)


def built(build: Callable[..., Built], *sizes: int) -> Built:
    """Build modules without memory."""
    with without_memory():
        return build(*sizes)


@torch.no_grad()
def filled(module: nn.Module, setting: Setting) -> nn.Module:
    """Return the module with random weights of variance 1 / inputs and channels-last kernels."""
    module.to(setting.dtype).to_empty(device=setting.device).eval().requires_grad_(False)
    noise = torch.randn(2**22, device=setting.device)
    for tensor in (*module.parameters(), *module.buffers()):
        if not tensor.is_floating_point():
            tensor.zero_()
            continue
        scale = 1 / math.sqrt(math.prod(tensor.shape[1:])) if tensor.dim() > 1 else 1.0
        flat = tensor.view(-1)
        for part in flat.split(len(noise)):
            part.copy_(noise[: len(part)] * scale)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

"""Levels of speed: what a pipeline may do to be faster or to take less memory, and what each costs.

The exact levels change results only by rounding. Those with 8 bits change them by about a hundredth in every layer, and
approximate ones skip work: both are off unless requested. If a machine cannot do something, it is an error if the level
depends on it, otherwise a line of `described`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from hart.config import CacheType, HartConfig, SamplingConfig
from hart.devices import SLOW, is_slow, slow_remarks
from hart.errors import HartError
from hart.inference.compiling import compile_blocks
from hart.inference.cost import linear_macs
from hart.inference.graphs import BlockGraphs
from hart.inference.kernels import PackedInt8Linear, attends_narrowly, give_kernels, kernel_refusal
from hart.inference.packing import Packed, attends_by_onednn, pack, packing_refusal
from hart.inference.threads import ByThreads, begin_threads
from hart.layers.kv_cache import KeptToken
from hart.layers.quantized import QuantizedLinear, quantize_linears
from hart.layers.sharing import whole
from hart.model import Hart
from hart.strict import Config, counted, shown

EIGHT_BITS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
SMALLEST_QUANTIZED = 2**14
"""Smaller weights are not quantised."""


class Speed(Config, kw_only=True):
    """What a pipeline does to be faster or to save memory."""

    weights: Literal["plain", "packed", "int8", "fp8"] = "packed"
    """packed: in the memory order of the processor's kernels, exact. int8, fp8: large layers in 8 bits, and the rows of
    their inputs too."""
    decoder: Literal["model", "bfloat16"] = "model"
    """Number type of the decoder: the model's, or bfloat16, in which the encoder's weights are then stored too.
    Processors without bfloat16 products use the model's, since bfloat16 would take several times as long."""
    cache: CacheType = "model"
    """How keys and values are kept: in the model's type, in bfloat16, or in 8 bits."""
    compile: bool = False
    """Let PyTorch's compiler fuse the operations between a block's products: exact, but the first image takes minutes.
    Not with 8 bits on a processor."""
    graphs: bool = False
    """On NVIDIA GPUs, record the kernels of a scale once and replay them: exact."""
    tiled: bool = False
    """Decode in strips: exact up to rounding, and half the memory or less at large sizes."""
    offload: bool = False
    """Keep the text encoder in main memory while it is not in use."""
    unguided_scales: Annotated[int, Field(ge=0)] = 0
    """Approximate: sample this many of the last scales without guidance, unless a call says otherwise."""
    diffusion_steps: Annotated[int, Field(ge=1)] | None = None
    """Approximate: this many steps of the residual diffusion, unless a call says otherwise."""

    def sampling(self, config: HartConfig) -> SamplingConfig:
        """Return the default settings of a call: the model's own, as changed by this speed."""
        steps = self.diffusion_steps if config.hybrid else None
        chosen = {"unguided_scales": self.unguided_scales, "diffusion_steps": steps}
        return config.sampling.replace(**{name: value for name, value in chosen.items() if value})

    def narrows_decoder(self, device: torch.device) -> bool:
        """Return whether the decoder computes in bfloat16 on a device, whatever the model's type."""
        return self.decoder == "bfloat16" and not is_slow(torch.bfloat16, device)


EXACT = Speed()
INT8 = Speed(weights="int8", decoder="bfloat16", cache="bfloat16")
LEVELS: Mapping[str, Speed] = MappingProxyType(
    {
        "plain": Speed(weights="plain"),
        "exact": EXACT,
        "compiled": Speed(weights="plain", compile=True, graphs=True),
        "int8": INT8,
        "fp8": INT8.replace(weights="fp8"),
        "draft": INT8.replace(unguided_scales=2, diffusion_steps=4),
    }
)


def resolve_speed(level: Speed | str, device: torch.device, *, own: str = "") -> Speed:
    """Return the options of a level.

    own: weights that the model already has, which may stay whatever the device supports. Raises `HartError` for an
    unknown level, and for one that the device cannot serve.
    """
    if isinstance(level, str):
        if level not in LEVELS:
            raise HartError(f"unknown speed {level!r}: choose {', '.join(LEVELS)}")
        level = LEVELS[level]
    if not isinstance(level, Speed):
        raise HartError(f"speed must be a Speed or one of {', '.join(LEVELS)}, not {shown(level)}")
    rounded = level.weights in EIGHT_BITS and level.weights != own
    if rounded and (refusal := kernel_refusal(EIGHT_BITS[level.weights], device)) is not None:
        raise HartError(f"speed: no {level.weights} products: {refusal}; choose exact")
    if level.compile and level.weights in EIGHT_BITS and device.type == "cpu":
        raise HartError("speed: PyTorch's compiler refuses the 8-bit kernels of processors: choose one or the other")
    return level


def described(speed: Speed, device: torch.device, dtype: torch.dtype, config: HartConfig) -> list[str]:
    """Return what a model's pipeline does at this speed, a line each, and what its device cannot do."""
    lines = _of_number_types(speed, device, dtype)
    if speed.compile:
        lines.append("blocks compiled by PyTorch")
    if speed.graphs:
        lines.append("one CUDA graph per scale" if device.type == "cuda" else f"no CUDA graphs on {device.type}")
    if speed.tiled:
        lines.append("decoding in strips")
    if speed.offload:
        off = "text encoder in main memory between prompts"
        lines.append("text encoder not off-loaded: it runs in main memory" if device.type == "cpu" else off)
    if speed.unguided_scales:
        lines.append(
            f"approximate unless asked otherwise: the last {counted(speed.unguided_scales, 'scale')} without guidance"
        )
    steps = config.diffusion_steps(speed.sampling(config))
    if steps != config.diffusion_steps(config.sampling):
        lines.append(f"approximate unless asked otherwise: {counted(steps, 'diffusion step')}")
    return lines


def _of_number_types(speed: Speed, device: torch.device, dtype: torch.dtype) -> list[str]:
    lines = []
    match speed.weights:
        case "packed":
            refusal = packing_refusal(dtype) if device.type == "cpu" else "only CPUs gain from it"
            attention = ", attention by oneDNN" if dtype == torch.float32 and attends_by_onednn() else ""
            lines.append(f"weights packed{attention}" if refusal is None else f"weights not packed: {refusal}")
        case "int8" | "fp8":
            refusal = kernel_refusal(EIGHT_BITS[speed.weights], device)
            how = "" if refusal is None else f", multiplied as float32: {refusal}"
            lines.append(f"weights and activations of large layers in {speed.weights}{how}")
            if device.type == "cpu" and attends_narrowly():
                lines.append("attention in bfloat16")
    lines += slow_remarks(dtype, device)
    if speed.decoder != "model":
        narrow = dtype == torch.bfloat16 or speed.narrows_decoder(device)
        lines.append("decoder in bfloat16" if narrow else f"decoder not in bfloat16, which {SLOW}")
    if speed.cache != "model":
        lines.append(f"keys and values in {speed.cache}")
    return lines


def accelerate(hart: Hart, speed: Speed) -> None:
    """Give a model on its device the layers and the cache of this speed, in place.

    Raises `ConfigError` for more diffusion steps than in training, or more unguided scales than there are.
    """
    hart.config.check_sampling(speed.sampling(hart.config))
    if speed.weights in EIGHT_BITS:
        round_weights(hart, EIGHT_BITS[speed.weights])
    give_kernels(hart)
    if speed.weights == "packed":
        pack(hart)
    if speed.compile:
        compile_blocks(hart.transformer.blocks)
    packed = any(isinstance(layer, Packed) for layer in hart.transformer.blocks.modules())
    hart.transformer.null_token = KeptToken() if packed else None  # packed weights do not change
    sizes, hart.transformer.share = hart.transformer.config, whole
    if packed and not speed.compile:
        hart.transformer.share = ByThreads(linear_macs(sizes) // sizes.depth)
        begin_threads()
    on_cuda = hart.transformer.word_embed.weight.is_cuda
    hart.transformer.graphs = BlockGraphs() if speed.graphs and on_cuda else None
    hart.transformer.cache_type = {"model": None, "bfloat16": torch.bfloat16, "int8": torch.int8}[speed.cache]


def round_weights(hart: Hart, dtype: torch.dtype) -> None:
    """Convert the large linear layers of the model's blocks to an 8-bit type, in place."""
    quantize_linears(hart.transformer.blocks, SMALLEST_QUANTIZED, dtype)
    if hart.residual is not None:
        quantize_linears(hart.residual.denoiser.blocks, SMALLEST_QUANTIZED, dtype)


def is_quantized(module: nn.Module) -> bool:
    """Return whether any layer inside has 8-bit weights."""
    return any(isinstance(layer, QuantizedLinear | PackedInt8Linear) for layer in module.modules())

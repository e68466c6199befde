"""The models that the paper compares HART with, in their published sizes, built by diffusers with random weights.

Sizes are those of the configurations released with each model; nothing is downloaded. A rival is a network that is
called once per step, with guidance on two rows per image, and a decoder that is called once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from headline_parts import mar

Numbers = Callable[..., Tensor]
"""Returns random numbers of a given shape."""
TextEncoder = Callable[[], nn.Module]
Network = Callable[[int], nn.Module]
Decoder = Callable[[], nn.Module]
Step = Callable[[nn.Module, int, int, Numbers], Tensor]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """steps: calls of the network per image, on two rows with guidance. sizes: of images, in pixels.

    network: builds it for a size. step: calls it on a number of rows, at a size. latent: channels, and pixels per
    position along a side. texts: a prompt's encoders, and the tokens that each reads; guidance reads two prompts.
    """

    steps: int
    network: Network
    step: Step
    latent: tuple[int, int]
    decoder: Decoder
    texts: tuple[tuple[TextEncoder, int], ...] = ()
    sizes: tuple[int, ...] = (512, 1024)


def _sdxl(size: int) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=size // 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        cross_attention_dim=2048,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _sdxl_step(network: nn.Module, rows: int, size: int, numbers: Numbers) -> Tensor:
    added = {"text_embeds": numbers(rows, 1280), "time_ids": numbers(rows, 6)}
    sample, text = numbers(rows, 4, size // 8, size // 8), numbers(rows, 77, 2048)
    return network(sample, numbers(1)[0], encoder_hidden_states=text, added_cond_kwargs=added).sample


def _sd3(_: int) -> nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=192,
    )


def _sd3_step(network: nn.Module, rows: int, size: int, numbers: Numbers) -> Tensor:
    text = {"encoder_hidden_states": numbers(rows, 77 + 256, 4096), "pooled_projections": numbers(rows, 2048)}
    return network(numbers(rows, 16, size // 8, size // 8), timestep=numbers(rows), **text).sample


DIT: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "patch_size": 2,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_elementwise_affine": False,
}


def _pixart(size: int) -> nn.Module:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        **DIT,
        sample_size=size // 8,
        cross_attention_dim=1152,
        caption_channels=4096,
        interpolation_scale=size // 512,
        use_additional_conditions=False,
        norm_type="ada_norm_single",
    )


def _pixart_step(network: nn.Module, rows: int, size: int, numbers: Numbers) -> Tensor:
    sample, text = numbers(rows, 4, size // 8, size // 8), numbers(rows, 300, 4096)
    return network(sample, encoder_hidden_states=text, timestep=numbers(rows)).sample[:, :4]


def _dit(size: int) -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(**DIT, sample_size=size // 8, norm_type="ada_norm_zero")


def _dit_step(network: nn.Module, rows: int, size: int, numbers: Numbers) -> Tensor:
    classes = torch.zeros_like(numbers(rows), dtype=torch.long)
    return network(numbers(rows, 4, size // 8, size // 8), timestep=numbers(rows), class_labels=classes).sample[:, :4]


def _mar_step(network: nn.Module, rows: int, _: int, numbers: Numbers) -> Tensor:
    """Run the average of the 64 steps: with the mean numbers of known and of new tokens."""
    sizes = mar.step_sizes()
    known = sum(sum(sizes[:i]) for i in range(len(sizes))) // len(sizes)
    classes = torch.zeros_like(numbers(rows), dtype=torch.long)
    return network.step(numbers(rows, known, mar.CHANNELS), classes, mar.TOKENS // mar.STEPS)


@cache
def _decoder(channels: int, widths: tuple[int, ...] = (128, 256, 512, 512)) -> Decoder:
    """Return the decoder of latent diffusion's KL autoencoder; each level of `widths` but the last doubles the side."""

    def build() -> nn.Module:
        from diffusers import AutoencoderKL

        levels = len(widths)
        whole = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=widths,
            layers_per_block=2,
            latent_channels=channels,
        )
        return nn.Sequential(whole.post_quant_conv, whole.decoder)

    return build


def _clip(width: int, depth: int, heads: int) -> TextEncoder:
    def build() -> nn.Module:
        from transformers import CLIPTextConfig, CLIPTextModel

        sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
        return CLIPTextModel(CLIPTextConfig(**sizes, intermediate_size=4 * width))

    return build


CLIP_L, CLIP_G = _clip(768, 12, 12), _clip(1280, 32, 20)


def t5() -> nn.Module:
    """T5-XXL, version 1.1."""
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))


def qwen2() -> nn.Module:
    """The text encoder of HART's text-to-image models, Qwen2-1.5B."""
    from transformers import Qwen2Config, Qwen2Model

    sizes = {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2}
    return Qwen2Model(Qwen2Config(**sizes, intermediate_size=8960))


def _rival(step: Step, network: Network, channels: int, **more: Any) -> Rival:
    """Return a rival whose autoencoder has eight pixels per position."""
    parts: dict[str, Any] = {"latent": (channels, 8), "decoder": _decoder(channels)}
    return Rival(step=step, network=network, **parts | more)


def _sdxl_like(steps: int, **more: Any) -> Rival:
    return _rival(_sdxl_step, _sdxl, 4, steps=steps, texts=((CLIP_L, 77), (CLIP_G, 77)), **more)


def _mar(sizes: mar.Sizes) -> Rival:
    return Rival(
        steps=mar.STEPS,
        network=lambda _: mar.Mar(sizes),
        step=_mar_step,
        latent=(mar.CHANNELS, 16),
        decoder=_decoder(mar.CHANNELS, (128, 128, 256, 256, 512)),
        sizes=(256,),
    )


RIVALS: Mapping[str, Rival] = {
    "SDXL, 20 steps": _sdxl_like(20),
    "SDXL, 40 steps": _sdxl_like(40),
    "PixArt-Sigma": _rival(_pixart_step, _pixart, 4, steps=20, texts=((t5, 300),)),
    "Playground v2.5, 20 steps": _sdxl_like(20, sizes=(1024,)),
    "Playground v2.5, 50 steps": _sdxl_like(50, sizes=(1024,)),
    "SD3-medium": _rival(_sd3_step, _sd3, 16, steps=28, texts=((CLIP_L, 77), (CLIP_G, 77), (t5, 256))),
    "DiT-XL/2": _rival(_dit_step, _dit, 4, steps=250, sizes=(256,)),
    "MAR-B": _mar(mar.MAR_B),
    "MAR-L": _mar(mar.MAR_L),
}
"""Name of the row in the paper's table 3 or 4 -> the model. Playground v2.5 has SDXL's sizes."""

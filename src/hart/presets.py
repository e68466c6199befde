"""Named sizes of published models, for `--random-weights`, `hart info`, recipes and benchmarks.

Sources: the HART paper (arXiv 2410.10812, section 4 and tables 3 and 4), the configuration file released with
its 0.7B weights, and the VAR paper (arXiv 2404.02905). `PRESETS` maps a name to a function without arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from hart.config import (
    ClassConditioning,
    HartConfig,
    ResidualDiffusionConfig,
    SamplingConfig,
    TextConditioning,
    TextEncoderConfig,
    TokenizerConfig,
    TransformerConfig,
)

SCALES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
SCALES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
SCALES_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)

PUBLISHED_SCALES = {scales[-1]: scales for scales in (SCALES_256, SCALES_512, SCALES_1024)}

# The text encoder of the released 0.7B weights.
RELEASED_TEXT_ENCODER = "mit-han-lab/Qwen2-VL-1.5B-Instruct"

# Sampling settings of VAR's published results.
VAR_SAMPLING = SamplingConfig(guidance_scale=1.5, top_k=900, top_p=0.96, gumbel_smoothing=False)


def hart_text_to_image(scales: tuple[int, ...]) -> HartConfig:
    """The 0.7B text-to-image model: 696M transformer + 37M diffusion (732M in the paper's tables 2 and 3)."""
    text = TextConditioning()
    encoder = TextEncoderConfig("qwen2", tokens=text.tokens, source=RELEASED_TEXT_ENCODER, instruction=True)
    return HartConfig(TokenizerConfig(scales), TransformerConfig(scales, text=text), ResidualDiffusionConfig(), encoder)


def hart_imagenet(depth: int) -> HartConfig:
    """Class-conditional HART at 256 px (paper, table 4): 649M, 1.07B and 2.05B at depths 20, 24 and 30.

    VAR's widths with SwiGLU, rotary positions and residual diffusion. The weights are not published; QK normalisation
    and sampling are VAR's; everything else reproduces the printed parameter counts.
    """
    return HartConfig(
        TokenizerConfig(SCALES_256),
        TransformerConfig(
            SCALES_256,
            width=64 * depth,
            depth=depth,
            heads=depth,
            classes=ClassConditioning(),
            qk_norm=True,
            level_embedding="table",
            modulation="linear",
        ),
        ResidualDiffusionConfig(),
        sampling=VAR_SAMPLING,
    )


def var_imagenet(depth: int) -> HartConfig:
    """Plain VAR at 256 px (VAR paper, table 1): 310M at depth 16."""
    ours = hart_imagenet(depth)
    plain = ours.transformer.replace(norm="layer", mlp="gelu", position="absolute")
    return ours.replace(transformer=plain, diffusion=None)


PRESETS: Mapping[str, Callable[[], HartConfig]] = MappingProxyType(
    {
        "hart-0.7b-256": lambda: hart_text_to_image(SCALES_256),
        "hart-0.7b-512": lambda: hart_text_to_image(SCALES_512),
        "hart-0.7b-1024": lambda: hart_text_to_image(SCALES_1024),
        "hart-imagenet-d20-256": lambda: hart_imagenet(20),
        "hart-imagenet-d24-256": lambda: hart_imagenet(24),
        "hart-imagenet-d30-256": lambda: hart_imagenet(30),
        "var-d16-256": lambda: var_imagenet(16),
    }
)

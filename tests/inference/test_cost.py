"""Counted costs against what the model really computes, and against the figures of the papers."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from hart.checkpoint.loading import build
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
from hart.generation.next_scale import NextScaleGenerator
from hart.generation.noise import SeededNoise
from hart.generation.requests import null_context
from hart.grids import Grid, ScaleSchedule
from hart.inference.cost import (
    MODULES,
    PARTS,
    TEXT_ENCODER,
    ModelCost,
    model_cost,
    tokenizer_training_macs,
    transformer_training_macs,
)
from hart.presets import PRESETS
from hart.sizes import schedule_of_grid
from hart.text_encoder.compact import CompactTextEncoder, build_tokenizer
from hart.training.dry_run import RehearsedTransformer
from hart.training.task import Microbatch
from helpers import transformer_recipe
from models import PIECES

SCALES = (1, 2, 3, 4)
SIZES = {"latent_channels": 8, "codebook_size": 40}
TOKENIZER = TokenizerConfig(SCALES, base_channels=32, channel_multipliers=(1, 2), residual_blocks=1, **SIZES)
TEXT = TransformerConfig(SCALES, width=32, depth=2, heads=2, text=TextConditioning(width=12, tokens=5), **SIZES)
CLASSES = TransformerConfig(
    SCALES,
    width=32,
    depth=2,
    heads=2,
    classes=ClassConditioning(3),
    norm="layer",
    mlp="gelu",
    qk_norm=True,
    level_embedding="table",
    position="absolute",
    modulation="linear",
    **SIZES,
)
DIFFUSION = ResidualDiffusionConfig(width=24, depth=2)
CONFIGS = {
    "text": HartConfig(TOKENIZER, TEXT, DIFFUSION),
    "text, MaskGIT": HartConfig(TOKENIZER, TEXT, DIFFUSION, sampling=SamplingConfig(maskgit_steps=3)),
    "text, 3 diffusion steps": HartConfig(TOKENIZER, TEXT, DIFFUSION, sampling=SamplingConfig(diffusion_steps=3)),
    "text, 2 scales unguided": HartConfig(TOKENIZER, TEXT, DIFFUSION, sampling=SamplingConfig(unguided_scales=2)),
    "text, all scales unguided": HartConfig(TOKENIZER, TEXT, DIFFUSION, sampling=SamplingConfig(unguided_scales=4)),
    "text, discrete only": HartConfig(TOKENIZER, TEXT, DIFFUSION, sampling=SamplingConfig(discrete_only=True)),
    "text, discrete": HartConfig(TOKENIZER, TEXT),
    "text, masked": HartConfig(
        TOKENIZER, TEXT.replace(masked_last_scale=True), DIFFUSION, sampling=SamplingConfig(maskgit_steps=3)
    ),
    "text, patches": HartConfig(TOKENIZER.replace(patch_size=2), TEXT, DIFFUSION),
    "classes": HartConfig(TOKENIZER, CLASSES, sampling=SamplingConfig(gumbel_smoothing=False)),
    "classes, shared AdaLN": HartConfig(TOKENIZER, CLASSES.replace(modulation="shared")),
}


# The counter knows the attention kernels of GPUs only.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, out_shape=None, **__: (
        sdpa_flop_count(q, k, v)
    )
}


def measured_macs(config: HartConfig, schedule: ScaleSchedule | None = None, *, guided: bool) -> int:
    """MACs of the matrix products and convolutions of one generated and decoded image."""
    tokenizer, hart = build(config)
    generator = NextScaleGenerator(
        hart,
        tokenizer.quantizer,
        config.sampling if guided else config.sampling.replace(guidance_scale=0.0),
        SeededNoise([0], torch.device("cpu")),
        schedule,
    )
    context = null_context(config)
    first_scale = hart.transformer.first_scale
    # counted is the model by definition: all tokens of the null context, of which the program computes one
    with patch.object(hart.transformer, "first_scale", lambda given, cache, null_rows: first_scale(given, cache)):
        return counted(lambda: tokenizer.decode(generator(context)))


def counted(compute: Callable[[], object]) -> int:
    """MACs of the matrix products and convolutions of a computation."""
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        compute()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", ["text", "text, patches"])
def test_counts_a_training_step_of_the_tokenizer(name: str) -> None:
    config = CONFIGS[name]
    tokenizer, _ = build(config)
    size = config.tokenizer.image_size

    def forward() -> object:
        result = tokenizer.training_pass(torch.zeros(1, 3, size, size), discrete=True)
        return tokenizer.decode_unclamped(result.latent)

    macs = tokenizer_training_macs(config.tokenizer)
    assert macs.codes + macs.search + macs.decoder == pytest.approx(counted(forward), rel=0.01)


@pytest.mark.parametrize("name", ["text", "text, discrete"])
def test_counts_a_training_step_of_the_transformer(name: str) -> None:
    config = CONFIGS[name]
    task = RehearsedTransformer(transformer_recipe(config, drop_last_scale=False), torch.device("cpu"))
    batch = task.batch(Microbatch(0, 0, 1, slice(0, 1)))
    macs = transformer_training_macs(config.transformer, config.diffusion, last_tokens=16)
    assert macs == pytest.approx(counted(lambda: task.loss("model", batch)), rel=0.03)


@pytest.mark.parametrize(
    ("name", "guided"),
    [*((name, True) for name in CONFIGS), *((name, False) for name in ("text", "text, MaskGIT", "classes"))],
)
def test_counts_every_matrix_product_of_a_generated_image(name: str, guided: bool) -> None:
    cost = model_cost(CONFIGS[name], guided=guided)
    assert cost.total_macs == measured_macs(CONFIGS[name], guided=guided)


@pytest.mark.parametrize("grid", [Grid(2, 5), Grid(6, 4)], ids=str)
def test_counts_every_matrix_product_on_any_grid(grid: Grid) -> None:
    config, schedule = CONFIGS["text"], schedule_of_grid(SCALES, grid)
    assert model_cost(config, schedule).total_macs == measured_macs(config, schedule, guided=True)


def test_parts_are_complete_and_add_up() -> None:
    cost = model_cost(CONFIGS["text"])
    assert (TEXT_ENCODER, *cost.macs) == PARTS and (TEXT_ENCODER, *cost.parameters) == MODULES
    assert cost.total_macs == sum(cost.macs.values())
    assert cost.scale_tokens == (1, 4, 9, 16)
    transformer = [cost.macs[part] for part in PARTS if part.startswith("transformer") or part == "head"]
    assert sum(cost.step_macs) == sum(transformer)
    tokenizer, hart = build(CONFIGS["text"])
    assert sum(cost.parameters.values()) == sum(p.numel() for m in (tokenizer, hart) for p in m.parameters())


def test_the_compact_text_encoder_is_counted() -> None:
    sizes = TextEncoderConfig(
        "compact", tokens=5, vocabulary_size=len(PIECES), embedding_width=6, width=16, depth=2, heads=2, output_width=12
    )
    encoder = CompactTextEncoder(sizes, build_tokenizer(PIECES, sizes.tokens)).eval()
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        encoder.encode(["a cat"])
    cost, without = (model_cost(CONFIGS["text"].replace(text_encoder=given)) for given in (sizes, None))
    assert cost.macs == {TEXT_ENCODER: counter.get_total_flops() // 2} | dict(without.macs)
    held = sum(p.numel() for p in encoder.parameters())
    assert cost.parameters == {TEXT_ENCODER: held} | dict(without.parameters)
    assert tuple(cost.macs) == PARTS and tuple(cost.parameters) == MODULES


@pytest.mark.parametrize(
    ("name", "transformer", "total"),
    [
        ("hart-0.7b-1024", 696.0e6, 732e6),  # HART, table 2
        ("hart-imagenet-d20-256", None, 649e6),  # HART, table 4
        ("hart-imagenet-d24-256", None, 1.07e9),
        ("hart-imagenet-d30-256", None, 2.05e9),
        ("var-d16-256", 310e6, 310e6),  # VAR, table 1
    ],
)
def test_parameters_are_the_published_ones(name: str, transformer: float | None, total: float) -> None:
    parameters = model_cost(PRESETS[name]()).parameters
    assert parameters["transformer"] + parameters["residual diffusion"] == pytest.approx(total, rel=3e-3)
    if transformer is not None:
        assert parameters["transformer"] == pytest.approx(transformer, rel=1e-3)


def published_macs(cost: ModelCost, single: ModelCost) -> float:
    """MACs the way the paper's tables seem to count: transformer of one row without attention, guided diffusion."""
    linear = ("transformer, context", "transformer, linear layers", "head")
    return sum(single.macs[part] for part in linear) + cost.macs["residual diffusion"]


@pytest.mark.parametrize(("name", "published"), [("hart-0.7b-512", 3.2e12), ("hart-0.7b-1024", 12.5e12)])
def test_text_to_image_macs_agree_with_the_paper(name: str, published: float) -> None:
    """Table 3, an image; the decoder is in it."""
    cost, single = model_cost(PRESETS[name]()), model_cost(PRESETS[name](), guided=False)
    assert published_macs(cost, single) + cost.macs["decoder"] == pytest.approx(published, rel=0.04)


@pytest.mark.parametrize(
    ("name", "published"),
    [("hart-imagenet-d20-256", 579e9), ("hart-imagenet-d24-256", 858e9), ("hart-imagenet-d30-256", 1.5e12)],
)
def test_class_conditional_macs_agree_with_the_paper(name: str, published: float) -> None:
    """Table 4: no decoder, and the blocks' modulation counted at every token although it is computed once."""
    config = PRESETS[name]()
    cost, single = model_cost(config), model_cost(config, guided=False)
    modulation = 6 * config.transformer.width**2 * config.transformer.depth * sum(cost.scale_tokens)
    assert published_macs(cost, single) + modulation == pytest.approx(published, rel=0.05)

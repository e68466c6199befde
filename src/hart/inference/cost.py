"""The size of a model and the cost of one image: parameters and multiply-accumulates (MACs) by part.

This counts the matrix products and convolutions of generating one image as the paper describes it; 1 MAC is 2 FLOPs.
It leaves out elementwise operations, and a text encoder that is a separate model (Qwen2). Guidance runs transformer,
head and diffusion for two rows, with and without the prompt, except at the scales that are sampled without it.

    prompt -> compact text encoder -> context
    context + scales -> transformer -> head -> codes -> diffusion (all sampling steps) -> decoder

Shapes: R rows (2 with guidance), S context tokens, N tokens of a step, P tokens a step attends to, C width,
M MLP width, D latent channels, V codes, W diffusion width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from hart.checkpoint.loading import build
from hart.config import HartConfig, ResidualDiffusionConfig, TextEncoderConfig, TokenizerConfig, TransformerConfig
from hart.devices import without_memory
from hart.generation.batch_settings import rows_of_scales
from hart.generation.last_scale import diffusion_calls, last_scale_calls
from hart.grids import Grid, ScaleSchedule
from hart.layers.embedding import FREQUENCIES
from hart.model import Hart
from hart.tokenizer.autoencoder import Downsample, SpatialAttention, Upsample
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer

TEXT_ENCODER = "text encoder"
"""Key of the compact text encoder; absent if another model reads the prompts, or they are classes."""

PARTS = (
    TEXT_ENCODER,
    "transformer, context",
    "transformer, linear layers",
    "transformer, attention",
    "head",
    "codes",
    "residual diffusion",
    "decoder",
)
"""Keys of `ModelCost.macs`. "context" holds all layers for the context tokens; the next two are for the image tokens.
"codes" is the Gumbel mixture of codes, the convolutions phi, and pooling to the next scale."""

MODULES = (TEXT_ENCODER, "transformer", "residual diffusion", "encoder", "quantizer", "decoder")
"""Keys of `ModelCost.parameters`. "encoder" is the tokenizer's, which generation does not use."""


@dataclass(frozen=True)
class ModelCost:
    """Cost of a model per image.

    parameters: by `MODULES`. macs: by `PARTS`. scale_tokens: image tokens of each scale.
    step_macs: transformer and head, first the context with scale 1's logits, then the scales 2..K; head_macs: the
    head's share of these. null_macs: the context's share for all but one of the null text's tokens, which are all equal
    in every layer, so that a program may compute them once.
    """

    parameters: Mapping[str, int]
    macs: Mapping[str, int]
    scale_tokens: tuple[int, ...]
    step_macs: tuple[int, ...]
    head_macs: tuple[int, ...]
    null_macs: int

    @property
    def total_macs(self) -> int:
        return sum(self.macs.values())


def model_cost(config: HartConfig, schedule: ScaleSchedule | None = None, *, guided: bool = True) -> ModelCost:
    """Return parameters and MACs for one image with the configured sampling, decoded to pixels.

    schedule: the image's, by default the model's own.
    guided: with classifier-free guidance, which doubles everything but text encoder, codes and decoder, except at last
        scales that the sampling leaves unguided.
    """
    with without_memory():
        tokenizer, hart = build(config)
    sizes, schedule = config.transformer, schedule or config.transformer.schedule
    counts = schedule.token_counts
    rows = rows_of_scales(config.sampling, len(schedule), guided=guided)
    context = _context(sizes, rows[0])
    steps = _scales(sizes, rows, [*([(count, count)] for count in counts[1:-1]), last_scale_calls(config, schedule)])
    all_linear, all_attention, all_heads = map(sum, zip(*steps, strict=True))
    text_parameters, text_macs = _text_encoder(config.text_encoder)
    macs = text_macs | {
        "transformer, context": context,
        "transformer, linear layers": all_linear,
        "transformer, attention": all_attention,
        "head": all_heads,
        "codes": _codes(config, schedule),
        "residual diffusion": sum(_diffusion(config, rows[-1], tokens) for tokens in diffusion_calls(config, schedule)),
        "decoder": _decoder(tokenizer, schedule.final),
    }
    step_macs = list(map(sum, steps))
    heads = tuple(head for _, _, head in steps)
    steps_in_all = (context + step_macs[0], *step_macs[1:])
    null = _context_tokens(sizes, sizes.context_tokens) - _context_tokens(sizes, 1) if guided else 0
    return ModelCost(text_parameters | _parameters(tokenizer, hart), macs, counts, steps_in_all, heads, null)


@dataclass(frozen=True)
class TokenizerTrainingMacs:
    """MACs of one image's forward pass in training.

    codes: encoder, and phi at every scale, with gradients unless only the decoder is trained. search: nearest codes
    at every scale, never with gradients. decoder: with gradients.
    """

    codes: int
    search: int
    decoder: int


def tokenizer_training_macs(sizes: TokenizerConfig) -> TokenizerTrainingMacs:
    """Return the MACs of one image's forward pass in training."""
    with without_memory():
        tokenizer = HybridTokenizer(sizes)
    schedule, channels, latent = sizes.schedule, sizes.latent_channels, sizes.schedule.final
    encoder = _convolutions(tokenizer.encoder, Grid(*(sizes.map_downsampling * side for side in latent)))
    codes = encoder + _convolutions(tokenizer.quant_conv, latent) + len(schedule) * _phi(channels, latent)
    return TokenizerTrainingMacs(
        codes=codes,
        search=schedule.total_tokens * sizes.codebook_size * channels,
        decoder=_decoder(tokenizer, latent),
    )


def transformer_training_macs(
    sizes: TransformerConfig, diffusion: ResidualDiffusionConfig | None, *, last_tokens: int
) -> int:
    """Return the MACs of one image's forward pass in training, with `last_tokens` of the last scale's tokens computed.

    The diffusion's network runs `batch_multiplier` times per token.
    """
    counts = (*sizes.schedule.token_counts[1:-1], last_tokens)
    scales = _scales(sizes, [1] * len(sizes.schedule), [[(n, n)] for n in counts])
    total = _context(sizes, rows=1) + sum(map(sum, scales))
    if diffusion is None:
        return total
    denoiser, time = _denoiser(diffusion, sizes.latent_channels)
    use = sizes.width * diffusion.width + time + denoiser
    return total + last_tokens * (sizes.latent_channels * sizes.width + diffusion.batch_multiplier * use)


def _denoiser(sizes: ResidualDiffusionConfig, channels: int) -> tuple[int, int]:
    """Return the MACs of the diffusion's network for one token, and of the embedding of one timestep."""
    width = sizes.width
    block = 5 * width**2  # two linear layers, and three modulation parameters per channel
    return 3 * channels * width + sizes.depth * block + 2 * width**2, width * (2 * FREQUENCIES + width)


def _parameters(tokenizer: HybridTokenizer, hart: Hart) -> dict[str, int]:
    modules: dict[str, tuple[nn.Module | None, ...]] = {
        "transformer": (hart.transformer,),
        "residual diffusion": (hart.residual,),
        "encoder": (tokenizer.encoder, tokenizer.quant_conv),
        "quantizer": (tokenizer.quantizer,),
        "decoder": (tokenizer.post_quant_conv, tokenizer.decoder),
    }
    return {
        name: sum(p.numel() for module in parts if module is not None for p in module.parameters())
        for name, parts in modules.items()
    }


def _text_encoder(sizes: TextEncoderConfig | None) -> tuple[dict[str, int], dict[str, int]]:
    """Return the parameters of `hart.text_encoder.compact`, counted by hand, since building it needs its word pieces;
    and the MACs of one prompt, padded to S tokens that see each other."""
    if sizes is None or sizes.kind != "compact":
        return {}, {}
    width, tokens = sizes.width, sizes.tokens
    # per block: q, k, v, output, an MLP of 4 times the width; then biases and two norms
    linear = sizes.embedding_width * width + sizes.depth * 12 * width**2 + width * sizes.output_width
    embeddings = sizes.vocabulary_size * sizes.embedding_width + tokens * width
    parameters = embeddings + linear + sizes.depth * 13 * width + 3 * width + sizes.output_width
    return {TEXT_ENCODER: parameters}, {TEXT_ENCODER: tokens * (linear + sizes.depth * 2 * tokens * width)}


def _scales(
    sizes: TransformerConfig, rows: Sequence[int], calls: Sequence[Sequence[tuple[int, int]]]
) -> list[tuple[int, int, int]]:
    """Return linear layers, attention and head of the first scale, whose token the context predicts, and of the others.

    rows: of each scale. calls: of each scale but the first, see `last_scale_calls`. The scale and shift before the head
    are computed once per row.
    """
    head = sizes.width * sizes.codebook_size
    found = [(0, 0, rows[0] * (2 * sizes.width**2 + head))]
    seen = sizes.context_tokens
    for k, of_scale in enumerate(calls, start=1):
        linear = attention = count = 0
        levels = 2 if sizes.masked_last_scale and k == len(calls) else 1  # given tokens have their own level
        for tokens, count in of_scale:
            linear += levels * _level(sizes)
            linear += rows[k] * tokens * (sizes.latent_channels * sizes.width + linear_macs(sizes))
            attention += rows[k] * _attention(sizes, tokens, seen + count)
        seen += count
        found.append((linear, attention, rows[k] * count * head))
    return found


def _context(sizes: TransformerConfig, rows: int) -> int:
    """Return the context's embedding, the blocks' modulation, and all layers for S tokens that see each other."""
    projections = {"none": 0, "table": 0, "linear": sizes.depth, "shared": 1}[sizes.modulation]
    modulation = projections * 6 * sizes.width**2
    return _level(sizes) + rows * (modulation + _context_tokens(sizes, sizes.context_tokens))


def _context_tokens(sizes: TransformerConfig, tokens: int) -> int:
    """Return embedding and all layers of context tokens that see each other."""
    embedding = tokens * sizes.text.width * sizes.width if sizes.text is not None else 0
    return embedding + tokens * linear_macs(sizes) + _attention(sizes, tokens, tokens)


def linear_macs(sizes: TransformerConfig) -> int:
    """Return all blocks' linear layers for one token: q, k, v, output; gate, up, down (or two of them with GELU)."""
    matrices = 3 if sizes.mlp == "swiglu" else 2
    return sizes.depth * (4 * sizes.width**2 + matrices * sizes.width * sizes.mlp_width)


def _attention(sizes: TransformerConfig, tokens: int, seen: int) -> int:
    """Return queries on keys and weights on values in all blocks, for N tokens that attend to P."""
    return sizes.depth * 2 * tokens * seen * sizes.width


def _level(sizes: TransformerConfig) -> int:
    """Return the MLP of the sinusoidal level embedding, once per step; a table costs nothing."""
    return sizes.width * (2 * FREQUENCIES + sizes.width) if sizes.level_embedding == "sinusoidal" else 0


def _codes(config: HartConfig, schedule: ScaleSchedule) -> int:
    """Return the Gumbel mixture of codes, phi at all but a hybrid model's last scale, and pooling to the next scale."""
    sizes, final = config.tokenizer, schedule.final
    # multiplying from the left makes the rows, from the right the columns
    pooling = sum(
        sizes.latent_channels * grid.height * final.width * (final.height + grid.width) for grid in schedule.grids[1:-1]
    )
    tokens, scales = schedule.total_tokens, len(schedule)
    mixture = tokens * sizes.codebook_size * sizes.latent_channels if config.sampling.gumbel_smoothing else 0
    smoothed = scales - 1 if config.hybrid else scales
    return mixture + pooling + smoothed * _phi(sizes.latent_channels, final)


def _diffusion(config: HartConfig, rows: int, tokens: int) -> int:
    """Return residual tokens of N positions: the condition once, the denoiser at every sampling step."""
    if config.diffusion is None or config.sampling.discrete_only:
        return 0
    channels, context_width = config.transformer.latent_channels, config.transformer.width
    steps = config.diffusion_steps(config.sampling)
    condition = context_width * (channels + config.diffusion.width)  # word_embed of the code, then condition_embed
    denoiser, time = _denoiser(config.diffusion, channels)
    return rows * tokens * (condition + steps * denoiser) + steps * time


def _convolutions(part: nn.Module, grid: Grid) -> int:
    """Return convolutions and attention of the autoencoder, or a part of it that begins on `grid`; its modules are in
    the order of the computation."""
    total = 0
    for layer in part.modules():
        if isinstance(layer, Upsample):
            grid = Grid(2 * grid.height, 2 * grid.width)
        elif isinstance(layer, Downsample):
            grid = Grid(grid.height // 2, grid.width // 2)
        elif isinstance(layer, SpatialAttention):  # every position attends to every other
            total += 2 * layer.proj.in_channels * grid.tokens**2
        elif isinstance(layer, nn.Conv2d):
            total += layer.weight.numel() * grid.tokens
    return total


def _decoder(tokenizer: HybridTokenizer, latent: Grid) -> int:
    return _convolutions(tokenizer.post_quant_conv, latent) + _convolutions(tokenizer.decoder, latent)


def _phi(channels: int, latent: Grid) -> int:
    """Return the cost of one convolution phi."""
    return 9 * channels**2 * latent.tokens

"""Stage `transformer`: transformer and residual diffusion, trained jointly on token maps and text features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from hart.checkpoint.loading import load_model, load_tokenizer, over_scales, resolve_model, same_sizes, save_model
from hart.checkpoint.lora import add_lora, save_lora, scale_lora
from hart.checkpoint.storage import fingerprint, load_state
from hart.config import ConfigError, HartConfig, TextEncoderConfig, TokenizerConfig, TransformerConfig
from hart.devices import convolution_layout, sent
from hart.generation.next_scale import NextScaleGenerator
from hart.generation.noise import SeededNoise
from hart.layers.norm import SiluLinear
from hart.losses.code_loss import CodeLoss
from hart.losses.transformer_loss import (
    DiffusionNoise,
    code_clusters,
    sample_diffusion_noise,
    sample_given,
    sample_last_positions,
    transformer_loss,
    with_given,
)
from hart.model import Hart, ResidualHead
from hart.randomness import CPU, generator_for, seed_of
from hart.sizes import requested_schedule, trained_sizes
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.tokenizer.quantizer import Corruption, MultiScaleQuantizer
from hart.training.conditions import drop_condition, open_caption_encoder, with_text_noise
from hart.training.config import TRAIN_FIRST, TransformerRecipe, named_by
from hart.training.image_sources import GivenData, MemoryImages, kept_data
from hart.training.task import Microbatch, OptimizedModule, Origin, Task, TrainContext, image_row
from hart.training.token_sources import Conditions, token_source
from hart.transformer.block import Block, LinearModulation, TableModulation, deepened
from hart.transformer.condition import ClassEmbedder
from hart.types import Context, TextContext, TokenMaps

SAMPLES = 8
TOKEN_SIZES = ("latent_channels", "codebook_size")
LEVELS = "level_embedding.embedding.weight"
TOKEN_LAYERS = ("word_embed.", "head.linear.", LEVELS)
"""Layers of the transformer that belong to one tokenizer and its scales."""


def model_config(
    recipe: TransformerRecipe, tokenizer: TokenizerConfig, text_encoder: TextEncoderConfig | None = None
) -> HartConfig:
    """Return the configuration of the model that a recipe trains. Raises `ConfigError` for parts that do not fit."""
    parts = {
        "tokenizer": tokenizer,
        "transformer": recipe.transformer,
        "diffusion": recipe.diffusion,
        "text_encoder": text_encoder,
        "sampling": recipe.sampling,
        "aspects": recipe.reading.aspects,
        "styles": recipe.styles,
    }
    return HartConfig.from_dict(parts, "the recipe")


def starting_model(recipe: TransformerRecipe, config: HartConfig) -> Hart:
    """Return the model that the stage starts with, fresh or from `init_from`, without adapters."""
    hart = Hart(config)
    initialize(hart, generator_for(recipe.trainer.seed, "weights"), gate_gain=recipe.gate_gain)
    if recipe.init_from:
        start_from(hart, recipe.init_from, frozen=recipe.lora is not None)
    return hart


def with_adapters(hart: Hart, recipe: TransformerRecipe) -> Hart:
    """Return `hart` with the recipe's adapters, if any; then nothing else is trained."""
    if (lora := recipe.lora) is not None:
        generator = generator_for(recipe.trainer.seed, "adapters")
        add_lora(hart, rank=lora.rank, alpha=lora.alpha, generator=generator, targets=lora.targets)
    return hart


def start_from(hart: Hart, name: str, *, frozen: bool = False) -> None:
    """Copy the weights of the model `name`, of the same sizes at any resolution, into `hart`.

    In a table of levels, each scale gets the source's level nearest in size. Tokens of other sizes mean a different
    tokenizer; then the layers that read and write tokens, a table of levels and the residual diffusion keep their
    initial weights. So does the residual diffusion if the source has none. With `frozen`, nothing may keep them. A span
    of positions stays, and so does a masked last scale. A deeper transformer starts equivalent to the source: its extra
    blocks contribute nothing at first. Raises `ConfigError`, naming the sizes that differ, for other models.
    """
    with named_by("init_from"):
        source = load_model(resolve_model(name))
    _require_start(name, source.config, hart.config, frozen=frozen)
    theirs, ours = source.config.transformer, hart.config.transformer
    if ours.depth > theirs.depth:
        source.hart.transformer.blocks = deepened(source.hart.transformer.blocks, ours.depth)
    same_tokens = have_same_tokens(theirs, ours)
    weights = source.hart.transformer.state_dict()
    if same_tokens and ours.level_embedding == "table":
        levels = [nearest_scale(size, theirs.scales) for size in ours.scales]
        if ours.masked_last_scale:  # the level of given tokens starts as the last scale's
            levels.append(theirs.given_level if theirs.masked_last_scale else levels[-1])
        weights[LEVELS] = weights[LEVELS][levels]
    if not same_tokens:
        weights |= {key: own for key, own in hart.transformer.state_dict().items() if key.startswith(TOKEN_LAYERS)}
    load_state(hart.transformer, weights, name)
    if hart.residual is not None and source.hart.residual is not None and same_tokens:
        load_state(hart.residual, source.hart.residual.state_dict(), name)


def _require_start(name: str, there: HartConfig, here: HartConfig, *, frozen: bool) -> None:
    theirs, ours = there.transformer, here.transformer
    span, asked = (sizes.position_span or sizes.scales[-1] for sizes in (theirs, ours))
    may_differ = {"scales", *TOKEN_SIZES}
    if span == asked or not (frozen or theirs.position_span):
        may_differ.add("position_span")
    if not (frozen or theirs.masked_last_scale):
        may_differ.add("masked_last_scale")
    if not frozen and ours.depth > theirs.depth:
        may_differ.add("depth")
    same_sizes(name, theirs, ours, besides=may_differ)
    same_tokens = have_same_tokens(theirs, ours)
    if frozen and not same_tokens:
        raise ConfigError(f"init_from {name}: its tokens have other sizes, so that not all of it can be kept")
    if theirs.scales != ours.scales and ours.position == "absolute":
        raise ConfigError(
            f'init_from {name}: it has other scales, to which transformer.position = "absolute" cannot be carried over'
        )
    if frozen and here.diffusion is not None and there.diffusion is None:
        raise ConfigError(f"init_from {name}: it has no residual diffusion to keep as it is: leave [diffusion] out")
    if here.diffusion is not None and there.diffusion is not None and same_tokens:
        same_sizes(name, there.diffusion, here.diffusion, besides={"sampling_steps", "batch_multiplier"})


def have_same_tokens(*sizes: TransformerConfig) -> bool:
    """Return whether tokens of one are also tokens of the other."""
    return all(len({getattr(each, size) for each in sizes}) == 1 for size in TOKEN_SIZES)


def nearest_scale(size: int, scales: Sequence[int]) -> int:
    """Return which of some scales is nearest in size; the finer of two that are equally near."""
    return min(range(len(scales)), key=lambda k: (abs(math.log(size / scales[k])), -k))


@dataclass(eq=False)
class TransformerBatch:
    """The input of a step, on the device."""

    context: Context
    maps: TokenMaps
    positions: Tensor | None
    noise: DiffusionNoise | None
    captions_cut: Tensor | None = None
    """Share of captions that are longer than the text encoder reads; None if no captions are encoded."""


class TransformerStage(Task):
    """What a step of the stage does with a batch, either real or made up for a dry run."""

    def __init__(
        self, recipe: TransformerRecipe, module: Hart, quantizer: MultiScaleQuantizer, device: torch.device
    ) -> None:
        self.recipe = recipe
        self.module = module
        self.quantizer = quantizer
        self.device = device
        asked, codes = recipe.loss, quantizer.codebook.weight
        clusters = code_clusters(codes, asked.clusters).to(codes.device) if asked.cluster_weight else None
        self.code_loss = CodeLoss(asked.cluster_weight, clusters)
        blocks = repeated_blocks(module)
        self.optimized = {"model": OptimizedModule(module, recipe.optimizer, blocks, fused=[self.code_loss])}

    def made(
        self,
        microbatch: Microbatch,
        context: Context,
        maps: TokenMaps,
        positions: Tensor | None,
        share: float | None = None,
    ) -> TransformerBatch:
        """Return the input of a step from context and maps of a microbatch, on the device.

        positions: (B, M) of the last scale's tokens that all images of the step compute; None computes all. share: as
        in `_masked`.
        """
        tokens = maps.last_scale_continuous.shape[1]
        if positions is not None:
            positions, tokens = sent(microbatch.mine(positions), self.device), positions.shape[1]
        if self.recipe.transformer.masked_last_scale:
            maps = self._masked(maps, microbatch, share)
        noise = None
        if self.module.residual is not None:
            channels, generator = maps.last_scale_continuous.shape[2], microbatch.generator("diffusion", self.device)
            noise = sample_diffusion_noise(self.module.residual, microbatch.batch_size, tokens, channels, generator)
            noise = noise.rows(microbatch.rows)
        return TransformerBatch(context, maps, positions, noise)

    def _masked(self, maps: TokenMaps, microbatch: Microbatch, share: float | None) -> TokenMaps:
        """Return maps with some codes of the last scale given, some of them wrong, like those sampled in generation.

        share: the share of given codes in the batch; None counts them.
        """
        codes, generator = maps.indices[-1], microbatch.generator("given")
        given = sample_given(microbatch.batch_size, codes.shape[1], generator)
        if self.recipe.code_corruption:
            wrong = Corruption(microbatch.same(self.recipe.code_corruption), generator, microbatch.rows)
            codes = wrong.codes(codes, self.quantizer.distances(maps.last_scale_continuous))
        mine = sent(microbatch.mine(given), self.device)
        share = given.float().mean().item() if share is None else share
        return with_given(maps, mine, codes, self.quantizer.codebook, share)

    def loss(self, name: str, batch: TransformerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        total, parts = transformer_loss(
            self.module,
            self.quantizer.codebook,
            batch.context,
            batch.maps,
            batch.positions,
            batch.noise,
            diffusion_weight=self.recipe.diffusion_weight,
            scale_weights=self.recipe.loss.scale_weights,
            code_loss=self.code_loss,
        )
        return total, parts if batch.captions_cut is None else parts | {"captions_cut": batch.captions_cut}


class TransformerTask(TransformerStage):
    """One optimisation step of the transformer, or of its adapters; see `hart.training.task.Task`."""

    def __init__(self, recipe: TransformerRecipe, data: GivenData, device: torch.device = CPU) -> None:
        # the model's scales also determine which coarse codes `base_scales` decides
        with named_by("tokenizer", TRAIN_FIRST):
            tokenizer = load_tokenizer(recipe.tokenizer)
        tokenizer = over_scales(tokenizer, recipe.transformer.scales).requires_grad_(False)
        # channels-last: encoding a set takes a third less time on a CPU
        self.tokenizer: HybridTokenizer = tokenizer.to(device, memory_format=convolution_layout(device))  # type: ignore[call-overload]
        self.texts = open_caption_encoder(recipe, device)
        encoder = None if self.texts is None else self.texts.encoder.config
        self.config = model_config(recipe, self.tokenizer.config, encoder)
        # for the samples; also raises `HartError` for a shape that the transformer has no tables for
        self.schedule, *_ = [requested_schedule(self.config, size=str(size)) for size in trained_sizes(self.config)]
        hart = starting_model(recipe, self.config)
        # adapters only work with the weights that they were trained with; other runs leave their starting point behind
        self._base = fingerprint(hart) if recipe.lora is not None else None
        super().__init__(recipe, with_adapters(hart, recipe).to(device), self.tokenizer.quantizer, device)
        # a modulation table is added outside its block, where FSDP2 keeps it in shards
        self.shardable = recipe.transformer.modulation != "table"
        self.data = kept_data(data, self.tokenizer.config, recipe, device)
        self.tokens = token_source(self.data, recipe, self.tokenizer, self.texts, device)

    @property
    def sources(self) -> dict[str, Origin]:
        data, texts = self.data, self.texts
        found = {
            "data": Origin(data.digest(), data.description),
            "tokenizer": Origin(fingerprint(self.tokenizer), f"weights of {self.recipe.tokenizer}"),
        }
        if texts is not None:
            found["text encoder"] = Origin(fingerprint(texts.weights), f"weights of {self.recipe.text_encoder}")
            found["vocabulary"] = Origin(texts.vocabulary, f"words of {self.recipe.text_encoder}")
        if self._base is not None:
            found["init_from"] = Origin(self._base, f"weights of {self.recipe.init_from}")
        return found

    def prepare(self) -> None:
        self.tokens.prepare()
        if self.texts is not None and self.recipe.reading.on_device and isinstance(self.data, MemoryImages):
            self.texts.remember(chain.from_iterable(self.data.captioned.texts))

    def batch(self, microbatch: Microbatch) -> TransformerBatch:
        maps, given = self.tokens.batch(microbatch)
        context = self._context(given)
        if self.recipe.text_noise:
            assert isinstance(context, TextContext)
            generator = microbatch.generator("text noise", self.device)
            context = with_text_noise(
                context, self.recipe.text_noise, microbatch.rows, microbatch.batch_size, generator
            )
        dropped = torch.rand(microbatch.batch_size, generator=microbatch.generator("condition dropout"))
        context = drop_condition(context, microbatch.mine(dropped < self.recipe.condition_dropout))
        positions, tokens = None, maps.last_scale_continuous.shape[1]
        if self.recipe.drop_last_scale:
            positions = sample_last_positions(microbatch.batch_size, tokens, microbatch.generator("last scale"))
        batch = self.made(microbatch, context, maps, positions)
        if self.texts is not None and not isinstance(given, Context):
            batch.captions_cut = sent(torch.tensor(self.texts.cut_share(given)), self.device)
        return batch

    def after_step(self, microbatch: Microbatch, train_context: TrainContext) -> dict[str, float]:
        return self.data.figures(microbatch, train_context, self.device)

    def samples(self, step: int, module: nn.Module) -> dict[str, Image.Image]:
        """Return images of the first captions or classes; with adapters, below those of the model without them."""
        assert isinstance(module, Hart)
        context = self._context(self.tokens.first(SAMPLES))
        # the same numbers every time, so that only the model changes
        seed = self.recipe.trainer.seed
        noise = SeededNoise([seed_of(seed, "samples", i) for i in range(len(context))], self.device)
        generate = NextScaleGenerator(module, self.tokenizer.quantizer, self.recipe.sampling, noise, self.schedule)
        if self.recipe.lora is None:
            return {"generated": image_row(self.tokenizer.decode(generate(context)))}
        rows = []
        for scale in (0, 1):
            scale_lora(module, scale)
            rows.append(self.tokenizer.decode(generate(context)))
        return {"before-and-after": image_row(*rows)}

    def save(self, folder: Path, module: nn.Module) -> None:
        assert isinstance(module, Hart)
        if self.recipe.lora is not None:
            save_lora(module, folder, base_model=self.recipe.init_from)
            return
        if self.texts is not None:
            self.texts.save(folder)
        save_model(folder, self.config, self.tokenizer, module)

    def _context(self, given: Conditions) -> Context:
        """Return a context on the device; captions as their features."""
        if isinstance(given, Context):
            return given.changed(lambda x: sent(x, self.device))
        assert self.texts is not None
        return self.texts.context(given)


def repeated_blocks(hart: Hart) -> list[nn.Module]:
    """Return the repeated layers, modulations first: they run before and outside their blocks."""
    blocks: list[nn.Module] = list(hart.transformer.blocks)
    modulations = [m.project for m in hart.transformer.modules() if isinstance(m, LinearModulation)]
    denoiser: list[nn.Module] = [] if hart.residual is None else list(hart.residual.denoiser.blocks)
    return [*modulations, *blocks, *denoiser]


# Factor on the initial weights of modulation that produce scales and shifts (VAR).
INITIAL_SCALE_AND_SHIFT = 0.5
# Standard deviation of the initial weights that embed the diffusion's timesteps (MAR).
TIME_EMBED_STD = 0.02


@torch.no_grad()
def initialize(hart: Hart, generator: torch.Generator, *, gate_gain: float) -> None:
    """Initialise all weights from `generator`, as VAR and MAR do.

    gate_gain: factor on the weights that produce the gates of modulated branches, those of "linear" or the table of
    "shared": small, so that a block starts close to the identity.

    Linear layers, embeddings and learned positions are normal with std 1 / sqrt(3 C); the output layers of branches
    shrink with depth; the head starts near zero, the diffusion's modulation and output at zero.
    """
    width = hart.config.transformer.width
    std = math.sqrt(1 / (3 * width))
    for module in hart.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(0, std, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0, std, generator=generator)
    shrunk = 1 / math.sqrt(2 * hart.config.transformer.depth)
    for block in hart.transformer.blocks:
        assert isinstance(block, Block)
        proj, down = block.outputs
        proj.weight.mul_(shrunk)
        down.weight.mul_(shrunk)
        if isinstance(block.modulation, LinearModulation):
            weight = block.modulation.project.linear.weight
            weight[: 2 * width].mul_(gate_gain)
            weight[2 * width :].mul_(INITIAL_SCALE_AND_SHIFT)
        elif isinstance(block.modulation, TableModulation):
            table = block.modulation.table.normal_(0, 1 / math.sqrt(width), generator=generator)
            if hart.config.transformer.modulation == "shared":
                table[:2].mul_(gate_gain)
                table[2:].mul_(INITIAL_SCALE_AND_SHIFT)
    hart.transformer.head.linear.weight.mul_(0.02)
    hart.transformer.head.modulation.linear.weight.mul_(INITIAL_SCALE_AND_SHIFT)
    if hart.residual is not None:
        _initialize_residual(hart.residual, generator)
    if hart.transformer.positions is not None:
        hart.transformer.positions.normal_(0, std, generator=generator)
    if isinstance(hart.transformer.context_embedder, ClassEmbedder):
        hart.transformer.context_embedder.start.normal_(0, std, generator=generator)


def _initialize_residual(residual: ResidualHead, generator: torch.Generator) -> None:
    denoiser = residual.denoiser
    for layer in denoiser.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        if isinstance(layer, SiluLinear):
            layer.linear.weight.zero_()
    for layer in (denoiser.time_embed.linear1, denoiser.time_embed.linear2):
        layer.weight.normal_(0, TIME_EMBED_STD, generator=generator)
    denoiser.linear_out.weight.zero_()

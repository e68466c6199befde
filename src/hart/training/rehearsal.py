"""Tasks for a dry run: the real networks and losses on made-up pictures, texts and tokens.

They need no data set, no tokenizer and no text encoder, and take the time and memory of the real ones, apart from
reading pictures and encoding texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from hart.config import HartConfig, TokenizerConfig
from hart.devices import without_memory
from hart.losses.config import PerceptualConfig
from hart.losses.hart_loss import MEAN_KEPT_SHARE, draw_diffusion, kept_tokens, random_cells
from hart.model import Hart
from hart.networks.perceptual import Lpips
from hart.training.config import TokenizerRecipe, TransformerRecipe
from hart.training.hart_task import TransformerBatch, TransformerStage, repeated_blocks, with_adapters
from hart.training.task import Origin, Part, Picture, Share
from hart.training.tokenizer_task import TokenizerBatch, TokenizerStage
from hart.types import ClassContext, Context, TextContext, TokenMaps


class RehearsedTokenizer(TokenizerStage):
    """The tokenizer's stage on random pictures of the recipe's size, with its discriminator from the first step on."""

    def __init__(self, recipe: TokenizerRecipe, device: torch.device) -> None:
        adversarial = recipe.adversarial and recipe.adversarial.replace(start_step=0)
        # no code is revived: the codebook's use says nothing on noise
        super().__init__(recipe.replace(init_from="", revive_every=0, adversarial=adversarial), device)

    sources: Mapping[str, Origin] = MappingProxyType({})

    def prepare(self) -> None: ...

    def batch(self, share: Share) -> TokenizerBatch:
        size = self.recipe.tokenizer.image_size
        noise = torch.rand(share.batch_size, 3, size, size, generator=share.generator("rehearsal"))
        image = share.mine(2 * noise - 1).to(self.device).contiguous(memory_format=torch.channels_last)
        return TokenizerBatch(share.step, image, discrete=self.recipe.discrete_probability == 1)

    def samples(self, step: int, module: nn.Module) -> dict[str, Picture]:
        return {}

    def save(self, folder: Path, module: nn.Module) -> None: ...

    def perceptual_network(self, config: PerceptualConfig) -> nn.Module:
        """LPIPS with random weights: a rehearsal needs none of its files."""
        return Lpips() if config.kind == "lpips" else super().perceptual_network(config)


class RehearsedTransformer(TransformerStage):
    """The transformer's stage on random tokens and texts or classes."""

    shardable = True

    def __init__(
        self, recipe: TransformerRecipe, device: torch.device, *, kept: float = MEAN_KEPT_SHARE, empty: bool = False
    ) -> None:
        """kept: share of the last scale's tokens that a step computes, where the recipe drops some.

        empty: give the weights no memory; `hart.training.dry_run.activation_bytes` needs none.
        """
        self.recipe = recipe
        self.device = device
        self.kept = kept
        with torch.device("meta" if empty else device):
            self.module = with_adapters(Hart(model_config(recipe)), recipe)
        sizes = recipe.transformer
        self.codebook = nn.Embedding(sizes.codebook_size, sizes.latent_channels, device=device).requires_grad_(False)
        self.parts: Mapping[str, Part] = {"model": Part(self.module, recipe.optimizer, repeated_blocks(self.module))}

    sources: Mapping[str, Origin] = MappingProxyType({})

    def prepare(self) -> None: ...

    def batch(self, share: Share) -> TransformerBatch:
        sizes, generator, rows = self.recipe.transformer, share.generator("rehearsal"), share.batch_size
        counts, channels = sizes.schedule.token_counts, sizes.latent_channels

        def noise(*shape: int) -> Tensor:
            return share.mine(torch.randn(rows, *shape, generator=generator)).to(self.device)

        def numbers(end: int, *shape: int) -> Tensor:
            return share.mine(torch.randint(end, (rows, *shape), generator=generator)).to(self.device)

        maps = TokenMaps(
            tuple(numbers(sizes.codebook_size, count) for count in counts),
            noise(sum(counts[1:]), channels),
            noise(counts[-1], channels),
        )
        context: Context
        if sizes.text is not None:
            features = noise(sizes.text.tokens, sizes.text.width)
            context = TextContext(features, torch.ones(features.shape[:2], dtype=torch.bool, device=self.device))
        else:
            assert sizes.classes is not None
            context = ClassContext(numbers(sizes.classes.num_classes), sizes.classes.num_classes)
        cells, tokens = None, counts[-1]
        if self.recipe.drop_last_scale:
            tokens = kept_tokens(self.kept, tokens)
            cells = share.mine(random_cells(rows, counts[-1], tokens, generator)).to(self.device)
        draws = None
        if self.module.residual is not None:
            draws = draw_diffusion(self.module.residual, rows, tokens, channels, generator).rows(share.rows)
        return TransformerBatch(context, maps, cells, draws)

    def samples(self, step: int, module: nn.Module) -> dict[str, Picture]:
        return {}

    def save(self, folder: Path, module: nn.Module) -> None: ...


def parameter_counts(recipe: TransformerRecipe) -> tuple[int, int]:
    """Parameters of the recipe's model, and those of them that are trained, without making it."""
    with without_memory():
        hart = Hart(model_config(recipe))
    counts = [(p.numel(), p.requires_grad) for p in with_adapters(hart, recipe).parameters()]
    return sum(n for n, _ in counts), sum(n for n, trained in counts if trained)


def model_config(recipe: TransformerRecipe) -> HartConfig:
    """The recipe's model with any tokenizer that gives its tokens."""
    sizes = recipe.transformer
    tokenizer = TokenizerConfig(sizes.scales, latent_channels=sizes.latent_channels, codebook_size=sizes.codebook_size)
    return HartConfig(tokenizer=tokenizer, transformer=sizes, diffusion=recipe.diffusion, sampling=recipe.sampling)

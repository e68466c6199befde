"""Stage `tokenizer`: the hybrid tokenizer from images (paper, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.checkpoint.storage import load_state
from hart.data.datasets import CaptionedImages
from hart.data.transforms import to_signed
from hart.losses.perceptual import EfficientNetLitePerceptualLoss
from hart.losses.tokenizer_loss import tokenizer_loss
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.training.config import TokenizerRecipe
from hart.training.image_sources import TrainingData, image_source
from hart.training.pictures import picture_row
from hart.training.randomness import seed_of
from hart.training.starting import load_tokenizer, same_sizes, save_tokenizer
from hart.training.task import Engine, Part, Picture, Share

CPU = torch.device("cpu")
SAMPLES = 8


def fresh_tokenizer(recipe: TokenizerRecipe) -> HybridTokenizer:
    """A tokenizer with starting weights that the recipe's seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(recipe.trainer.seed, "weights"))
        return HybridTokenizer(recipe.tokenizer)


def start_from(recipe: TokenizerRecipe) -> HybridTokenizer:
    """The tokenizer that `init_from` names, with the recipe's scales. Raises `ConfigError` for other sizes."""
    source = load_tokenizer(recipe.init_from)
    same_sizes(recipe.init_from, source.config, recipe.tokenizer, besides={"scales", "commitment_weight"})
    tokenizer = HybridTokenizer(recipe.tokenizer)
    load_state(tokenizer, source.state_dict(), recipe.init_from)
    return tokenizer


@dataclass
class TokenizerBatch:
    """Images (B, 3, H, W) in [-1, 1], and which of the two latents this step decodes."""

    image: Tensor
    discrete: bool


class TokenizerTask:
    """One optimisation step of the tokenizer; see `hart.training.task.Task`."""

    # convolutions, called through several methods, with a codebook that is changed between steps
    shardable = False

    def __init__(
        self, recipe: TokenizerRecipe, data: TrainingData | CaptionedImages, device: torch.device = CPU
    ) -> None:
        self.recipe = recipe
        self.images = image_source(data, recipe.trainer.seed)
        self.device = device
        tokenizer = start_from(recipe) if recipe.init_from else fresh_tokenizer(recipe)
        # channels-last lets the convolutions of CPUs and GPUs run without transposing
        self.module: HybridTokenizer = tokenizer.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.decoder_only:
            for part in (self.module.encoder, self.module.quant_conv, self.module.quantizer):
                part.requires_grad_(False)
        blocks = [*self.module.encoder.levels, *self.module.decoder.levels]
        self.parts = {"model": Part(self.module, recipe.optimizer, blocks)}
        weights = recipe.loss
        self.weights = {
            "reconstruction": weights.reconstruction,
            "chroma": weights.chroma,
            "perceptual": weights.perceptual,
            "quantizer": weights.quantizer,
        }
        self.perceptual = EfficientNetLitePerceptualLoss().to(device) if weights.perceptual > 0 else None
        self._hits = torch.zeros(self.module.config.codebook_size, device=device)
        self._rests: list[Tensor] = []

    def prepare(self) -> None: ...

    def batch(self, share: Share) -> TokenizerBatch:
        image = self.images.images(share, self.device)
        coin = torch.rand((), generator=share.generator("which latent"))
        discrete = bool(coin < self.recipe.discrete_probability)
        return TokenizerBatch(image.contiguous(memory_format=torch.channels_last), discrete)

    def loss(self, part: str, batch: TokenizerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        result = self.module.training_pass(batch.image, discrete=batch.discrete)
        reconstruction = self.module.decode_unclamped(result.latent)
        total, parts = tokenizer_loss(batch.image, reconstruction, result, self.perceptual, self.weights)
        for index in result.quantized.indices:
            self._hits += torch.bincount(index.flatten(), minlength=len(self._hits))
        self._rests.append(result.quantized.last_rest)
        parts["l1_discrete" if batch.discrete else "l1_continuous"] = parts.pop("reconstruction")
        return total, parts

    @torch.no_grad()
    def after_step(self, share: Share, engine: Engine) -> dict[str, float]:
        """Every `revive_every` steps, move codes that nothing chose onto random cells of the last scale's rest."""
        rests, self._rests = self._rests, []
        figures = self.images.figures(share, engine, self.device)
        every = self.recipe.revive_every
        if every == 0 or (share.step + 1) % every or self.recipe.decoder_only:
            return figures
        dead = (engine.sum(self._hits) == 0).nonzero().flatten()
        self._hits.zero_()
        # the last third of training keeps the codebook as it is
        if len(dead) and share.step < self.recipe.trainer.steps * 2 // 3:
            cells = engine.gather(torch.cat(rests)).permute(0, 2, 3, 1).flatten(0, 2)
            chosen = torch.randint(len(cells), (len(dead),), generator=share.generator("revived codes"))
            codebook = self.module.quantizer.codebook.weight
            codebook[dead] = cells[chosen.to(self.device)].float()
            assert isinstance(codebook, nn.Parameter)
            engine.forget(codebook, dead)
        return figures | {"dead_codes": len(dead)}

    def samples(self, step: int, module: nn.Module) -> dict[str, Picture]:
        """The first pictures: as they are, from codes alone, and from codes with the exact rest."""
        assert isinstance(module, HybridTokenizer)
        image = self.images.first(SAMPLES).to(self.device)
        rebuilt = (module.reconstruct(image, discrete=discrete) for discrete in (True, False))
        return {"reconstructions": picture_row(image, *rebuilt)}

    def save(self, folder: Path, module: nn.Module) -> None:
        assert isinstance(module, HybridTokenizer)
        save_tokenizer(folder, module)


@torch.no_grad()
def reconstruction_psnr(tokenizer: HybridTokenizer, data: CaptionedImages, limit: int = 256) -> dict[str, float]:
    """Mean PSNR in dB over the first `limit` images, from codes alone and from the continuous latent."""
    images = to_signed(torch.stack([data.image(i) for i in range(min(limit, len(data)))]))
    figures = {}
    for name, discrete in (("discrete", True), ("continuous", False)):
        errors = [
            F.mse_loss(tokenizer.reconstruct(part, discrete=discrete), part, reduction="none").mean(dim=(1, 2, 3))
            for part in images.split(32)
        ]
        figures[name] = float((10 * torch.log10(4 / torch.cat(errors))).mean())
    return figures

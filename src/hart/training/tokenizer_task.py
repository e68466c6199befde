"""Stage `tokenizer`: the hybrid tokenizer from images (paper, section 3.1)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.checkpoint.storage import CONFIG_FILE, TOKENIZER_FILE, load_module, save_module
from hart.config import TokenizerConfig
from hart.data.datasets import CaptionedImages, batch_indices
from hart.data.transforms import to_signed
from hart.losses.perceptual import EfficientNetLitePerceptualLoss
from hart.losses.tokenizer_loss import tokenizer_loss
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.training.config import TokenizerRecipe


def save_tokenizer(folder: Path, tokenizer: HybridTokenizer) -> None:
    save_module(folder / TOKENIZER_FILE, tokenizer)
    (folder / CONFIG_FILE).write_text(tokenizer.config.to_json(), encoding="utf-8")


def load_tokenizer(folder: Path) -> HybridTokenizer:
    """A tokenizer that this stage wrote, in evaluation mode."""
    tokenizer = HybridTokenizer(TokenizerConfig.load(folder / CONFIG_FILE))
    load_module(folder / TOKENIZER_FILE, tokenizer)
    return tokenizer.eval()


def fresh_tokenizer(recipe: TokenizerRecipe) -> HybridTokenizer:
    """A tokenizer with starting weights that the recipe's seed decides."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.trainer.seed)
        return HybridTokenizer(recipe.tokenizer)


class TokenizerTask:
    """One optimisation step of the tokenizer; see `hart.training.trainer.Task`."""

    def __init__(self, recipe: TokenizerRecipe, data: CaptionedImages) -> None:
        self.recipe = recipe
        self.data = data
        self.device = torch.device(recipe.trainer.device)
        tokenizer = load_tokenizer(Path(recipe.init_from)) if recipe.init_from else fresh_tokenizer(recipe)
        # channels-last lets the convolutions of CPUs and GPUs run without transposing
        self.module: HybridTokenizer = tokenizer.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.decoder_only:
            for part in (self.module.encoder, self.module.quant_conv, self.module.quantizer):
                part.requires_grad_(False)
        weights = recipe.loss
        self.weights = {
            "reconstruction": weights.reconstruction,
            "chroma": weights.chroma,
            "perceptual": weights.perceptual,
            "quantizer": weights.quantizer,
        }
        self.perceptual = EfficientNetLitePerceptualLoss().to(self.device) if weights.perceptual > 0 else None
        self._hits = torch.zeros(self.module.config.codebook_size, device=self.device)
        self._rest: Tensor | None = None

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        trainer = self.recipe.trainer
        rows = batch_indices(self.data.weights, trainer.batch_size, trainer.seed, step)
        image = to_signed(torch.stack([self.data.image(i) for i in rows.tolist()])).to(self.device)
        image = image.contiguous(memory_format=torch.channels_last)
        coin = torch.rand((), generator=generator, device=generator.device)
        discrete = bool(coin < self.recipe.discrete_probability)
        result = self.module.training_pass(image, discrete=discrete)
        reconstruction = self.module.decode_unclamped(result.latent)
        total, parts = tokenizer_loss(image, reconstruction, result, self.perceptual, self.weights)
        for index in result.quantized.indices:
            self._hits += torch.bincount(index.flatten(), minlength=len(self._hits))
        self._rest = result.quantized.last_rest
        kind = "discrete" if discrete else "continuous"
        # divided by the kind's share, so that the mean over steps is the mean over steps of that kind
        share = self.recipe.discrete_probability if discrete else 1 - self.recipe.discrete_probability
        parts[f"l1_{kind}"] = parts.pop("reconstruction") / share
        return total, {name: value.detach() for name, value in parts.items()}

    def after_step(self, step: int, generator: torch.Generator) -> dict[str, float]:
        """Every `revive_every` steps, move codes that nothing chose onto random cells of the last scale's rest."""
        every = self.recipe.revive_every
        if every == 0 or (step + 1) % every or self.recipe.decoder_only or self._rest is None:
            return {}
        dead = (self._hits == 0).nonzero().flatten()
        # the last third of training keeps the codebook as it is
        if len(dead) and step < self.recipe.trainer.steps * 2 // 3:
            cells = self._rest.permute(0, 2, 3, 1).flatten(0, 2)
            chosen = torch.randint(len(cells), (len(dead),), generator=generator, device=generator.device)
            self.module.quantizer.codebook.weight.data[dead] = cells[chosen.to(self.device)].float()
        self._hits.zero_()
        return {"dead_codes": len(dead) * self.recipe.trainer.log_every}

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

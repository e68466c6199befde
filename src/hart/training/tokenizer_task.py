"""Stage `tokenizer`: the hybrid tokenizer from images (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from hart.checkpoint.loading import load_tokenizer, same_sizes, save_tokenizer
from hart.checkpoint.storage import fingerprint, load_state
from hart.devices import convolution_layout
from hart.grids import ScaleSchedule
from hart.losses.config import PerceptualConfig
from hart.losses.tokenizer_loss import (
    PatchDiscriminator,
    adaptive_weight,
    adversarial_loss,
    discriminator_loss,
    last_layer_gradients,
    pixel_loss,
)
from hart.networks.perceptual import perceptual_loss
from hart.randomness import CPU, generator_for, seed_of
from hart.tokenizer.autoencoder import with_patch_size
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer, TrainingPass
from hart.tokenizer.quantizer import Corruption, code_counts, codebook_usage, shared_phi_table
from hart.training.config import TokenizerRecipe, named_by
from hart.training.image_sources import GivenData, image_source, kept_data, schedule_of
from hart.training.task import Microbatch, OptimizedModule, Origin, Task, TrainContext, image_row

SAMPLES = 8
MODEL, DISCRIMINATOR = "model", "discriminator"


def fresh_tokenizer(recipe: TokenizerRecipe) -> HybridTokenizer:
    """Return a tokenizer with initial weights from the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(recipe.trainer.seed, "weights"))
        return HybridTokenizer(recipe.tokenizer)


def start_from(recipe: TokenizerRecipe) -> HybridTokenizer:
    """Return the tokenizer that `init_from` names, with the recipe's scales, patches and padding.

    Raises `ConfigError`, naming the sizes that differ, if the recipe's tokenizer cannot start from it.
    """
    with named_by("init_from"):
        source = load_tokenizer(recipe.init_from)
    theirs, ours = source.config, recipe.tokenizer
    may_differ = {"scales", "commitment_weight", "output_padding"}
    if ours.base_scales or not theirs.base_scales:
        may_differ.add("base_scales")
    if ours.patch_size % theirs.patch_size == 0:
        may_differ.add("patch_size")
    same_sizes(recipe.init_from, theirs, ours, besides=may_differ)
    tokenizer = HybridTokenizer(ours)
    load_state(tokenizer, with_patch_size(source.state_dict(), theirs.patch_size, ours.patch_size), recipe.init_from)
    return tokenizer


@dataclass(eq=False)
class TokenizerBatch:
    """Images (B, 3, H, W) in [-1, 1], which of the two latents the step decodes, and what modules store in it.

    schedule: of the images.
    adaptive_weight: of the adversarial term, computed from it and the terms that compare images; None before the
    discriminator's start step, and without one.
    reconstruction: (B, 3, H, W) without gradient, which the discriminator's loss compares with the images.
    """

    microbatch: Microbatch
    image: Tensor
    schedule: ScaleSchedule
    discrete: bool
    adaptive_weight: Callable[[Tensor, Tensor], Tensor] | None = None
    reconstruction: Tensor | None = None


class TokenizerStage(Task):
    """What a step of the stage does with a batch, either real or made up for a dry run."""

    # convolutions, called through several methods, with a codebook that is changed between steps
    shardable = False

    def __init__(self, recipe: TokenizerRecipe, device: torch.device) -> None:
        self.recipe = recipe
        self.device = device
        tokenizer = self.starting_tokenizer()
        # channels-last lets the convolutions of CPUs and GPUs run without transposing
        self.module: HybridTokenizer = tokenizer.to(device, memory_format=convolution_layout(device))  # type: ignore[call-overload]
        if recipe.decoder_only:
            for frozen in (self.module.encoder, self.module.quant_conv, self.module.quantizer):
                frozen.requires_grad_(False)
        sizes = recipe.tokenizer
        used = shared_phi_table(len(sizes.scales), sizes.shared_phi)
        for number, phi in enumerate(self.module.quantizer.phis):
            if number not in used:  # with fewer scales than phi; DDP waits for the gradients of all trained parameters
                phi.requires_grad_(False)
        self._counts = torch.zeros(len(sizes.scales), sizes.codebook_size, dtype=torch.int64, device=device)
        self._residuals: list[Tensor] = []
        blocks = [*self.module.encoder.levels, *self.module.decoder.levels]
        self.optimized = {
            MODEL: OptimizedModule(
                self.module,
                recipe.optimizer,
                blocks,
                before_losses=self.add_adaptive_weight,
                counters={"codes": self._counts},
            )
        }
        self.weights = {name: weight for name, weight in recipe.loss.to_dict().items() if weight or name != "squared"}
        self.perceptual: nn.Module | None = None
        if recipe.perceptual is not None and recipe.perceptual.weight > 0:
            self.weights["perceptual"] = recipe.perceptual.weight
            self.perceptual = self.perceptual_network(recipe.perceptual).to(device)
        self.discriminator: PatchDiscriminator | None = None
        if (adversarial := recipe.adversarial) is not None:
            generator = generator_for(recipe.trainer.seed, "weights of the discriminator")
            self.weights["adversarial"] = adversarial.weight
            self.discriminator = PatchDiscriminator(adversarial, generator).to(device)
            optimized = OptimizedModule(self.discriminator, adversarial.optimizer, start_step=adversarial.start_step)
            self.optimized[DISCRIMINATOR] = optimized

    def starting_tokenizer(self) -> HybridTokenizer:
        """Return a tokenizer with the weights that training begins with."""
        return start_from(self.recipe) if self.recipe.init_from else fresh_tokenizer(self.recipe)

    def perceptual_network(self, config: PerceptualConfig) -> nn.Module:
        """Return the frozen network of a perceptual loss, with its weights."""
        with named_by("perceptual.files"):
            return perceptual_loss(config.kind, config.files)

    def add_adaptive_weight(self, batches: Sequence[TokenizerBatch], train_context: TrainContext) -> None:
        """From the discriminator's start step on, give each microbatch the adaptive weight of the whole batch.

        If a process computes its rows at once, it comes from the graph of the loss itself. With several microbatches
        none can know it, so they are decoded once before, with a graph for the last layer only.
        """
        adversarial = self.recipe.adversarial
        if adversarial is None or batches[0].microbatch.step < adversarial.start_step:
            return
        last_layer = self.module.decoder.conv_out.weight

        def of_graph(loss: Tensor, scores: Tensor) -> Tensor:
            return adaptive_weight(train_context.mean(last_layer_gradients(loss, scores, last_layer)))

        if len(batches) == 1:
            batches[0].adaptive_weight = of_graph
            return
        gradients = torch.stack([self._last_layer_gradients(batch) for batch in batches])
        known = adaptive_weight(train_context.mean(gradients.mean(dim=0)))
        for batch in batches:
            batch.adaptive_weight = lambda loss, scores: known

    def _last_layer_gradients(self, batch: TokenizerBatch) -> Tensor:
        assert self.discriminator is not None
        decoder = self.module.decoder
        with torch.no_grad():
            features = decoder.features(self.module.post_quant_conv(self._training_pass(batch).latent))
        reconstruction = decoder.image(decoder.conv_out(features))
        loss, _ = pixel_loss(batch.image, reconstruction, self.perceptual, self.weights)
        adversarial = adversarial_loss(self.discriminator, reconstruction)
        return last_layer_gradients(loss, adversarial, decoder.conv_out.weight)

    def _training_pass(self, batch: TokenizerBatch) -> TrainingPass:
        """Run with the wrong codes and residual tokens that the recipe asks for, the same ones in each call."""
        recipe, microbatch = self.recipe, batch.microbatch

        def corruption(largest: float, purpose: str) -> Corruption | None:
            given = microbatch.same(largest), microbatch.generator(purpose), microbatch.rows
            return Corruption(*given) if largest else None

        wrong_residuals = 0.0 if batch.discrete else recipe.residual_corruption
        wrong_codes = recipe.code_corruption if batch.discrete or wrong_residuals else 0.0
        return self.module.training_pass(
            batch.image,
            discrete=batch.discrete,
            schedule=batch.schedule,
            code_corruption=corruption(wrong_codes, "mistakes"),
            residual_corruption=corruption(wrong_residuals, "residual mistakes"),
        )

    def loss(self, name: str, batch: TokenizerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        if name == DISCRIMINATOR:
            assert self.discriminator is not None
            assert batch.reconstruction is not None
            return discriminator_loss(self.discriminator, batch.image, batch.reconstruction)
        result = self._training_pass(batch)
        reconstruction = self.module.decode_unclamped(result.latent)
        on_pixels, parts = pixel_loss(batch.image, reconstruction, self.perceptual, self.weights)
        parts["quantizer"] = result.quantizer_loss
        total = on_pixels + self.weights["quantizer"] * result.quantizer_loss
        if batch.adaptive_weight is not None:
            assert self.discriminator is not None
            adversarial = adversarial_loss(self.discriminator, reconstruction)
            adaptive = batch.adaptive_weight(on_pixels, adversarial)
            total = total + self.weights["adversarial"] * adaptive * adversarial
            parts |= {"adversarial": adversarial, "adaptive_weight": adaptive}
            batch.reconstruction = reconstruction.detach()
        self._counts += code_counts(result.quantized.indices, self.module.config.codebook_size)
        self._residuals.append(result.quantized.last_residual)
        parts["l1_discrete" if batch.discrete else "l1_continuous"] = parts.pop("reconstruction")
        return total, parts

    @torch.no_grad()
    def after_step(self, microbatch: Microbatch, train_context: TrainContext) -> dict[str, float]:
        """At the end of each `usage_window`, report how each scale uses the codebook, and revive dead codes."""
        residuals, self._residuals = self._residuals, []
        figures: dict[str, float] = {}
        window_ends = (microbatch.step + 1) % self.recipe.usage_window == 0
        if not window_ends and microbatch.step + 1 < self.recipe.trainer.steps:
            return figures
        counts = train_context.sum(self._counts).to("cpu", copy=True)
        self._counts.zero_()
        for k, (used, perplexity) in enumerate(zip(*codebook_usage(counts), strict=True)):
            figures |= {f"codes_used_{k}": float(used), f"perplexity_{k}": float(perplexity)}
        if window_ends and self.recipe.revive_every and not self.recipe.decoder_only:
            dead = (counts.sum(dim=0) == 0).nonzero().flatten()
            figures["dead_codes"] = len(dead)
            # the last third of training leaves the codebook unchanged
            if len(dead) and microbatch.step < self.recipe.trainer.steps * 2 // 3:
                self._revive(dead.to(self.device), torch.cat(residuals), microbatch, train_context)
        return figures

    def _revive(self, dead: Tensor, residuals: Tensor, microbatch: Microbatch, train_context: TrainContext) -> None:
        """Move dead codes onto random vectors of the last scale's residuals (B, D, h, w)."""
        vectors = train_context.gather(residuals).permute(0, 2, 3, 1).flatten(0, 2)
        chosen = torch.randint(len(vectors), (len(dead),), generator=microbatch.generator("revived codes"))
        codebook = self.module.quantizer.codebook.weight
        codebook[dead] = vectors[chosen.to(self.device)].float()
        assert isinstance(codebook, nn.Parameter)
        train_context.reset_rows(codebook, dead)


class TokenizerTask(TokenizerStage):
    """One optimisation step of the tokenizer; see `hart.training.task.Task`."""

    def __init__(self, recipe: TokenizerRecipe, data: GivenData, device: torch.device = CPU) -> None:
        super().__init__(recipe, device)
        self.images = image_source(kept_data(data, recipe.tokenizer, recipe, device))

    @property
    def sources(self) -> dict[str, Origin]:
        found = {"data": Origin(self.images.digest(), self.images.description)}
        if self.perceptual is not None:
            found["perceptual network"] = Origin(fingerprint(self.perceptual), "weights")
        return found

    def batch(self, microbatch: Microbatch) -> TokenizerBatch:
        image = self.images.images(microbatch, self.device)
        coin = torch.rand((), generator=microbatch.generator("which latent"))
        image = image.contiguous(memory_format=convolution_layout(self.device))
        schedule = schedule_of(image, self.recipe.tokenizer, self.recipe)
        return TokenizerBatch(microbatch, image, schedule, discrete=bool(coin < self.recipe.discrete_probability))

    def after_step(self, microbatch: Microbatch, train_context: TrainContext) -> dict[str, float]:
        figures = super().after_step(microbatch, train_context)
        return figures | self.images.figures(microbatch, train_context, self.device)

    def samples(self, step: int, module: nn.Module) -> dict[str, Image.Image]:
        """Return the first images, and their reconstructions from codes only and with the exact residual."""
        assert isinstance(module, HybridTokenizer)
        image = self.images.first(SAMPLES).to(self.device)
        schedule = schedule_of(image, self.recipe.tokenizer, self.recipe)
        return {"reconstructions": image_row(image, *module.reconstruct(image, schedule))}

    def save(self, folder: Path, module: nn.Module) -> None:
        assert isinstance(module, HybridTokenizer)
        save_tokenizer(folder, module)

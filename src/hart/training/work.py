"""What an image costs in training: floating-point operations of both passes, and tokens."""

from __future__ import annotations

from dataclasses import dataclass

from hart.inference.cost import tokenizer_training_macs, transformer_training_macs
from hart.losses.hart_loss import MEAN_KEPT_SHARE, kept_tokens
from hart.training.config import Recipe, TokenizerRecipe, TransformerRecipe


@dataclass(frozen=True)
class Work:
    """Of one image in the average step.

    macs: multiply-accumulates of the forward pass. weight_macs: of them, those with weights that are trained, whose
    gradients cost as much again. tokens: that the model computes.
    """

    macs: int
    weight_macs: int
    tokens: int

    @property
    def flops(self) -> int:
        """Forward pass, gradients of activations, gradients of weights; nothing for what is computed twice."""
        return 2 * (2 * self.macs + self.weight_macs)


def work_of(recipe: Recipe) -> Work:
    """The work of a recipe's step. Adapters leave the weights of the model without gradients."""
    if isinstance(recipe, TokenizerRecipe):
        macs = tokenizer_training_macs(recipe.tokenizer)
        return Work(macs, macs, recipe.tokenizer.schedule.total_tokens)
    assert isinstance(recipe, TransformerRecipe)
    sizes = recipe.transformer
    counts = sizes.schedule.token_counts
    last = kept_tokens(MEAN_KEPT_SHARE, counts[-1]) if recipe.drop_last_scale else counts[-1]
    macs = transformer_training_macs(sizes, recipe.diffusion, last_tokens=last)
    context = sizes.text.tokens if sizes.text is not None else 1
    inputs = sum(counts[1:-1]) + last
    if recipe.lora is None:
        return Work(macs, macs, context + inputs)
    width, hidden = sizes.width, sizes.mlp_width
    # width in and out of the layers that adapters stand beside, for each token of a block
    beside = {"attention": 6 * width, "mlp": (3 if sizes.mlp == "swiglu" else 2) * (width + hidden)}
    blocks = sum(beside.get(target, 0) for target in recipe.lora.targets)
    adapters = recipe.lora.rank * sizes.depth * (context + inputs) * blocks
    if "word_embed" in recipe.lora.targets:
        embedded = inputs + (last if recipe.diffusion is not None else 0)
        adapters += recipe.lora.rank * embedded * (sizes.latent_channels + width)
    return Work(macs + adapters, adapters, context + inputs)

"""The tokenizer's training loss: reconstruction, perceptual distance, codebook and commitment, discriminator."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hart.losses.adversarial import AdversarialTerm
from hart.tokenizer.hybrid_tokenizer import TrainingPass


def pixel_loss(
    image: Tensor, reconstruction: Tensor, perceptual: nn.Module | None, weights: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the terms that compare images, and the terms unweighted; see `tokenizer_loss`."""
    error = reconstruction - image
    parts = {
        "reconstruction": error.abs().mean(),
        "chroma": (error - error.roll(1, dims=1)).square().mean(),
    }
    if "squared" in weights:
        parts["squared"] = error.square().mean()
    if perceptual is not None:
        parts["perceptual"] = perceptual(reconstruction, image)
    return sum((weights[name] * value for name, value in parts.items()), start=image.new_zeros(())), parts


def tokenizer_loss(
    image: Tensor,
    reconstruction: Tensor,
    training_pass: TrainingPass,
    perceptual: nn.Module | None,
    weights: Mapping[str, float],
    adversarial: AdversarialTerm | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all terms, and the terms unweighted.

    image, reconstruction: (B, 3, H, W), nominally in [-1, 1].
    weights: of the terms `reconstruction` (L1), `squared` (L2; left out where it has no weight), `chroma` (squared
        error of the differences between colour channels: it ignores brightness, and a wrong hue weighs more than many
        small errors), `perceptual` and `quantizer` (codebook and commitment).
    adversarial: adds the terms `adversarial` and `adaptive_weight`, which balances it against the terms that compare
        images; None before the discriminator's start step, and without one.
    """
    on_pixels, parts = pixel_loss(image, reconstruction, perceptual, weights)
    parts["quantizer"] = training_pass.quantizer_loss
    total = on_pixels + weights["quantizer"] * training_pass.quantizer_loss
    if adversarial is not None:
        term, named = adversarial(on_pixels, reconstruction)
        total = total + term
        parts |= named
    return total, parts

"""The tokenizer's training loss: reconstruction, perceptual distance, codebook and commitment, discriminator."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hart.losses.adversarial import AdversarialTerm
from hart.tokenizer.hybrid_tokenizer import TrainingPass


def pixel_loss(
    image: Tensor, reconstruction: Tensor, perceptual: nn.Module | None, weights: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of what compares images, and its unweighted parts; see `tokenizer_loss`."""
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
    """The weighted sum and its unweighted parts.

    image, reconstruction: (B, 3, H, W), nominally in [-1, 1].
    weights: of the parts `reconstruction` (L1), `squared` (L2; left out of parts and sum where no weight is given),
        `chroma` (squared error of the differences between the colour channels: brightness does not enter it, and
        a wrong hue weighs more than many small errors), `perceptual` and `quantizer` (codebook and commitment).
    adversarial: the discriminator's word on the reconstruction; None before its start step, and without one. It adds
        the parts `adversarial` and `adaptive_weight`. Its weight follows the gradient of all terms on the pixels.
    """
    on_pixels, parts = pixel_loss(image, reconstruction, perceptual, weights)
    parts["quantizer"] = training_pass.quantizer_loss
    total = on_pixels + weights["quantizer"] * training_pass.quantizer_loss
    if adversarial is not None:
        term, named = adversarial(on_pixels, reconstruction)
        total = total + term
        parts |= named
    return total, parts

"""The tokenizer's training loss: reconstruction, perceptual distance, codebook and commitment."""

from __future__ import annotations

from torch import Tensor, nn

from hart.tokenizer.hybrid_tokenizer import TrainingPass


def tokenizer_loss(
    image: Tensor,
    reconstruction: Tensor,
    training_pass: TrainingPass,
    perceptual: nn.Module | None,
    weights: dict[str, float],
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum and its unweighted parts.

    image, reconstruction: (B, 3, H, W), nominally in [-1, 1].
    weights: of the parts `reconstruction` (L1), `chroma` (squared error of the differences between the colour
        channels: brightness does not enter it, and a wrong hue weighs more than many small errors),
        `perceptual` and `quantizer`.
    """
    error = reconstruction - image
    parts = {
        "reconstruction": error.abs().mean(),
        "chroma": (error - error.roll(1, dims=1)).square().mean(),
        "quantizer": training_pass.quantizer_loss,
    }
    if perceptual is not None:
        parts["perceptual"] = perceptual(reconstruction, image)
    total = sum((weights[name] * value for name, value in parts.items()), start=image.new_zeros(()))
    return total, parts

"""The tokenizer's training loss: reconstruction, perceptual distance, codebook and commitment, discriminator.

The adversarial term is VQGAN's. PatchGAN: Isola et al., 2017. Hinge losses: Lim and Ye, 2017. Adaptive weight: Esser et
al., 2021, equation 7.

Shapes: B batch, H W image, p q patches.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hart.losses.config import GROUP_CHANNELS, AdversarialConfig

MAX_MULTIPLIER = 8
"""The width of the discriminator grows to at most this many times that of the first layer."""
WEIGHT_EPS, MAX_WEIGHT = 1e-4, 1e4
INITIAL_STD = 0.02


class PatchDiscriminator(nn.Module):
    """Convolutions that score overlapping patches of an image, without a final sigmoid."""

    def __init__(self, config: AdversarialConfig, generator: torch.Generator) -> None:
        """Weights are normal with std 0.02 from `generator`, norm gains around 1, biases 0."""
        super().__init__()
        self.config = config
        width = config.width
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, config.layers + 1):
            wider = config.width * min(2**i, MAX_MULTIPLIER)
            stride = 2 if i < config.layers else 1
            layers += [
                # the norm's shift replaces a bias
                nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False),
                self._norm(wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, INITIAL_STD, generator)

    def _norm(self, channels: int) -> nn.Module:
        if self.config.norm == "group":
            return nn.GroupNorm(channels // GROUP_CHANNELS, channels)
        # it only runs in training, so running statistics would be useless state
        return nn.BatchNorm2d(channels, track_running_stats=False)

    def forward(self, image: Tensor) -> Tensor:
        """Score an image (B, 3, H, W) in [-1, 1], of at least `config.smallest_image_size`: (B, 1, p, q) float32, high
        for real patches."""
        scores: Tensor = self.layers(image)
        return scores.float()


def adversarial_loss(discriminator: nn.Module, reconstruction: Tensor) -> Tensor:
    """Return the negative mean score of a reconstruction (B, 3, H, W); only the reconstruction gets a gradient."""
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    return -functional_call(discriminator, frozen, (reconstruction,)).mean()


def discriminator_loss(
    discriminator: nn.Module, image: Tensor, reconstruction: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the hinge loss, and the mean scores of images and reconstructions (B, 3, H, W).

    It pushes the scores of images above 1 and those of reconstructions below -1. No gradient reaches the tokenizer.
    """
    real, fake = discriminator(image), discriminator(reconstruction.detach())
    loss = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return loss, {"score_real": real.mean(), "score_fake": fake.mean()}


def last_layer_gradients(loss: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Return the gradients of both scalars at the weight `last_layer`, (2, *last_layer.shape); keeps their graphs.

    loss: the terms that compare images. last_layer: the weight of the decoder's last convolution.
    """
    return torch.stack([torch.autograd.grad(term, last_layer, retain_graph=True)[0] for term in (loss, adversarial)])


def adaptive_weight(gradients: Tensor) -> Tensor:
    """Return |grad loss| / (|grad adversarial| + 1e-4), at most 1e4, from `last_layer_gradients`.

    Average the gradients of microbatches first, so that the weight is that of the whole batch.
    """
    wanted, given = (gradient.float().norm() for gradient in gradients)
    return (wanted / (given + WEIGHT_EPS)).clamp(max=MAX_WEIGHT)


def pixel_loss(
    image: Tensor, reconstruction: Tensor, perceptual: nn.Module | None, weights: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of the terms that compare images (B, 3, H, W), nominally in [-1, 1], and each unweighted.

    weights: of `reconstruction` (L1), `squared` (L2; left out without a weight), `chroma` (squared error of the
        differences between colour channels: it ignores brightness, and a wrong hue weighs more than many small errors)
        and `perceptual`.
    """
    error = reconstruction - image
    parts = {"reconstruction": error.abs().mean(), "chroma": (error - error.roll(1, dims=1)).square().mean()}
    if "squared" in weights:
        parts["squared"] = error.square().mean()
    if perceptual is not None:
        parts["perceptual"] = perceptual(reconstruction, image)
    return sum((weights[name] * value for name, value in parts.items()), start=image.new_zeros(())), parts

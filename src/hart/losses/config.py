"""Choices of the tokenizer's losses, for recipes to hold. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hart.config import Config, require, require_positive

PerceptualKind = Literal["lpips", "efficientnet_lite0"]

GROUP_CHANNELS = 16
"""Channels of one group where the discriminator uses GroupNorm."""


@dataclass(frozen=True)
class PerceptualConfig(Config):
    """Which perceptual loss, see `hart.losses.perceptual.perceptual_loss`."""

    kind: PerceptualKind = "efficientnet_lite0"
    weights: tuple[str, ...] = ()
    """Files of the `lpips` kind: VGG-16's and the heads'."""

    def __post_init__(self) -> None:
        require(
            (self.kind == "lpips") == bool(self.weights),
            "PerceptualConfig: kind 'lpips' needs weights (the files of VGG-16 and of the heads), no other takes any",
        )


@dataclass(frozen=True)
class AdversarialConfig(Config):
    """PatchGAN and its weight, see `hart.losses.adversarial`; the numbers are VQGAN's (Esser et al., 2021)."""

    weight: float = 0.5
    """Multiplies the adaptive weight."""
    start_step: int = 0
    """The first step at which the discriminator learns and is heard; before it, reconstruction settles."""
    width: int = 64
    """Channels of the discriminator's first layer."""
    layers: int = 3
    """Halvings of the side; 3 let each output see 70 x 70 pixels."""
    norm: Literal["batch", "group"] = "batch"
    """batch: as published, over the pictures of one process. group: each picture by itself, whatever the batch."""

    def __post_init__(self) -> None:
        require_positive(self, "width", "layers")
        require(self.weight > 0, "AdversarialConfig.weight must be above 0; leave the table out to train without")
        require(self.start_step >= 0, "AdversarialConfig.start_step must not be negative")
        require(
            self.norm == "batch" or self.width % GROUP_CHANNELS == 0,
            f"AdversarialConfig.width must be a multiple of {GROUP_CHANNELS} with norm 'group'",
        )

    def active(self, step: int) -> bool:
        """Whether the adversarial part takes place at `step` (0-based)."""
        return step >= self.start_step

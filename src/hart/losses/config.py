"""Choices of the tokenizer's losses, for recipes to hold. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hart.config import Config, require, require_positive

PerceptualKind = Literal["lpips", "efficientnet_lite0"]

GROUP_CHANNELS = 16
"""Channels of one group where the discriminator uses GroupNorm."""


@dataclass(frozen=True, kw_only=True)
class PerceptualConfig(Config):
    """Which perceptual loss, see `hart.networks.perceptual.perceptual_loss`."""

    kind: PerceptualKind
    weight: float = 1.0
    """Multiplies the distance; 0 leaves it out and reads no weights."""
    files: tuple[str, ...] = ()
    """Weights. `lpips` needs VGG-16's file and the heads'. `efficientnet_lite0` has its own as a package, and takes one
    file in its place: what `hart.checkpoint.storage.save_module` writes of its loss, 3 MB."""

    def __post_init__(self) -> None:
        require(self.weight >= 0, f"PerceptualConfig.weight must not be negative, but is {self.weight}")
        require(
            self.kind != "lpips" or bool(self.files),
            "PerceptualConfig: kind 'lpips' needs files (the weights of VGG-16 and of the heads)",
        )
        require(
            self.kind != "efficientnet_lite0" or len(self.files) <= 1,
            "PerceptualConfig: kind 'efficientnet_lite0' takes one file or none",
        )


@dataclass(frozen=True, kw_only=True)
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
    """batch: as published, over the pictures that a process computes at once. group: each picture by itself, so that
    processes and parts of a batch change nothing."""

    def __post_init__(self) -> None:
        require_positive(self, "width", "layers")
        require(self.weight > 0, "AdversarialConfig.weight must be above 0; leave the table out to train without")
        require(self.start_step >= 0, "AdversarialConfig.start_step must not be negative")
        require(
            self.norm == "batch" or self.width % GROUP_CHANNELS == 0,
            f"AdversarialConfig.width must be a multiple of {GROUP_CHANNELS} with norm 'group'",
        )

    @property
    def smallest_side(self) -> int:
        """Pixels that a picture's side must have for at least one patch."""
        return 3 * 2**self.layers

    def active(self, step: int) -> bool:
        """Whether the adversarial part takes place at `step` (0-based)."""
        return step >= self.start_step

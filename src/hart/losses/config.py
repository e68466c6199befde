"""Settings of the losses, for recipes. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hart.config import Config, Width
from hart.strict import Listed, require

LARGEST = 1e9
Weight = Annotated[float, Field(ge=0, le=LARGEST)]
"""Weight of a loss, a weight decay, or any other number from 0 up to a reasonable size."""

Positive = Annotated[float, Field(gt=0, le=LARGEST)]

GROUP_CHANNELS = 16
"""Channels per group if the discriminator uses GroupNorm."""


class TokenizerLossConfig(Config):
    """Weights of the tokenizer's loss, see `hart.losses.tokenizer_loss`; the quantiser's includes the commitment loss.

    Perceptual and adversarial terms have their own tables.
    """

    reconstruction: Weight = 1.0
    """Weight of the mean absolute error (L1)."""
    squared: Weight = 0.0
    """Weight of the mean squared error (L2)."""
    chroma: Weight = 0.0
    quantizer: Weight = 1.0


class PerceptualConfig(Config, kw_only=True):
    """The perceptual loss, see `hart.networks.perceptual.perceptual_loss`."""

    kind: Literal["lpips", "efficientnet_lite0"]
    weight: Weight = 1.0
    """Factor on the distance; 0 leaves it out and reads no files."""
    files: Listed[str] = ()
    """Weight files. `lpips` needs those of VGG-16 and of its heads. `efficientnet_lite0` comes as a package; a file of
    its loss from `hart.checkpoint.storage.save_module`, 3 MB, can replace it."""


class AdversarialConfig(Config, kw_only=True):
    """PatchGAN and its weight, see `hart.losses.tokenizer_loss`; the defaults are VQGAN's (Esser et al., 2021)."""

    weight: Positive = 0.5
    """Factor on the adaptive weight. Omit the table to train without a discriminator."""
    start_step: Annotated[int, Field(ge=0)] = 0
    """First step in which the discriminator is trained and used; before it, the reconstruction settles."""
    width: Width = 64
    """Channels of the discriminator's first layer."""
    layers: Annotated[int, Field(ge=1, le=16)] = 3
    """How often the image is halved; with 3, each output sees 70 x 70 pixels."""
    norm: Literal["batch", "group"] = "batch"
    """batch: as published, over the images that a process computes at once. group: over each image by itself, so that
    the result does not depend on the number of processes and microbatches."""

    def __post_init__(self) -> None:
        require(
            self.norm == "batch" or self.width % GROUP_CHANNELS == 0,
            f"width must be a multiple of {GROUP_CHANNELS} with norm 'group'",
        )

    @property
    def smallest_image_size(self) -> int:
        """Return the image size in pixels that gives one patch."""
        return 3 * 2**self.layers


class TransformerLossConfig(Config, kw_only=True):
    """Additions to the transformer's cross entropy, by default none; see `hart.losses.transformer_loss`."""

    scale_weights: Listed[Positive] = ()
    """Weights of the tokens of each scale, coarsest first; coarse scales decide what an image shows. Only their ratios
    matter. Scales beyond the list take its last weight; empty: all tokens weigh the same."""
    cluster_weight: Weight = 0.0
    """Weight of the cross entropy of clusters of codes, added to that of the codes: codes near each other look alike,
    so a wrong code of the right cluster does little harm (IAR, arXiv 2501.00880). 0 turns it off."""
    clusters: Annotated[int, Field(ge=2, le=2**20)] = 128
    """Number of clusters into which k-means divides the codebook; used with `cluster_weight`."""

"""Settings of the tokenizer's losses, for recipes. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hart.config import Config, Width
from hart.strict import Listed, require

LARGEST = 1e9
Weight = Annotated[float, Field(ge=0, le=LARGEST)]
"""Of a loss, a weight decay, or anything else from 0 up to a reasonable size."""

Positive = Annotated[float, Field(gt=0, le=LARGEST)]

GROUP_CHANNELS = 16
"""Channels of one group where the discriminator uses GroupNorm."""


class TokenizerLossConfig(Config):
    """Weights of the tokenizer's loss, see `hart.losses.tokenizer_loss`; the quantiser's includes the commitment.

    Perceptual and adversarial terms have tables of their own.
    """

    reconstruction: Weight = 1.0
    """Of the mean absolute error (L1)."""
    squared: Weight = 0.0
    """Of the mean squared error (L2)."""
    chroma: Weight = 0.0
    quantizer: Weight = 1.0


class PerceptualConfig(Config, kw_only=True):
    """The perceptual loss, see `hart.networks.perceptual.perceptual_loss`."""

    kind: Literal["lpips", "efficientnet_lite0"]
    weight: Weight = 1.0
    """Factor on the distance; 0 leaves it out and reads no files."""
    files: Listed[str] = ()
    """Files of weights. `lpips` needs those of VGG-16 and of the heads. `efficientnet_lite0` comes as a package; a file
    of its loss from `hart.checkpoint.storage.save_module`, 3 MB, can take its place."""


class AdversarialConfig(Config, kw_only=True):
    """PatchGAN and its weight, see `hart.losses.tokenizer_loss`; the numbers are VQGAN's (Esser et al., 2021)."""

    weight: Positive = 0.5
    """Factor on the adaptive weight. Leave the table out to train without a discriminator."""
    start_step: Annotated[int, Field(ge=0)] = 0
    """The first step in which the discriminator is trained and used; until then, reconstruction settles."""
    width: Width = 64
    """Channels of the discriminator's first layer."""
    layers: Annotated[int, Field(ge=1, le=16)] = 3
    """Number of times the image is halved; with 3, each output sees 70 x 70 pixels."""
    norm: Literal["batch", "group"] = "batch"
    """batch: as published, over the images that a process computes at once. group: over each image by itself, so that
    the number of processes and microbatches changes nothing."""

    def __post_init__(self) -> None:
        require(
            self.norm == "batch" or self.width % GROUP_CHANNELS == 0,
            f"width must be a multiple of {GROUP_CHANNELS} with norm 'group'",
        )

    @property
    def smallest_image_size(self) -> int:
        """Image size in pixels that gives one patch."""
        return 3 * 2**self.layers


class TransformerLossConfig(Config, kw_only=True):
    """What may be added to the transformer's cross entropy, by default nothing; see `hart.losses.transformer_loss`."""

    scale_weights: Listed[Positive] = ()
    """Weights of the tokens of each scale, the coarsest first, which decides what an image shows. Only their ratios
    count. Scales beyond the list weigh as its last one; empty: all tokens weigh the same."""
    cluster_weight: Weight = 0.0
    """Of the cross entropy of the clusters of codes, added to that of the codes: codes that are near each other look
    alike, and a wrong one of the right cluster does little harm (IAR, arXiv 2501.00880). 0 leaves it out."""
    clusters: Annotated[int, Field(ge=2, le=2**20)] = 128
    """Clusters into which k-means divides the codebook, where `cluster_weight` asks for them."""

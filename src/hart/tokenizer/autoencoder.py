"""The convolutional encoder and decoder of the tokenizer (VQGAN; Esser et al., 2021), without the quantiser.

Shapes: B batch, C channels of a level, H W image, f pixels per latent position along a side, h w latent, D latent
channels, p side of a patch (`patch_size`).
Parameter names follow the order of the computation; the published ones are mapped in `hart.checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from hart.config import TokenizerConfig
from hart.layers.linear import silu

NORM_EPS = 1e-6


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=NORM_EPS)


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice; a 1x1 convolution on the skip where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        return h.add_(self.skip(x))  # in place: a convolution's gradient does not need its output


class SpatialAttention(nn.Module):
    """Single-head self-attention over the h x w positions."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.shape
        # (B, 3C, h, w) -> three of (B, 1, h w, C); the scale C^-0.5 is SDPA's own
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        h = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        return self.proj(h.unflatten(2, (height, width))).add_(x)


class MidBlock(nn.Sequential):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(
            ResidualBlock(channels, channels, groups),
            SpatialAttention(channels, groups),
            ResidualBlock(channels, channels, groups),
        )


class Downsample(nn.Module):
    """Half the size: zeros on the right and at the bottom, then a 3x3 convolution with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def level(in_channels: int, out_channels: int, blocks: int, groups: int, *, attention: bool) -> list[nn.Module]:
    """Return the blocks of one resolution, each followed by attention if wanted."""
    layers: list[nn.Module] = []
    for i in range(blocks):
        layers.append(ResidualBlock(in_channels if i == 0 else out_channels, out_channels, groups))
        if attention:
            layers.append(SpatialAttention(out_channels, groups))
    return layers


class Encoder(nn.Module):
    """Image (B, 3, H, W) in [-1, 1] to latent (B, D, H/f, W/f), before `quant_conv`."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in config.channel_multipliers]
        self.patch_size = config.patch_size
        self.conv_in = nn.Conv2d(3 * config.patch_size**2, config.base_channels, 3, padding=1)
        self.levels = nn.ModuleList()
        width = config.base_channels
        for i, out in enumerate(widths):
            lowest = i == len(widths) - 1
            layers = level(width, out, config.residual_blocks, config.norm_groups, attention=lowest)
            self.levels.append(nn.Sequential(*layers, *([] if lowest else [Downsample(out)])))
            width = out
        self.middle = MidBlock(width, config.norm_groups)
        self.norm_out = group_norm(width, config.norm_groups)
        self.conv_out = nn.Conv2d(width, config.latent_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        h = self.conv_in(image if self.patch_size == 1 else F.pixel_unshuffle(image, self.patch_size))
        for layer in self.levels:
            h = layer(h)
        return self.conv_out(silu(self.norm_out(self.middle(h))))


class Decoder(nn.Module):
    """Latent (B, D, h, w), after `post_quant_conv`, to image (B, 3, f h, f w); not clamped."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in reversed(config.channel_multipliers)]
        width = widths[0]
        self.conv_in = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.middle = MidBlock(width, config.norm_groups)
        self.levels = nn.ModuleList()
        for i, out in enumerate(widths):
            layers = level(width, out, config.residual_blocks + 1, config.norm_groups, attention=i == 0)
            self.levels.append(nn.Sequential(*layers, *([] if i == len(widths) - 1 else [Upsample(out)])))
            width = out
        self.norm_out = group_norm(width, config.norm_groups)
        self.patch_size = config.patch_size
        self.conv_out = nn.Conv2d(width, 3 * config.patch_size**2, 3, padding=1, padding_mode=config.output_padding)

    def features(self, latent: Tensor) -> Tensor:
        """Return the input (B, C, f h / p, f w / p) of the last convolution, `conv_out`."""
        h = self.middle(self.conv_in(latent))
        for layer in self.levels:
            h = layer(h)
        return silu(self.norm_out(h))

    def image(self, patches: Tensor) -> Tensor:
        """Return the image (B, 3, f h, f w) from the output (B, 3 p^2, f h / p, f w / p) of `conv_out`."""
        return patches if self.patch_size == 1 else F.pixel_shuffle(patches, self.patch_size)

    def forward(self, latent: Tensor) -> Tensor:
        return self.image(self.conv_out(self.features(latent)))


def with_patch_size(weights: Mapping[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """Convert a tokenizer's weights from patches of `old` pixels to patches of `new`, a multiple of `old`.

    An image enlarged new / old times, with each pixel repeated, then has the latent it had before, and a latent decodes
    to its former image, enlarged likewise.
    """
    times = new // old

    def repeated(weight: Tensor, dim: int) -> Tensor:
        """Repeat each of the 3 old^2 channels of this dimension for the times^2 pixels that take its place."""
        pixels = weight.unflatten(dim, (3, old, old))
        return pixels.repeat_interleave(times, dim + 1).repeat_interleave(times, dim + 2).flatten(dim, dim + 2)

    changed = {name: repeated(weights[name], 0) for name in ("decoder.conv_out.weight", "decoder.conv_out.bias")}
    conv_in = "encoder.conv_in.weight"
    return {**weights, **changed, conv_in: repeated(weights[conv_in], 1) / times**2}

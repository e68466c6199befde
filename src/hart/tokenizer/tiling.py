"""Decoding in strips of rows: the same image with two maps of the largest size in memory instead of five or more.

A group norm needs the mean and variance of the whole map: they are first accumulated strip by strip. Then norm, SiLU
and convolution run on a strip and the neighbouring rows that the kernel reaches. So nothing is cut off or blended:
images differ from those of `Decoder` only by rounding.

Shapes: B batch, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.layers.linear import silu
from hart.tokenizer.autoencoder import Decoder, ResidualBlock, Upsample

STRIP_PIXELS = 2**16
"""Minimum pixels of a strip; larger maps are split."""

Affine = tuple[Tensor, Tensor]


def decode_in_strips(decoder: Decoder, latent: Tensor, pixels: int = STRIP_PIXELS) -> Tensor:
    """Decode a latent (B, D, h, w), after `post_quant_conv`, as `decoder` does: (B, 3, f h, f w)."""
    x = decoder.middle(decoder.conv_in(latent))
    for level in decoder.levels:
        for layer in level.children():
            if isinstance(layer, ResidualBlock):
                x = _residual_block(layer, x, pixels)
            elif isinstance(layer, Upsample):
                x = _upsampled(layer, x, pixels)
            else:  # attention, at the lowest resolution
                x = layer(x)
    return decoder.image(_normed_conv(decoder.norm_out, decoder.conv_out, x, pixels))


def _residual_block(block: ResidualBlock, x: Tensor, pixels: int) -> Tensor:
    h = _normed_conv(block.norm1, block.conv1, x, pixels)
    x = block.skip(x)
    affine = _affine(block.norm2, h, pixels)
    for start, end in _strips(h, pixels):
        x[:, :, start:end] += _conv_rows(block.conv2, h, start, end, affine)
    return x


def _normed_conv(norm: nn.GroupNorm, conv: nn.Conv2d, x: Tensor, pixels: int) -> Tensor:
    affine = _affine(norm, x, pixels)
    return _assembled(x, 1, conv.out_channels, pixels, lambda start, end: _conv_rows(conv, x, start, end, affine))


def _upsampled(layer: Upsample, x: Tensor, pixels: int) -> Tensor:
    """Return twice the size, strip by strip."""

    def rows(start: int, end: int) -> Tensor:
        """Return rows 2 start to 2 end of the result."""
        first, last = max(start - 1, 0), min(end + 1, x.shape[2])
        wide = F.interpolate(x[:, :, first:last], scale_factor=2.0, mode="nearest")
        # the kernel reaches one of the neighbours' rows
        wide = wide[:, :, 2 * (start - first) - (start > first) : 2 * (end - first) + (last > end)]
        return _convolved(layer.conv, wide, start == first, end == last)

    return _assembled(x, 2, layer.conv.out_channels, pixels // 4, rows)


def _assembled(x: Tensor, scale: int, channels: int, pixels: int, rows: Callable[[int, int], Tensor]) -> Tensor:
    """Return a map `scale` times as large as x; `rows` computes it for a range of rows of x."""
    batch, _, height, width = x.shape
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    shape = (batch, channels, scale * height, scale * width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    for start, end in _strips(x, pixels):
        out[:, :, scale * start : scale * end] = rows(start, end)
    return out


def _conv_rows(conv: nn.Conv2d, x: Tensor, start: int, end: int, affine: Affine) -> Tensor:
    """Return rows start to end of conv(silu(norm(x))), for a 3 x 3 kernel."""
    first, last = max(start - 1, 0), min(end + 1, x.shape[2])
    scale, shift = affine
    h = silu(torch.addcmul(shift, x[:, :, first:last], scale)).to(x.dtype)
    return _convolved(conv, h, start == first, end == last)


def _convolved(conv: nn.Conv2d, x: Tensor, above: bool, below: bool) -> Tensor:
    """Convolve a strip; its outer rows are padded only where the map ends."""
    if conv.padding_mode == "replicate":
        return F.conv2d(F.pad(x, (1, 1, int(above), int(below)), mode="replicate"), conv.weight, conv.bias)
    x = F.pad(x, (0, 0, int(above), int(below))) if above or below else x
    return F.conv2d(x, conv.weight, conv.bias, padding=(0, 1))


def _affine(norm: nn.GroupNorm, x: Tensor, pixels: int) -> Affine:
    """Return the factor and summand (B, C, 1, 1) float32 that this norm applies to the map x."""
    parts: list[tuple[float, Tensor, Tensor]] = []
    for start, end in _strips(x, pixels):
        strip = x[:, :, start:end].float().unflatten(1, (norm.num_groups, -1))
        variance, mean = torch.var_mean(strip, dim=(2, 3, 4), correction=0, keepdim=True)
        parts.append(((end - start) / x.shape[2], mean, variance))
    mean = torch.stack([share * part for share, part, _ in parts]).sum(0)
    variance = torch.stack([share * (inside + (part - mean).square()) for share, part, inside in parts]).sum(0)
    # (B, groups, 1, 1, 1) by (groups, channels of each, 1, 1)
    weight, bias = (p.float().view(norm.num_groups, -1, 1, 1) for p in (norm.weight, norm.bias))
    scale = (variance + norm.eps).rsqrt() * weight
    return scale.flatten(1, 2), (bias - mean * scale).flatten(1, 2)


def _strips(x: Tensor, pixels: int) -> list[tuple[int, int]]:
    """Return the first and last row of each strip of a map, of `pixels` pixels or at least one row."""
    height, rows = x.shape[2], max(1, pixels // x.shape[3])
    return [(start, min(start + rows, height)) for start in range(0, height, rows)]

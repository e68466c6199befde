"""Attention of a training pass: all scales at once; a token sees its own scale and all coarser ones.

Of PyTorch's kernels only FlexAttention supports this order, and it needs a GPU and a compiler. Elsewhere the queries of
a scale see a prefix of the keys, with one plain call per scale or, for short sequences, one masked product for all.

Shapes: B batch, H heads, N tokens, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT_ON_CPU = 512
"""Up to this many tokens a CPU trains with one masked product over all scales, whose scores take B H N^2 numbers.
PyTorch's kernel is slow on short sequences there, above all its backward pass in bfloat16: 115 tokens of 64 images with
4 heads of 64 took 122 ms per layer, forward and backward, and 18 ms masked; in float32 40 and 29 (2 cores with AMX)."""


def block_causal_attention(q: Tensor, k: Tensor, v: Tensor, segments: Sequence[int], scale: float) -> Tensor:
    """Return (B, H, N, d): attention within and to the left of each consecutive group; segments: their lengths."""
    if q.device.type == "cpu" and q.shape[2] <= SHORT_ON_CPU:
        return masked_attention(q, k, v, segments, scale)
    if q.device.type == "cuda" and torch.compiler.is_compiling():
        return flexible_attention(q, k, v, segments, scale)
    return prefix_attention(q, k, v, segments, scale)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, segments: Sequence[int], scale: float) -> Tensor:
    """Compute `block_causal_attention` in one product with all scores."""
    group = groups(segments, q.device)
    hidden = torch.zeros(len(group), len(group), device=q.device).masked_fill(group[:, None] < group, float("-inf"))
    scores = (q * scale) @ k.transpose(2, 3) + hidden
    return scores.softmax(dim=-1).to(v.dtype) @ v


def flexible_attention(q: Tensor, k: Tensor, v: Tensor, segments: Sequence[int], scale: float) -> Tensor:
    """Compute it with one kernel that skips what no query sees; for compiled code only, since it is slow outside."""
    # imports the compiler
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    group = groups(segments, q.device)

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return group[query] >= group[key]

    tokens = q.shape[2]
    mask = create_block_mask(seen, None, None, tokens, tokens, device=q.device)
    out = flex_attention(q, k, v, block_mask=mask, scale=scale)
    assert isinstance(out, Tensor)
    return out


def prefix_attention(q: Tensor, k: Tensor, v: Tensor, segments: Sequence[int], scale: float) -> Tensor:
    """Compute it with one call per scale. The backward pass holds one gradient of a prefix of the keys at a time."""
    outputs, end = [], q.shape[2]
    for length, queries in zip(reversed(segments), reversed(q.split(list(segments), dim=2)), strict=True):
        end -= length
        (keys, k), (values, v) = _shortened(k, end), _shortened(v, end)
        outputs.append(F.scaled_dot_product_attention(queries, keys, values, scale=scale))
    return torch.cat(outputs[::-1], dim=2)


def groups(segments: Sequence[int], device: torch.device) -> Tensor:
    """Return (N,) int64, the number of each token's group."""
    return torch.cat([torch.full((length,), number, device=device) for number, length in enumerate(segments)])


def _shortened(x: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Return x and its first tokens."""
    # a compiler adds the gradients of plain slices in one pass
    return (x, x[:, :, :end]) if torch.compiler.is_compiling() else _Shorten.apply(x, end)


class _Shorten(torch.autograd.Function):
    """Return x (B, H, N, d) itself, and its first tokens.

    A slice would have its own gradient, padded with zeros to the length of x. Here the gradient of the first tokens is
    added into that of x, which must come from a single attention call.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, end: int) -> tuple[Tensor, Tensor]:
        ctx.end = end
        return x.view_as(x), x[:, :, :end]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, whole: Tensor, first: Tensor) -> tuple[Tensor, None]:
        whole[:, :, : ctx.end] += first
        return whole, None

"""Multi-head self-attention, the only place that calls an attention kernel.

Block-causal attention over scales needs no mask: the queries of one scale see a prefix of the keys, so it is one plain
kernel call per scale. Training gives the lengths of the scales; generation gives a cache. Short sequences on a CPU are
the exception, see `SHORT_ON_CPU`.

Shapes: B batch, N tokens, C width, H heads, d = C / H head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.layers.kv_cache import LayerCache
from hart.layers.linear import Linear
from hart.layers.rope import Rotation, rotate

# Factor on top of 1 / sqrt(head width) in the training of the published models.
PUBLISHED_SCALE = 0.25
MAX_LOG_SCALE = math.log(100.0)
SHORT_ON_CPU = 512
"""Up to this many tokens a CPU trains with one masked product over all scales, whose scores take B H N^2 numbers.
PyTorch's kernel is slow on short sequences there, above all its backward pass in bfloat16: 115 tokens of 64 images with
4 heads of 64 took 122 ms per layer, forward and backward, and 18 ms masked; in float32 40 and 29 (2 cores with AMX)."""


class Attention(nn.Module):
    """Queries and values have a bias, keys do not; rows of `qkv` are q, k, v, each split by head."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.log_scale = nn.Parameter(torch.full((heads,), math.log(4.0))) if qk_norm else None
        self.scale = 1.0 if qk_norm else PUBLISHED_SCALE / math.sqrt(width // heads)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        *,
        segments: Sequence[int] | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """x (B, N, C) to (B, N, C).

        segments: lengths of consecutive groups of tokens; a group sees itself and all groups before it.
            Without it, all tokens see each other.
        cache: tokens also see everything in the cache, and are appended to it.
        """
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = self.qkv(x, bias)
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, N, d)
        if self.log_scale is not None:
            gain = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()[:, None, None].to(q.dtype)
            q, k = F.normalize(q, dim=-1) * gain, F.normalize(k, dim=-1)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        if cache is not None:
            k, v = cache.append(k, v)
        if segments is None:
            # a cache may keep keys and values in a narrower type
            out = F.scaled_dot_product_attention(q.to(k.dtype), k, v, scale=self.scale).to(x.dtype)
        else:
            out = self._prefix_attention(q, k, v, segments)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _prefix_attention(self, q: Tensor, k: Tensor, v: Tensor, segments: Sequence[int]) -> Tensor:
        if q.device.type == "cpu" and q.shape[2] <= SHORT_ON_CPU:
            return self._masked_attention(q, k, v, segments)
        outputs, end = [], 0
        for length, queries in zip(segments, q.split(list(segments), dim=2), strict=True):
            end += length
            outputs.append(F.scaled_dot_product_attention(queries, k[:, :, :end], v[:, :, :end], scale=self.scale))
        return torch.cat(outputs, dim=2)

    def _masked_attention(self, q: Tensor, k: Tensor, v: Tensor, segments: Sequence[int]) -> Tensor:
        group = torch.cat([torch.full((length,), i) for i, length in enumerate(segments)])
        hidden = torch.zeros(len(group), len(group)).masked_fill(group[:, None] < group, float("-inf"))
        scores = (q * self.scale) @ k.transpose(2, 3) + hidden
        return scores.softmax(dim=-1).to(v.dtype) @ v

"""Multi-head self-attention.

Attention is block-causal over scales: training computes all scales at once and passes their lengths
(`hart.layers.training_attention`); generation computes one scale and passes a cache.

Shapes: B batch, N tokens, C width, H heads, d = C / H head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.layers.kv_cache import LayerCache
from hart.layers.linear import Linear
from hart.layers.rope import Rotation, rotate
from hart.layers.training_attention import block_causal_attention

# Factor on top of 1 / sqrt(head width) in the training of the published models.
PUBLISHED_SCALE = 0.25
MAX_LOG_SCALE = math.log(100.0)

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Maps queries (B, H, N, d), keys and values (B, H, P, d) and a factor of their products to (B, H, N, d)."""


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attend in the type of the keys, which a cache may keep in a narrower one."""
    return F.scaled_dot_product_attention(q.to(k.dtype), k, v, scale=scale)


class Attention(nn.Module):
    """Queries and values have a bias, keys do not; rows of `qkv` are q, k, v, each split by head.

    attend: the attention function of generation; a faster kernel of this machine may replace it.
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.log_scale = nn.Parameter(torch.full((heads,), math.log(4.0))) if qk_norm else None
        self.attend: Attend = attend
        self.scale = 1.0 if qk_norm else PUBLISHED_SCALE / math.sqrt(width // heads)

    def __getstate__(self) -> dict[str, Any]:
        """Restore the plain function: copies and pickles may go to any machine."""
        return super().__getstate__() | {"attend": attend}

    def project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values of tokens (B, N, C), each (B, H, N, d)."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = self.qkv(x, bias)
        q, k, v = (x.transpose(1, 2) for x in qkv.unflatten(2, (3, self.heads, -1)).unbind(2))
        if self.log_scale is not None:
            gain = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()[:, None, None].to(q.dtype)
            q, k = F.normalize(q, dim=-1) * gain, F.normalize(k, dim=-1)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v

    def attended(
        self, q: Tensor, k: Tensor, v: Tensor, *, segments: Sequence[int] | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """Return the attention output (B, N, C) for queries, keys and values of the same tokens.

        segments: lengths of consecutive groups of tokens; a group sees itself and all groups before it.
            Without it, all tokens see each other.
        cache: tokens also see everything in the cache, and are appended to it.
        """
        if cache is not None:
            k, v = cache.append(k, v)
        if segments is None:
            out = self.attend(q, k, v, self.scale).to(q.dtype)
        else:
            out = block_causal_attention(q, k, v, segments, self.scale)
        return out.transpose(1, 2).flatten(2)

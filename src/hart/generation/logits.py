"""From logits to codes: guidance, top-k, top-p, sampling, Gumbel smoothing. Pure functions.

Shapes: B images, N tokens, V codes, D latent channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Scales from this one on (0-based) keep half of the top-k codes (published: 600, then 300).
LATE_SCALE = 7


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: (1 + g) conditional - g unconditional."""
    return (1 + guidance) * conditional - guidance * unconditional


def top_k_at(k: int, top_k: int | None) -> int | None:
    """Codes kept at scale k (0-based)."""
    return top_k if top_k is None or k < LATE_SCALE else max(1, top_k // 2)


def filtered(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits (..., V) with everything outside the `top_k` best and the `top_p` nucleus at -inf.

    The nucleus is the smallest set of codes whose probability reaches `top_p`.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        threshold = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        before[..., 0] = 0
        outside = before >= top_p
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    return logits


def sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """Sample one code (B, N) from logits (B, N, V) by inverting the distribution function at uniform (B, N).

    One number per token decides, so that rounding in the logits changes a code only if the number falls next to a
    border.
    """
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    total = cumulative[..., -1:]
    # below the total even when the product rounds up, so that a code without probability is never sampled
    point = torch.minimum(uniform.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1)


def gumbel_temperature(ratio: float) -> float:
    """Temperature of the Gumbel mixture; it falls as the scales grow finer."""
    return max(0.27 * (1 - 0.95 * ratio), 0.005)


def gumbel_mixture(logits: Tensor, gumbel: Tensor, ratio: float, codebook: Tensor) -> Tensor:
    """softmax(((1 + r) logits + Gumbel noise) / temperature) @ codebook: (B, N, D).

    logits: (B, N, V), filtered; gumbel: (B, N, V); ratio: r = k / (K - 1); codebook: (V, D).
    """
    mixed = ((1 + ratio) * logits + gumbel) / gumbel_temperature(ratio)
    return mixed.softmax(dim=-1) @ codebook.to(mixed.dtype)

"""From logits to codes: guidance, top-k, top-p, sampling, Gumbel smoothing. Pure functions.

Shapes: B images, N tokens, V codes, M of them that may be sampled, D latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Scales from this one on (0-based) keep half of the top-k codes (published: 600, then 300).
LATE_SCALE = 7

Guidance = tuple[Tensor, Tensor]
"""1 + g and g, each (B, 1, 1)."""


@dataclass(frozen=True)
class Candidates:
    """The codes that may be sampled.

    logits: (B, N, M) float32; -inf for a code removed by a filter.
    codes: (B, N, M) int64, likeliest first; None: all V codes, in their own order.
    """

    logits: Tensor
    codes: Tensor | None

    def at(self, places: Tensor) -> Tensor:
        """Return the codes (B, N) at places (B, N) among the candidates."""
        return places if self.codes is None else self.codes.gather(-1, places.unsqueeze(-1)).squeeze(-1)

    def weighted(self, weights: Tensor, codebook: Tensor) -> Tensor:
        """Return sums (B, N, D) of all candidates' embeddings weighted by (B, N, M); codebook: (V, D)."""
        codebook = codebook.to(weights.dtype)
        if self.codes is None:
            return weights @ codebook
        bags, weights = self.codes.flatten(0, 1), weights.flatten(0, 1)
        return F.embedding_bag(bags, codebook, mode="sum", per_sample_weights=weights).view(*self.codes.shape[:2], -1)


def guided(conditional: Tensor, unconditional: Tensor, guidance: Guidance) -> Tensor:
    """Classifier-free guidance: (1 + g) conditional - g unconditional."""
    return guidance[0] * conditional - guidance[1] * unconditional


def top_k_at(k: int, top_k: int | None) -> int | None:
    """Return how many codes are kept at scale k (0-based)."""
    return top_k if top_k is None or k < LATE_SCALE else max(1, top_k // 2)


def filtered(
    logits: Tensor, top_k: int | None, top_p: Tensor | float | None, row_top_k: Tensor | None = None
) -> Candidates:
    """Apply top-k, then top-p to logits (B, N, V).

    top_k: the number M of candidates; None keeps all codes. top_p: keeps the smallest set of codes whose probability
    reaches it; a number, or (B, 1, 1). row_top_k: (B, 1, 1), at most `top_k`, for images that keep fewer.
    """
    if (top_k is None or top_k >= logits.shape[-1]) and top_p is None and row_top_k is None:
        return Candidates(logits, None)
    logits, codes = logits.topk(min(top_k or logits.shape[-1], logits.shape[-1]), dim=-1)
    if row_top_k is not None:
        rank = torch.arange(logits.shape[-1], device=logits.device)
        logits = logits.masked_fill(rank >= row_top_k, -torch.inf)
    if top_p is not None:
        before = logits.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        before[..., 0] = 0
        logits = logits.masked_fill(before >= top_p, -torch.inf)
    return Candidates(logits, codes)


def sample(candidates: Candidates, uniform: Tensor) -> Tensor:
    """Sample one code (B, N) by inverting the distribution function at uniform (B, N)."""
    cumulative = candidates.logits.softmax(dim=-1).cumsum(dim=-1)
    total = cumulative[..., -1:]
    # below the total even if the product rounds up, so that a code of zero probability is never sampled
    point = torch.minimum(uniform.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    place = torch.searchsorted(cumulative, point, right=True).squeeze(-1)
    # past the last code if logits are NaN, which the caller is told of at the end
    return candidates.at(place.clamp(max=cumulative.shape[-1] - 1))


def sample_by_gumbel(candidates: Candidates, gumbel: Tensor) -> Tensor:
    """Sample one code (B, N): the one with the largest sum of logit and standard Gumbel noise (B, N, M).

    Rounding of the logits changes a code only if the two largest sums nearly tie.
    """
    return candidates.at((candidates.logits + gumbel).argmax(dim=-1))


def gumbel_temperature(ratio: float) -> float:
    """Return the temperature of the Gumbel mixture; it falls as the scales grow finer."""
    return max(0.27 * (1 - 0.95 * ratio), 0.005)


def gumbel_mixture(candidates: Candidates, gumbel: Tensor, ratio: float, codebook: Tensor) -> Tensor:
    """softmax(((1 + r) logits + Gumbel noise) / temperature) @ codebook: (B, N, D).

    gumbel: (B, N, M); ratio: r = k / (K - 1); codebook: (V, D).
    """
    mixed = ((1 + ratio) * candidates.logits + gumbel) / gumbel_temperature(ratio)
    return candidates.weighted(mixed.softmax(dim=-1), codebook)

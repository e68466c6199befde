"""How much of the codebook each scale uses: counts that add up over batches and processes, and their figures.

Shapes: B batch, K scales, N tokens of one scale, V codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodebookUsage:
    """used_share: (K,) in [0, 1], codes chosen at least once. perplexity: (K,) in [1, V], exp of the choice's entropy.

    A perplexity of V means that all codes are chosen equally often; with no token counted it is 1.
    """

    used_share: Tensor
    perplexity: Tensor


def code_counts(indices: Sequence[Tensor], codes: int) -> Tensor:
    """How often each scale chose each code: K maps of indices (B, N_k) to (K, V) int64."""
    flat = [index.flatten() for index in indices]
    # not bincount: it makes a GPU wait, and cannot run without values (a dry run)
    return torch.stack([one.new_zeros(codes).index_add_(0, one, torch.ones_like(one)) for one in flat])


def codebook_usage(counts: Tensor) -> CodebookUsage:
    """Figures of counts (K, V), summed over as many batches and processes as wanted."""
    counts = counts.double()
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    entropy = -torch.xlogy(shares, shares).sum(dim=1)
    return CodebookUsage((counts > 0).double().mean(dim=1), entropy.exp())

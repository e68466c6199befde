"""Normalisation and its adaptive modulation (AdaLN; Peebles and Xie, 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


class RMSNorm(nn.RMSNorm):
    """RMSNorm over the last dimension, with factor w (not 1 + w); the result has the input's dtype."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return super().forward(x)
        # on CPUs PyTorch's own takes five passes over memory, this takes three
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        factor = squares.div_(x.shape[-1]).add_(EPS).rsqrt_()
        return (x * factor).mul_(self.weight).to(x.dtype)


class PlainLayerNorm(nn.LayerNorm):
    """LayerNorm over the last dimension without weights."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS, elementwise_affine=False)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (B, N, C) (1 + scale) + shift, with scale and shift (B, 1, C)."""
    return torch.addcmul(shift, x, 1 + scale)


class SiluLinear(nn.Module):
    """SiLU, then a linear layer: how a condition vector becomes modulation parameters."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_width, out_width)

    def forward(self, condition: Tensor) -> Tensor:
        return self.linear(F.silu(condition))

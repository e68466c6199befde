"""A linear layer that takes its bias at the call.

Shapes: C inputs, D outputs.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """nn.Linear that takes a bias at the call in place of its own."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., C), bias (D,), to (..., D)."""
        return F.linear(x, self.weight, self.bias if bias is None else bias)

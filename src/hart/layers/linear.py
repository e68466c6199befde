"""A linear layer that is fast for few rows too: the first scales of a large model on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Measured (docs/performance.md): fewer rows gain up to 2 times, more lose to the copies of input and output.
FEW_ROWS = 96
# Smaller weights stay in the processor's cache, where there is nothing to gain.
LARGE_WEIGHT = 2**20


class Linear(nn.Linear):
    """nn.Linear; without gradients and for few rows in float32 on a CPU it is computed by oneDNN instead of MKL.

    MKL copies the whole weight into an order of its own at every call, which pays for many rows only. oneDNN
    reads it as it lies.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self._few_rows(x):
            return F.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()
        return F.linear(x, self.weight, self.bias)

    def _few_rows(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and x.numel() <= FEW_ROWS * self.in_features
            and self.weight.numel() >= LARGE_WEIGHT
            and not torch.is_grad_enabled()
            and torch.backends.mkl.is_available()
            and torch.backends.mkldnn.is_available()
        )

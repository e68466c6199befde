"""SiLU without a second copy of its input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else reads: in place where no gradient is wanted, since fresh memory is slow."""
    return F.silu(x, inplace=not torch.is_grad_enabled())

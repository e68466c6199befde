"""Activations without a second copy of their input: fresh memory costs a page fault for every 4 KB."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else reads: in place where no gradient is wanted."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def gated_silu(gate: Tensor, x: Tensor) -> Tensor:
    """silu(gate) x; where no gradient is wanted, in the memory of a gate that nobody else reads."""
    h = silu(gate)
    return h * x if torch.is_grad_enabled() else h.mul_(x)

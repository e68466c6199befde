"""A linear layer that takes its bias in the call, activations in place, and the modes that a caller may be in.

Shapes: C inputs, D outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """nn.Linear that takes a bias in the call, in place of its own."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., C), bias (D,), to (..., D)."""
        return F.linear(x, self.weight, self.bias if bias is None else bias)


def in_autocast(x: Tensor) -> bool:
    """Whether autocast is on for the device of x."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """Computing on devices of this kind, such as "cuda", in the types of the tensors, in whatever autocast one is."""
    # PyTorch refuses kinds that have none
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


@contextmanager
def own_types() -> Iterator[None]:
    """Products are in the types of their factors."""
    with without_autocast("cpu"), without_autocast("cuda"), without_autocast("mps"):
        yield


@contextmanager
def own_modes() -> Iterator[None]:
    """The same, and parameters that are made are ordinary tensors."""
    with torch.inference_mode(False), own_types():
        yield


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nothing else reads: in place unless gradients are on."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def gated_silu(gate: Tensor, x: Tensor) -> Tensor:
    """silu(gate) x, for a gate that nothing else reads: in its memory unless gradients are on."""
    h = silu(gate)
    return h * x if torch.is_grad_enabled() else h.mul_(x)

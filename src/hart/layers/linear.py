"""A linear layer that takes its bias in the call, in-place activations, and control of autocast and inference mode.

Shapes: C inputs, D outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """nn.Linear that can take a bias in the call, replacing its own."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map x (..., C), with bias (D,), to (..., D)."""
        return F.linear(x, self.weight, self.bias if bias is None else bias)


def in_autocast(x: Tensor) -> bool:
    """Return whether autocast is on for the device of x."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """Compute on devices of this kind, e.g. "cuda", in the types of the tensors, whatever autocast is active."""
    # PyTorch refuses kinds without autocast
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


@contextmanager
def own_types() -> Iterator[None]:
    """Compute products in the types of their factors, without autocast."""
    with without_autocast("cpu"), without_autocast("cuda"), without_autocast("mps"):
        yield


@contextmanager
def own_modes() -> Iterator[None]:
    """Like `own_types`; also, new parameters are ordinary tensors even in inference mode."""
    with torch.inference_mode(False), own_types():
        yield


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nothing else reads: in place unless gradients are on."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def gated_silu(gate: Tensor, x: Tensor) -> Tensor:
    """silu(gate) x, for a gate that nothing else reads: in its memory unless gradients are on."""
    h = silu(gate)
    return h * x if torch.is_grad_enabled() else h.mul_(x)

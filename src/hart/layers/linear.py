"""Linear layers: one that takes its bias at the call, and one whose weight is packed for inference on a CPU.

MKL, PyTorch's choice for float32 products on x86, copies the weight into the order that its kernel reads at every
call. A picture takes ten calls with few rows, where this copy costs as much as the product. Packing does it once.

Shapes: M rows, C inputs, D outputs.
"""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKED_DTYPES = (torch.float32, torch.bfloat16)
SMALLEST_PACKED = 2**18
"""Weights with fewer numbers stay in the processor's cache and gain nothing."""


class Linear(nn.Linear):
    """nn.Linear that takes a bias at the call in place of its own."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., C), bias (D,), to (..., D)."""
        return F.linear(x, self.weight, self.bias if bias is None else bias)


class PackedLinear(nn.Module):
    """A linear layer for inference with its weight in the order that oneDNN's kernel reads.

    It has no parameters that could be trained, moved or stored: `unpacked` gives the layer back.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.kind = type(linear)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., C), bias (D,), to (..., D)."""
        bias = self.bias if bias is None else bias
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, bias, "none", [], "")

    def _save_to_state_dict(self, *_: object) -> None:
        raise RuntimeError("a packed layer has no weights to store: unpack it first")

    def unpacked(self) -> nn.Linear:
        """The layer as it was."""
        linear = self.kind(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.packed.to_dense(), requires_grad=False)
        linear.bias = self.bias
        return linear


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether packing is there and known to gain: oneDNN on x86, float32 and bfloat16."""
    return (
        device.type == "cpu"
        and dtype in PACKED_DTYPES
        and platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
    )


def pack_linears(module: nn.Module, smallest: int = SMALLEST_PACKED) -> None:
    """Replace the linear layers inside `module` by packed ones, if their weight has `smallest` numbers or more."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and child.weight.numel() >= smallest:
                setattr(parent, name, PackedLinear(child))


def unpack_linears(module: nn.Module) -> None:
    """Undo `pack_linears`, so that weights can be read and changed."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PackedLinear):
                setattr(parent, name, child.unpacked())

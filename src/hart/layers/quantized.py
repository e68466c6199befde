"""Linear layers with 8-bit weights in plain arithmetic, which runs on any device; fast kernels are tested against it
(`hart.inference.kernels`).

A weight has one scale per output, activations get one per row in each call; both are symmetric. Products and sums of
integers are exact; only rounding to integers loses precision.

Shapes: C inputs, D outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = {torch.int8: 127, torch.float8_e4m3fn: 448}
"""The 8-bit number types, and the largest value used in each."""
SMALLEST_SCALE = 1e-30
"""Scale for rows of zeros."""


def quantized_rows(x: Tensor, dtype: torch.dtype = torch.int8, largest: int | None = None) -> tuple[Tensor, Tensor]:
    """Return x (..., C) in 8 bits, and the scale (..., 1) of each row, float32.

    largest: bound of the results; by default as in `LARGEST`.
    """
    wide = x.float()
    largest = LARGEST[dtype] if largest is None else largest
    # two passes over memory, but no copy of the absolute values
    scale = torch.maximum(wide.amax(dim=-1, keepdim=True), wide.amin(dim=-1, keepdim=True).neg_())
    scale = scale.div_(largest).clamp_(min=SMALLEST_SCALE)
    values = wide / scale
    return (values.round_() if dtype == torch.int8 else values).to(dtype), scale


Product = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Maps rows (N, C) and weight (D, C) in 8 bits with scales (N, 1) and (D,) to (N, D) float32 or bfloat16."""


def plain_product(values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    return F.linear(values.float(), weight.float()) * weight_scale * scale


class QuantizedLinear(nn.Module):
    """x W + b with W in 8 bits and x rounded to 8 bits row by row. Takes its bias in the call, like `Linear`.

    weight: (D, C), of a type in `LARGEST`. weight_scale: (D,) float32. Both keep their types, whatever the model's.
    product: the multiplication; a faster one may replace the plain one.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: nn.Parameter | None

    def __init__(self, kind: type[nn.Linear], weight: Tensor, weight_scale: Tensor, bias: nn.Parameter | None) -> None:
        """kind: class of the ordinary layer that `dequantized` returns."""
        super().__init__()
        self.kind = kind
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.bias = bias
        self.product: Product = plain_product

    def __getstate__(self) -> dict[str, Any]:
        """Restore the plain product: copies and pickles may go to any machine."""
        return super().__getstate__() | {"product": plain_product}

    @classmethod
    def of(cls, linear: nn.Linear, dtype: torch.dtype = torch.int8) -> QuantizedLinear:
        """Return a layer with the weight rounded to 8 bits; its bias is the given layer's own."""
        weight, scale = quantized_rows(linear.weight.detach(), dtype)
        return cls(type(linear), weight, scale.squeeze(-1), linear.bias).train(linear.training)

    def dequantized(self, dtype: torch.dtype) -> nn.Linear:
        """Return an ordinary layer with the values of this one's weight, frozen."""
        linear = self.kind(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter((self.weight.float() * self.weight_scale[:, None]).to(dtype), requires_grad=False)
        if self.bias is not None:
            linear.bias = self.bias
        return linear.train(self.training)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map x (..., C), with bias (D,), to (..., D) in the type of x."""
        bias = self.bias if bias is None else bias
        values, scale = quantized_rows(x.flatten(0, -2), self.weight.dtype)
        product = self.product(values, scale, self.weight, self.weight_scale)
        return (product if bias is None else product + bias).to(x.dtype).unflatten(0, x.shape[:-1])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """Move weight and scales to another device with the module, but keep their types."""
        dtype, scale = self.weight.dtype, self.weight_scale
        self.weight = self.weight.view(torch.int8)  # casts of floating-point tensors leave it alone
        super()._apply(fn, recurse)
        self.weight, self.weight_scale = self.weight.view(dtype), scale.to(self.weight.device)
        return self


def quantize_linears(module: nn.Module, smallest: int, dtype: torch.dtype = torch.int8) -> None:
    """Round linear layers inside `module` to 8 bits, in place: those whose weight has at least `smallest` numbers.

    Both sides must be multiples of 16, as kernels require.
    """
    for parent, name in places(module, nn.Linear):
        linear = getattr(parent, name)
        sides = linear.weight.shape
        if sides.numel() >= smallest and not any(side % 16 for side in sides):
            setattr(parent, name, QuantizedLinear.of(linear, dtype))


def dequantize_linears(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace 8-bit layers by ordinary ones."""
    for parent, name in places(module, QuantizedLinear):
        setattr(parent, name, getattr(parent, name).dequantized(dtype))


def places(module: nn.Module, kind: type[nn.Module]) -> list[tuple[nn.Module, str]]:
    """Return parents and names of the layers of a kind; not the layers themselves, so that each can be freed."""
    parents = [parent for parent in module.modules() if not isinstance(parent, kind)]
    return [(parent, name) for parent in parents for name, child in parent.named_children() if isinstance(child, kind)]

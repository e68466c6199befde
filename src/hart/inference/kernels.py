"""Kernels for models with 8-bit weights. `hart.layers.quantized.QuantizedLinear` is the plain equivalent of their
layers, `hart.layers.attention.attend` that of their attention.

On x86 processors oneDNN multiplies unsigned by signed bytes, with VNNI at four times the rate of float32, and at two to
three times without. Activations are shifted by 128 to be unsigned; the shift's effect on a sum depends only on the
weight, so it is computed once and subtracted as a bias (oneDNN would sum the weight in every call, on AVX2 with one
thread). Where sums of two products would overflow the 16 bits of an older instruction (AVX2 only), activations are
rounded to 7 bits. On NVIDIA GPUs the products are torch's own.

Shapes: C inputs, D outputs, N rows. For attention: B batch, H heads, N queries, P keys, d head width.
"""

from __future__ import annotations

import itertools
import platform
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.devices import dtype_name
from hart.inference.packing import Packed
from hart.layers.attention import Attention, attend
from hart.layers.linear import own_modes
from hart.layers.quantized import Product, QuantizedLinear, places, plain_product, quantized_rows
from hart.layers.sharing import whole
from hart.model import Hart
from hart.strict import reason

ACTIVATION_BITS = (8, 7)
SMALLEST_INT_MM_ROWS = 17
"""Fewest rows for which cuBLAS supports integer products."""
SCORES = 2**20
"""Most attention scores held at once, as products and as weights, so that they stay in the processor's cache."""


class PackedInt8Linear(Packed):
    """An 8-bit layer that uses oneDNN's kernels."""

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        self.kind = layer.kind
        self.bias = layer.bias
        self.weight_scale = layer.weight_scale
        self.packed = packed_int8(layer.weight)
        self.largest = int8_range()
        self.shift_back = shift_back(self.packed, layer.weight_scale, self.largest)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map x (..., C), with bias (D,), to (..., D) in the type of x."""
        values, scale = quantized_rows(x, largest=self.largest)
        product = packed_int8_product(unsigned(values, self.largest), self.packed, self.weight_scale, self.shift_back)
        bias = self.bias if bias is None else bias
        scaled = product.mul_(scale) if bias is None else torch.addcmul(bias.float(), product, scale, out=product)
        return scaled.to(x.dtype)

    def plain(self) -> QuantizedLinear:
        weight = self.packed.to_dense().t().contiguous()
        return QuantizedLinear(self.kind, weight, self.weight_scale, self.bias)

    def __reduce__(self) -> tuple[Any, ...]:
        return with_kernel, (self.plain(), self.packed.device)


def int_mm_product(values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """A `Product` of integers on NVIDIA GPUs."""
    rows = len(values)
    if rows < SMALLEST_INT_MM_ROWS:
        values = F.pad(values, (0, 0, 0, SMALLEST_INT_MM_ROWS - rows))
    return torch._int_mm(values, weight.t())[:rows] * weight_scale * scale


def scaled_mm_product(values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """A `Product` of 8-bit floats on NVIDIA GPUs from Ada on; in bfloat16, the only type that all of them return."""
    return torch._scaled_mm(values, weight.t(), scale_a=scale, scale_b=weight_scale[None], out_dtype=torch.bfloat16)


GPU_PRODUCTS: dict[torch.dtype, Product] = {torch.int8: int_mm_product, torch.float8_e4m3fn: scaled_mm_product}


@torch.inference_mode()
def narrow_attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """An `Attend` in bfloat16, scores included, a few heads at a time, or some of the queries of one head.

    On processors with only AVX-512 bf16, the products equal those of PyTorch's fused kernel, but three times as fast.
    """
    (rows, heads, queries, _), keys = q.shape, k.shape[2]
    q, k, v = (q * scale).bfloat16(), k.bfloat16(), v.bfloat16()
    length = min(queries, max(1, SCORES // keys))
    together = min(heads, max(1, SCORES // (length * keys)))
    scores, result = q.new_empty(2, together, length, keys), torch.empty(q.shape, dtype=q.dtype, device=q.device)
    parts = itertools.product(range(rows), range(0, heads, together), range(0, queries, length))
    for row, head, query in parts:
        part, those = slice(head, head + together), slice(query, query + length)
        asked, found = q[row, part, those], result[row, part, those]
        products, weights = scores[:, : asked.shape[0], : asked.shape[1]]
        torch.bmm(asked, k[row, part].transpose(1, 2), out=products)
        torch.softmax(products, dim=-1, out=weights)
        torch.bmm(weights, v[row, part], out=found)
    return result


@cache
def attends_narrowly() -> bool:
    """Return whether `narrow_attend` is fastest on this processor: with AMX, PyTorch's own kernel uses that."""
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16")) and not features.get("amx_tile") and torch.backends.mkldnn.is_available()


@cache
@own_modes()
def int8_range() -> int:
    """Return the largest integer that activations are rounded to on this processor; 0 if it has no kernel.

    Determined once, by products of the largest numbers, whose sums overflow first.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return 0
    for bits in ACTIVATION_BITS:
        largest = 2 ** (bits - 1) - 1
        weight, exact = torch.full((96, 64), 127, dtype=torch.int8, device="cpu"), True
        weight[1::2] = -127
        scale = torch.ones(96, dtype=torch.float32, device="cpu")
        try:
            packed = packed_int8(weight)
            for rows in (1, 40):
                values = torch.full((rows, 64), largest, dtype=torch.int8, device="cpu")
                values[1::3] = -largest
                back = shift_back(packed, scale, largest)
                product = packed_int8_product(unsigned(values.clone(), largest), packed, scale, back)
                exact = exact and torch.equal(product, F.linear(values.float(), weight.float()))
        except (AttributeError, RuntimeError, TypeError):  # the operators are private, and may change or disappear
            return 0
        if exact:
            return largest
    return 0


def kernel_refusal(dtype: torch.dtype, device: torch.device) -> str | None:
    """Return why products of an 8-bit type have no kernel on a device; None if they have one."""
    if device.type == "cuda":
        return gpu_refusal(dtype, device)
    if device.type == "cpu" and dtype == torch.int8:
        return None if int8_range() else "this processor has no 8-bit kernels in this PyTorch"
    return f"{dtype_name(dtype)} has no kernel on {device.type}"


@cache
@own_modes()
def gpu_refusal(dtype: torch.dtype, device: torch.device) -> str | None:
    """Return `kernel_refusal` for a GPU. Determined once, by multiplying: some GPU generations only have kernels for
    one scale per matrix, or for certain numbers of rows."""
    numbers = torch.linspace(-1, 1, 96 * 64, dtype=torch.float32, device=device).view(96, 64)
    weight, weight_scale = quantized_rows(numbers, dtype)
    try:
        for rows in (1, 18, 50):
            values, scale = quantized_rows(numbers[:rows], dtype)
            given = values, scale, weight, weight_scale.squeeze(-1)
            if not torch.allclose(GPU_PRODUCTS[dtype](*given).float(), plain_product(*given), 2e-2, 2e-2):
                return "its products differ from the plain ones"
    except (RuntimeError, ValueError) as error:
        return reason(error)
    return None


def give_kernels(module: nn.Module) -> None:
    """Let the 8-bit layers inside `module` multiply with their device's kernels, if it has any; in place.

    The attention beside them also gets its fastest kernel.
    """
    for parent, name in places(module, QuantizedLinear):
        layer = getattr(parent, name)
        setattr(parent, name, with_kernel(layer, layer.weight.device))
    found = places(module, QuantizedLinear) + places(module, PackedInt8Linear)
    if not found or not attends_narrowly():
        return
    for attention in {parent for parent, _ in found if isinstance(parent, Attention)}:
        if attention.q_bias.device.type == "cpu":
            attention.attend = narrow_attend


def decelerate(module: nn.Module) -> None:
    """Undo `hart.inference.speed.accelerate`, in place: plain equivalents in new memory. Weights rounded to 8 bits stay
    so; see `hart.layers.quantized.dequantize_linears`."""
    for parent, name in places(module, Packed):
        setattr(parent, name, getattr(parent, name).plain())
    if isinstance(module, Hart):
        module.transformer.share, module.transformer.null_token = whole, None
    for layer in module.modules():
        if isinstance(layer, Attention):
            layer.attend = attend
        elif isinstance(layer, QuantizedLinear):
            layer.product = plain_product


def with_kernel(layer: QuantizedLinear, device: torch.device) -> nn.Module:
    """Return the layer that multiplies by the fastest kernel of the device that it is, or will be, on."""
    dtype = layer.weight.dtype
    if kernel_refusal(dtype, device) is not None:
        return layer
    if device.type == "cpu":
        return PackedInt8Linear(layer)
    layer.product = GPU_PRODUCTS[dtype]
    return layer


def packed_int8(weight: Tensor) -> Tensor:
    """Return an 8-bit weight (D, C) in the memory order of oneDNN's kernels."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight, None)
    return packed


def unsigned(values: Tensor, largest: int) -> Tensor:
    """Shift int8 numbers of at most `largest` to be unsigned, in their own memory."""
    return values.view(torch.uint8).add_(largest + 1)  # the sums wrap around


def shift_back(packed: Tensor, weight_scale: Tensor, largest: int) -> Tensor:
    """Return the effect of `unsigned` on products with a packed weight, to be subtracted: (D,) float32."""
    # their product is the sum of the weight, computed fast
    ones = torch.ones(1, packed.shape[0], dtype=torch.uint8, device="cpu")
    return packed_int8_product(ones, packed, weight_scale, None)[0].mul_(-(largest + 1))


def packed_int8_product(values: Tensor, packed: Tensor, weight_scale: Tensor, back: Tensor | None) -> Tensor:
    """Multiply `unsigned` values (..., C) by a packed weight, exactly except for the scales (D,): (..., D) float32.

    back: from `shift_back`, for values that were shifted.
    """
    zero = torch.zeros_like(weight_scale, dtype=torch.int32)
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        values, 1.0, 0, packed, weight_scale, zero,
        back, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return product

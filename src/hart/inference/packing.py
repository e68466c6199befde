"""Linear layers with weights in the memory order of oneDNN's kernels, for inference on x86 processors.

MKL, PyTorch's choice for float32 products on x86, reorders the weight at every call. An image takes ten calls with few
rows, for which the reordering costs as much as the product. Packing does it once. The packed weight is the only copy;
the plain one is computed from it on demand. Where MKL is generally slower, attention uses oneDNN too.

Packing calls operators that are private to PyTorch and missing on some processors: `packing_refusal` tries them, and
layers stay plain if they fail.

Shapes: C inputs, D outputs.
"""

from __future__ import annotations

import copy
import logging
import platform
from functools import cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.devices import dtype_name
from hart.inference.threads import MOST_THREADS, begin_threads, single_threads
from hart.layers.attention import Attention, attend
from hart.layers.linear import own_modes
from hart.layers.quantized import places
from hart.model import Hart
from hart.strict import reason

PACKED_DTYPES = (torch.float32, torch.bfloat16)
FEWEST_QUERIES = 96
"""Fewest queries for which `packed_attend` is known to be faster."""
SCORES = 2**19
"""Most attention scores held at once, so that they stay in the processor's cache."""
SMALLEST_PACKED = 2**16
"""Smaller weights stay in the processor's cache and gain nothing."""

log = logging.getLogger(__name__)


class Packed(nn.Module):
    """A layer whose weight `packed` is in the kernels' order; copied, pickled and stored like its plain equivalent."""

    packed: Tensor

    def plain(self) -> nn.Module:
        """Return the plain equivalent, with its weight in new memory and this layer's own bias."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Share the packed weight, which nothing writes to."""
        twin = type(self).__new__(type(self))
        own = {name: copy.copy(value) if isinstance(value, dict) else value for name, value in vars(self).items()}
        twin.__dict__.update(own, _parameters=copy.deepcopy(self._parameters, memo))
        return twin

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self.plain()._save_to_state_dict(destination, prefix, keep_vars)


class PackedLinear(Packed):
    """A linear layer for inference."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.kind = type(linear)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.packed = pack_weight(linear.weight.detach())

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map x (..., C), with bias (D,), to (..., D)."""
        return packed_linear(x, self.packed, self.bias if bias is None else bias)

    def plain(self) -> nn.Linear:
        linear = self.kind(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.packed.to_dense(), requires_grad=False)
        linear.bias = self.bias
        return linear

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a plain layer, which is packed again if the processor that loads it can."""
        return _restored, (self.plain(),)


@cache
@own_modes()
def packing_refusal(dtype: torch.dtype) -> str | None:
    """Return why weights of this type stay plain on this machine; None if packing works and is known to be faster.

    Determined once, by packing and multiplying: only oneDNN knows whether a processor has a kernel.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "packing is known to be faster on x86 processors only"
    if dtype not in PACKED_DTYPES:
        return "packing is for float32 and bfloat16"
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch is built without oneDNN"
    weight = torch.linspace(-1, 1, 96 * 64, dtype=dtype, device="cpu").view(96, 64)
    bias = weight[:, 0].contiguous()
    try:
        packed = pack_weight(weight)
        agrees = torch.equal(packed.to_dense(), weight)
        for rows in (1, 40):
            x = torch.linspace(-1, 1, rows * 64, dtype=dtype, device="cpu").view(1, rows, 64)
            agrees = agrees and torch.allclose(
                packed_linear(x, packed, bias).float(), F.linear(x.float(), weight.float(), bias.float()), 2e-2, 2e-2
            )
    except RuntimeError as error:
        log.info("packing in %s: %s", dtype, reason(error))  # in oneDNN's words
        return f"this processor has no packed products in {dtype_name(dtype)}"
    except (AttributeError, TypeError) as error:  # the operators are private, and may change or disappear
        return reason(error)
    return None if agrees else "oneDNN's packed product differs from the plain one"


@cache
@own_modes()
def treats_rows_alike() -> bool:
    """Return whether a row of a packed float32 product is bit for bit the same whatever rows stand beside it.

    Determined once, by multiplying: oneDNN 3.10, of PyTorch 2.11, with AVX2 only sums the last rows of a product, those
    that do not fill a block, in another order. True if nothing is packed.
    """
    if packing_refusal(torch.float32) is not None:
        return True
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(160, 64, generator=generator, dtype=torch.float32, device="cpu")
    weight, x = numbers.split((96, 64))
    packed = pack_weight(weight)
    whole = packed_linear(x, packed, None)
    return all(torch.equal(packed_linear(x[:rows], packed, None), whole[:rows]) for rows in range(1, len(x)))


def pack(hart: Hart) -> None:
    """Pack the large linear layers of a model, in place, if that makes generation faster."""
    weight = hart.transformer.word_embed.weight
    if weight.device.type != "cpu":
        return
    if (refusal := packing_refusal(weight.dtype)) is not None:
        log.info("linear layers in %s are not packed: %s", weight.dtype, refusal)
        return
    for part in (hart.transformer.blocks, hart.residual and hart.residual.denoiser):
        if part is not None:
            pack_linears(part)
    if weight.dtype != torch.float32:
        return
    pack_linears(hart.transformer.head)  # always multiplies in float32, whatever the model's type
    if attends_by_onednn():
        begin_threads()
        for layer in hart.transformer.blocks.modules():
            if isinstance(layer, Attention):
                layer.attend = packed_attend


def pack_linears(module: nn.Module, smallest: int = SMALLEST_PACKED) -> None:
    """Replace linear layers inside `module` whose weight has at least `smallest` numbers by packed ones."""
    for parent, name in places(module, nn.Linear):
        linear = getattr(parent, name)
        if linear.weight.numel() >= smallest:
            setattr(parent, name, PackedLinear(linear))


def is_packed(module: nn.Module) -> bool:
    """Return whether any layer inside is packed."""
    return any(isinstance(layer, PackedLinear) for layer in module.modules())


@torch.inference_mode()
def packed_attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """An `hart.layers.attention.Attend` in float32 by oneDNN's products, for a head or some of its queries at a time.

    One head does not keep several threads busy, so each thread gets its own heads. Keys of other types, few queries and
    many threads are left to PyTorch's kernel.
    """
    queries, threads = q.shape[2], torch.get_num_threads()
    if k.dtype != torch.float32 or queries < FEWEST_QUERIES or threads > MOST_THREADS:
        return attend(q, k, v, scale)
    q = q * scale
    result = torch.empty_like(q)
    if threads == 1:
        attend_heads(q, k, v, result)
    else:
        shares = (x.chunk(threads, dim=1) for x in (q, k, v, result))
        list(single_threads(threads).map(attend_heads, *shares))
    return result


@torch.inference_mode()
def attend_heads(q: Tensor, k: Tensor, v: Tensor, result: Tensor) -> None:
    """Write the attention of scaled queries (B, H, N, d), head by head, into `result`."""
    length = max(1, SCORES // k.shape[2])
    for row in zip(q, k, v.transpose(2, 3), result, strict=True):
        for queries, keys, values, found in zip(*row, strict=True):
            for some, place in zip(queries.split(length), found.split(length), strict=True):
                scores = packed_linear(some, keys, None)
                torch.softmax(scores, dim=-1, out=scores)
                place.copy_(packed_linear(scores, values, None))


@cache
def attends_by_onednn() -> bool:
    """Return whether `packed_attend` is fastest: MKL, which PyTorch's kernel multiplies with, only uses AVX-512 on
    Intel processors."""
    features = torch.cpu.get_capabilities()
    is_amd = str(features.get("cpu_name", "")).startswith("AMD")
    return is_amd and bool(features.get("avx512_f")) and packing_refusal(torch.float32) is None


def _restored(linear: nn.Linear) -> nn.Module:
    return linear if packing_refusal(linear.weight.dtype) is not None else PackedLinear(linear)


def pack_weight(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product

"""Layers of 8 bits: kernels compute what the plain twin does, and the twin what rounding to 8 bits means."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from hart.inference import kernels
from hart.inference.kernels import (
    PackedInt8Linear,
    decelerate,
    give_kernels,
    gpu_refusal,
    int8_range,
    int_mm_product,
    narrow_attend,
    scaled_mm_product,
)
from hart.layers.attention import Attention, attend
from hart.layers.linear import Linear
from hart.layers.quantized import (
    LARGEST,
    QuantizedLinear,
    dequantize_linears,
    plain_product,
    quantize_linears,
    quantized_rows,
)
from hart.training.dry_run import LiveBytes
from helpers import random_tensor, same_weights

CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(not int8_range(), reason="this processor has no 8-bit kernels")


def layer(dtype: torch.dtype = torch.int8, bias: bool = True) -> tuple[nn.Linear, QuantizedLinear]:
    plain = Linear(64, 96, bias=bias).requires_grad_(False)
    return plain, QuantizedLinear.of(plain, dtype)


@pytest.mark.parametrize("dtype", LARGEST)
def test_rows_are_rounded_each_to_its_own_scale(dtype: torch.dtype) -> None:
    x = random_tensor(3, 5, 64) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    x[0, 0] = 0
    values, scale = quantized_rows(x, dtype)
    assert values.dtype == dtype
    assert torch.equal(values.float().abs().amax(-1)[1:], torch.full((2, 5), float(LARGEST[dtype])))
    step = scale if dtype == torch.int8 else x.abs() / 8  # floats of 8 bits have 3 bits of fraction
    assert ((values.float() * scale - x).abs() <= 0.501 * step + 2**-9 * scale).all()
    assert not (values[0, 0].float() * scale[0, 0]).any()


@pytest.mark.parametrize("dtype", LARGEST)
def test_the_twin_is_the_product_of_rounded_numbers(dtype: torch.dtype) -> None:
    plain, rounded = layer(dtype)
    x, bias = random_tensor(2, 7, 64), random_tensor(96)
    values, scale = quantized_rows(x, dtype)
    expected = (values.double() * scale) @ rounded.dequantized(torch.float64).weight.double().T
    torch.testing.assert_close(rounded(x).double(), expected + plain.bias.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rounded(x, bias).double(), expected + bias.double(), rtol=1e-5, atol=1e-5)
    assert (rounded(x) - plain(x)).std() < (0.02 if dtype == torch.int8 else 0.06) * plain(x).std()


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_is_the_product_of_numbers_rounded_as_the_processor_asks(dtype: torch.dtype) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for bias in (True, False):
        plain, twin = layer(bias=bias)
        packed, given = PackedInt8Linear(twin), random_tensor(96).to(dtype)
        for rows in (1, 7, 130):
            x = random_tensor(2, rows, 64, seed=rows).to(dtype)
            values, scale = quantized_rows(x, largest=int8_range())
            product = plain_product(values, scale, twin.weight, twin.weight_scale)
            own = product if plain.bias is None else product + plain.bias
            torch.testing.assert_close(packed(x), own.to(dtype), rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(packed(x, given), (product + given).to(dtype), rtol=tolerance, atol=tolerance)


def has_row_scales() -> bool:
    """Whether this PyTorch multiplies 8-bit floats with a scale for each row on processors: 2.11 does on GPUs alone."""
    ones = torch.ones(16, 16).to(torch.float8_e4m3fn)
    try:
        scaled_mm_product(ones, torch.ones(16, 1), ones, torch.ones(16))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize(
    ("product", "dtype", "tolerance"),
    [
        (int_mm_product, torch.int8, 1e-5),
        pytest.param(
            scaled_mm_product,
            torch.float8_e4m3fn,
            1e-2,
            marks=pytest.mark.skipif(not has_row_scales(), reason="this PyTorch has no such product on processors"),
        ),
    ],
)
def test_products_for_gpus_equal_the_plain_one(product: object, dtype: torch.dtype, tolerance: float) -> None:
    """Their operators have forms for processors too."""
    weight, weight_scale = quantized_rows(random_tensor(96, 64), dtype)
    for rows in (1, 17, 40):
        values, scale = quantized_rows(random_tensor(rows, 64, seed=rows), dtype)
        expected = plain_product(values, scale, weight, weight_scale.squeeze(1))
        found = product(values, scale, weight, weight_scale.squeeze(1))  # type: ignore[operator]
        assert (found.float() - expected).abs().max() < tolerance * expected.abs().max()


@needs_kernels
def test_kernels_come_and_go_and_layers_stay_the_same() -> None:
    net = nn.Sequential(nn.Linear(64, 96), Linear(96, 32, bias=False), nn.Linear(32, 10)).requires_grad_(False)
    quantize_linears(net, smallest=1)
    assert isinstance(net[2], nn.Linear)  # 10 is no multiple of 16
    state, x = {name: value.clone() for name, value in net.state_dict().items()}, random_tensor(3, 64)
    give_kernels(net)
    for twin in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert isinstance(twin[0], PackedInt8Linear)
        assert torch.equal(twin(x), net(x))
        assert same_weights(twin, state)
    decelerate(net)
    assert isinstance(net[0], QuantizedLinear)
    dequantize_linears(net, torch.float32)
    assert type(net[1]) is Linear
    twin = QuantizedLinear.of(net[1])
    assert torch.equal(twin.weight, state["1.weight"])  # rounding twice is rounding once


@pytest.mark.parametrize("dtype", LARGEST)
def test_changing_the_type_of_a_model_leaves_8_bits_alone(dtype: torch.dtype) -> None:
    _, rounded = layer(dtype)
    before, scale = rounded.weight.float(), rounded.weight_scale.clone()
    rounded.to(torch.bfloat16)
    assert (rounded.weight.dtype, rounded.bias.dtype) == (dtype, torch.bfloat16)  # type: ignore[union-attr]
    assert torch.equal(rounded.weight.float(), before)
    assert torch.equal(rounded.weight_scale, scale)


@pytest.mark.parametrize("dtype", LARGEST)
def test_a_gpu_without_right_products_of_8_bits_is_found_by_multiplying(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Whatever its generation."""

    def refusing(*given: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")

    for product, refusal in (
        (plain_product, None),
        (lambda *given: plain_product(*given) * 1.1, "its products differ from the plain ones"),
        (refusing, "CUBLAS_STATUS_NOT_SUPPORTED"),
    ):
        monkeypatch.setitem(kernels.GPU_PRODUCTS, dtype, product)
        gpu_refusal.cache_clear()
        assert gpu_refusal(dtype, CPU) == refusal
    gpu_refusal.cache_clear()


@pytest.mark.parametrize(
    ("queries", "keys", "scores"),
    [(1, 9, 18), (7, 40, 560), (7, 40, 120), (7, 40, 10)],  # two heads of three at a time, three queries, one
)
def test_attention_in_bfloat16_is_that_of_its_twin(
    monkeypatch: pytest.MonkeyPatch, queries: int, keys: int, scores: int
) -> None:
    monkeypatch.setattr(kernels, "SCORES", scores)
    q = torch.randn(2, queries, 3, 16, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    k, v = torch.randn(2, 2, 3, 64, 16, generator=torch.Generator().manual_seed(1))[..., :keys, :]
    exact = attend(q, k, v, 0.25)
    found = narrow_attend(q, k.bfloat16(), v.bfloat16(), 0.25).float()
    assert (found - exact).norm() < 0.02 * exact.norm()


def test_attention_in_bfloat16_holds_few_scores() -> None:
    """However many one head has, which at 1024 px are 38 million of the 0.7B model."""
    q = torch.empty(1, 2, 4096, 64, device="meta")
    k, v = torch.empty(2, 1, 2, 9451, 64, device="meta", dtype=torch.bfloat16)
    with LiveBytes() as live:
        result = narrow_attend(q, k, v, 0.25)
    queries_and_result, seen = 2 * result.nbytes, k.nbytes + v.nbytes
    assert live.peak <= queries_and_result + seen + 2 * torch.bfloat16.itemsize * kernels.SCORES


@pytest.mark.parametrize("narrow", [True, False])
def test_attention_of_8_bits_is_narrow_where_that_is_faster(monkeypatch: pytest.MonkeyPatch, narrow: bool) -> None:
    monkeypatch.setattr(kernels, "attends_narrowly", lambda: narrow)
    attention = Attention(128, 2, qk_norm=False)
    give_kernels(attention)
    assert attention.attend is attend
    quantize_linears(attention, 1)
    give_kernels(attention)
    assert attention.attend is (narrow_attend if narrow else attend)
    for twin in (copy.deepcopy(attention), pickle.loads(pickle.dumps(attention))):  # for another processor
        assert twin.attend is attend
    decelerate(attention)
    assert attention.attend is attend

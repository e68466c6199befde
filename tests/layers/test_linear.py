"""Packed linear layers compute what the plain ones do, and give them back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hart.layers.linear import PACKED_DTYPES, Linear, PackedLinear, can_pack, pack_linears, unpack_linears

pytestmark = pytest.mark.skipif(
    not can_pack(torch.device("cpu"), torch.float32), reason="packing is for x86 processors with oneDNN"
)


@pytest.mark.parametrize("dtype", PACKED_DTYPES)
@pytest.mark.parametrize("rows", [1, 7, 130])
def test_packed_equals_plain(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    linear = nn.Linear(64, 96).to(dtype).requires_grad_(False)
    x = torch.randn(2, rows, 64).to(dtype)
    torch.testing.assert_close(PackedLinear(linear)(x), linear(x))


def test_a_bias_at_the_call_takes_the_place_of_the_own() -> None:
    linear, bias, x = Linear(32, 48).requires_grad_(False), torch.randn(48), torch.randn(5, 32)
    expected = x @ linear.weight.T + bias
    torch.testing.assert_close(linear(x, bias), expected)
    torch.testing.assert_close(PackedLinear(linear)(x, bias), expected)


def test_unpacking_gives_the_same_layers_back() -> None:
    net = nn.Sequential(Linear(64, 96, bias=False), nn.Sequential(nn.GELU(), nn.Linear(96, 32))).requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kinds = [type(module) for module in net.modules()]
    pack_linears(net, smallest=64 * 96)
    assert isinstance(net[0], PackedLinear)
    assert isinstance(net[1][1], nn.Linear)  # too small to gain
    unpack_linears(net)
    assert [type(module) for module in net.modules()] == kinds
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_packed_layer_is_never_stored_without_its_weights() -> None:
    net = nn.Sequential(nn.Linear(64, 64))
    pack_linears(net, smallest=1)
    with pytest.raises(RuntimeError, match="unpack"):
        net.state_dict()

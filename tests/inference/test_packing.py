"""Packed linear layers compute what plain ones do, are plain ones to others, and stay away where they cannot be."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hart.inference import packing
from hart.inference.kernels import decelerate, int8_range
from hart.inference.packing import (
    PACKED_DTYPES,
    PackedLinear,
    is_packed,
    pack,
    pack_linears,
    packed_attend,
    packed_linear,
    packing_refusal,
    treats_rows_alike,
)
from hart.layers.attention import attend
from hart.layers.linear import Linear
from helpers import random_tensor, same_weights, tiny_model, tiny_text_config

needs_packing = pytest.mark.skipif(packing_refusal(torch.float32) is not None, reason="this processor does not pack")


@pytest.fixture
def asked_again() -> Iterator[None]:
    """The processor is asked anew, in a test and after it."""
    trials = packing_refusal, treats_rows_alike, int8_range
    for trial in trials:
        trial.cache_clear()
    yield
    for trial in trials:
        trial.cache_clear()


@pytest.mark.parametrize("dtype", PACKED_DTYPES)
def test_packed_equals_plain(dtype: torch.dtype) -> None:
    if packing_refusal(dtype) is not None:
        pytest.skip("this processor does not pack")
    linear, bias = Linear(64, 96).to(dtype).requires_grad_(False), random_tensor(96).to(dtype)
    for rows in (1, 7, 130):
        x = random_tensor(2, rows, 64, seed=rows).to(dtype)
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x))
        torch.testing.assert_close(PackedLinear(linear)(x, bias), nn.functional.linear(x, linear.weight, bias))


@pytest.mark.usefixtures("asked_again")
@pytest.mark.parametrize("trial", [packing_refusal, treats_rows_alike, int8_range])
def test_trials_of_the_processor_do_not_depend_on_the_callers_modes(trial: Any) -> None:
    given = (torch.float32,) if trial is packing_refusal else ()
    expected, dtype = trial(*given), torch.get_default_dtype()
    trial.cache_clear()
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu"):
            assert trial(*given) == expected
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(dtype)


@needs_packing
@pytest.mark.usefixtures("asked_again")
def test_products_whose_rows_depend_on_each_other_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_blocks(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        product = packed_linear(x, packed, bias)
        left = len(x) % 6
        return torch.cat([product[: len(x) - left], product[len(x) - left :] * (1 + 1e-6)])

    monkeypatch.setattr(packing, "packed_linear", by_blocks)
    assert not treats_rows_alike()


@needs_packing
def test_unpacking_gives_the_same_layers_back() -> None:
    net = nn.Sequential(Linear(64, 96, bias=False), nn.Sequential(nn.GELU(), nn.Linear(96, 32))).requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kinds = [type(module) for module in net.modules()]
    pack_linears(net, smallest=64 * 96)
    assert isinstance(net[0], PackedLinear)
    assert isinstance(net[1][1], nn.Linear)  # too small to gain
    decelerate(net)
    assert [type(module) for module in net.modules()] == kinds
    assert same_weights(net, before)


@needs_packing
def test_copies_pickles_and_states_are_those_of_plain_layers() -> None:
    net = nn.Sequential(nn.Linear(64, 96), Linear(96, 32, bias=False)).requires_grad_(False)
    before, x = {name: value.clone() for name, value in net.state_dict().items()}, random_tensor(3, 64)
    pack_linears(net, smallest=1)
    assert same_weights(net, before)
    assert list(net.state_dict()) == list(before)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), copy.copy(net)):
        assert is_packed(twin)
        assert torch.equal(twin(x), net(x))
        assert same_weights(twin, before)
    twin = copy.deepcopy(net)
    twin[0].bias.fill_(7)
    assert same_weights(net, before)


@needs_packing
@pytest.mark.parametrize(
    ("queries", "keys", "kept"), [(150, 331, torch.float32), (150, 331, torch.bfloat16), (3, 7, torch.float32)]
)
def test_packed_attention_is_attention(
    queries: int, keys: int, kept: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SCORES", 40 * keys)  # so that queries go in parts
    q, cache = random_tensor(2, 3, queries, 16, seed=1), random_tensor(2, 2, 3, keys + 5, 16, seed=2).to(kept)
    k, v = cache[:, :, :, :keys]  # a part of a longer cache
    torch.testing.assert_close(packed_attend(q, k, v, 0.3), attend(q, k, v, 0.3))


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by_onednn", [True, False])
def test_float32_is_packed_whole_and_attends_by_the_fastest(
    dtype: torch.dtype, by_onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "attends_by_onednn", lambda: by_onednn)
    hart = tiny_model(tiny_text_config(width=512, heads=4, depth=1))[1].to(dtype).requires_grad_(False)
    plain, h = copy.deepcopy(hart), random_tensor(2, 9, 512).to(dtype)
    pack(hart)
    # the head multiplies in float32, whatever the model's type
    assert is_packed(hart.transformer.head) == (dtype == torch.float32)
    torch.testing.assert_close(hart.transformer.head.logits(h), plain.transformer.head.logits(h))
    fastest = packed_attend if by_onednn and dtype == torch.float32 else attend
    assert hart.transformer.blocks[0].attention.attend is fastest
    for twin in (copy.deepcopy(hart), pickle.loads(pickle.dumps(hart))):  # for another processor
        assert twin.transformer.blocks[0].attention.attend is attend
    decelerate(hart)
    assert hart.transformer.blocks[0].attention.attend is attend
    assert same_weights(hart, plain)


class Broken:
    """In place of `torch.ops.mkldnn`: operators that are missing, refuse, or compute something else."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getattr__(self, name: str) -> object:
        if self.kind == "missing":
            raise AttributeError(f"no attribute {name!r}")
        return lambda weight, *_: self.call(weight, name)

    def call(self, x: Tensor, name: str) -> Tensor:
        if self.kind == "refusing" or (self.kind == "refusing to multiply" and name == "_linear_pointwise"):
            raise RuntimeError("could not create a primitive\nat some line")
        return x.to_mkldnn() if name == "_reorder_linear_weight" else torch.ones(*x.shape[:-1], 96)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no attribute '_reorder_linear_weight'"),
        ("refusing", "this processor has no packed products in float32"),
        ("refusing to multiply", "this processor has no packed products in float32"),
        ("wrong", "differs from the plain one"),
    ],
)
def test_operators_that_do_not_serve_leave_layers_plain(
    kind: str, reason: str, asked_again: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hart.inference.packing.platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.ops, "mkldnn", Broken(kind), raising=False)
    hart = tiny_model(tiny_text_config(width=512, heads=4, depth=1))[1]
    with caplog.at_level(logging.INFO, "hart"):
        pack(hart)
    assert not is_packed(hart)
    assert reason in (packing_refusal(torch.float32) or "")
    assert reason in caplog.text


def test_other_machines_and_types_are_not_tried(asked_again: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", Broken("missing"), raising=False)
    monkeypatch.setattr("hart.inference.packing.platform.machine", lambda: "arm64")
    assert "x86" in (packing_refusal(torch.float32) or "")
    packing_refusal.cache_clear()
    monkeypatch.setattr("hart.inference.packing.platform.machine", lambda: "AMD64")
    assert "float32 and bfloat16" in (packing_refusal(torch.float16) or "")

"""The ways to train attention over scales give one result and one gradient; none holds more gradients than it must."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import flex_attention

from hart.layers.training_attention import SHORT_ON_CPU, block_causal_attention, flexible_attention, prefix_attention
from hart.training.dry_run import LiveBytes
from helpers import random_tensor

Way = Callable[[Tensor, Tensor, Tensor, Sequence[int], float], Tensor]


def inputs(tokens: int, width: int = 8) -> list[Tensor]:
    return [random_tensor(2, 2, tokens, width, seed=seed).requires_grad_() for seed in range(3)]


def dense(q: Tensor, k: Tensor, v: Tensor, segments: Sequence[int], scale: float) -> Tensor:
    group = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor(segments))
    return F.scaled_dot_product_attention(q, k, v, group[:, None] >= group, scale=scale)


def slice_by_slice(q: Tensor, k: Tensor, v: Tensor, segments: Sequence[int], scale: float) -> Tensor:
    ends = torch.tensor(segments).cumsum(0).tolist()
    parts = zip(q.split(list(segments), dim=2), ends, strict=True)
    return torch.cat([F.scaled_dot_product_attention(p, k[:, :, :e], v[:, :, :e], scale=scale) for p, e in parts], 2)


def result(way: Way, segments: Sequence[int]) -> list[Tensor]:
    """The output and the gradients of queries, keys and values."""
    given = inputs(sum(segments))
    out = way(*given, segments, 0.3)
    return [out, *torch.autograd.grad((out * out.detach().sin()).sum(), given)]


@pytest.mark.parametrize("way", [block_causal_attention, prefix_attention, flexible_attention])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_all_ways_agree(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch refuses gradients of FlexAttention on a CPU, where its plain form has them all the same
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    for segments in ([3, 1, 4, 9, 5], [1], [2, 2]):
        torch.testing.assert_close(result(way, segments), result(dense, segments))


@given(segments=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_any_scales(segments: list[int]) -> None:
    torch.testing.assert_close(result(prefix_attention, segments), result(dense, segments))


def test_long_sequences_go_scale_by_scale_and_never_hold_a_gradient_a_scale() -> None:
    segments = [SHORT_ON_CPU // 16] * 17
    whole = inputs(sum(segments))[0].nbytes

    def peak(way: Way) -> float:
        """The most that the backward pass holds, in gradients of the keys."""
        given = inputs(sum(segments))
        with LiveBytes() as live:
            out = way(*given, segments, 0.3)
            before = live.peak = live.now
            out.sum().backward()
        return (live.peak - before) / whole

    assert peak(block_causal_attention) == peak(prefix_attention) < peak(slice_by_slice) - 0.9

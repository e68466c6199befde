"""Attention against a dense mask written out, and the cache against no cache."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hart.layers.attention import PUBLISHED_SCALE, Attention
from hart.layers.kv_cache import KVCache
from hart.layers.rope import Rotation, rotation_1d
from helpers import random_tensor, randomize

WIDTH, HEADS = 16, 2


def attention(*, qk_norm: bool) -> Attention:
    layer = Attention(WIDTH, HEADS, qk_norm=qk_norm)
    randomize(layer)
    return layer


def attended(layer: Attention, x: Tensor, rotation: Rotation | None = None, **seen: Any) -> Tensor:
    return layer.proj(layer.attended(*layer.project(x, rotation), **seen))


def dense(layer: Attention, x: Tensor, mask: Tensor) -> Tensor:
    """The layer without rotation, head by head, with an explicit (N, N) mask of what a query sees."""
    d = WIDTH // HEADS
    q = x @ layer.qkv.weight[:WIDTH].T + layer.q_bias
    k = x @ layer.qkv.weight[WIDTH : 2 * WIDTH].T
    v = x @ layer.qkv.weight[2 * WIDTH :].T + layer.v_bias
    outputs = []
    for head in range(HEADS):
        part = slice(head * d, (head + 1) * d)
        qh, kh = q[..., part], k[..., part]
        if layer.log_scale is not None:
            qh = qh / qh.norm(dim=-1, keepdim=True) * layer.log_scale[head].exp().clamp(max=100)
            kh = kh / kh.norm(dim=-1, keepdim=True)
            scores = qh @ kh.transpose(1, 2)
        else:
            scores = qh @ kh.transpose(1, 2) * PUBLISHED_SCALE / math.sqrt(d)
        outputs.append(scores.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ v[..., part])
    return layer.proj(torch.cat(outputs, dim=-1))


@pytest.mark.parametrize("qk_norm", [False, True])
@given(segments=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_segments_are_the_block_causal_mask(qk_norm: bool, segments: list[int]) -> None:
    layer = attention(qk_norm=qk_norm)
    x = random_tensor(2, sum(segments), WIDTH)
    group = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor(segments))
    mask = group[:, None] >= group[None, :]
    torch.testing.assert_close(attended(layer, x, segments=segments), dense(layer, x, mask))


def test_the_learned_gain_stops_at_100() -> None:
    layer = attention(qk_norm=True)
    assert layer.log_scale is not None
    x = random_tensor(1, 4, WIDTH)
    layer.log_scale.data.fill_(math.log(100))
    at_limit = attended(layer, x)
    layer.log_scale.data.fill_(50.0)
    torch.testing.assert_close(attended(layer, x), at_limit)


@pytest.mark.parametrize(
    ("qk_norm", "unkept", "kept", "tolerance"),
    [
        (False, 0, None, 1e-6),
        (True, 4, None, 1e-6),
        (False, 4, torch.bfloat16, 2e-2),
        (False, 0, torch.int8, 2e-2),
        (True, 4, torch.int8, 2e-2),
    ],
)
def test_a_cache_answers_as_one_pass_does(
    qk_norm: bool, unkept: int, kept: torch.dtype | None, tolerance: float
) -> None:
    layer = attention(qk_norm=qk_norm)
    segments = [3, 1, 4]
    x = random_tensor(2, 8, WIDTH)
    rotation = rotation_1d(torch.arange(8).expand(2, -1), WIDTH // HEADS)
    whole = attended(layer, x, rotation, segments=segments)
    size = (1, 2, HEADS, 8 - unkept, WIDTH // HEADS)
    cache = KVCache(size, dtype=x.dtype, device=x.device, kept=kept, unkept=unkept)
    parts, start = [], 0
    for length in segments:
        span = slice(start, start + length)
        turn = rotation[0][:, :, span], rotation[1][:, :, span]
        parts.append(attended(layer, x[:, span], turn, cache=cache.layer(0)))
        cache.advance(length)
        start += length
    assert cache.length == cache.capacity + unkept
    assert (torch.cat(parts, dim=1) - whole).abs().max() <= tolerance * whole.abs().max()


@pytest.mark.parametrize(("capacity", "unkept"), [(3, 0), (2, 1), (0, 2)])
def test_a_full_cache_says_so(capacity: int, unkept: int) -> None:
    cache = KVCache((1, 1, 1, capacity, 4), dtype=torch.float32, device=torch.device("cpu"), unkept=unkept)
    tokens = torch.zeros(1, 1, 2, 4)
    cache.layer(0).append(tokens, tokens)
    cache.advance(2)
    with pytest.raises(ValueError, match=f"holds {capacity} tokens, 4 were given"):
        cache.layer(0).append(tokens, tokens)

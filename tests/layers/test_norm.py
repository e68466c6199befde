"""Norms against their formulas."""

from __future__ import annotations

import torch

from hart.layers.norm import RMSNorm
from helpers import random_tensor


def test_rms_norm_uses_the_weight_as_given() -> None:
    norm = RMSNorm(6)
    norm.weight.data = random_tensor(6, seed=1)
    x = random_tensor(2, 3, 6)
    expected = x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)

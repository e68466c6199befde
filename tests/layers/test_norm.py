"""Norms against their formulas."""

from __future__ import annotations

import torch

from hart.layers.norm import PlainLayerNorm, RMSNorm, modulate
from helpers import random_tensor


def test_rms_norm_uses_the_weight_as_given() -> None:
    norm = RMSNorm(6)
    norm.weight.data = random_tensor(6, seed=1)
    x = random_tensor(2, 3, 6)
    expected = x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


def test_gradients_pass_through_the_norm() -> None:
    norm = RMSNorm(6)
    x = random_tensor(2, 6).requires_grad_()
    norm(x).square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert norm.weight.grad is not None and norm.weight.grad.all()


def test_layer_norm_has_no_weights() -> None:
    norm = PlainLayerNorm(6)
    x = random_tensor(4, 6)
    centred = x - x.mean(dim=-1, keepdim=True)
    torch.testing.assert_close(norm(x), centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt())
    assert not list(norm.parameters())


def test_modulation_is_the_identity_at_zero() -> None:
    x = random_tensor(2, 3, 4)
    zero = torch.zeros(2, 1, 4)
    assert torch.equal(modulate(x, zero, zero), x)

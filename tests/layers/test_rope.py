"""Rotary embeddings against complex numbers, and the properties they exist for."""

from __future__ import annotations

import torch
from torch import Tensor

from hart.layers.rope import rotate, rotation_1d, rotation_2d
from helpers import random_tensor

D = 16


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """x (..., D) with channel c and c + D/2 as one complex number, turned by angles (..., D/2)."""
    z = torch.complex(x[..., : D // 2], x[..., D // 2 :]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag], dim=-1)


def test_text_turns_by_its_position() -> None:
    x, positions = random_tensor(1, 2, 5, D), torch.tensor([[0, 1, 2, 2, 7]])
    frequencies = 10000.0 ** -(torch.arange(0, D, 2) / D)
    expected = turned(x, positions[0, :, None] * frequencies)
    torch.testing.assert_close(rotate(x, rotation_1d(positions, D)), expected)


def test_grid_rows_change_the_first_half_of_the_head_and_columns_the_second() -> None:
    x, nothing = random_tensor(1, 1, 1, D), torch.zeros(1, 1)
    by_row = (rotate(x, rotation_2d(nothing + 2, nothing, D)) != x).flatten().tolist()
    by_column = (rotate(x, rotation_2d(nothing, nothing + 2, D)) != x).flatten().tolist()
    # as published: a channel's angle follows its own half, its partner c + D/2 has the angle of the other half
    assert by_row == [True] * (D // 2) + [False] * (D // 2)
    assert by_column == [False] * (D // 2) + [True] * (D // 2)

"""Rotary position embedding for text (one number) and for image tokens (two), half-split convention.

Shapes: B batch, N tokens, d head width. A rotation is a pair (cos, signed sin) of (B, 1, N, d) float32 tensors;
the sine is negative in the first half of the head, where the partner is subtracted.
"""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 10000.0

Rotation = tuple[Tensor, Tensor]


def rotation_1d(positions: Tensor, head_width: int) -> Rotation:
    """Return the rotation of text tokens at positions (B, N): d/2 frequencies, repeated for both halves of the head."""
    exponents = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32) / head_width
    angles = positions.float()[..., None] * BASE**-exponents
    return _rotation(torch.cat([angles, angles], dim=-1))


def rotation_2d(rows: Tensor, columns: Tensor, head_width: int) -> Rotation:
    """Return the rotation of image tokens at (rows, columns), each (B, N); rows turn the head's first half, columns the
    second."""
    exponents = torch.arange(0, head_width, 4, device=rows.device, dtype=torch.float32) / head_width
    frequencies = BASE**-exponents
    i, j = rows.float()[..., None] * frequencies, columns.float()[..., None] * frequencies
    return _rotation(torch.cat([i, i, j, j], dim=-1))


def _rotation(angles: Tensor) -> Rotation:
    angles = angles.unsqueeze(1)
    first, second = angles.sin().chunk(2, dim=-1)
    return angles.cos(), torch.cat([-first, second], dim=-1)


def cat_rotations(rotations: list[Rotation]) -> Rotation:
    """Join rotations of consecutive tokens."""
    return torch.cat([r[0] for r in rotations], dim=2), torch.cat([r[1] for r in rotations], dim=2)


def rotation_of_rows(rotation: Rotation, rows: slice) -> Rotation:
    """Return the rotation of some rows of the batch; a single row serves all."""
    cos, signed_sin = rotation
    return rotation if len(cos) == 1 else (cos[rows], signed_sin[rows])


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate x (B, H, N, d), channel c with c + d/2. Computed in float32, returned in x's dtype."""
    cos, signed_sin = rotation
    wide, half = x.float(), x.shape[-1] // 2
    if torch.is_grad_enabled():
        # a compiler reads halves in vectors, but the gradient of a roll number by number
        (a, b), (cos_a, cos_b), (sin_a, sin_b) = (t.split(half, dim=-1) for t in (wide, cos, signed_sin))
        return torch.cat([a * cos_a + b * sin_a, b * cos_b + a * sin_b], dim=-1).to(x.dtype)
    # the same without a copy of the partners
    rotated, first, second = wide * cos, slice(half), slice(half, None)
    rotated[..., first].addcmul_(wide[..., second], signed_sin[..., first])
    rotated[..., second].addcmul_(wide[..., first], signed_sin[..., second])
    return rotated.to(x.dtype)

"""Sinusoidal embedding of a number, followed by a small MLP: diffusion timesteps and levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FREQUENCIES = 128
MAX_PERIOD = 10000.0


def sinusoidal_embedding(values: Tensor) -> Tensor:
    """Embed values (N,) as (N, 256) float32: 128 cosines, then 128 sines, with periods up to 10000."""
    steps = torch.arange(FREQUENCIES, dtype=torch.float32, device=values.device)
    angles = values.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * steps / FREQUENCIES)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class SinusoidalMLP(nn.Module):
    """`sinusoidal_embedding` through linear, SiLU, linear: values (N,) to (N, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(2 * FREQUENCIES, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        embedding = sinusoidal_embedding(values).to(self.linear1.bias.dtype)
        return self.linear2(nn.functional.silu(self.linear1(embedding)))

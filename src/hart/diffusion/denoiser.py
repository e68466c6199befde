"""The residual diffusion network: an MLP with adaptive LayerNorm, run on every token by itself.

Shapes: N tokens, D channels, W width of the MLP, C width of the transformer.
"""

from __future__ import annotations

from torch import Tensor, nn

from hart.config import ResidualDiffusionConfig
from hart.layers.activation import silu
from hart.layers.embedding import SinusoidalMLP
from hart.layers.norm import EPS, PlainLayerNorm, SiluLinear, modulate


class DenoiserBlock(nn.Module):
    """x + gate mlp(norm(x) (1 + scale) + shift)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)
        self.modulation = SiluLinear(width, 3 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        h = modulate(self.norm(x), scale, shift)
        return x + gate * self.linear2(silu(self.linear1(h)))


class ResidualDenoiser(nn.Module):
    """Noised tokens, timesteps and conditions to noise and variance interpolation."""

    def __init__(self, config: ResidualDiffusionConfig, channels: int, condition_width: int) -> None:
        super().__init__()
        width = config.width
        self.time_embed = SinusoidalMLP(width)
        self.condition_embed = nn.Linear(condition_width, width)
        self.linear_in = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(DenoiserBlock(width) for _ in range(config.depth))
        self.norm_out = PlainLayerNorm(width)
        self.modulation_out = SiluLinear(width, 2 * width)
        self.linear_out = nn.Linear(width, 2 * channels)

    def embed_condition(self, z: Tensor) -> Tensor:
        """z (N, C) to (N, W): the part of the condition that is the same at every timestep."""
        return self.condition_embed(z)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """x (N, D), training timesteps (N,) or (1,), condition (N, W) from `embed_condition`: (N, 2D) float32."""
        condition = self.time_embed(timestep) + condition
        h = self.linear_in(x.to(self.linear_in.weight.dtype))
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.modulation_out(condition).chunk(2, dim=-1)
        return self.linear_out(modulate(self.norm_out(h), scale, shift)).float()

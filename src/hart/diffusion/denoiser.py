"""The residual diffusion network, an MLP with adaptive LayerNorm for single tokens, and sampling with it.

Shapes: N tokens, D channels, W width of the MLP, C width of the transformer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hart.config import ResidualDiffusionConfig
from hart.diffusion.process import DiffusionProcess
from hart.layers.embedding import SinusoidalMLP
from hart.layers.linear import silu
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
    """Predicts noise and variance interpolation from noised tokens, timesteps and conditions."""

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
        """Map z (N, C) to (N, W): the part of the condition that is the same at every timestep."""
        return self.condition_embed(z)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """x (N, D), training timesteps (N,) or (1,), condition (N, W) from `embed_condition`: (N, 2D) float32."""
        condition = self.time_embed(timestep) + condition
        h = self.linear_in(x.to(self.linear_in.bias.dtype))
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.modulation_out(condition).chunk(2, dim=-1)
        return self.linear_out(modulate(self.norm_out(h), scale, shift)).float()


def sample_residual(
    denoiser: ResidualDenoiser,
    process: DiffusionProcess,
    condition: Tensor,
    null_condition: Tensor | None,
    guidance: tuple[Tensor | float, Tensor | float],
    noise: Tensor,
) -> Tensor:
    """Sample clean tokens (..., N, D) of the process, in [-1, 1].

    process: respaced to T steps.
    condition, null_condition: (..., N, C), with and without the prompt; a null_condition of None turns guidance off.
    guidance: 1 + g and g in (1 + g) noise(condition) - g noise(null); the variance is the conditional one.
    noise: (T, ..., N, D) standard normal: the starting point, and what each step but the last adds. Both branches of
        the guidance see the same tokens.
    """
    guided, last = null_condition is not None, len(process) - 1
    embedded = denoiser.embed_condition(condition if null_condition is None else torch.cat([condition, null_condition]))
    x = noise[0].float()
    rows = len(x)
    for step in reversed(range(len(process))):
        timestep = torch.full((1,), process.kept[step], device=x.device)
        output = denoiser(torch.cat([x, x]) if guided else x, timestep, embedded)
        predicted, interpolation = output[:rows].chunk(2, dim=-1)
        if guided:
            predicted = guidance[0] * predicted - guidance[1] * output[rows:].chunk(2, dim=-1)[0]
        x0 = process.predicted_x0(x, step, predicted).clamp(-1, 1)
        x = process.posterior_mean(x0, x, step)
        if step > 0:
            x = x + (0.5 * process.log_variance(interpolation, step)).exp() * noise[last - step + 1]
    return x

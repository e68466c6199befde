"""Drawing residual tokens: ancestral sampling over a few respaced steps, with guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hart.diffusion.denoiser import ResidualDenoiser
from hart.diffusion.process import DiffusionProcess


def sample_residual(
    denoiser: ResidualDenoiser,
    process: DiffusionProcess,
    condition: Tensor,
    null_condition: Tensor | None,
    guidance: float,
    start: Tensor,
    draw_noise: Callable[[], Tensor],
) -> Tensor:
    """Clean tokens (N, D) of the process, in [-1, 1].

    process: respaced.
    condition, null_condition: (N, C), what the denoiser is given with and without the prompt; without a
        null condition nothing is guided.
    guidance: g in (1 + g) noise(condition) - g noise(null); the variance is the conditional one.
    start: (N, D) standard normal noise; both halves of the guidance see the same tokens.
    draw_noise: called once for every step but the last, gives (N, D) standard normal noise.
    """
    process, guided = process.to(start.device), null_condition is not None
    tokens = start.shape[0]
    embedded = denoiser.embed_condition(condition if null_condition is None else torch.cat([condition, null_condition]))
    x = start.float()
    steps = torch.arange(len(process), device=x.device)
    for index in reversed(range(len(process))):
        step = steps[index : index + 1]
        output = denoiser(x.repeat(2, 1) if guided else x, process.timesteps[step], embedded)
        noise, interpolation = output[:tokens].chunk(2, dim=-1)
        if guided:
            null_noise = output[tokens:].chunk(2, dim=-1)[0]
            noise = (1 + guidance) * noise - guidance * null_noise
        x0 = process.predicted_x0(x, step, noise).clamp(-1, 1)
        mean = process.posterior_mean(x0, x, step)
        x = mean if index == 0 else mean + (0.5 * process.log_variance(interpolation, step)).exp() * draw_noise()
    return x

"""The diffusion process of the residual tokens: noise schedule, posterior, training loss (paper, section 3.3).

Noise prediction with an interpolated variance (Nichol and Dhariwal, 2021) on a cosine schedule. The network's
output is 2D wide: the noise, then the variance interpolation v in [-1, 1].

Shapes: N tokens, D channels, T timesteps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

COSINE_OFFSET = 0.008
MAX_BETA = 0.999
DISCRETE_BIN = 1.0 / 255.0
TANH_CDF_CUBIC = 0.044715


@cache
def cosine_alphas_bar(steps: int) -> np.ndarray:
    """Return alpha_bar(t) for t = 1..T in float64: the product of 1 - beta with betas capped at 0.999."""

    def level(u: float) -> float:
        return math.cos((u + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2

    betas = [min(1 - level((t + 1) / steps) / level(t / steps), MAX_BETA) for t in range(steps)]
    return np.cumprod(1 - np.array(betas))


def respaced_steps(training_steps: int, sampling_steps: int) -> np.ndarray:
    """Return the training timesteps that a shorter process keeps, ascending; always the first and the last one."""
    if sampling_steps == 1:
        return np.array([training_steps - 1])
    stride = (training_steps - 1) / (sampling_steps - 1)
    # accumulated, as published: the sums' rounding decides how halves are rounded
    return np.array([round(step) for step in accumulate([stride] * (sampling_steps - 1), initial=0.0)])


@dataclass(frozen=True)
class DiffusionLoss:
    """Per token (N,): the loss and its two parts."""

    total: Tensor
    mse: Tensor
    variational_bound: Tensor


class DiffusionProcess:
    """A process over a subset `kept` of the training steps (all of them for training).

    A step below is an index into `kept`: a tensor of indices, or one number for all tokens, which needs no device
    memory. Constants are computed in float64 and kept in float32, also on every device that steps came from. This is
    not a module, since its constants neither follow the model's number type nor belong in its state.
    """

    def __init__(self, training_steps: int, timesteps: np.ndarray | None = None) -> None:
        kept = np.arange(training_steps) if timesteps is None else timesteps
        alphas_bar = cosine_alphas_bar(training_steps)[kept]
        before = np.append(1.0, alphas_bar[:-1])
        betas = 1 - alphas_bar / before
        variance = betas * (1 - before) / (1 - alphas_bar)
        constants = {
            "sqrt_alpha_bar": np.sqrt(alphas_bar),
            "sqrt_one_minus_alpha_bar": np.sqrt(1 - alphas_bar),
            "x0_from_x": np.sqrt(1 / alphas_bar),
            "x0_from_noise": np.sqrt(1 / alphas_bar - 1),
            "mean_from_x0": betas * np.sqrt(before) / (1 - alphas_bar),
            "mean_from_x": (1 - before) * np.sqrt(1 - betas) / (1 - alphas_bar),
            "log_beta": np.log(betas),
            # the first posterior variance is 0 and replaced by the second
            "log_variance": np.log(np.append(variance[1], variance[1:]) if len(variance) > 1 else betas),
        }
        self.kept: list[int] = kept.tolist()
        self._numbers = {name: values.astype(np.float32).tolist() for name, values in constants.items()}
        self._constants: dict[torch.device, dict[str, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Drop the constants on devices: copies and pickles may go to any machine."""
        return self.__dict__ | {"_constants": {}}

    def __len__(self) -> int:
        return len(self.kept)

    def _at(self, name: str, step: Tensor | int) -> Tensor | float:
        """Return the constant `name` at steps (N,) as (N, 1) float32, or at one step as a number."""
        if isinstance(step, int):
            return self._numbers[name][step]
        if (device := step.device) not in self._constants:
            with torch.inference_mode(False):  # training may follow generation
                self._constants[device] = {
                    each: torch.tensor(numbers, dtype=torch.float32, device=device)
                    for each, numbers in self._numbers.items()
                }
        return self._constants[device][name][step].unsqueeze(-1)

    def noised(self, x0: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """Noise x0 (N, D) at steps (N,) or (1,): sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise."""
        return self._at("sqrt_alpha_bar", step) * x0 + self._at("sqrt_one_minus_alpha_bar", step) * noise

    def predicted_x0(self, x: Tensor, step: Tensor | int, noise: Tensor) -> Tensor:
        """Return the clean tokens that x (N, D) and the predicted noise imply."""
        return self._at("x0_from_x", step) * x - self._at("x0_from_noise", step) * noise

    def posterior_mean(self, x0: Tensor, x: Tensor, step: Tensor | int) -> Tensor:
        """Return the mean of q(x_{t-1} | x_t, x0)."""
        return self._at("mean_from_x0", step) * x0 + self._at("mean_from_x", step) * x

    def log_variance(self, interpolation: Tensor, step: Tensor | int) -> Tensor:
        """Return f log beta + (1 - f) log posterior variance with f = (v + 1) / 2."""
        f = (interpolation + 1) / 2
        return f * self._at("log_beta", step) + (1 - f) * self._at("log_variance", step)

    def loss(self, output: Tensor, x0: Tensor, x: Tensor, step: Tensor, noise: Tensor) -> DiffusionLoss:
        """Return noise MSE plus the variational bound in bits, each a mean over D.

        output: (N, 2D), the network's output for x = noised(x0, step, noise).
        The bound trains only the variance: its noise prediction is detached. x0 is not clipped.
        """
        predicted, interpolation = output.chunk(2, dim=-1)
        mse = (noise - predicted).square().mean(dim=-1)
        mean = self.posterior_mean(self.predicted_x0(x, step, predicted.detach()), x, step)
        log_variance = self.log_variance(interpolation, step)
        true_mean = self.posterior_mean(x0, x, step)
        kl = normal_kl(true_mean, self._at("log_variance", step), mean, log_variance)
        first = -discretized_log_likelihood(x0, mean, 0.5 * log_variance)
        bound = torch.where(step.unsqueeze(-1) == 0, first, kl).mean(dim=-1) / math.log(2.0)
        return DiffusionLoss(mse + bound, mse, bound)


def normal_kl(mean1: Tensor, log_variance1: Tensor | float, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """Return the KL divergence of two diagonal normals in nats, elementwise."""
    difference = log_variance2 - log_variance1
    return 0.5 * (difference - 1 + (-difference).exp() + (mean1 - mean2).square() * (-log_variance2).exp())


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability in nats of the bin of half-width 1/255 around x; the outermost bins are open."""
    centred = x - mean
    inverse = (-log_scale).exp()
    above = normal_cdf(inverse * (centred + DISCRETE_BIN))
    below = normal_cdf(inverse * (centred - DISCRETE_BIN))
    inside = (above - below).clamp(min=1e-12).log()
    lowest, highest = above.clamp(min=1e-12).log(), (1 - below).clamp(min=1e-12).log()
    return torch.where(x < -0.999, lowest, torch.where(x > 0.999, highest, inside))


def normal_cdf(x: Tensor) -> Tensor:
    """Return the tanh approximation of the standard normal distribution function."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + TANH_CDF_CUBIC * x**3)))

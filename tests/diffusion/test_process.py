"""The diffusion process against Bayes' rule, torch.distributions and sums over bins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from hart.diffusion.process import (
    DiffusionProcess,
    cosine_alphas_bar,
    discretized_log_likelihood,
    respaced_steps,
)
from helpers import random_tensor

STEPS = 1000
EIGHT = [0, 143, 285, 428, 571, 714, 856, 999]


def cosine(t: int) -> float:
    return math.cos((t / STEPS + 0.008) / 1.008 * math.pi / 2) ** 2


def naive_posterior(alphas_bar: list[float], index: int) -> tuple[float, float, float]:
    """Weights of x0 and x in the mean of q(x_{t-1} | x_t, x0), and its variance: two normals multiplied."""
    now, before = alphas_bar[index], alphas_bar[index - 1]
    alpha = now / before
    beta = 1 - alpha
    precision = alpha / beta + 1 / (1 - before)
    return math.sqrt(before) / (1 - before) / precision, math.sqrt(alpha) / beta / precision, 1 / precision


def test_eight_steps_are_the_published_ones() -> None:
    assert respaced_steps(STEPS, 8).tolist() == EIGHT
    assert respaced_steps(STEPS, 21)[10] == 499  # ten times 49.95, added up, is a little less than 499.5


@given(st.integers(2, 400), st.integers(1, 400))
def test_respaced_steps_grow_and_end_at_the_last(training: int, sampling: int) -> None:
    steps = respaced_steps(training, min(training, sampling))
    assert len(steps) == min(training, sampling)
    assert (np.diff(steps) > 0).all()
    assert steps[-1] == training - 1
    assert steps[0] == 0 or sampling == 1


def test_alphas_follow_the_cosine_until_beta_is_capped() -> None:
    alphas_bar = cosine_alphas_bar(STEPS)
    expected = [cosine(t + 1) / cosine(0) for t in range(STEPS - 1)]
    np.testing.assert_allclose(alphas_bar[:-1], expected, rtol=1e-9)
    assert alphas_bar[-1] / alphas_bar[-2] == pytest.approx(1 - 0.999)
    assert (np.diff(alphas_bar) < 0).all()


@pytest.mark.parametrize("timesteps", [list(range(STEPS)), EIGHT], ids=["training", "respaced"])
def test_posterior_is_the_product_of_two_normals(timesteps: list[int]) -> None:
    process = DiffusionProcess(STEPS, np.array(timesteps))
    alphas_bar = [float(cosine_alphas_bar(STEPS)[t]) for t in timesteps]
    x0, x = random_tensor(1, 3, seed=1), random_tensor(1, 3, seed=2)
    for index in range(1, len(timesteps), max(1, len(timesteps) // 12)):
        step = torch.tensor([index])
        from_x0, from_x, variance = naive_posterior(alphas_bar, index)
        torch.testing.assert_close(process.posterior_mean(x0, x, step), from_x0 * x0 + from_x * x)
        lowest = process.log_variance(torch.tensor([[-1.0]]), step).item()
        highest = process.log_variance(torch.tensor([[1.0]]), step).item()
        middle = process.log_variance(torch.tensor([[0.0]]), step).item()
        assert lowest == pytest.approx(math.log(variance), rel=1e-5)
        assert highest == pytest.approx(math.log(1 - alphas_bar[index] / alphas_bar[index - 1]), rel=1e-5)
        assert middle == pytest.approx((lowest + highest) / 2, rel=1e-5)


def test_the_first_posterior_has_no_variance_and_borrows_the_second_one() -> None:
    process = DiffusionProcess(STEPS)
    first, second = (process.log_variance(torch.tensor([[-1.0]]), torch.tensor([i])) for i in (0, 1))
    assert torch.equal(first, second)
    x0, x = random_tensor(1, 3, seed=1), random_tensor(1, 3, seed=2)
    torch.testing.assert_close(process.posterior_mean(x0, x, torch.tensor([0])), x0)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.3), (0.9, 0.05), (-0.4, 0.01), (0.2, 3.0)])
def test_likelihoods_of_all_bins_sum_to_one(mean: float, scale: float) -> None:
    bins = torch.linspace(-1, 1, 256)
    means, log_scales = torch.full_like(bins, mean), torch.full_like(bins, math.log(scale))
    probabilities = discretized_log_likelihood(bins, means, log_scales).exp()
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-4)
    edges = Normal(mean, scale).cdf(torch.cat([bins - 1 / 255, bins[-1:] + 1 / 255]))
    edges[0], edges[-1] = 0.0, 1.0
    torch.testing.assert_close(probabilities, edges.diff(), rtol=0, atol=1e-3)


def terms(step: torch.Tensor) -> tuple[DiffusionProcess, torch.Tensor, torch.Tensor, torch.Tensor]:
    process = DiffusionProcess(STEPS)
    x0, noise = 0.5 * random_tensor(len(step), 3, seed=1), random_tensor(len(step), 3, seed=2)
    return process, x0, process.noised(x0, step, noise), noise


def test_loss_is_noise_error_plus_the_bound_in_bits() -> None:
    step = torch.tensor([0, 1, 400, 998])
    process, x0, x, noise = terms(step)
    output = random_tensor(4, 6, seed=3) * 0.1 + torch.cat([noise, torch.zeros_like(noise)], dim=1)
    loss = process.loss(output, x0, x, step, noise)
    predicted, interpolation = output.chunk(2, dim=1)
    torch.testing.assert_close(loss.mse, (predicted - noise).square().mean(dim=1))
    torch.testing.assert_close(loss.total, loss.mse + loss.variational_bound)
    scale = (0.5 * process.log_variance(interpolation, step)).exp()
    mean = process.posterior_mean(process.predicted_x0(x, step, predicted), x, step)
    true_mean = process.posterior_mean(x0, x, step)
    true_scale = (0.5 * process.log_variance(-torch.ones_like(interpolation), step)).exp()
    bound = kl_divergence(Normal(true_mean, true_scale), Normal(mean, scale)).mean(dim=1) / math.log(2)
    torch.testing.assert_close(loss.variational_bound[1:], bound[1:], rtol=1e-3, atol=1e-5)
    likelihood = discretized_log_likelihood(x0, mean, scale.log())[0].mean() / math.log(2)
    torch.testing.assert_close(loss.variational_bound[0], -likelihood)


def test_the_bound_trains_the_variance_only() -> None:
    step = torch.tensor([0, 5, 500])
    process, x0, x, noise = terms(step)
    output = random_tensor(3, 6, seed=3).requires_grad_()
    process.loss(output, x0, x, step, noise).variational_bound.sum().backward()
    assert output.grad is not None
    assert not output.grad[:, :3].any()
    assert output.grad[:, 3:].all()

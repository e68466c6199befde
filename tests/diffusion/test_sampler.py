"""Ancestral sampling with guidance, against denoisers whose right answer is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hart.config import ResidualDiffusionConfig
from hart.diffusion.denoiser import ResidualDenoiser, sample_residual
from hart.diffusion.process import DiffusionProcess, cosine_alphas_bar, respaced_steps
from helpers import random_tensor, randomize

CONFIG = ResidualDiffusionConfig(width=16, depth=2)
PROCESS = DiffusionProcess(CONFIG.training_steps, respaced_steps(CONFIG.training_steps, CONFIG.sampling_steps))
TOKENS, CHANNELS, WIDTH = 5, 3, 8


@pytest.fixture
def denoiser() -> ResidualDenoiser:
    module = ResidualDenoiser(CONFIG, CHANNELS, WIDTH)
    randomize(module)
    return module.eval()


def noise(seed: int = 9, steps: int = 8) -> Tensor:
    return random_tensor(steps, TOKENS, CHANNELS, seed=seed)


def guidance(g: float) -> tuple[float, float]:
    return 1 + g, g


def sampled(denoiser: nn.Module, g: float, null: Tensor | None) -> Tensor:
    condition = random_tensor(TOKENS, WIDTH, seed=1)
    with torch.no_grad():
        return sample_residual(denoiser, PROCESS, condition, null, guidance(g), noise())  # type: ignore[arg-type]


class Oracle(nn.Module):
    """Knows the clean tokens, and answers with the noise that leads to them; records the timesteps it saw."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean = clean
        self.seen: list[int] = []

    def embed_condition(self, z: Tensor) -> Tensor:
        return z

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        self.seen.append(int(timestep))
        alpha_bar = cosine_alphas_bar(CONFIG.training_steps)[int(timestep)]
        noise = (x.double() - alpha_bar**0.5 * self.clean) / (1 - alpha_bar) ** 0.5
        return torch.cat([noise, torch.zeros_like(noise)], dim=1).float()


def test_a_perfect_denoiser_gives_the_clean_tokens() -> None:
    clean = random_tensor(TOKENS, CHANNELS).clamp(-0.9, 0.9)
    oracle = Oracle(clean)
    result = sampled(oracle, 0.0, None)
    torch.testing.assert_close(result, clean, rtol=1e-3, atol=1e-3)
    assert oracle.seen == [999, 856, 714, 571, 428, 285, 143, 0]


def test_guidance_leads_away_from_the_null_condition() -> None:
    """(1 + g) cond - g null, with a denoiser that answers with its condition."""

    class Echo(nn.Module):
        def embed_condition(self, z: Tensor) -> Tensor:
            return z

        def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
            return torch.cat([condition[:, :CHANNELS], torch.zeros_like(x)], dim=1)

    condition, null = 0.01 * random_tensor(TOKENS, WIDTH, seed=1), 0.01 * random_tensor(TOKENS, WIDTH, seed=2)
    echo: Any = Echo()
    led = sample_residual(echo, PROCESS, condition, null, guidance(2.0), noise())
    mixed = sample_residual(echo, PROCESS, 3 * condition - 2 * null, None, guidance(0.0), noise())
    torch.testing.assert_close(led, mixed)
    # a strength for every token
    each = torch.tensor([2.0, 0.0, 1.0, 2.0, 0.5]).unsqueeze(1)
    own = sample_residual(echo, PROCESS, condition, null, (1 + each, each), noise())
    assert torch.equal(own[[0, 3]], led[[0, 3]])
    assert torch.equal(own[1], sample_residual(echo, PROCESS, condition, None, guidance(0.0), noise())[1])


def test_no_guidance_is_the_unguided_path_and_guidance_1_is_like_its_neighbours(denoiser: ResidualDenoiser) -> None:
    null = random_tensor(TOKENS, WIDTH, seed=2)
    torch.testing.assert_close(sampled(denoiser, 0.0, null), sampled(denoiser, 0.0, None), rtol=0, atol=1e-2)
    at_1 = sampled(denoiser, 1.0, null)
    torch.testing.assert_close(at_1, sampled(denoiser, 1.0001, null), rtol=0, atol=1e-2)
    assert not torch.allclose(at_1, sampled(denoiser, 1.0, None), atol=1e-1)


def test_tokens_do_not_depend_on_their_neighbours(denoiser: ResidualDenoiser) -> None:
    condition, null = random_tensor(TOKENS, WIDTH, seed=1), random_tensor(TOKENS, WIDTH, seed=2)

    def run(rows: slice) -> Tensor:
        with torch.no_grad():
            return sample_residual(denoiser, PROCESS, condition[rows], null[rows], guidance(2.5), noise()[:, rows])

    together = run(slice(None))
    alone = torch.cat([run(slice(i, i + 1)) for i in range(TOKENS)])
    # at t = 999 the prediction of x0 multiplies rounding by about 20,000
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-2)
    assert (together - alone).abs().mean() < 1e-3


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_every_noise_counts_once(denoiser: ResidualDenoiser, steps: int) -> None:
    condition = random_tensor(TOKENS, WIDTH)
    process = DiffusionProcess(CONFIG.training_steps, respaced_steps(CONFIG.training_steps, steps))

    def run(given: Tensor) -> Tensor:
        return sample_residual(denoiser, process, condition, None, guidance(0.0), given)

    with torch.no_grad():
        result = run(noise(steps=steps))
        assert result.abs().max() <= 1
        for step in range(steps):
            changed = noise(steps=steps)
            changed[step] += 100
            assert not torch.equal(run(changed), result)

"""The denoising network: every parameter learns, tokens are independent."""

from __future__ import annotations

import torch

from hart.config import ResidualDiffusionConfig
from hart.diffusion.denoiser import ResidualDenoiser
from hart.diffusion.process import DiffusionProcess
from helpers import random_tensor, randomize, without_gradient

CONFIG = ResidualDiffusionConfig(width=16, depth=2)


def denoiser() -> ResidualDenoiser:
    module = ResidualDenoiser(CONFIG, channels=3, condition_width=8)
    randomize(module)
    return module


def test_the_loss_reaches_every_parameter() -> None:
    module, process = denoiser(), DiffusionProcess(CONFIG.training_steps)
    step = torch.tensor([0, 3, 500, 990])
    x0, noise = random_tensor(4, 3, seed=1), random_tensor(4, 3, seed=2)
    x = process.noised(x0, step, noise)
    output = module(x, step, module.embed_condition(random_tensor(4, 8)))
    assert output.shape == (4, 6)
    process.loss(output, x0, x, step, noise).total.mean().backward()
    assert not without_gradient(module)


def test_answers_are_float32_in_a_bfloat16_model() -> None:
    module = denoiser().to(torch.bfloat16)
    condition = module.embed_condition(random_tensor(2, 8).bfloat16())
    assert module(random_tensor(2, 3), torch.tensor([5]), condition).dtype == torch.float32

"""The model as a whole: its training loss reaches every parameter; the discrete-only model has no residual."""

from __future__ import annotations

import pytest
import torch

from hart.model import Hart, ResidualHead
from helpers import (
    CHANNELS,
    random_context,
    random_tensor,
    randomize,
    teacher_input,
    tiny_class_config,
    tiny_text_config,
    without_gradient,
)


def test_cross_entropy_and_diffusion_reach_every_parameter() -> None:
    config = tiny_text_config()
    hart = Hart(config)
    randomize(hart)
    output = hart.transformer(random_context(config, 2), teacher_input(config, 2))
    logits = hart.transformer.logits(output.hidden, output.conditioning)
    codes = random_tensor(2, 16, CHANNELS, seed=5)
    condition = hart.residual_condition(output.last_scale, codes).flatten(0, 1)
    assert hart.residual is not None
    target, noise = random_tensor(32, CHANNELS, seed=1), random_tensor(32, CHANNELS, seed=2)
    steps = torch.arange(0, 960, 30)
    loss = hart.residual.loss(condition, target, steps, noise)
    (logits.logsumexp(dim=-1).mean() + loss.total.mean()).backward()
    assert not without_gradient(hart)


def test_the_condition_is_the_norm_of_hidden_state_and_code() -> None:
    hart = Hart(tiny_text_config())
    randomize(hart)
    hidden, codes = random_tensor(1, 3, 32, seed=1), random_tensor(1, 3, CHANNELS, seed=2)
    mixed = hidden + codes @ hart.transformer.word_embed.weight.T + hart.transformer.word_embed.bias
    assert hart.residual is not None
    expected = mixed / (mixed.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * hart.residual.norm.weight
    torch.testing.assert_close(hart.residual_condition(hidden, codes), expected)


def test_a_discrete_model_has_no_residual() -> None:
    hart = Hart(tiny_class_config())
    assert hart.residual is None
    with pytest.raises(ValueError, match="draws discrete tokens only"):
        hart.residual_condition(torch.zeros(1, 1, 32), torch.zeros(1, 1, CHANNELS))
    with pytest.raises(ValueError, match=r"needs HartConfig\.diffusion"):
        ResidualHead(tiny_class_config())

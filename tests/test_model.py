"""The model as a whole: its training loss reaches every parameter; the discrete-only model has no residual."""

from __future__ import annotations

import pytest
import torch

from hart.diffusion.process import DiffusionProcess
from hart.model import Hart, ResidualHead
from helpers import (
    CHANNELS,
    random_context,
    random_tensor,
    randomize,
    tiny_class_config,
    tiny_model,
    tiny_text_config,
    without_gradient,
)


def test_the_training_pass_predicts_every_scale_and_reaches_every_parameter() -> None:
    config = tiny_text_config()
    tokenizer, hart = tiny_model(config)
    maps, context = tokenizer.token_maps(random_tensor(2, CHANNELS, 4, 4)), random_context(config, 2)
    positions = torch.arange(0, 16, 2).expand(2, 8)
    output = hart(context, maps, positions)
    assert output.segments == (1, 4, 9, 8)
    assert output.logits.shape == (2, 22, config.transformer.codebook_size)
    codes, latent, noise = (random_tensor(*shape, CHANNELS, seed=5) for shape in ((2, 8), (2, 8), (2, 2, 8)))
    diffusion = hart.diffusion_loss(output.hidden, codes, latent, torch.arange(0, 960, 30).view(2, 2, 8), noise)
    assert diffusion.total.shape == (32,)
    (output.logits.logsumexp(dim=-1).mean() + diffusion.total.mean()).backward()
    assert not without_gradient(hart)
    plain = hart(context, maps)
    torch.testing.assert_close(plain.logits[:, :14], output.logits[:, :14])


def test_the_condition_is_the_norm_of_hidden_state_and_code() -> None:
    hart = Hart(tiny_text_config())
    randomize(hart)
    hidden, codes = random_tensor(1, 3, 32, seed=1), random_tensor(1, 3, CHANNELS, seed=2)
    mixed = hidden + codes @ hart.transformer.word_embed.weight.T + hart.transformer.word_embed.bias
    assert hart.residual is not None
    expected = mixed / (mixed.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * hart.residual.norm.weight
    torch.testing.assert_close(hart.residual_condition(hidden, codes), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_residual_tokens_are_in_latent_units_and_the_process_in_float32_in_every_model(dtype: torch.dtype) -> None:
    with torch.device("meta"):
        hart = Hart(tiny_text_config())
    hart = hart.to(dtype).to_empty(device="cpu")
    randomize(hart)
    head = hart.residual
    assert head is not None
    fresh = DiffusionProcess(1000)
    step, x0, noise = torch.tensor([999, 5]), random_tensor(2, CHANNELS), random_tensor(2, CHANNELS, seed=1)
    assert torch.equal(head.process.noised(x0, step, noise), fresh.noised(x0, step, noise))
    # a denoiser of zeros predicts no noise, and a large start is then clipped to 1 at every step
    for parameter in head.denoiser.parameters():
        parameter.data.zero_()
    given = torch.zeros(8, 2, CHANNELS)
    given[0] = 100
    sampled = head.sample(random_tensor(2, 32).to(dtype), None, (1.0, 0.0), given)
    torch.testing.assert_close(sampled, torch.full((2, CHANNELS), 0.6))


def test_a_discrete_model_has_no_residual() -> None:
    hart = Hart(tiny_class_config())
    assert hart.residual is None
    with pytest.raises(ValueError, match="samples discrete tokens only"):
        hart.residual_condition(torch.zeros(1, 1, 32), torch.zeros(1, 1, CHANNELS))
    with pytest.raises(ValueError, match=r"needs HartConfig\.diffusion"):
        ResidualHead(tiny_class_config())

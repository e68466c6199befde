"""Initial weights: near-uniform predictions, no output of the diffusion, and all from the generator."""

from __future__ import annotations

import math

import pytest
import torch

from hart.config import HartConfig
from hart.model import Hart
from hart.training.transformer_task import initialize
from helpers import (
    random_context,
    same_weights,
    teacher_input,
    tiny_class_config,
    tiny_text_config,
    transformer_variants,
)


@pytest.mark.parametrize("config", [tiny_text_config(), tiny_text_config(modulation="table"), tiny_class_config()])
def test_training_starts_near_the_uniform_distribution(config: HartConfig) -> None:
    hart = Hart(config)
    initialize(hart, torch.Generator().manual_seed(0), gate_gain=0.01)
    output = hart.transformer(random_context(config, 2), teacher_input(config, 2))
    probabilities = hart.transformer.logits(output.hidden, output.conditioning).softmax(dim=-1)
    entropy = -(probabilities * probabilities.log()).sum(dim=-1).mean().item()
    assert entropy == pytest.approx(math.log(config.transformer.codebook_size), rel=0.02)
    if hart.residual is not None:
        denoiser = hart.residual.denoiser
        condition = denoiser.embed_condition(torch.ones(2, config.transformer.width))
        assert not denoiser(torch.ones(2, 4), torch.tensor([5, 9]), condition).any()
        assert denoiser.time_embed.linear1.weight.std().item() == pytest.approx(0.02, rel=0.1), "as in MAR's code"


VARIANTS = transformer_variants()


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_the_generator_decides_the_weights(config: HartConfig) -> None:
    models = [Hart(config) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        initialize(model, torch.Generator().manual_seed(seed), gate_gain=0.01)
    assert same_weights(models[0], models[1])
    other = models[2].state_dict()
    same = {name for name, value in models[0].state_dict().items() if torch.equal(value, other[name])}
    of_zeros = ("modulation.linear.weight", "modulation_out.linear.weight", "linear_out.weight")
    constant = {name for name in same if "norm" in name or name.endswith(("bias", "log_scale"))}
    assert all(name.startswith("residual.") and name.endswith(of_zeros) for name in same - constant), same - constant


@pytest.mark.parametrize("modulation", ["linear", "shared"])
def test_the_gain_of_gates_is_the_recipe_s(modulation: str) -> None:
    def weights(gain: float) -> torch.Tensor:
        hart = Hart(tiny_class_config(modulation=modulation))
        initialize(hart, torch.Generator().manual_seed(0), gate_gain=gain)
        own = hart.transformer.blocks[0].modulation
        return (own.table if modulation == "shared" else own.project.linear.weight.unflatten(0, (6, -1))).detach()

    one, small = weights(1.0), weights(1e-4)
    torch.testing.assert_close(small[:2], 1e-4 * one[:2])
    assert torch.equal(small[2:], one[2:]), "scales and shifts are not gains"

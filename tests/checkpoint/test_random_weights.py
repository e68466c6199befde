"""Random weights: reproducible, of the asked type, and usable."""

from __future__ import annotations

import pytest
import torch

from hart.checkpoint.loading import build, random_model
from hart.config import HartConfig
from helpers import tiny_class_config, tiny_text_config


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("config", [tiny_text_config(), tiny_class_config()], ids=["text", "class"])
def test_weights_are_those_of_the_generator_and_nothing_else(config: HartConfig) -> None:
    first, again, other = (random_model(config, seeded(seed)) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    assert any(
        not torch.equal(a, b)
        for one, two in zip(first, other, strict=True)
        for a, b in zip(one.parameters(), two.parameters(), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_seed_gives_the_same_model_in_every_type(dtype: torch.dtype) -> None:
    exact, rounded = (random_model(tiny_text_config(), seeded(1), dtype=kind) for kind in (torch.float32, dtype))
    for one, other in zip(exact, rounded, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a.to(dtype), b)


def test_every_weight_of_the_modules_is_filled_in_the_asked_type() -> None:
    config = tiny_text_config()
    for made, module in zip(random_model(config, seeded(0), dtype=torch.bfloat16), build(config), strict=True):
        assert not made.training
        assert {name: p.shape for name, p in made.named_parameters()} == {
            name: p.shape for name, p in module.named_parameters()
        }
        for parameter in made.parameters():
            assert parameter.dtype == torch.bfloat16
            assert parameter.device.type == "cpu"
            assert parameter.float().abs().max() < 10

"""Which parameters decay, which optimiser steps them, and the learning rate by step."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from hart.config import ConfigError
from hart.model import Hart
from hart.training.config import OptimizerConfig
from hart.training.optimizer import (
    Muon,
    build_optimizer,
    learning_rate,
    orthogonalized,
    weight_decay,
)
from helpers import random_tensor, tiny_class_config, tiny_text_config

CONFIG = OptimizerConfig(learning_rate=1e-2, warmup_steps=10, weight_decay=0.1)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_trainable_parameter_is_in_one_group(kind: str) -> None:
    hart = Hart(tiny_class_config())
    hart.transformer.head.requires_grad_(False)
    groups = build_optimizer(hart, CONFIG.replace(kind=kind)).param_groups
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in hart.parameters() if p.requires_grad}


def test_vectors_embeddings_and_tables_do_not_decay() -> None:
    config = tiny_class_config()
    hart = Hart(config.replace(transformer=config.transformer.replace(modulation="table", position="absolute")))
    names = {id(p): name for name, p in hart.named_parameters()}
    for group in build_optimizer(hart, CONFIG).param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            spared = parameter.dim() <= 1 or "embedding" in name or name.endswith(("table", "positions"))
            assert group["weight_decay"] == (0.0 if spared else 0.1), name


def test_muon_steps_the_matrices_of_the_blocks_only() -> None:
    hart = Hart(tiny_text_config())
    optimizer = build_optimizer(hart, CONFIG.replace(kind="muon"))
    muon = [o for o in optimizer.optimizers if isinstance(o, Muon)]
    assert len(muon) == 1
    names = {id(p): name for name, p in hart.named_parameters()}
    stepped = {names[id(p)] for group in muon[0].param_groups for p in group["params"]}
    assert stepped == {name for name, p in hart.named_parameters() if ".blocks." in name and p.dim() == 2}


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12)])
def test_orthogonalised_updates_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalized(random_tensor(*shape)))
    assert values.min() > 0.5
    assert values.max() < 1.3


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_muon_steps_matrices_of_one_shape_together_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch, precision: torch.dtype
) -> None:
    def stepped() -> list[torch.Tensor]:
        shapes = [(8, 5), (6, 4, 3, 3), (8, 5), (5, 8), (6, 4, 3, 3)]
        parameters = [random_tensor(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
        optimizer = Muon(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
        for step in range(3):
            for i, p in enumerate(parameters[step > 1 :]):  # one without a gradient in the last step
                p.grad = random_tensor(*p.shape, seed=10 * step + i)
            if step > 1:
                parameters[0].grad = None
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                optimizer.step()
        return parameters

    alone = stepped()
    monkeypatch.setattr("hart.training.optimizer.ONE_BY_ONE", frozenset())
    for together, one in zip(stepped(), alone, strict=True):
        torch.testing.assert_close(together, one, rtol=1e-5, atol=1e-5 if precision == torch.float32 else 1e-2)


def test_the_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(step, 101, CONFIG) for step in range(101)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[9] == pytest.approx(1e-2)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(1e-2 * (0.05 + 0.95 / 2))
    assert rates[100] == pytest.approx(1e-2 * 0.05), "the last step"
    constant = CONFIG.replace(schedule="constant")
    assert {learning_rate(step, 100, constant) for step in range(10, 100)} == {1e-2}


def test_the_linear_schedule_is_var_s() -> None:
    """Held for a twentieth of what follows the warm-up, then a straight line to the final fraction."""
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, schedule="linear", final_fraction=0.1)
    rates = [learning_rate(step, 111, config) for step in range(111)]
    assert rates[9] == 1.0
    assert rates[10:16] == pytest.approx([1.0] * 6)
    falls = [before - after for before, after in pairwise(rates[15:])]
    assert falls == pytest.approx([0.9 / 95] * 95)
    assert rates[110] == pytest.approx(0.1)


def test_weight_decay_goes_to_its_final_value() -> None:
    config = CONFIG.replace(final_weight_decay=0.3)
    decays = [weight_decay(step, 101, config) for step in range(101)]
    assert decays[0] == pytest.approx(0.1)
    assert decays[50] == pytest.approx(0.2)
    assert decays[100] == pytest.approx(0.3)
    assert decays == sorted(decays)
    assert weight_decay(50, 101, CONFIG) == 0.1
    with pytest.raises(ConfigError, match="above 0"):
        CONFIG.replace(weight_decay=0.0, final_weight_decay=0.3)

"""The weight average against its formula."""

from __future__ import annotations

import copy

import torch
from torch import nn

from hart.training.step import WeightAverage
from helpers import same_weights


def test_the_average_follows_its_formula_and_leaves_the_model_alone() -> None:
    module = nn.Linear(2, 2)
    average = WeightAverage(module, decay=0.6)
    expected = module.weight.detach().clone()
    for step in range(8):
        module.weight.data += 1
        before = copy.deepcopy(module.state_dict())
        average.update(module, step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
        assert same_weights(module, before)
    torch.testing.assert_close(average.weights["weight"], expected)


def test_frozen_weights_are_not_averaged() -> None:
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    average = WeightAverage(module, decay=0.5)
    average.update(module, 0)
    assert list(average.weights) == ["bias"]

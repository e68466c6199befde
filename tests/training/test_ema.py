"""The weight average against its formula."""

from __future__ import annotations

import copy

import torch
from torch import nn

from hart.training.ema import WeightAverage


def test_the_average_follows_its_formula_and_leaves_the_model_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(module, decay=0.6)
    expected = module[0].weight.detach().clone()
    for step in range(8):
        module[0].weight.data += 1
        module[1].running_mean += step
        before = copy.deepcopy(module.state_dict())
        average.update(module, step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module[0].weight.detach()
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    torch.testing.assert_close(average.module[0].weight.detach(), expected)
    assert torch.equal(average.module[1].running_mean, module[1].running_mean), "statistics are copied as they are"


def test_the_averaged_copy_is_for_evaluation() -> None:
    average = WeightAverage(nn.Linear(2, 2), decay=0.9)
    assert not average.module.training
    assert not any(p.requires_grad for p in average.module.parameters())

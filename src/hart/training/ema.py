"""An exponential moving average of the weights: what is evaluated and shipped."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """Keeps an averaged copy of `module`; call `update` after every optimiser step."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards `module`; early steps weigh more, so that the start is forgotten."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        ours = [p.detach() for p in self.module.parameters()]
        theirs = [p.detach() for p in module.parameters()]
        torch._foreach_lerp_(ours, theirs, weight)
        for mine, other in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(other)

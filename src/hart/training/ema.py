"""An exponential moving average of the weights: what is evaluated and shipped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hart.training.distributed import local


class WeightAverage:
    """Averaged copies of the trained parameters of `module`, sharded as they are; call `update` after every step.

    Frozen ones, such as a model under its adapters, are their own average.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad
        }

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards `module`; early steps weigh more, so that the start is forgotten."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        ours = [local(average) for average in self.weights.values()]
        parameters = dict(module.named_parameters())
        theirs = [local(parameters[name].detach()) for name in self.weights]
        torch._foreach_lerp_(ours, theirs, weight)

    @torch.no_grad()
    def restart(self, name: str, parameter: Tensor, rows: Tensor) -> None:
        """Average the given rows of the parameter from their present values on."""
        self.weights[name][rows] = parameter[rows]

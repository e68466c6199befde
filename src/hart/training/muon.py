"""Muon (Jordan et al., 2024): momentum whose matrix is orthogonalised before it is applied.

torch has one too; it iterates in bfloat16, which is four times slower than float32 on processors without
bfloat16 matrix units, where the shipped model is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Quintic Newton-Schulz iteration: these coefficients drive all singular values close to 1 in five rounds.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
# Brings the root mean square of an update to AdamW's, so that both share a learning rate (Liu et al., 2025).
ADAMW_RMS = 0.2


def orthogonalized(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix to `matrix` (M, N), approximately: singular values within 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay.

    For matrices and for kernels, which are taken as matrices of one row an output channel.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        if any(p.dim() < 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon is for matrices and kernels; give other parameters to AdamW")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step from the gradients; no closure."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalized(torch.lerp(p.grad, buffer, group["momentum"]).flatten(1))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.reshape(p.shape), alpha=-group["lr"] * ADAMW_RMS * max(update.shape) ** 0.5)

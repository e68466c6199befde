"""Muon (Jordan et al., 2024): momentum whose matrix is orthogonalised before it is applied.

torch has one too; it iterates in bfloat16, which is four times slower than float32 on processors without
bfloat16 matrix units, where the shipped model is trained.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

# Quintic Newton-Schulz iteration: these coefficients drive all singular values close to 1 in five rounds.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
# Brings the root mean square of an update to AdamW's, so that both share a learning rate (Liu et al., 2025).
ADAMW_RMS = 0.2


ONE_BY_ONE = frozenset({"cpu"})
"""Devices on which every matrix is iterated by itself, which is a tenth faster there. On others those of one shape go
together: launching their products takes longer than computing them."""


def orthogonalized(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix to `matrix` (M, N), approximately: singular values within 0.7 to 1.2.

    Of a stack (B, M, N) of matrices, that of each.
    """
    a, b, c = COEFFICIENTS
    product = torch.addmm if matrix.dim() == 2 else torch.baddbmm
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = product(x, product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


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
            sets: dict[Hashable, list[Tensor]] = {}
            for number, p in enumerate(group["params"]):
                if p.grad is not None:
                    sets.setdefault(number if p.device.type in ONE_BY_ONE else p.shape, []).append(p)
            for same in sets.values():
                self._step_together(same, group)

    def _step_together(self, same: list[Tensor], group: Mapping[str, Any]) -> None:
        """Step parameters of one shape."""
        momentum, rate = group["momentum"], group["lr"]
        for p in same:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum"] for p in same]
        gradients = [p.grad for p in same if p.grad is not None]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, buffers, momentum)
        matrices = ahead[0].flatten(1) if len(same) == 1 else torch.stack(ahead).flatten(2)
        updates = orthogonalized(matrices)
        torch._foreach_mul_(same, 1 - rate * group["weight_decay"])
        alpha = -rate * ADAMW_RMS * max(updates.shape[-2:]) ** 0.5
        torch._foreach_add_(same, list(updates.reshape(len(same), *same[0].shape).unbind()), alpha=alpha)

"""AdamW and Muon with decay groups, and learning rate and weight decay as functions of the step.

Muon (Jordan et al., 2024) orthogonalises the momentum of a matrix before applying it. torch's version iterates in
bfloat16: four times slower than float32 on processors without bfloat16 matrix units, which trained the shipped model.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from hart.config import ConfigError
from hart.training.config import OptimizerConfig

# Names of the modules that hold the repeated layers of transformer, denoiser, encoder and decoder.
INNER_PARTS = frozenset({"blocks", "levels", "middle"})
LINEAR_HOLD = 0.05
"""Share of the steps after the warm-up in which the linear schedule holds the full rate, as in VAR's training."""
MUON_MOMENT = "momentum"
# Quintic Newton-Schulz iteration: these coefficients bring all singular values close to 1 in five iterations.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# Scales the root mean square of an update to AdamW's, so that both share a learning rate (Liu et al., 2025).
ADAMW_RMS = 0.2
ONE_BY_ONE = frozenset({"cpu"})
"""Devices that iterate every matrix separately, which is a tenth faster there. Others batch matrices of one shape,
since launching their products takes longer than computing them."""


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return approximately the semi-orthogonal matrix nearest to `matrix` (M, N): singular values from 0.7 to 1.2.

    A stack (B, M, N) is handled matrix by matrix.
    """
    a, b, c = COEFFICIENTS
    product = torch.addmm if matrix.dim() == 2 else torch.baddbmm
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = product(x, product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay.

    For matrices, and for kernels as matrices with a row per output channel.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p][MUON_MOMENT] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
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
        buffers = [self.state[p][MUON_MOMENT] for p in same]
        gradients = [p.grad for p in same if p.grad is not None]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, buffers, momentum)
        matrices = ahead[0].flatten(1) if len(same) == 1 else torch.stack(ahead).flatten(2)
        updates = orthogonalized(matrices)
        torch._foreach_mul_(same, 1 - rate * group["weight_decay"])
        alpha = -rate * ADAMW_RMS * max(updates.shape[-2:]) ** 0.5
        torch._foreach_add_(same, list(updates.reshape(len(same), *same[0].shape).unbind()), alpha=alpha)


@dataclass(frozen=True)
class CombinedOptimizer:
    """Several optimisers over disjoint parameters, stepped as one. They create their state at the start, so that a
    checkpoint can be compared with it."""

    optimizers: list[torch.optim.Optimizer]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def reset_rows(self, parameter: nn.Parameter, rows: Tensor) -> None:
        """Clear the moments of the given rows, which were overwritten."""
        for optimizer in self.optimizers:
            for moment in optimizer.state.get(parameter, {}).values():
                if moment.shape == parameter.shape:
                    moment[rows] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return each optimiser's state by parameter number: the tensors themselves."""
        return {type(optimizer).__name__: optimizer.state_dict()["state"] for optimizer in self.optimizers}


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> CombinedOptimizer:
    """Build an optimiser over the trainable parameters of `module`.

    Matrices and kernels of layers decay; vectors, embeddings and tables do not. With `config.kind` "muon", Muon updates
    the matrices and kernels of the repeated layers (scaled to the size of AdamW's updates, so that one learning rate
    serves both), and AdamW everything else, first and last layers included.
    Raises `ConfigError` for Muon over sharded parameters: it needs whole matrices.
    """
    if config.kind == "muon" and any(isinstance(p, DTensor) for p in module.parameters()):
        raise ConfigError(
            'optimizer.kind "muon" needs whole matrices, which fsdp2 splits: choose "adamw", or '
            'trainer.distributed "ddp"'
        )
    layers = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    weights = {id(m.weight) for _, m in layers}
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    orthogonal = {id(m.weight) for name, m in layers if config.kind == "muon" and INNER_PARTS & set(name.split("."))}
    plain = [p for _, p in trainable if id(p) not in orthogonal]
    decayed = [p for p in plain if id(p) in weights]
    others = [p for p in plain if id(p) not in weights]
    # MPS and others: the plain loop over parameters
    fused = all(p.device.type in ("cpu", "cuda") for _, p in trainable)
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=fused,
    )
    for p in plain:  # as AdamW's first step would
        count = torch.zeros((), device=p.device if fused else "cpu")
        adamw.state[p] = {"step": count, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if orthogonal:
        optimizers.append(
            Muon(
                [p for _, p in trainable if id(p) in orthogonal],
                lr=config.learning_rate,
                momentum=config.beta2,
                weight_decay=config.weight_decay,
            )
        )
    return CombinedOptimizer(optimizers)


def learning_rate(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Return the rate of `step` (0-based): linear warm-up, then `config.schedule`, at last `final_fraction`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, total_steps - 1 - config.warmup_steps)
    left = _half_cosine(progress) if config.schedule == "cosine" else min(1.0, (1 - progress) / (1 - LINEAR_HOLD))
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * left)


def weight_decay(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Return the weight decay of `step` (0-based) for parameters that decay."""
    if config.final_weight_decay is None:
        return config.weight_decay
    left = _half_cosine(step / max(1, total_steps - 1))
    return config.final_weight_decay + (config.weight_decay - config.final_weight_decay) * left


def _half_cosine(progress: float) -> float:
    """Return a value that falls from 1 at the beginning (0) to 0 at the end (1)."""
    return 0.5 * (1 + math.cos(math.pi * progress))

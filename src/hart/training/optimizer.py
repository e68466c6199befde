"""AdamW with decay groups, and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from hart.training.config import OptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `module`; matrices and kernels decay, vectors and embeddings do not."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    trainable = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.dim() > 1 and id(p) not in embeddings]
    others = [p for p in trainable if p.dim() <= 1 or id(p) in embeddings]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


def learning_rate(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """The rate of `step` (0-based): linear warm-up, then constant or cosine to `final_fraction`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * cosine)

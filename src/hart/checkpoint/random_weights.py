"""Any configuration with random weights: to measure speed, or to try a pipeline without a download."""

from __future__ import annotations

import math

import torch
from torch import nn

from hart.checkpoint.loading import build
from hart.config import HartConfig
from hart.devices import dtype_name, machine_memory, without_memory
from hart.errors import HartError
from hart.model import Hart
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer


@torch.no_grad()
def random_model(
    config: HartConfig, generator: torch.Generator, *, dtype: torch.dtype = torch.float32
) -> tuple[HybridTokenizer, Hart]:
    """Tokenizer and model in evaluation mode on the generator's device, filled from `generator`.

    Memory never holds more than the weights in `dtype`. Weights are scaled so that activations stay near 1;
    the pictures are noise. To start a training, use `hart.training.initialization` instead.
    """
    with without_memory():
        modules = build(config)
    needed = sum(p.numel() for module in modules for p in module.parameters()) * dtype.itemsize
    available = machine_memory()
    if generator.device.type == "cpu" and available is not None and needed > available:
        raise HartError(
            f"this configuration has weights of {needed / 2**30:.0f} GiB in {dtype_name(dtype)}, and the machine has "
            f"{available / 2**30:.0f} GiB of memory"
        )
    for module in modules:
        module.to(dtype).to_empty(device=generator.device)
        for layer in module.modules():
            _fill(layer, generator)
    return modules


def _fill(layer: nn.Module, generator: torch.Generator) -> None:
    """Norms as identity, other vectors zero, matrices and kernels normal with variance 1 / inputs."""
    for name, parameter in layer.named_parameters(recurse=False):
        if parameter.dim() == 1:
            is_gain = name == "weight" and isinstance(layer, nn.RMSNorm | nn.LayerNorm | nn.GroupNorm)
            parameter.fill_(1.0 if is_gain else 0.0)
        else:
            inputs = math.prod(parameter.shape[1:])
            parameter.normal_(0.0, 1 / math.sqrt(inputs), generator=generator)

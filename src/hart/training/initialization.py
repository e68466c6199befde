"""Starting weights of the transformer and the residual diffusion."""

from __future__ import annotations

import math

import torch
from torch import nn

from hart.layers.attention import Attention
from hart.layers.norm import SiluLinear
from hart.model import Hart
from hart.transformer.block import Block, GeluMLP, LinearModulation, SwiGLU, TableModulation

# Factor on the initial weights of modulation that give scales and shifts (VAR).
INITIAL_SCALE_AND_SHIFT = 0.5


@torch.no_grad()
def initialize(hart: Hart, generator: torch.Generator, *, gate_gain: float) -> None:
    """Initialise all weights from `generator`, as VAR and MAR do.

    gate_gain: factor on what gives the gates of modulated branches, the weights of "linear" or the table of
    "shared": small, so that a block starts close to the identity.

    Linear layers are normal with std 1 / sqrt(3 C); the output layers of branches shrink with depth; the head
    starts near zero, the diffusion's modulation and output at zero.
    """
    width = hart.config.transformer.width
    std = math.sqrt(1 / (3 * width))
    for module in hart.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(0, std, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0, std, generator=generator)
    for block in hart.transformer.blocks:
        assert isinstance(block, Block)
        _shrink_outputs(block, 1 / math.sqrt(2 * hart.config.transformer.depth))
        if isinstance(block.modulation, LinearModulation):
            weight = block.modulation.project.linear.weight
            weight[: 2 * width].mul_(gate_gain)
            weight[2 * width :].mul_(INITIAL_SCALE_AND_SHIFT)
        elif isinstance(block.modulation, TableModulation):
            table = block.modulation.table.normal_(0, 1 / math.sqrt(width), generator=generator)
            if hart.config.transformer.modulation == "shared":
                table[:2].mul_(gate_gain)
                table[2:].mul_(INITIAL_SCALE_AND_SHIFT)
    hart.transformer.head.linear.weight.mul_(0.02)
    hart.transformer.head.modulation.linear.weight.mul_(INITIAL_SCALE_AND_SHIFT)
    if hart.residual is not None:
        denoiser = hart.residual.denoiser
        for layer in denoiser.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
            if isinstance(layer, SiluLinear):
                layer.linear.weight.zero_()
        denoiser.linear_out.weight.zero_()


def _shrink_outputs(block: Block, factor: float) -> None:
    """Scale what attention and MLP add to the residual stream."""
    assert isinstance(block.attention, Attention)
    block.attention.proj.weight.mul_(factor)
    mlp = block.mlp
    output = mlp.down if isinstance(mlp, SwiGLU) else mlp.linear2 if isinstance(mlp, GeluMLP) else None
    assert output is not None
    output.weight.mul_(factor)

"""How a pooled condition changes the two branches of a block: not at all, by a linear layer, or by a table (AdaLN).

Each kind turns the condition (B, C), or (B, 6C) from a layer that all blocks share, into six parameters a channel,
(B, 6, C): gate, scale and shift, each for the attention branch and the MLP branch; or into None.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hart.layers.norm import SiluLinear


class NoModulation(nn.Module):
    def forward(self, condition: Tensor) -> None:
        return None


class LinearModulation(nn.Module):
    """Six parameters a channel from SiLU and a linear layer of this block's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = SiluLinear(width, 6 * width)

    def forward(self, condition: Tensor) -> Tensor:
        return self.project(condition).unflatten(1, (6, -1))


class TableModulation(nn.Module):
    """A table (6, C) of this block added to the condition: (B, C), broadcast over its rows, or (B, 6C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(nn.init.normal_(torch.empty(6, width), std=width**-0.5))

    def forward(self, condition: Tensor) -> Tensor:
        return self.table + condition.unflatten(1, (-1, self.table.shape[1]))


def build_modulation(kind: Literal["none", "linear", "table", "shared"], width: int) -> nn.Module:
    match kind:
        case "none":
            return NoModulation()
        case "linear":
            return LinearModulation(width)
        case "table" | "shared":
            return TableModulation(width)

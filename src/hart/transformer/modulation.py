"""How a pooled condition changes the two branches of a block: not at all, by a linear layer, or by a table.

Each kind turns the condition (B, C), or (B, 6C) from a layer that all blocks share, into a `Modulation` that
wraps the attention branch (0) and the MLP branch (1): x + out(f(into(norm(x)))).
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from hart.layers.norm import SiluLinear, modulate


class Modulation(Protocol):
    """What happens before and after each branch of one block."""

    def into(self, branch: int, h: Tensor) -> Tensor: ...

    def out(self, branch: int, h: Tensor) -> Tensor: ...

    def part(self, rows: slice) -> Modulation:
        """That of some rows of the batch."""
        ...


class Unmodulated:
    """Branches as they are."""

    def into(self, branch: int, h: Tensor) -> Tensor:
        return h

    def out(self, branch: int, h: Tensor) -> Tensor:
        return h

    def part(self, rows: slice) -> Modulation:
        return self


class AdaptiveModulation:
    """AdaLN with six parameters (B, 6, C): gains, scales and shifts of the two branches, in this order."""

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters
        self.gains, self.scales, self.shifts = (p.unsqueeze(2).unbind(1) for p in parameters.chunk(3, dim=1))

    def into(self, branch: int, h: Tensor) -> Tensor:
        return modulate(h, self.scales[branch], self.shifts[branch])

    def out(self, branch: int, h: Tensor) -> Tensor:
        return h * self.gains[branch]

    def part(self, rows: slice) -> Modulation:
        return AdaptiveModulation(self.parameters[rows])


class NoModulation(nn.Module):
    def forward(self, condition: Tensor) -> Modulation:
        return Unmodulated()


class LinearModulation(nn.Module):
    """Six parameters a channel from SiLU and a linear layer of this block's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = SiluLinear(width, 6 * width)

    def forward(self, condition: Tensor) -> Modulation:
        return AdaptiveModulation(self.project(condition).unflatten(1, (6, -1)))


class TableModulation(nn.Module):
    """A table (6, C) of this block added to the condition: (B, C), broadcast over its rows, or (B, 6C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(nn.init.normal_(torch.empty(6, width), std=width**-0.5))

    def forward(self, condition: Tensor) -> Modulation:
        return AdaptiveModulation(self.table + condition.unflatten(1, (-1, self.table.shape[1])))


def build_modulation(kind: Literal["none", "linear", "table", "shared"], width: int) -> nn.Module:
    match kind:
        case "none":
            return NoModulation()
        case "linear":
            return LinearModulation(width)
        case "table" | "shared":
            return TableModulation(width)

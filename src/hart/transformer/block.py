"""One transformer block, composed as the configuration says, and its modulation by a pooled condition (AdaLN).

Modulation turns the condition (B, C), or (B, 6C) from a layer that all blocks share, into six parameters per channel,
(B, 6, C): gate, scale and shift, for the attention branch and for the MLP branch; or into None.

Shapes: B batch, N tokens, C width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.config import TransformerConfig
from hart.layers.attention import Attention
from hart.layers.kv_cache import LayerCache
from hart.layers.linear import gated_silu
from hart.layers.norm import PlainLayerNorm, RMSNorm, SiluLinear, modulate
from hart.layers.rope import Rotation


class SwiGLU(nn.Module):
    """down(silu(gate(x)) up(x)), without biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gated_silu(self.gate(x), self.up(x)))


class GeluMLP(nn.Module):
    """Linear, GELU (tanh approximation), linear, as in GPT-2 and VAR."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.linear1(x), approximate="tanh"))


def build_norm(config: TransformerConfig) -> nn.Module:
    return RMSNorm(config.width) if config.norm == "rms" else PlainLayerNorm(config.width)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the two share one norm, and modulation wraps both."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = build_norm(config)
        self.attention = Attention(config.width, config.heads, qk_norm=config.qk_norm)
        mlp = SwiGLU if config.mlp == "swiglu" else GeluMLP
        self.mlp = mlp(config.width, config.mlp_width)
        self.modulation = build_modulation(config.modulation, config.width)

    def __getstate__(self) -> dict[str, Any]:
        """Drop `before` and `after`, which may be compiled: copies and pickles are plain."""
        return {name: value for name, value in super().__getstate__().items() if name not in ("before", "after")}

    @property
    def outputs(self) -> tuple[nn.Linear, nn.Linear]:
        """Return the layers whose results attention and MLP add to the residual stream."""
        *_, last = self.mlp.children()
        assert isinstance(last, nn.Linear)
        return self.attention.proj, last

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        modulation: Tensor | None,
        *,
        segments: Sequence[int] | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Map x (B, N, C) to (B, N, C).

        modulation: (B, 6, C) from `self.modulation`, or None. segments, cache: as in `Attention.attended`.
        """
        attended = self.attention.attended(*self.before(x, rotation, modulation), segments=segments, cache=cache)
        return self.after(x, attended, modulation)

    def before(self, x: Tensor, rotation: Rotation | None, modulation: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of tokens, as `Attention.project` does."""
        return self.attention.project(self._normed(x, modulation, 0), rotation)

    def after(self, x: Tensor, attended: Tensor, modulation: Tensor | None) -> Tensor:
        """Return tokens (B, N, C) after the block, given the attention output (B, N, C)."""
        x = _added(x, self.attention.proj(attended), modulation, 0)
        return _added(x, self.mlp(self._normed(x, modulation, 1)), modulation, 1)

    def _normed(self, x: Tensor, modulation: Tensor | None, branch: int) -> Tensor:
        """Return the input of a branch: attention is 0, the MLP 1."""
        h = self.norm(x)
        if modulation is None:
            return h
        scale, shift = modulation.unsqueeze(2)[:, branch + 2 :: 2].unbind(1)
        return modulate(h, scale, shift)


def _added(x: Tensor, found: Tensor, modulation: Tensor | None, branch: int) -> Tensor:
    """Add a branch's output to the tokens."""
    return x + found if modulation is None else torch.addcmul(x, found, modulation[:, branch, None])


@torch.no_grad()
def deepened(blocks: nn.ModuleList, depth: int) -> nn.ModuleList:
    """Return `depth` blocks that together do what `blocks` do: evenly spaced copies contribute nothing at first."""
    deep = nn.ModuleList()
    for i, block in enumerate(blocks, 1):
        deep.append(block)
        while len(deep) < i * depth // len(blocks):
            idle = copy.deepcopy(block)
            assert isinstance(idle, Block)
            for parameter in (parameter for layer in idle.outputs for parameter in layer.parameters()):
                parameter.zero_()
            deep.append(idle)
    return deep


class NoModulation(nn.Module):
    def forward(self, condition: Tensor) -> None:
        return None


class LinearModulation(nn.Module):
    """Six parameters per channel from SiLU and this block's own linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = SiluLinear(width, 6 * width)

    def forward(self, condition: Tensor) -> Tensor:
        return self.project(condition).unflatten(1, (6, -1))


class TableModulation(nn.Module):
    """This block's table (6, C) added to the condition: (B, C), broadcast over its rows, or (B, 6C)."""

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

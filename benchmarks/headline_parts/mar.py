"""A cost twin of MAR (arXiv 2406.11838), masked autoregression with a diffusion head: its published sizes and shapes.

Its sizes and order of work are the paper's and its weights are random: it costs what MAR does but makes no images. An
image is 256 tokens of 16 numbers. Each of 64 steps runs the encoder on 64 class tokens followed by the known tokens,
the decoder on all tokens, and a small MLP a hundred times for the tokens of this step. Guidance doubles the rows.

Shapes: R rows, N tokens, C width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKENS, CHANNELS, BUFFER = 256, 16, 64
CLASSES = 1000
STEPS, DIFFUSION_STEPS = 64, 100
FREQUENCIES = 256


@dataclass(frozen=True)
class Sizes:
    """depth: of encoder and of decoder. head_width, head_depth: of the diffusion's MLP."""

    width: int
    depth: int
    heads: int
    head_width: int
    head_depth: int


MAR_B = Sizes(768, 12, 12, 1024, 6)
MAR_L = Sizes(1024, 16, 16, 1280, 8)


class Block(nn.Module):
    """Pre-norm attention and an MLP of four times the width, as in ViT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, N, C) to the same shape."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class HeadBlock(nn.Module):
    """One residual block of the diffusion's MLP, with shift, scale and gate from the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(F.silu(condition)).chunk(3, dim=-1)
        return x + gate * self.mlp(torch.addcmul(shift, self.norm(x), 1 + scale))


class DiffusionHead(nn.Module):
    """Maps tokens (R, D), each with a hidden state (R, C), to noise and variance (R, 2D)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.head_width
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(sizes.width, width)
        self.input = nn.Linear(CHANNELS, width)
        self.blocks = nn.ModuleList(HeadBlock(width) for _ in range(sizes.head_depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, 2 * CHANNELS)

    def forward(self, x: Tensor, time: Tensor, hidden: Tensor) -> Tensor:
        """time: (R, F), the sinusoids of the timestep."""
        condition = self.time(time) + self.condition(hidden)
        x = self.input(x)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(F.silu(condition)).chunk(2, dim=-1)
        return self.output(torch.addcmul(shift, self.norm(x), 1 + scale))


class Mar(nn.Module):
    """The network; `step` is one of the steps that make images."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.classes = nn.Embedding(CLASSES + 1, width)
        self.input, self.input_norm = nn.Linear(CHANNELS, width), nn.LayerNorm(width)
        self.encoder_positions = nn.Parameter(torch.empty(1, BUFFER + TOKENS, width))
        self.encoder = nn.ModuleList(Block(width, sizes.heads) for _ in range(sizes.depth))
        self.encoder_norm = nn.LayerNorm(width)
        self.between = nn.Linear(width, width)
        self.mask = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_positions = nn.Parameter(torch.empty(1, BUFFER + TOKENS, width))
        self.decoder = nn.ModuleList(Block(width, sizes.heads) for _ in range(sizes.depth))
        self.decoder_norm = nn.LayerNorm(width)
        self.output_positions = nn.Parameter(torch.empty(1, TOKENS, width))
        self.head = DiffusionHead(sizes)

    def hidden(self, known: Tensor, classes: Tensor) -> Tensor:
        """Map known tokens (R, N, D), taken as the first ones, and classes (R,) to hidden states (R, 256, C)."""
        rows, count = known.shape[:2]
        front = self.classes(classes).unsqueeze(1).expand(-1, BUFFER, -1)
        x = torch.cat([front, self.input(known)], dim=1) + self.encoder_positions[:, : BUFFER + count]
        x = self.input_norm(x)
        for block in self.encoder:
            x = block(x)
        masked = self.mask.expand(rows, TOKENS - count, -1)
        x = torch.cat([self.between(self.encoder_norm(x)), masked], dim=1) + self.decoder_positions
        for block in self.decoder:
            x = block(x)
        return self.decoder_norm(x)[:, BUFFER:] + self.output_positions

    def step(self, known: Tensor, classes: Tensor, count: int, diffusion_steps: int = DIFFUSION_STEPS) -> Tensor:
        """Return `count` new tokens (R, count, D) after the known ones (R, N, D); guided row pairs get equal tokens."""
        at = known.shape[1]
        hidden = self.hidden(known, classes)[:, at : at + count].flatten(0, 1)
        x = torch.randn(len(hidden), CHANNELS, device=hidden.device).to(hidden.dtype)
        time = x.new_ones(len(x), FREQUENCIES)
        for _ in range(diffusion_steps):
            conditional, null = self.head(x, time, hidden)[:, :CHANNELS].chunk(2)
            guided = null + 2.0 * (conditional - null)
            x = x - guided.repeat(2, 1) / diffusion_steps
        return x.unflatten(0, (len(known), count))


def step_sizes() -> list[int]:
    """Return how many tokens each step adds, by the cosine schedule."""
    left = [math.floor(TOKENS * math.cos(math.pi / 2 * (i + 1) / STEPS)) for i in range(STEPS)]
    sizes, before = [], TOKENS
    for i, after in enumerate(left):
        after = 0 if i == STEPS - 1 else max(1, min(before - 1, after))  # noqa: PLW2901
        sizes.append(before - after)
        before = after
    return sizes

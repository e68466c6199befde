"""The condition of an image, as tokens in front of the image tokens.

The context takes the place of scale 1's start token: its last position predicts the single token of scale 1. Text has S
tokens; a class has one.

Shapes: B batch, S context tokens, E text width, C model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hart.config import TextConditioning
from hart.layers.norm import RMSNorm, SiluLinear
from hart.types import ClassContext, Rows, TextContext


@dataclass(frozen=True)
class EmbeddedContext(Rows):
    """A context inside the transformer.

    tokens: (B, S, C), before level and position embeddings.
    position_ids: (B, S).
    block_condition: (B, C), modulates the blocks; (B, 6C) if they share a linear layer.
    head_condition: (B, C), modulates the head.
    """

    tokens: Tensor
    position_ids: Tensor
    block_condition: Tensor
    head_condition: Tensor

    @property
    def last_position(self) -> Tensor:
        """Return (B,), the position where the context ends; image tokens count from here."""
        return self.position_ids[:, -1]


class TextEmbedder(nn.Module):
    """Norm and projection of text features. The head is modulated by the maximum over all tokens."""

    def __init__(self, config: TextConditioning, width: int, pooling: Literal["mean", "max"]) -> None:
        super().__init__()
        self.config = config
        self.pooling = pooling
        self.norm = RMSNorm(config.width) if config.norm else nn.Identity()
        self.project = nn.Linear(config.width, width)

    def forward(self, context: TextContext) -> EmbeddedContext:
        if context.embeddings.shape[1:] != (self.config.tokens, self.config.width):
            raise ValueError(
                f"the text context is {tuple(context.embeddings.shape[1:])}, "
                f"the model takes ({self.config.tokens}, {self.config.width})"
            )
        tokens = self.project(self.norm(context.embeddings.to(self.project.weight.dtype)))
        maximum = tokens.amax(dim=1)
        if self.pooling == "mean":
            mask = context.mask.unsqueeze(2).to(tokens.dtype)
            pooled = (tokens * mask).sum(dim=1) / mask.sum(dim=1)
        else:
            pooled = maximum
        return EmbeddedContext(tokens, context.position_ids, pooled, maximum)


class ClassEmbedder(nn.Module):
    """One vector per class plus a learned start; the class vector alone modulates blocks and head.

    shared_modulation: the class vector reaches the blocks through one shared linear layer (VAR's "shared AdaLN").
    """

    def __init__(self, num_classes: int, width: int, *, shared_modulation: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes + 1, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.block_projection = SiluLinear(width, 6 * width) if shared_modulation else nn.Identity()

    def forward(self, context: ClassContext) -> EmbeddedContext:
        vector = self.embedding(context.labels)
        tokens = (vector + self.start).unsqueeze(1)
        return EmbeddedContext(
            tokens, torch.zeros_like(context.labels).unsqueeze(1), self.block_projection(vector), vector
        )

"""Random text features in place of a text encoder: they let a model with random weights run without a download.

Shapes: B prompts, S text tokens, E text width.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch

from hart.config import TextConditioning, TextEncoderConfig
from hart.text_encoder.base import Reading
from hart.types import TextContext


class RandomTextFeatures:
    """Standard normal features; the same prompt and seed always give the same ones. All S tokens are real."""

    def __init__(self, sizes: TextConditioning, seed: int) -> None:
        self.config = TextEncoderConfig(kind="random", tokens=sizes.tokens, output_width=sizes.width, seed=seed)

    @property
    def width(self) -> int:
        """E, the width of the features."""
        return self.config.output_width

    def reading(self, prompts: Sequence[str]) -> list[Reading]:
        """Whole prompts: every one has features of its own."""
        return [Reading() for _ in prompts]

    def encode(self, prompts: Sequence[str]) -> TextContext:
        """Embeddings (B, S, E) in float32 on the CPU and mask (B, S) for B prompts."""
        shape = (self.config.tokens, self.width)
        # a prime just below the range of generators' seeds: no two seeds of a pipeline fall together throughout
        seeds = [(self.config.seed * 2**32 + zlib.crc32(prompt.encode())) % (2**64 - 59) for prompt in prompts]
        embeddings = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return TextContext(torch.stack(embeddings), torch.ones(len(prompts), shape[0], dtype=torch.bool))

    def to(self, device: torch.device, dtype: torch.dtype) -> RandomTextFeatures:
        """There is nothing to move: whoever uses the features brings them where they are wanted."""
        return self

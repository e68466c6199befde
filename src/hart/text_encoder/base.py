"""What every text encoder offers, so that a pipeline or a training task takes any of them.

Shapes: B prompts, S text tokens (`config.tokens`, always), E text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from hart.config import TextEncoderConfig
from hart.types import TextContext


@dataclass(frozen=True)
class Reading:
    """What an encoder reads of a prompt.

    left_out: the words behind the last that it reads; empty where it reads all. unknown: words that it does not know.
    """

    left_out: str = ""
    unknown: tuple[str, ...] = ()


class TextEncoder(Protocol):
    """A frozen prompt encoder. `width` is E, the width of the features that `encode` returns."""

    @property
    def config(self) -> TextEncoderConfig: ...

    @property
    def width(self) -> int: ...

    def encode(self, prompts: Sequence[str]) -> TextContext:
        """Embeddings (B, S, E) and mask (B, S) for B prompts; longer prompts are cut. No gradient is kept."""
        ...

    def reading(self, prompts: Sequence[str]) -> list[Reading]:
        """How `encode` reads each of the prompts, without encoding them."""
        ...

    def to(self, device: torch.device, dtype: torch.dtype) -> TextEncoder:
        """Moves the encoder (in place) and returns it; `encode` then answers on that device in that type."""
        ...

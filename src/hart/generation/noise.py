"""Everything random in generation, behind one interface.

The random numbers of an image are a function of its seed and of their use: scale, token, code, channel, step. So they
are the same for an image alone and in any batch, in any order, and on every device; see `hart.generation.threefry`.

Shapes: B images, N tokens, V codes, M of them that may be sampled, D channels, T diffusion steps.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from hart.devices import row_index
from hart.generation.guidance_and_sampling import Candidates
from hart.generation.threefry import gumbel, key_of, normal, threefry
from hart.grids import MAX_SCALES

# The first MAX_SCALES streams of an image are for the codes of its scales.
RESIDUAL, ORDER, STREAMS = MAX_SCALES, MAX_SCALES + 1, MAX_SCALES + 2


class NoiseSource(Protocol):
    """The random numbers that generation uses; `hart verify` substitutes recorded or constant ones.

    positions: (B or 1, N) int64, raster positions of tokens within their scale.
    """

    def gumbel(self, k: int, positions: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """Return standard Gumbel noise for scale k's candidates, twice (B, N, M): to sample codes and to mix them."""
        ...

    def residual(self, positions: Tensor, channels: int, steps: int) -> Tensor:
        """Return standard normal (T, B, N, D): the start of the diffusion, then what each step adds."""
        ...

    def order(self, tokens: int) -> Tensor:
        """Return (B, N), a permutation of the last scale's positions for its MaskGIT steps."""
        ...

    def of(self, rows: Sequence[int]) -> NoiseSource:
        """Return the noise source for some images of the batch."""
        ...


class SeededNoise:
    """Noise determined by seeds, one per image."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        low, high = key_of(row_index(seeds, device).unsqueeze(1))
        streams = torch.arange(STREAMS, dtype=torch.int32, device=device)
        # (B, STREAMS): each stream has its own key
        self.keys = threefry((low, high), (streams, torch.zeros_like(streams)))

    def _words(self, stream: int, tokens: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return two words (..., B or 1, N or 1, M) for every token (B or 1, N) and each of its numbers."""
        low, high = (key[:, stream, None, None] for key in self.keys)
        return threefry((low, high), (tokens.int().unsqueeze(-1), numbers.int()))

    def gumbel(self, k: int, positions: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor]:
        codes = candidates.codes
        if codes is None:
            codes = torch.arange(candidates.logits.shape[-1], device=positions.device).view(1, 1, -1)
        one, other = self._words(k, positions, codes)
        return gumbel(one), gumbel(other)

    def residual(self, positions: Tensor, channels: int, steps: int) -> Tensor:
        pairs = -(-channels // 2)
        numbers = torch.arange(steps * pairs, device=positions.device).view(steps, 1, 1, pairs)
        return torch.cat(normal(self._words(RESIDUAL, positions, numbers)), dim=-1)[..., :channels]

    def order(self, tokens: int) -> Tensor:
        positions = torch.arange(tokens, device=self.keys[0].device).unsqueeze(0)
        word, _ = self._words(ORDER, positions, positions.new_zeros(1, 1, 1))
        return word.squeeze(-1).argsort(dim=1, stable=True)

    def of(self, rows: Sequence[int]) -> SeededNoise:
        part, index = copy.copy(self), row_index(rows, self.keys[0].device)
        low, high = self.keys
        part.keys = low[index], high[index]
        return part

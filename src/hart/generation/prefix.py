"""What the transformer has seen of a batch while its images are generated.

Shapes: B images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hart.devices import row_index
from hart.generation.edits import SecondPrompts
from hart.layers.kv_cache import KVCache
from hart.transformer.transformer import Conditioning


@dataclass(frozen=True)
class Prefix:
    """What the transformer has seen of a batch, in all its branches: the conditions, and a cache.

    Branches are stacked along the batch: the prompts, second prompts if there are any, and with guidance the null half.
    null_rows: rows at the end with the null context, at the first scale; 0 if they hold a negative prompt. whole: the
    full cache of which `cache` is a part, kept because its memory may be on loan.
    """

    conditioning: Conditioning
    cache: KVCache
    null_rows: int
    second: SecondPrompts | None
    guided: bool
    whole: KVCache | None = None

    @property
    def _branches(self) -> int:
        return 1 + (self.second is not None) + self.guided

    def unguided(self, images: int) -> Prefix:
        """Return the prefix of `images` images without the null half."""
        rows = slice(0, images * (self._branches - 1))
        part = self.cache.rows(rows)
        return Prefix(self.conditioning.rows(rows), part, 0, self.second, False, self.whole or self.cache)

    def of(self, rows: Sequence[int], images: int) -> Prefix:
        """Return the prefix of some rows of `images` images, in the same memory; this one must not be used again."""
        device = self.conditioning.head_modulation.device
        index = row_index([images * branch + row for branch in range(self._branches) for row in rows], device)
        second = None if self.second is None else self.second.rows(index[: len(rows)])
        conditioning, cache = self.conditioning.rows(index), self.cache.moved(index)
        return Prefix(conditioning, cache, 0, second, self.guided, self.whole or self.cache)

    def spread(self, x: Tensor) -> Tensor:
        """Repeat x (B, ...) for every branch."""
        return x if self._branches == 1 else torch.cat([x] * self._branches)

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Split x into prompts, second prompts (else the prompts again) and the null half, each (B, ...)."""
        own, *others = x.chunk(self._branches)
        null = others.pop() if self.guided else None
        return own, others[0] if others else own, null

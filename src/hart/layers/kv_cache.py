"""Keys and values of the tokens seen so far, preallocated and passed as an argument, never kept on a module.

Shapes: L layers, B batch, H heads, N tokens, d head width; 2 stands for keys and values.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hart.layers.quantized import quantized_rows


@dataclass(frozen=True)
class LayerCache:
    """One layer's part of a cache; see `KVCache`."""

    stored: tuple[Tensor, ...]
    dtype: torch.dtype
    length: int
    unkept: int

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, H, N, d) and return all keys and values of the layer, (B, H, length + N, d)."""
        tokens, capacity, stored = keys.shape[2], self.stored[0].shape[3], self.stored
        if self.length == capacity and tokens == self.unkept:
            stored = tuple(_longer(kept, tokens) for kept in stored)
        elif self.length + tokens > capacity:
            raise ValueError(f"the key/value cache holds {capacity} tokens, {self.length + tokens} were given")
        return self._append([kept[0] for kept in stored], keys), self._append([kept[1] for kept in stored], values)

    def _append(self, stored: list[Tensor], new: Tensor) -> Tensor:
        end = self.length + new.shape[2]
        for kept, written in zip(stored, (new,) if len(stored) == 1 else quantized_rows(new), strict=True):
            kept[:, :, self.length : end] = written
        numbers, *scales = (kept[:, :, :end] for kept in stored)
        return (numbers * scales[0]).to(self.dtype) if scales else numbers


def _longer(kept: Tensor, tokens: int) -> Tensor:
    """Return a copy of what a layer has stored, with room for more tokens."""
    *rows, length, width = kept.shape
    copied = kept.new_empty(*rows, length + tokens, width)
    copied[..., :length, :] = kept
    return copied


class KVCache:
    """Room for `capacity` tokens in every layer.

    It holds `length` tokens. Every `layer` appends its keys and values after them; call `advance` once all layers have
    appended, so that all layers of a step write at the same place.

    stored: the values (L, 2, B, H, capacity, d); for 8 bits also the scales (L, 2, B, H, capacity, 1) float32, one per
    token and head.
    recorded: what is recorded on this memory, if anything; see `hart.inference.graphs`.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int, int],
        *,
        dtype: torch.dtype,
        device: torch.device,
        kept: torch.dtype | None = None,
        unkept: int = 0,
    ) -> None:
        """shape: (L, B, H, capacity, d). dtype: of the model. kept: the type in which keys and values are kept, by
        default the model's; int8 rounds them, each with its own scale, and appending returns them in `dtype`.
        unkept: tokens of a last call after a full cache, which no other call will see: they are joined to a copy of
        each layer's, and need no room."""
        layers, *of_layer = shape
        self.stored: tuple[Tensor, ...] = (torch.empty(layers, 2, *of_layer, dtype=kept or dtype, device=device),)
        if kept == torch.int8:
            self.stored += (torch.empty(layers, 2, *of_layer[:-1], 1, dtype=torch.float32, device=device),)
        self.dtype, self.length, self.unkept = dtype, 0, unkept
        self.recorded: dict[Hashable, Any] = {}

    @property
    def numbers(self) -> Tensor:
        return self.stored[0]

    @property
    def capacity(self) -> int:
        return self.numbers.shape[4]

    def layer(self, layer: int) -> LayerCache:
        return LayerCache(tuple(kept[layer] for kept in self.stored), self.dtype, self.length, self.unkept)

    def rows(self, rows: slice) -> KVCache:
        """Return a cache for some rows of the batch, with its own `length`, that writes into this one's memory."""
        part = copy.copy(self)
        part.stored = tuple(kept[:, :, rows] for kept in self.stored)
        return part

    def moved(self, rows: Tensor) -> KVCache:
        """Keep some rows (n,) int64 only, ascending, moved to the front of the memory; do not use this cache again."""
        for kept in self.stored:
            for part in kept.flatten(0, 1):  # one by one: a copy of everything would take much memory
                part[: len(rows), :, : self.length] = part[:, :, : self.length].index_select(0, rows)
        return self.rows(slice(0, len(rows)))

    def for_one_token(self) -> KVCache:
        """Return an empty cache with room for one token of one row, for `append_copies`."""
        layers, _, _, heads, _, head_width = self.numbers.shape
        kept, device = self.numbers.dtype, self.numbers.device
        return KVCache((layers, 1, heads, 1, head_width), dtype=self.dtype, device=device, kept=kept)

    def append_copies(self, one: KVCache, tokens: int) -> None:
        """Write the token of `one` as the next `tokens` tokens of all rows, in all layers; no `advance` is needed."""
        end = self.length + tokens
        for kept, token in zip(self.stored, one.stored, strict=True):
            kept[..., self.length : end, :] = token
        self.length = end

    def advance(self, tokens: int) -> None:
        """Count tokens that every layer has appended."""
        self.length += tokens


@dataclass(eq=False)
class KeptToken:
    """The stored result of a token that is the same in every call: its keys and values, and its hidden state (1, 1, C).

    Only valid while the weights do not change.
    """

    found: tuple[KVCache, Tensor] | None = None

"""Keys and values of the tokens seen so far, preallocated and passed as an argument, never kept on a module."""

from __future__ import annotations

import copy

import torch
from torch import Tensor


class KVCache:
    """Room for `capacity` tokens in every layer.

    It holds `length` tokens. `append` writes one layer's keys and values after them; `advance` is called once all have
    appended, so that every layer of a step writes at the same place.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        capacity: int,
        head_width: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (layers, batch, heads, capacity, head_width)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, H, N, d) and return views (B, H, length + N, d) of all keys and values of the layer."""
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"the key/value cache holds {self.capacity} tokens, {end} were given")
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def rows(self, rows: slice) -> KVCache:
        """A cache for some rows of the batch, with its own `length`, that writes into this one's memory."""
        part = copy.copy(self)
        part.keys, part.values = self.keys[:, rows], self.values[:, rows]
        return part

    def for_one_token(self) -> KVCache:
        """An empty cache with room for one token of one row, for `append_copies`."""
        layers, _, heads, _, head_width = self.keys.shape
        return KVCache(layers, 1, heads, 1, head_width, dtype=self.keys.dtype, device=self.keys.device)

    def append_copies(self, one: KVCache, tokens: int) -> None:
        """Write the token of `one` as the next `tokens` tokens of all rows, in all layers; no `advance` is needed."""
        end = self.length + tokens
        self.keys[:, :, :, self.length : end] = one.keys
        self.values[:, :, :, self.length : end] = one.values
        self.length = end

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has appended."""
        self.length += tokens

"""Keys and values of the tokens seen so far, preallocated and passed as an argument, never kept on a module."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from hart.layers.quantized import quantized_rows


@dataclass(frozen=True)
class Kept:
    """The keys, or the values, of all layers: numbers (L, B, H, capacity, d), in `dtype` for who reads them.

    scales: (L, B, H, capacity, 1) float32 of numbers in 8 bits, one a token and head.
    """

    numbers: Tensor
    scales: Tensor | None
    dtype: torch.dtype

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, kept: torch.dtype) -> Kept:
        scales = torch.empty((*shape[:-1], 1), device=device) if kept == torch.int8 else None
        return cls(torch.empty(shape, dtype=kept, device=device), scales, dtype if scales is not None else kept)

    def write(self, layer: int, place: slice, new: Tensor) -> None:
        """new: (B, H, N, d), at the places of N tokens."""
        if self.scales is None:
            self.numbers[layer, :, :, place] = new
        else:
            self.numbers[layer, :, :, place], self.scales[layer, :, :, place] = quantized_rows(new)

    def read(self, layer: int, end: int) -> Tensor:
        """(B, H, end, d): a view, or of 8 bits new numbers."""
        numbers = self.numbers[layer, :, :, :end]
        return numbers if self.scales is None else (numbers * self.scales[layer, :, :, :end]).to(self.dtype)

    def rows(self, rows: slice) -> Kept:
        return Kept(self.numbers[:, rows], None if self.scales is None else self.scales[:, rows], self.dtype)

    def fill(self, place: slice, one: Kept) -> None:
        """Write the only token of `one` at all places."""
        self.numbers[:, :, :, place] = one.numbers
        if self.scales is not None and one.scales is not None:
            self.scales[:, :, :, place] = one.scales


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
        kept: torch.dtype | None = None,
    ) -> None:
        """dtype: of the model. kept: in what type keys and values are kept, by default the model's; int8 rounds them,
        each to a scale of its own, and `append` gives them back in `dtype`."""
        shape = (layers, batch, heads, capacity, head_width)
        self.keys, self.values = (Kept.empty(shape, dtype, device, kept or dtype) for _ in range(2))
        self.length = 0

    @property
    def capacity(self) -> int:
        return self.keys.numbers.shape[3]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, H, N, d) and return all keys and values of the layer, (B, H, length + N, d)."""
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"the key/value cache holds {self.capacity} tokens, {end} were given")
        self.keys.write(layer, slice(self.length, end), keys)
        self.values.write(layer, slice(self.length, end), values)
        return self.keys.read(layer, end), self.values.read(layer, end)

    def rows(self, rows: slice) -> KVCache:
        """A cache for some rows of the batch, with its own `length`, that writes into this one's memory."""
        part = copy.copy(self)
        part.keys, part.values = self.keys.rows(rows), self.values.rows(rows)
        return part

    def for_one_token(self) -> KVCache:
        """An empty cache with room for one token of one row, for `append_copies`."""
        layers, _, heads, _, head_width = self.keys.numbers.shape
        kept, device = self.keys.numbers.dtype, self.keys.numbers.device
        return KVCache(layers, 1, heads, 1, head_width, dtype=self.keys.dtype, device=device, kept=kept)

    def append_copies(self, one: KVCache, tokens: int) -> None:
        """Write the token of `one` as the next `tokens` tokens of all rows, in all layers; no `advance` is needed."""
        place = slice(self.length, self.length + tokens)
        self.keys.fill(place, one.keys)
        self.values.fill(place, one.values)
        self.length = place.stop

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has appended."""
        self.length += tokens

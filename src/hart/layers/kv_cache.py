"""Keys and values of the tokens seen so far, preallocated and passed as an argument, never kept on a module."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from hart.layers.quantized import quantized_rows


@dataclass(frozen=True)
class Kept:
    """The keys, or the values, of all layers, numbers (L, B, H, capacity, d), or of one; in `dtype` for who reads them.

    scales: (L, B, H, capacity, 1) float32 of numbers in 8 bits, one a token and head.
    """

    numbers: Tensor
    scales: Tensor | None
    dtype: torch.dtype

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, kept: torch.dtype) -> Kept:
        scales = torch.empty((*shape[:-1], 1), device=device) if kept == torch.int8 else None
        return cls(torch.empty(shape, dtype=kept, device=device), scales, dtype if scales is not None else kept)

    def layer(self, layer: int) -> Kept:
        """Those of one layer."""
        return Kept(self.numbers[layer], None if self.scales is None else self.scales[layer], self.dtype)

    def append(self, start: int, new: Tensor) -> Tensor:
        """Write (B, H, N, d) of one layer behind its first `start` tokens, and return all (B, H, start + N, d)."""
        end = start + new.shape[2]
        if self.scales is None:
            self.numbers[:, :, start:end] = new
            return self.numbers[:, :, :end]
        self.numbers[:, :, start:end], self.scales[:, :, start:end] = quantized_rows(new)
        return (self.numbers[:, :, :end] * self.scales[:, :, :end]).to(self.dtype)

    def with_room(self, tokens: int) -> Kept:
        """A copy of one layer's, with room for more tokens."""

        def longer(kept: Tensor) -> Tensor:
            rows, heads, length, width = kept.shape
            copied = kept.new_empty(rows, heads, length + tokens, width)
            copied[:, :, :length] = kept
            return copied

        return Kept(longer(self.numbers), None if self.scales is None else longer(self.scales), self.dtype)

    def rows(self, rows: slice) -> Kept:
        return Kept(self.numbers[:, rows], None if self.scales is None else self.scales[:, rows], self.dtype)

    def move(self, rows: Tensor, tokens: int) -> None:
        """Write the first tokens of some rows (n,) of all layers over those of the first n."""
        for kept in (self.numbers, self.scales):
            for layer in () if kept is None else kept:  # one after the other: a copy of all would be much memory
                layer[: len(rows), :, :tokens] = layer[:, :, :tokens].index_select(0, rows)

    def fill(self, place: slice, one: Kept) -> None:
        """Write the only token of `one` at all places."""
        self.numbers[:, :, :, place] = one.numbers
        if self.scales is not None and one.scales is not None:
            self.scales[:, :, :, place] = one.scales


@dataclass(frozen=True)
class LayerCache:
    """One layer's part of a cache that holds `length` tokens. unkept: see `KVCache`."""

    keys: Kept
    values: Kept
    length: int
    unkept: int

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, H, N, d) and return all keys and values of the layer, (B, H, length + N, d)."""
        tokens, capacity, kept = keys.shape[2], self.keys.numbers.shape[2], (self.keys, self.values)
        if self.length == capacity and tokens == self.unkept:
            kept = (self.keys.with_room(tokens), self.values.with_room(tokens))
        elif self.length + tokens > capacity:
            raise ValueError(f"the key/value cache holds {capacity} tokens, {self.length + tokens} were given")
        return kept[0].append(self.length, keys), kept[1].append(self.length, values)


class KVCache:
    """Room for `capacity` tokens in every layer.

    It holds `length` tokens. Every `layer` appends its keys and values after them; `advance` is called once all have
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
        unkept: int = 0,
    ) -> None:
        """dtype: of the model. kept: in what type keys and values are kept, by default the model's; int8 rounds them,
        each to a scale of its own, and appending gives them back in `dtype`. unkept: tokens of a last call behind a
        full cache, which no other call will see: they are joined to a copy of each layer's, and need no room."""
        shape = (layers, batch, heads, capacity, head_width)
        self.keys, self.values = (Kept.empty(shape, dtype, device, kept or dtype) for _ in range(2))
        self.length, self.unkept = 0, unkept

    @property
    def capacity(self) -> int:
        return self.keys.numbers.shape[3]

    def layer(self, layer: int) -> LayerCache:
        return LayerCache(self.keys.layer(layer), self.values.layer(layer), self.length, self.unkept)

    def rows(self, rows: slice) -> KVCache:
        """A cache for some rows of the batch, with its own `length`, that writes into this one's memory."""
        part = copy.copy(self)
        part.keys, part.values = self.keys.rows(rows), self.values.rows(rows)
        return part

    def moved(self, rows: Tensor) -> KVCache:
        """Some rows (n,) int64 alone, ascending, at the front of this one's memory; this one is used no more."""
        for kept in (self.keys, self.values):
            kept.move(rows, self.length)
        return self.rows(slice(0, len(rows)))

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


@dataclass(eq=False)
class KeptToken:
    """What a token that is the same in every call came to: its keys and values, and its hidden state (1, 1, C).

    For weights that nothing changes.
    """

    found: tuple[KVCache, Tensor] | None = None

"""The data that stages pass to each other: frozen dataclasses of tensors.

Shapes: B batch, K scales, L tokens of all scales, N tokens of one scale, S text tokens,
E text width, D latent channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from hart.grids import ScaleSchedule

R = TypeVar("R", bound="Rows")


class Rows:
    """Base of dataclasses of tensors with one row per image of a batch; other fields apply to all images."""

    def changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Apply `change` to every tensor, also in tuples and nested `Rows`, and return the result."""
        joined: Self = _joined([self], lambda tensors: change(tensors[0]))
        return joined

    def rows(self, rows: slice | list[int] | Tensor) -> Self:
        """Return some images of the batch."""
        return self.changed(lambda x: x[rows])

    def to(self, device: torch.device) -> Self:
        return self.changed(lambda x: x.to(device))

    @staticmethod
    def cat(parts: Iterable[R]) -> R:
        """Concatenate the images of all parts, which must be of one kind."""
        joined: R = _joined(list(parts), torch.cat)
        return joined


def _joined(values: Sequence[Any], join: Callable[[list[Tensor]], Tensor]) -> Any:
    """Join values of one kind: tensors by `join`, also in tuples and `Rows`; of other values the first is used."""
    match first := values[0]:
        case Tensor():
            return join(list(values))
        case tuple():
            return tuple(_joined(each, join) for each in zip(*values, strict=True))
        case Rows():
            names = [field.name for field in fields(first)]  # type: ignore[arg-type]
            return type(first)(**{name: _joined([getattr(value, name) for value in values], join) for name in names})
    return first


@dataclass(frozen=True)
class TextContext(Rows):
    """Text features for a batch of prompts, padded to one length.

    embeddings: (B, S, E) hidden states of the text encoder, padding included.
    mask: (B, S) bool, true for real tokens.
    """

    embeddings: Tensor
    mask: Tensor

    @property
    def position_ids(self) -> Tensor:
        """Return (B, S), the running count of real tokens minus 1; -1 before the first of them."""
        return self.mask.long().cumsum(dim=-1) - 1

    def null(self) -> TextContext:
        """Return the unconditional context of classifier-free guidance: zeros, with only the first token real."""
        mask = torch.zeros_like(self.mask, dtype=torch.bool)
        mask[:, 0] = True
        return TextContext(torch.zeros_like(self.embeddings), mask)

    def __len__(self) -> int:
        return self.embeddings.shape[0]


@dataclass(frozen=True)
class ClassContext(Rows):
    """Class labels for a batch. labels: (B,) int64; `num_classes` itself stands for 'no class'."""

    labels: Tensor
    num_classes: int

    def null(self) -> ClassContext:
        return ClassContext(torch.full_like(self.labels, self.num_classes), self.num_classes)

    def __len__(self) -> int:
        return self.labels.shape[0]


Context = TextContext | ClassContext


@dataclass(frozen=True)
class TokenMaps(Rows):
    """What the transformer is trained on: the tokenizer's view of images (paper, section 3.1).

    indices: K tensors (B, N_k) int64, the code of every token.
    teacher_forcing_input: (B, L - 1, D), for scales 2..K the running sum of the scales before,
        resized to the scale, in raster order.
    last_scale_continuous: (B, N_K, D), the latent minus all coarser scales; the residual tokens are this
        minus the embedding of the last scale's codes.
    schedule: the grids of the K scales.
    given: (B, N_K) int64, codes of the last scale already in its input, -1 for those to predict; None: no codes.
    given_share: the share of given tokens in the whole batch, of which these may be a part.
    """

    indices: tuple[Tensor, ...]
    teacher_forcing_input: Tensor
    last_scale_continuous: Tensor
    schedule: ScaleSchedule
    given: Tensor | None = None
    given_share: float = 0.0

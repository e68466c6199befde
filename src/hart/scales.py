"""The sides of the token maps, coarse to fine: integers only, no tensors.

A picture is drawn as K square maps of tokens. `ScaleSchedule` is the one place that knows how many
tokens each scale has and where it stands when all scales are laid out in one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ScaleSchedule:
    """Sides n_1 < ... < n_K of the token maps, for example `(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)`.

    The last side is the side of the latent. Raises `ValueError` unless the sides are positive,
    growing, and start at 1 (the context predicts exactly one token).
    """

    sides: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.sides) < 2 or self.sides[0] != 1:
            raise ValueError(f"a scale schedule starts at 1 and has two scales or more, not {self.sides}")
        if any(a >= b for a, b in zip(self.sides, self.sides[1:], strict=False)):
            raise ValueError(f"the sides of a scale schedule must grow, not {self.sides}")

    def __len__(self) -> int:
        return len(self.sides)

    def __iter__(self) -> Iterator[int]:
        return iter(self.sides)

    @property
    def final_side(self) -> int:
        """Side of the latent, n_K."""
        return self.sides[-1]

    @property
    def token_counts(self) -> tuple[int, ...]:
        """Tokens of each scale, n_k squared."""
        return tuple(side * side for side in self.sides)

    @property
    def total_tokens(self) -> int:
        """Tokens of all scales, L."""
        return sum(self.token_counts)

    def offset(self, k: int) -> int:
        """Where scale k (0-based) begins in the row of all L tokens."""
        return sum(self.token_counts[:k])

    def span(self, k: int) -> slice:
        """The slice of scale k (0-based) in the row of all L tokens."""
        start = self.offset(k)
        return slice(start, start + self.token_counts[k])

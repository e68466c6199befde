"""The sides of the token maps, coarse to fine: integers only, no tensors.

A picture is drawn as K square maps of tokens. `ScaleSchedule` is the one place that knows how many
tokens each scale has and where it stands when all scales are laid out in one row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SCALES, MAX_SIDE = 64, 1024
"""Far above every published model, so that a damaged file is found before memory is taken for it."""
GROWTH = 4 / 3
"""From one side to the next beyond a known schedule; the paper's of 1024 px grows so from 16 to 64."""


@dataclass(frozen=True)
class ScaleSchedule:
    """Sides n_1 < ... < n_K of the token maps, for example `(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)`.

    The last side is the side of the latent. Raises `ValueError` unless the sides are growing, start at 1 (the context
    predicts exactly one token), and are at most `MAX_SCALES`, the last of them at most `MAX_SIDE`.
    """

    sides: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.sides) > MAX_SCALES:
            raise ValueError(f"a scale schedule has at most {MAX_SCALES} scales, not {len(self.sides)}")
        if len(self.sides) < 2 or self.sides[0] != 1:
            raise ValueError(f"a scale schedule starts at 1 and has two scales or more, not {self.sides}")
        if any(a >= b for a, b in zip(self.sides, self.sides[1:], strict=False)):
            raise ValueError(f"the sides of a scale schedule must grow, not {self.sides}")
        if self.final_side > MAX_SIDE:
            raise ValueError(f"the last side of a scale schedule is at most {MAX_SIDE}, not {self.final_side}")

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

    def ending_at(self, side: int) -> ScaleSchedule:
        """The schedule of another resolution, whose latent has `side` cells, 2 or more.

        Smaller: the scales below `side`, then `side`. Larger: all of these, then as many more as bring the growth of
        each nearest to 4/3, as from 16 to 64 cells in the paper's schedule of 1024 px. The coarse scales, and what was
        learned of them, stay the same. Raises `ValueError` for a side below 2.
        """
        last = self.final_side
        sides = {n for n in self.sides if n < side} | {side}
        if side > last:
            more = max(1, round(math.log(side / last) / math.log(GROWTH)))
            # rounded down, but for what float arithmetic lacks of a whole number
            sides |= {math.floor(last * (side / last) ** (i / more) + 1e-9) for i in range(1, more)}
        return ScaleSchedule(tuple(sorted(sides)))

    def offset(self, k: int) -> int:
        """Where scale k (0-based) begins in the row of all L tokens."""
        return sum(self.token_counts[:k])

    def span(self, k: int) -> slice:
        """The slice of scale k (0-based) in the row of all L tokens."""
        start = self.offset(k)
        return slice(start, start + self.token_counts[k])

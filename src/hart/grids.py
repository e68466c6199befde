"""The grid sizes of the token maps, coarse to fine: integers only, no tensors.

An image is generated as K square maps of tokens. `ScaleSchedule` is the one place that knows how many
tokens each scale has, and its place in the row of all tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SCALES, MAX_GRID_SIZE = 64, 1024
"""Far above every published model, so that a damaged file is found before memory is taken for it."""
GROWTH = 4 / 3
"""Growth of grid sizes beyond a known schedule: that of the paper's at 1024 px, from 16 to 64."""


@dataclass(frozen=True)
class ScaleSchedule:
    """Grid sizes n_1 < ... < n_K of the token maps, for example `(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)`.

    The last one is the size of the latent. Raises `ValueError` unless they grow, start at 1 (the context
    predicts exactly one token), are at most `MAX_SCALES`, and end at `MAX_GRID_SIZE` or below.
    """

    grid_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.grid_sizes) > MAX_SCALES:
            raise ValueError(f"a scale schedule has at most {MAX_SCALES} scales, not {len(self.grid_sizes)}")
        if len(self.grid_sizes) < 2 or self.grid_sizes[0] != 1:
            raise ValueError(f"a scale schedule starts at 1 and has two scales or more, not {self.grid_sizes}")
        if any(a >= b for a, b in zip(self.grid_sizes, self.grid_sizes[1:], strict=False)):
            raise ValueError(f"the grid sizes of a scale schedule must grow, not {self.grid_sizes}")
        if self.final_grid_size > MAX_GRID_SIZE:
            raise ValueError(
                f"the last grid size of a scale schedule is at most {MAX_GRID_SIZE}, not {self.final_grid_size}"
            )

    def __len__(self) -> int:
        return len(self.grid_sizes)

    def __iter__(self) -> Iterator[int]:
        return iter(self.grid_sizes)

    @property
    def final_grid_size(self) -> int:
        """Grid size of the latent, n_K."""
        return self.grid_sizes[-1]

    @property
    def token_counts(self) -> tuple[int, ...]:
        """Tokens of each scale, n_k squared."""
        return tuple(grid_size * grid_size for grid_size in self.grid_sizes)

    @property
    def total_tokens(self) -> int:
        """Tokens of all scales, L."""
        return sum(self.token_counts)

    def ending_at(self, grid_size: int) -> ScaleSchedule:
        """The schedule of another resolution, whose latent has the grid size `grid_size`.

        Smaller: the scales below `grid_size`, then `grid_size`. Larger: all of these, then as many more as bring their
        growth nearest to `GROWTH`. The coarse scales, and what was learned for them, stay the same. Raises
        `ValueError` for a grid size below 2.
        """
        last = self.final_grid_size
        grid_sizes = {n for n in self.grid_sizes if n < grid_size} | {grid_size}
        if grid_size > last:
            more = max(1, round(math.log(grid_size / last) / math.log(GROWTH)))
            # rounded down, except where only float rounding is missing to a whole number
            grid_sizes |= {math.floor(last * (grid_size / last) ** (i / more) + 1e-9) for i in range(1, more)}
        return ScaleSchedule(tuple(sorted(grid_sizes)))

    def offset(self, k: int) -> int:
        """Where scale k (0-based) begins in the row of all L tokens."""
        return sum(self.token_counts[:k])

    def span(self, k: int) -> slice:
        """The slice of scale k (0-based) in the row of all L tokens."""
        start = self.offset(k)
        return slice(start, start + self.token_counts[k])

"""The grids of the token maps, coarse to fine: integers only, no tensors.

An image is generated as K maps of tokens. `ScaleSchedule` is the one place that knows their heights and widths, how
many tokens each has, and its place in the sequence of all tokens. A schedule is an argument of a call: no learned
parameter has its shape, except a table of levels (one per scale) and a table of positions (one per token).

A model is trained on, and stores, a square schedule: sizes 1 = n_1 < ... < n_K. Every other grid follows from it by one
rule, `ScaleSchedule.shaped`: for a latent of H x W positions take the square schedule that ends at about
n_K = sqrt(H W), and give scale k round(H n_k / n_K) x round(W n_k / n_K) positions, at least 1 x 1, and exactly 1 x 1
for the first. So every scale has about as many tokens as in the square, the tokens stay about square, and the sides
grow as the square's do. `hart.sizes` chooses the square schedule. Infinity (Han et al., 2024, arXiv 2412.04431,
section 3) and other variants of VAR also keep the scales' token count and aspect ratio for images that are not square,
but list their schedules by hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from hart.errors import HartError

MAX_SCALES, MAX_GRID_SIZE = 64, 1024
"""Far above every published model, so that a damaged file is found before memory is allocated for it."""
GROWTH = 4 / 3
"""Growth of sizes beyond a known schedule: the paper's at 1024 px, from 16 to 64."""
WIDEST = 8
"""Aspect ratios go from 1:8 to 8:1: beyond, coarse scales become rows or columns with more tokens than their square."""


class Grid(NamedTuple):
    """Positions of a map, in tensor order. In text, as for images, the width comes first: `16x9`."""

    height: int
    width: int

    @property
    def tokens(self) -> int:
        return self.height * self.width

    @property
    def equal_square(self) -> int:
        """Return the size of the square with about as many positions, at least 2 (a schedule has two scales)."""
        return max(2, round(math.sqrt(self.tokens)))

    def __str__(self) -> str:
        """Return the size of a square, `16`, or width and height, `16x9`."""
        return str(self.width) if self.height == self.width else f"{self.width}x{self.height}"


@dataclass(frozen=True)
class ScaleSchedule:
    """Grids of the token maps; the last one is the latent's.

    Raises `ValueError` unless they start at 1 x 1 (the context predicts exactly one token), no side ever shrinks, each
    has more tokens than the one before, there are 2 to `MAX_SCALES`, and no side is above `MAX_GRID_SIZE`.
    """

    grids: tuple[Grid, ...]

    def __post_init__(self) -> None:
        if len(self.grids) > MAX_SCALES:
            raise ValueError(f"a scale schedule has at most {MAX_SCALES} scales, not {len(self.grids)}")
        if len(self.grids) < 2 or self.grids[0] != (1, 1):
            raise ValueError(f"a scale schedule starts at 1 and has two scales or more, not {str(self) or 'none'}")
        for a, b in zip(self.grids, self.grids[1:], strict=False):
            if a == b or a.height > b.height or a.width > b.width:
                raise ValueError(f"the grids of a scale schedule must grow, not {self}")
        if max(self.final) > MAX_GRID_SIZE:
            raise ValueError(f"the last grid size of a scale schedule is at most {MAX_GRID_SIZE}, not {self.final}")

    @classmethod
    def square(cls, sizes: Sequence[int]) -> ScaleSchedule:
        """Return the schedule of square maps, for example of the sizes `(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)`."""
        return cls(tuple(Grid(size, size) for size in sizes))

    @classmethod
    def shaped(cls, sizes: Sequence[int], final: Grid) -> ScaleSchedule:
        """Return the schedule of a latent of any shape, from a square one that ends at about `final.equal_square`.

        See the top of this file. `sizes` must not end above the longer side of `final`.
        """
        return cls((Grid(1, 1), *(grid_of_scale(size, sizes[-1], final) for size in sizes[1:])))

    def __len__(self) -> int:
        return len(self.grids)

    def __iter__(self) -> Iterator[Grid]:
        return iter(self.grids)

    def __str__(self) -> str:
        return ", ".join(map(str, self.grids))

    @property
    def listed(self) -> list[int | str]:
        """Return the grids for JSON: sizes of squares as numbers, other grids as text."""
        return [grid.width if grid.height == grid.width else str(grid) for grid in self.grids]

    @property
    def final(self) -> Grid:
        """Return the grid of the latent."""
        return self.grids[-1]

    @property
    def token_counts(self) -> tuple[int, ...]:
        """Return the number of tokens of each scale."""
        return tuple(grid.tokens for grid in self.grids)

    @property
    def total_tokens(self) -> int:
        """Return L, the number of tokens of all scales."""
        return sum(self.token_counts)

    def span(self, k: int) -> slice:
        """Return the slice of scale k (0-based) in the sequence of all L tokens."""
        start = sum(self.token_counts[:k])
        return slice(start, start + self.token_counts[k])


def sizes_ending_at(sizes: Sequence[int], last: int, most: int = MAX_SCALES) -> tuple[int, ...]:
    """Return the sizes of the square schedule for another resolution, whose latent has size `last`; at most `most`.

    Smaller: the sizes below `last`, then `last`. Larger: all of them, then as many more as bring their growth nearest
    to `GROWTH`. The coarse scales, and what was learned for them, stay the same. If that gives too many, there are as
    many as in `sizes`, all raised to the same power.
    """
    known = sizes[-1]
    found = {n for n in sizes if n < last} | {last}
    if last > known:
        more = max(1, round(math.log(last / known) / math.log(GROWTH)))
        # rounded down, except where only float rounding is missing to a whole number
        found |= {math.floor(known * (last / known) ** (i / more) + 1e-9) for i in range(1, more)}
    if len(found) <= most:
        return tuple(sorted(found))
    power = math.log(last) / math.log(known)
    return (*(math.floor(size**power + 0.5) for size in sizes[:-1]), last)


def parsed_aspect(text: str) -> Fraction:
    """Return width over height of an aspect such as `16:9`. Raises `HartError`."""
    found = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,6})", text.strip())
    ratio = Fraction(int(found[1]), int(found[2])) if found is not None and int(found[2]) else None
    if ratio is None or not Fraction(1, WIDEST) <= ratio <= WIDEST:
        raise HartError(f"aspect {text[:40]!r}: give width:height, such as 16:9, from 1:{WIDEST} to {WIDEST}:1")
    return ratio


def grid_of_aspect(aspect: str, side: int) -> Grid:
    """Return the grid of the shape `16:9` with about as many positions as a square of `side`. Raises `HartError`."""
    stretch = math.sqrt(parsed_aspect(aspect))
    grid = Grid(max(2, round(side / stretch)), max(2, round(side * stretch)))
    if max(grid) > MAX_GRID_SIZE:
        raise HartError(
            f"aspect {aspect}: as many tokens as in a square of {side}x{side} make {grid} of them, and a side has at "
            f"most {MAX_GRID_SIZE}: give a smaller square"
        )
    return grid


def grid_of_scale(size: int, last: int, final: Grid) -> Grid:
    """Return the grid of the scale `size` in a latent of any shape, whose square schedule ends at `last`."""
    # to the nearest whole number, halves up
    return Grid(*(max(1, (2 * side * size + last) // (2 * last)) for side in final))

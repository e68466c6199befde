"""How the rows of a call may be split into parts computed separately. This module does not split: one part for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

Work = Callable[[slice], Iterator[Tensor]]
"""Maps some of the rows to their values after every step, last their result (rows, ...). It must not depend on the
other rows."""

Share = Callable[[Work, int, int], Tensor]
"""Maps work, the number of rows, and the tokens of each row to the result of all rows."""


def whole(work: Work, rows: int, tokens: int) -> Tensor:
    """A `Share` that computes all rows as one part."""
    return last(work(slice(0, rows)))


def last(states: Iterator[Tensor]) -> Tensor:
    """Return the last of at least one state; earlier ones are not kept."""
    for state in states:
        found = state
    return found

"""How the rows of a call may be shared out, each part computed by itself. Here nothing is: all rows are one part."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

Work = Callable[[slice], Iterator[Tensor]]
"""From some of the rows to what they are after every step, at last their result, (rows, ...). It must not depend on the
other rows."""

Share = Callable[[Work, int, int], Tensor]
"""Work, how many rows there are, and how many tokens each has, to the result of all rows."""


def whole(work: Work, rows: int, tokens: int) -> Tensor:
    """A `Share` of one part."""
    return last(work(slice(0, rows)))


def last(states: Iterator[Tensor]) -> Tensor:
    """The last of them, of which there is at least one; none before it is kept."""
    for state in states:
        found = state
    return found

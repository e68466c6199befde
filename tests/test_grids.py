"""The schedule's arithmetic: scales stand one after the other and fill the row of tokens."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart.grids import ScaleSchedule
from strategies import schedules


@given(schedules)
def test_spans_tile_the_row_of_tokens(grid_sizes: tuple[int, ...]) -> None:
    schedule = ScaleSchedule(grid_sizes)
    tokens = [t for k in range(len(schedule)) for t in range(schedule.total_tokens)[schedule.span(k)]]
    assert tokens == list(range(schedule.total_tokens))
    assert [schedule.offset(k) for k in range(len(schedule))] == [schedule.span(k).start for k in range(len(schedule))]
    assert schedule.token_counts == tuple(grid_size**2 for grid_size in grid_sizes)
    assert tuple(schedule) == grid_sizes
    assert schedule.final_grid_size == max(grid_sizes)


def test_token_counts_of_the_paper() -> None:
    assert ScaleSchedule((1, 2, 3, 4, 5, 6, 8, 10, 13, 16)).total_tokens == 680
    assert ScaleSchedule((1, 2, 3, 4, 6, 9, 13, 18, 24, 32)).total_tokens == 2240
    assert ScaleSchedule((1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)).total_tokens == 9451


@pytest.mark.parametrize("grid_sizes", [(), (1,), (2, 3), (1, 3, 3), (1, 3, 2), (0, 1)])
def test_refuses_what_is_no_schedule(grid_sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="scale schedule"):
        ScaleSchedule(grid_sizes)


@given(schedules, st.integers(2, 200))
def test_a_schedule_reaches_any_grid_size(grid_sizes: tuple[int, ...], grid_size: int) -> None:
    schedule = ScaleSchedule(grid_sizes)
    other = schedule.ending_at(grid_size)
    assert other.final_grid_size == grid_size
    # what both have of coarse scales is the same
    assert [n for n in other if n < min(grid_size, grid_sizes[-1])] == [
        n for n in grid_sizes if n < min(grid_size, grid_sizes[-1])
    ]
    assert schedule.ending_at(schedule.final_grid_size) == schedule
    beyond = [n for n in other if n >= grid_sizes[-1]]
    assert all(b <= max(a + 1, 1.7 * a) for a, b in pairwise(beyond))


def test_growth_beyond_the_schedule_is_that_of_the_paper() -> None:
    paper = ScaleSchedule((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    assert paper.ending_at(64).grid_sizes[-6:] == (16, 21, 27, 36, 48, 64)
    assert paper.ending_at(8).grid_sizes == (1, 2, 3, 4, 5, 6, 8)
    assert ScaleSchedule((1, 2, 3, 5, 8)).ending_at(16).grid_sizes == (1, 2, 3, 5, 8, 11, 16)
    with pytest.raises(ValueError, match="starts at 1"):
        paper.ending_at(1)

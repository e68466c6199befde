"""The schedule's arithmetic: scales stand one after the other and fill the row of tokens."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart.scales import ScaleSchedule
from strategies import schedules


@given(schedules)
def test_spans_tile_the_row_of_tokens(sides: tuple[int, ...]) -> None:
    schedule = ScaleSchedule(sides)
    tokens = [t for k in range(len(schedule)) for t in range(schedule.total_tokens)[schedule.span(k)]]
    assert tokens == list(range(schedule.total_tokens))
    assert [schedule.offset(k) for k in range(len(schedule))] == [schedule.span(k).start for k in range(len(schedule))]
    assert schedule.token_counts == tuple(side**2 for side in sides)
    assert tuple(schedule) == sides
    assert schedule.final_side == max(sides)


def test_token_counts_of_the_paper() -> None:
    assert ScaleSchedule((1, 2, 3, 4, 5, 6, 8, 10, 13, 16)).total_tokens == 680
    assert ScaleSchedule((1, 2, 3, 4, 6, 9, 13, 18, 24, 32)).total_tokens == 2240
    assert ScaleSchedule((1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)).total_tokens == 9451


@pytest.mark.parametrize("sides", [(), (1,), (2, 3), (1, 3, 3), (1, 3, 2), (0, 1)])
def test_refuses_what_is_no_schedule(sides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="scale schedule"):
        ScaleSchedule(sides)


@given(schedules, st.integers(2, 200))
def test_a_schedule_reaches_any_side(sides: tuple[int, ...], side: int) -> None:
    schedule = ScaleSchedule(sides)
    other = schedule.ending_at(side)
    assert other.final_side == side
    # what both have of coarse scales is the same
    assert [n for n in other if n < min(side, sides[-1])] == [n for n in sides if n < min(side, sides[-1])]
    assert schedule.ending_at(schedule.final_side) == schedule
    beyond = [n for n in other if n >= sides[-1]]
    assert all(b <= max(a + 1, 1.7 * a) for a, b in pairwise(beyond))


def test_growth_beyond_the_schedule_is_that_of_the_paper() -> None:
    paper = ScaleSchedule((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    assert paper.ending_at(64).sides[-6:] == (16, 21, 27, 36, 48, 64)
    assert paper.ending_at(8).sides == (1, 2, 3, 4, 5, 6, 8)
    assert ScaleSchedule((1, 2, 3, 5, 8)).ending_at(16).sides == (1, 2, 3, 5, 8, 11, 16)
    with pytest.raises(ValueError, match="starts at 1"):
        paper.ending_at(1)

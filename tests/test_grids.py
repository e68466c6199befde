"""The schedule's arithmetic: scales stand one after the other and fill the row of tokens; grids of any shape."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart.grids import Grid, ScaleSchedule, grid_of_aspect, sizes_ending_at
from strategies import schedules, sizes

PAPER = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def shaped(own: tuple[int, ...], grid: Grid) -> ScaleSchedule:
    return ScaleSchedule.shaped(sizes_ending_at(own, grid.equal_square), grid)


@given(schedules)
def test_spans_tile_the_row_of_tokens(schedule: ScaleSchedule) -> None:
    tokens = [t for k in range(len(schedule)) for t in range(schedule.total_tokens)[schedule.span(k)]]
    assert tokens == list(range(schedule.total_tokens))
    assert schedule.token_counts == tuple(height * width for height, width in schedule)
    assert schedule.final == max(schedule)


@pytest.mark.parametrize(
    ("own", "tokens"),
    [
        (PAPER, 680),
        ((1, 2, 3, 4, 6, 9, 13, 18, 24, 32), 2240),
        ((1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64), 9451),
    ],
)
def test_token_counts_of_the_paper(own: tuple[int, ...], tokens: int) -> None:
    assert ScaleSchedule.square(own).total_tokens == tokens


@pytest.mark.parametrize(
    "grids",
    [
        (),
        ((1, 1),),
        ((2, 2), (3, 3)),
        ((1, 2), (3, 3)),
        ((1, 1), (3, 3), (3, 3)),
        ((1, 1), (3, 3), (2, 9)),
        ((0, 0), (1, 1)),
        ((1, 1), (2, 2048)),
    ],
)
def test_refuses_what_is_no_schedule(grids: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="scale schedule"):
        ScaleSchedule(tuple(Grid(*grid) for grid in grids))


@given(sizes, st.integers(2, 200))
def test_sizes_reach_any_last_one(own: tuple[int, ...], last: int) -> None:
    other = sizes_ending_at(own, last)
    assert other[-1] == last
    # what both have of coarse scales is the same
    assert [n for n in other if n < min(last, own[-1])] == [n for n in own if n < min(last, own[-1])]
    assert sizes_ending_at(own, own[-1]) == own
    beyond = [n for n in other if n >= own[-1]]
    assert all(b <= max(a + 1, 1.7 * a) for a, b in pairwise(beyond))


def test_growth_beyond_the_schedule_is_that_of_the_paper() -> None:
    assert sizes_ending_at(PAPER, 64)[-6:] == (16, 21, 27, 36, 48, 64)
    assert sizes_ending_at(PAPER, 8) == (1, 2, 3, 4, 5, 6, 8)
    assert sizes_ending_at((1, 2, 3, 5, 8), 16) == (1, 2, 3, 5, 8, 11, 16)


@given(sizes, st.integers(2, 200))
def test_there_are_no_more_sizes_than_levels(own: tuple[int, ...], last: int) -> None:
    found = sizes_ending_at(own, last, len(own))
    assert len(found) <= len(own)
    assert found[-1] == last
    assert ScaleSchedule.square(found)


def test_sizes_for_few_levels_grow_faster() -> None:
    assert sizes_ending_at((1, 2, 3, 4, 6, 8), 16, 6) == (1, 3, 4, 6, 11, 16)
    assert sizes_ending_at((1, 2, 3, 4, 6, 8), 10, 6) == (1, 2, 3, 5, 7, 10)


@given(sizes, st.integers(2, 90), st.integers(2, 90))
def test_every_shape_has_a_schedule_that_keeps_tokens_and_aspect(own: tuple[int, ...], height: int, width: int) -> None:
    final = Grid(height, width)
    schedule = shaped(own, final)  # its own checks: it starts at 1 x 1 and grows, and no side shrinks
    square = sizes_ending_at(own, final.equal_square)
    assert schedule.final == final
    assert len(schedule) == len(square)
    assert list(shaped(own, Grid(*reversed(final)))) == [tuple(reversed(grid)) for grid in schedule]
    for grid, size in zip(schedule.grids[1:], square[1:], strict=True):
        for side, last in zip(grid, final, strict=True):
            assert side == 1 or abs(side - last * size / square[-1]) <= 0.5


def test_a_wide_schedule() -> None:
    wide = "1, 3x2, 4x2, 5x3, 7x4, 8x5, 11x6, 13x8, 17x10, 21x12"
    assert str(shaped(PAPER, Grid(12, 21))) == wide
    assert shaped(PAPER, Grid(12, 21)).listed == [1, *wide.split(", ")[1:]]


@pytest.mark.parametrize(
    ("aspect", "side", "grid"),
    [
        ("1:1", 64, (64, 64)),
        ("16:9", 64, (48, 85)),
        ("9:16", 64, (85, 48)),
        ("16:9", 16, (12, 21)),
        ("3:2", 16, (13, 20)),
        ("8:1", 4, (2, 11)),
    ],
)
def test_an_aspect_ratio_keeps_the_number_of_tokens(aspect: str, side: int, grid: tuple[int, int]) -> None:
    assert grid_of_aspect(aspect, side) == grid


@pytest.mark.parametrize("text", ["16", "16x9", "0:1", "1:0", "9:1", "1:9", "a:b", ""])
def test_what_is_no_aspect_ratio_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 16:9, from 1:8 to 8:1"):
        grid_of_aspect(text, 8)

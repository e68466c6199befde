"""A part of a benchmark is spread over its groups."""

from __future__ import annotations

from collections import Counter

from hart.evaluation.selection import spread


def test_a_part_has_as_many_of_each_task_as_can_be() -> None:
    tags = ["a"] * 10 + ["b"] * 3 + ["c"] * 10
    rows = spread(tags, 12, seed=1)
    assert rows == sorted(set(rows))
    assert sorted(Counter(tags[row] for row in rows).values()) == [3, 4, 5]
    assert rows == spread(tags, 12, seed=1) != spread(tags, 12, seed=2)
    assert spread(tags, None, 0) == spread(tags, 99, 0) == list(range(23))

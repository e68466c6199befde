"""Which prompts of a benchmark are drawn when not all are."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence


def spread(groups: Sequence[str], limit: int | None, seed: int) -> list[int]:
    """Rows to draw, in order: all, or `limit` of them, as many of each group as can be, chosen by `seed`.

    groups: the group of each row.
    """
    if limit is None or limit >= len(groups):
        return list(range(len(groups)))
    members: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    generator = random.Random(seed)
    for rows in members.values():
        generator.shuffle(rows)
    # the first of every group, the second of every group, ...
    turns = [(turn, row) for rows in members.values() for turn, row in enumerate(rows)]
    turns.sort(key=lambda item: item[0])
    return sorted(row for _, row in turns[:limit])

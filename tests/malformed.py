"""Files that are damaged at random, the same for the same seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**40, 1.5, float("nan"), float("inf"), "", "x", "\0", "\ud800", "../x", "/etc/passwd",
    [], [[]], {}, {"a": 1}, [1, "a"], "9" * 5000,
)  # fmt: skip


def damaged_bytes(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`count` versions: cut off, bits turned, a stretch zeroed, repeated, dropped or overwritten."""
    draws = random.Random(seed)
    for _ in range(count):
        data = bytearray(content)
        for _ in range(draws.choice((1, 1, 1, 2, 5))):
            place = draws.randrange(len(data) + 1)
            stop = min(len(data), place + draws.choice((1, 4, 30, 600)))
            match draws.randrange(7):
                case 0:
                    del data[place:]
                case 1 | 2 if place < len(data):
                    data[place] ^= 1 << draws.randrange(8)
                case 3:
                    data[place:stop] = bytes(stop - place)
                case 4:
                    data[place:place] = data[place:stop]
                case 5:
                    del data[place:stop]
                case _:
                    data[place:stop] = draws.randbytes(stop - place)
        yield bytes(data)


def damaged_json(value: Any, count: int, seed: int) -> Iterator[Any]:
    """`count` copies of a JSON value, each with one part replaced by one of `VALUES`, or left out."""
    draws = random.Random(seed)
    for _ in range(count):
        copy = json.loads(json.dumps(value))
        place, key = draws.choice(list(_places(copy)))
        if draws.random() < 0.2:
            del place[key]
        else:
            place[key] = draws.choice(VALUES)
        yield copy


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield value, key
        yield from _places(part)

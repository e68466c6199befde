"""Brace patterns such as "train-{0000..0063}.tar", expanded within bounds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from hart.errors import HartError

MAX_NAMES = 100_000
MAX_BRACES = 100


def expand(pattern: str) -> tuple[str, ...]:
    """The names that a pattern stands for, in order; "::" joins several patterns.

    As in a shell: {a,b}, {1..9}, {001..100}, {1..9..2}, nested too; braces around anything else stay.
    Raises `HartError` for more than `MAX_NAMES`.
    """
    short = pattern if len(pattern) < 200 else f"{pattern[:200]}…"
    if pattern.count("{") > MAX_BRACES:
        raise HartError(f"{short}: has more than {MAX_BRACES} braces: write it with fewer")
    every = itertools.chain.from_iterable(map(_names, pattern.split("::")))
    names = tuple(itertools.islice(every, MAX_NAMES + 1))
    if len(names) > MAX_NAMES:
        raise HartError(f"{short}: stands for more than {MAX_NAMES:,} files, the most that can be named")
    return names


def _names(text: str) -> Iterator[str]:
    """Made one by one, so that nobody waits for more than are wanted."""
    opened = text.find("{")
    edges = _edges(text, opened)
    if len(edges) < 2:
        yield text
        return
    head, tail = text[:opened], text[edges[-1] + 1 :]
    for middle in _choices(text[opened + 1 : edges[-1]], [text[a + 1 : b] for a, b in itertools.pairwise(edges)]):
        for end in _names(tail):
            yield f"{head}{middle}{end}"


def _choices(inner: str, options: list[str]) -> Iterator[str]:
    """What braces stand for. inner: the text between them. options: the same, split at its commas."""
    if numbers := re.fullmatch(r"(-?[0-9]{1,99})\.\.(-?[0-9]{1,99})(?:\.\.(-?[0-9]{1,99}))?", inner):
        low, high, step = int(numbers[1]), int(numbers[2]), abs(int(numbers[3] or 1)) or 1
        padded = any(re.match(r"-?0[0-9]", end) for end in numbers.groups()[:2])
        width = max(len(numbers[1]), len(numbers[2])) if padded else 0
        values = range(low, high + 1, step) if low <= high else range(low, high - 1, -step)
        return (f"{value:0{width}d}" for value in values)
    if letters := re.fullmatch(r"([A-Za-z])\.\.([A-Za-z])", inner):
        low, high = ord(letters[1]), ord(letters[2])
        return map(chr, range(low, high + 1) if low <= high else range(low, high - 1, -1))
    if len(options) > 1:
        return itertools.chain.from_iterable(map(_names, options))
    return (f"{{{name}}}" for name in _names(inner))


def _edges(text: str, opened: int) -> list[int]:
    """Positions of the brace at `opened`, of its commas, and of the brace that closes it; empty if none does."""
    edges: list[int] = []
    depth = 0
    for place in range(opened, len(text)) if opened >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if place == opened or (text[place] == "," and depth == 1):
            edges.append(place)
        elif not depth:
            return [*edges, place]
    return []

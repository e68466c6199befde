"""Many files in one name, with braces as in a shell."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from hart.errors import HartError

MAX_NAMES = 100_000
MAX_BRACES = 100
RANGE = re.compile(r"(-?[0-9]+|[A-Za-z])\.\.(-?[0-9]+|[A-Za-z])(?:\.\.-?([0-9]+))?")
ALPHABET = string.ascii_uppercase + string.ascii_lowercase


def expand(pattern: str) -> tuple[str, ...]:
    """The names that a pattern stands for, in order; "::" joins several patterns.

    As in a shell: {a,b}, {1..9}, {001..100}, {1..9..2}, {a..f}, nested too; braces around anything else stay.
    Raises `HartError` for more than `MAX_NAMES`, before they are made.
    """
    short = pattern if len(pattern) < 200 else f"{pattern[:200]}…"
    if pattern.count("{") > MAX_BRACES:
        raise HartError(f"{short}: has more than {MAX_BRACES} braces: write it with fewer")
    try:
        return tuple(_all(pattern.split("::")))
    except (OverflowError, ValueError):  # the second for numbers of thousands of digits
        raise HartError(f"{short}: stands for more than {MAX_NAMES:,} files, the most that can be named") from None


def _all(patterns: Sequence[str]) -> list[str]:
    """The names of some patterns. Raises `OverflowError` for too many, as all below."""
    names: list[str] = []
    for pattern in patterns:
        names += _names(pattern)
        _require_few(len(names))
    return names


def _names(pattern: str) -> list[str]:
    names, depth, start = [""], 0, 0
    for place, character in enumerate(pattern):
        depth += (character == "{") - (character == "}")
        if depth < 0:
            break
        if character == "{" and depth == 1:
            names, start = _followed(names, [pattern[start:place]]), place + 1
        elif character == "}" and not depth:
            names, start = _followed(names, _alternatives(pattern[start:place])), place + 1
    return [pattern] if depth else _followed(names, [pattern[start:]])


def _followed(names: Sequence[str], ends: Sequence[str]) -> list[str]:
    _require_few(len(names) * len(ends))
    return [name + end for name in names for end in ends]


def _alternatives(inside: str) -> list[str]:
    """What a pair of braces stands for."""
    if (found := RANGE.fullmatch(inside)) and found[1].isalpha() == found[2].isalpha():
        return _range(found[1], found[2], int(found[3] or 1) or 1)
    parts, depth = [""], 0
    for character in inside:
        depth += (character == "{") - (character == "}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return _all(parts) if len(parts) > 1 else [f"{{{name}}}" for name in _names(inside)]


def _range(first: str, last: str, step: int) -> list[str]:
    low, high = (ALPHABET.index(end) if end.isalpha() else int(end) for end in (first, last))
    _require_few(abs(high - low) // step + 1)
    numbers = range(low, high + 1, step) if low < high else range(low, high - 1, -step)
    if first.isalpha():
        return [ALPHABET[number] for number in numbers]
    width = max(len(first), len(last)) if any(re.match("-?0.", end) for end in (first, last)) else 0
    return [f"{number:0{width}d}" for number in numbers]


def _require_few(count: int) -> None:
    if count > MAX_NAMES:
        raise OverflowError

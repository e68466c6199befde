"""Many files in one name, with braces as in a shell."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from hart.errors import HartError

MAX_NAMES = 100_000
MAX_BRACES = 100
MAX_DIGITS = 100
NUMBERS = re.compile(r"(-?[0-9]+)\.\.(-?[0-9]+)(?:\.\.-?([0-9]+))?")
LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?([0-9]+))?")
ALPHABET = string.ascii_uppercase + string.ascii_lowercase


class _TooManyError(Exception):
    """More than `MAX_NAMES`; it is known before they are made."""


def expand(pattern: str) -> tuple[str, ...]:
    """The names that a pattern stands for, in order; "::" joins several patterns.

    As in a shell: {a,b}, {1..9}, {001..100}, {1..9..2}, {a..f}, nested too; braces around anything else stay.
    Raises `HartError` for more than `MAX_NAMES`.
    """
    short = pattern if len(pattern) < 200 else f"{pattern[:200]}…"
    if pattern.count("{") > MAX_BRACES:
        raise HartError(f"{short}: has more than {MAX_BRACES} braces: write it with fewer")
    try:
        return tuple(_all(pattern.split("::")))
    except _TooManyError:
        raise HartError(f"{short}: stands for more than {MAX_NAMES:,} files, the most that can be named") from None


def _all(patterns: Sequence[str]) -> list[str]:
    """The names of some patterns, one after the other."""
    names: list[str] = []
    for pattern in patterns:
        names += _names(pattern)
        if len(names) > MAX_NAMES:
            raise _TooManyError
    return names


def _names(pattern: str) -> list[str]:
    names, depth, start = [""], 0, 0
    for place, character in enumerate(pattern):
        if character == "{":
            if not depth:
                names, start = _followed(names, [pattern[start:place]]), place + 1
            depth += 1
        elif character == "}":
            depth -= 1
            if not depth:
                names, start = _followed(names, _alternatives(pattern[start:place])), place + 1
        if depth < 0:
            break
    return [pattern] if depth else _followed(names, [pattern[start:]])


def _followed(names: Sequence[str], ends: Sequence[str]) -> list[str]:
    """Each name with each end."""
    if len(names) * len(ends) > MAX_NAMES:
        raise _TooManyError
    return [name + end for name in names for end in ends]


def _alternatives(inside: str) -> list[str]:
    """What a pair of braces stands for."""
    if found := NUMBERS.fullmatch(inside):
        low, high, step = found.groups()
        padded = any(re.match("-?0.", number) for number in (low, high))
        width = max(len(low), len(high)) if padded else 0
        return [f"{number:0{width}d}" for number in _steps(low, high, step)]
    if found := LETTERS.fullmatch(inside):
        low, high, step = found.groups()
        return [ALPHABET[place] for place in _steps(ALPHABET.index(low), ALPHABET.index(high), step)]
    parts, depth = [""], 0
    for character in inside:
        depth += (character == "{") - (character == "}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return _all(parts) if len(parts) > 1 else [f"{{{name}}}" for name in _names(inside)]


def _steps(low: str | int, high: str | int, step: str | None) -> range:
    if max(map(len, (str(low), str(high), step or ""))) > MAX_DIGITS:
        raise _TooManyError
    low, high, stride = int(low), int(high), int(step or 1) or 1
    if abs(high - low) // stride >= MAX_NAMES:
        raise _TooManyError
    return range(low, high + 1, stride) if low < high else range(low, high - 1, -stride)

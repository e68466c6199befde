"""Patterns with braces, as in "train-{0000..0063}.tar": expanded within bounds."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hart.errors import HartError

MAX_NAMES = 100_000
MAX_DEPTH = 20
"""Braces in each other."""


def expand(pattern: str) -> tuple[str, ...]:
    """The names of a pattern in their order; several patterns are joined by "::".

    As in a shell: {a,b}, {1..9}, {001..100}, {1..9..2}, also in each other; braces around anything else stay.
    Raises `HartError` for more than `MAX_NAMES`, before any name is made.
    """
    parts = [_parse(part, pattern) for part in pattern.split("::")]
    if (count := sum(part.count for part in parts)) > MAX_NAMES:
        raise HartError(f"{_short(pattern)}: stands for {count:,} files, at most {MAX_NAMES:,} can be named")
    return tuple(name for part in parts for name in part.names())


@dataclass(frozen=True)
class _Numbers:
    values: range
    count: int
    width: int

    def names(self) -> Iterator[str]:
        return (f"{value:0{self.width}d}" for value in self.values)


@dataclass(frozen=True)
class _Sequence:
    """Pieces one after the other."""

    pieces: Sequence[str | _Numbers | _Choice]

    @property
    def count(self) -> int:
        return math.prod(1 if isinstance(piece, str) else piece.count for piece in self.pieces)

    def names(self) -> Iterator[str]:
        lists = ([piece] if isinstance(piece, str) else list(piece.names()) for piece in self.pieces)
        return ("".join(parts) for parts in itertools.product(*lists))


@dataclass(frozen=True)
class _Choice:
    """One of several."""

    options: Sequence[_Sequence]

    @property
    def count(self) -> int:
        return sum(option.count for option in self.options)

    def names(self) -> Iterator[str]:
        return itertools.chain.from_iterable(option.names() for option in self.options)


def _parse(text: str, pattern: str, depth: int = 0) -> _Sequence:
    if depth > MAX_DEPTH:
        raise HartError(f"{_short(pattern)}: has braces more than {MAX_DEPTH} deep: write it with fewer")
    pieces: list[str | _Numbers | _Choice] = []
    start = 0
    while (opened := text.find("{", start)) >= 0:
        commas, closed = _inside(text, opened)
        if closed < 0:
            break
        inner = text[opened + 1 : closed]
        numbers = re.fullmatch(r"(-?[0-9]{1,99})\.\.(-?[0-9]{1,99})(?:\.\.(-?[0-9]{1,99}))?", inner)
        letters = re.fullmatch(r"([A-Za-z])\.\.([A-Za-z])", inner)
        pieces.append(text[start:opened])
        if numbers:
            pieces.append(_numbers(*numbers.groups()))
        elif letters:
            pieces.append(_letters(*letters.groups()))
        elif commas:
            edges = [opened, *commas, closed]
            options = [_parse(text[a + 1 : b], pattern, depth + 1) for a, b in itertools.pairwise(edges)]
            pieces.append(_Choice(options))
        else:
            pieces += ["{", *_parse(inner, pattern, depth + 1).pieces, "}"]
        start = closed + 1
    return _Sequence([*pieces, text[start:]])


def _inside(text: str, opened: int) -> tuple[list[int], int]:
    """Where the commas of the braces that open at `opened` are, and where they close; -1 for nowhere."""
    commas: list[int] = []
    depth = 0
    for place in range(opened, len(text)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if not depth:
                return commas, place
        elif text[place] == "," and depth == 1:
            commas.append(place)
    return [], -1


def _numbers(first: str, last: str, step: str | None) -> _Numbers:
    low, high, stride = int(first), int(last), abs(int(step or 1)) or 1
    values = range(low, high + 1, stride) if low <= high else range(low, high - 1, -stride)
    padded = any(re.match(r"-?0[0-9]", end) for end in (first, last))
    # counted here, since len() of a range has a limit
    return _Numbers(values, abs(high - low) // stride + 1, max(len(first), len(last)) if padded else 0)


def _letters(first: str, last: str) -> _Choice:
    low, high = ord(first), ord(last)
    values = range(low, high + 1) if low <= high else range(low, high - 1, -1)
    return _Choice([_Sequence([chr(value)]) for value in values])


def _short(pattern: str) -> str:
    return pattern if len(pattern) < 200 else f"{pattern[:200]}…"

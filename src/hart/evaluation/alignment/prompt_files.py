"""Prompt files of benchmarks: where they come from, and which of their prompts are drawn."""

from __future__ import annotations

import random
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hart.errors import HartError
from hart.files import atomic_write, default_cache

TIMEOUT = 60.0
"""Seconds without an answer."""


@dataclass(frozen=True)
class PublishedFile:
    """benchmark: its name. name: of the file. address: its public home. prompts: how many it has."""

    benchmark: str
    name: str
    address: str
    prompts: int


def located(published: PublishedFile, given: Path | None, cache: Path | None = None) -> Path:
    """The file on this machine: `given`, or the one of its name in the folder `given`; with None fetched once.

    cache: where it is kept; the user's cache folder by default. Raises `HartError` that names the address.
    """
    if given is not None:
        given = given.expanduser()
        file = given / published.name if given.is_dir() else given
        if not file.is_file():
            raise HartError(f"{file}: no such file: fetch it from {published.address}")
        return file
    file = (default_cache() if cache is None else cache) / "benchmarks" / published.name
    if not file.exists():
        try:
            with urllib.request.urlopen(published.address, timeout=TIMEOUT) as answer:
                content: bytes = answer.read()
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise HartError(
                f"{published.name} of {published.benchmark} cannot be fetched from {published.address} ({reason}): "
                "fetch it elsewhere and give it with --data"
            ) from None
        atomic_write(file, lambda stream: stream.write(content))
    return file


def read_text(file: Path) -> str:
    """Raises `HartError` for what is no UTF-8 text."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise HartError(f"{file}: is no UTF-8 text: give the file as it is published") from None


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

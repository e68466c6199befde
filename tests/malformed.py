"""Ways to damage a file, from a seed: what a bad disk, a cut download or a wrong hand does to it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 3, 2**31, 2**62, 10**30, 10**400, 0.5, 1e300, float("nan"), "", "x", "\0", "\ud800", "../x",
    "/dev/zero", [], [1], [None], {}, {"a": 1}, "y" * 10**5, list(range(10**4)),
)  # fmt: skip
"""What a field of a JSON file may hold instead of what it should."""


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.choice([0, 1, 7, 8, 9, rng.randrange(len(content) + 1), max(0, len(content) - 1)])]


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One to eight bits the other way, half of the time near the beginning, where the headers are."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        end = len(changed) if rng.random() < 0.5 else min(len(changed), 600)
        changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def spliced(content: bytes, rng: random.Random) -> bytes:
    """A piece left out, doubled, or in the place of zeros."""
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return rng.choice([content[:a] + content[b:], content[:b] + content[a:], content[:a] + bytes(b - a) + content[b:]])


def other(content: bytes, rng: random.Random) -> bytes:
    """Something else altogether."""
    return rng.choice([b"", b"{}", b"[]", b"null", b"[" * 10**5, b'{"a":' * 10**5, b"\xff\xfe", b"\0" * 64,
                       b"version https://git-lfs.github.com/spec/v1\n", rng.randbytes(300), b"9" * 10**4])  # fmt: skip


def changed_json(content: bytes, rng: random.Random) -> bytes:
    """One to three fields, however deep, removed, renamed or given another value."""
    try:
        values = json.loads(content)
    except ValueError:
        return other(content, rng)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(values))
        if not places:
            break
        holder, key = rng.choice(places)
        if isinstance(holder, dict) and rng.random() < 0.2:
            holder[f"{key}x"] = holder.pop(key)
        elif isinstance(holder, dict) and rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = rng.choice(VALUES)
    return json.dumps(values).encode("utf-8", "surrogatepass")


def _places(values: Any) -> Any:
    items: Any = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in list(items):
        yield values, key
        if not isinstance(value, list) or len(value) < 100:
            yield from _places(value)


def changed_header(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header says something else."""
    size = int.from_bytes(content[:8], "little")
    header = changed_json(content[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def damage(path: Path, rng: random.Random) -> str:
    """Damage a file in a way that suits it; returns what was done."""
    ways: list[Callable[[bytes, random.Random], bytes]] = [cut, flipped, spliced, other]
    if path.suffix == ".json":
        ways += [changed_json] * 6
    if path.suffix == ".safetensors":
        ways += [changed_header] * 4
    way = rng.choice(ways)
    content = path.read_bytes()
    kind = rng.random()
    path.unlink()
    if kind < 0.03:
        os.mkfifo(path)
        return "a FIFO"
    if kind < 0.06:
        path.symlink_to("/dev/zero")
        return "a device"
    if kind < 0.09:
        path.mkdir()
        return "a folder"
    if kind < 0.11:
        path.symlink_to(path.name)
        return "a link to itself"
    if kind < 0.14:
        return "removed"
    path.write_bytes(way(content, rng) if content else b"x")
    return way.__name__

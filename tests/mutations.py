"""Random damage to files from a seed: what disks, downloads, editors and strangers do to them."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    10**6,
    2**31,
    2**62,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../etc/passwd",
    "/dev/zero",
    "a\0b",
    "\ud800",
    "9" * 40,
    "x" * 100_000,
    [],
    [1],
    [[[]]],
    {},
    {"a": {"b": 1}},
    [0] * 1000,
)


def damage_file(path: Path, rng: random.Random) -> str:
    """Damage one file of any kind in place; returns what was done."""
    by_kind = {
        ".json": damage_json,
        ".jsonl": damage_json_lines,
        ".safetensors": damage_safetensors,
        ".pth": damage_pickle,
        ".bin": damage_pickle,
        ".pt": damage_pickle,
    }
    own = by_kind.get(path.suffix)
    choices: list[Callable[[Path, random.Random], str]] = [damage_bytes, replace_by_other]
    if own is not None:
        choices += [own] * 6
    return rng.choice(choices)(path, rng)


def damage_bytes(path: Path, rng: random.Random) -> str:
    """Truncated, emptied, flipped, zeroed, doubled or filled with rubbish."""
    data = bytearray(path.read_bytes())
    size = len(data)
    at = rng.randrange(size) if size else 0
    match rng.randrange(8):
        case 0:
            data, what = data[:at], f"cut to {at} bytes"
        case 1:
            data, what = bytearray(), "emptied"
        case 2:
            for _ in range(rng.choice((1, 10, 100))):
                if size:
                    data[rng.randrange(size)] ^= 1 << rng.randrange(8)
            what = "bits flipped"
        case 3:
            length = rng.randrange(1, 4096)
            data[at : at + length] = bytes(len(data[at : at + length]))
            what = f"zeroed from {at}"
        case 4:
            data, what = data + data, "doubled"
        case 5:
            data, what = bytearray(rng.randbytes(rng.choice((1, 100, 10_000)))), "random bytes"
        case 6:
            data[at:at], what = rng.choice((b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 100_000)), f"inserted at {at}"
        case _:
            data, what = b"\xef\xbb\xbf" + data, "byte order mark"
    path.write_bytes(data)
    return what


def replace_by_other(path: Path, rng: random.Random) -> str:
    """Something else under the same name."""
    neighbours = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
    path.unlink()
    match rng.randrange(7):
        case 0:
            return "deleted"
        case 1:
            path.mkdir()
            return "a folder"
        case 2:
            os.mkfifo(path)
            return "a FIFO"
        case 3:
            path.symlink_to("/dev/zero")
            return "link to /dev/zero"
        case 4:
            path.symlink_to(path.name)
            return "link to itself"
        case 5:
            path.symlink_to("nowhere")
            return "dangling link"
        case _:
            if neighbours:
                shutil.copy(rng.choice(neighbours), path)
            return "another file's content"


def damage_json(path: Path, rng: random.Random) -> str:
    value, what = changed_tree(json.loads(path.read_bytes()), rng)
    path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")
    return what


def damage_json_lines(path: Path, rng: random.Random) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    number = rng.randrange(len(lines))
    value, what = changed_tree(json.loads(lines[number]), rng)
    lines[number] = json.dumps(value)
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"line {number + 1}: {what}"


def damage_safetensors(path: Path, rng: random.Random) -> str:
    """Another header, or tensors of other types, shapes and names under a sound one."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    if rng.random() < 0.5:
        header, what = changed_tree(json.loads(data[8 : 8 + size]), rng)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
        return f"header: {what}"
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    what = _change_tensors(tensors, rng)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    return what


def damage_pickle(path: Path, rng: random.Random) -> str:
    """Other content in a sound file of torch's own format."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such tensors go out of use, but files have them
        quantized = torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)
    odd: tuple[Any, ...] = (
        *ODD_VALUES,
        torch.zeros(2, 2).to_sparse(),
        quantized,
        torch.zeros(0),
        torch.full((3, 3), float("nan")),
        Path,
    )
    tables = [state, *(value for value in state.values() if isinstance(value, dict) and value)]
    table = rng.choice(tables)
    key = rng.choice(sorted(table, key=str))
    match rng.randrange(4):
        case 0:
            table[rng.choice((3, None, (1, 2), "x"))] = table.pop(key)
            what = f"{key} renamed"
        case 1:
            del table[key]
            what = f"{key} removed"
        case 2:
            table[key] = rng.choice(odd)
            what = f"{key} replaced by {str(table[key])[:40]!r}"
        case _:
            state = rng.choice((*odd, list(state.values())))
            what = f"all replaced by {str(state)[:40]!r}"
    torch.save(state, path)
    return what


def _change_tensors(tensors: dict[str, torch.Tensor], rng: random.Random) -> str:
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    match rng.randrange(6):
        case 0:
            tensors["extra" + name] = tensors.pop(name)
            return f"{name} renamed"
        case 1:
            del tensors[name]
            return f"{name} removed"
        case 2:
            dtype = rng.choice((torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2))
            tensors[name] = value.to(dtype)
            return f"{name} as {dtype}"
        case 3:
            tensors[name] = value.flatten()[: value.numel() // 2].clone()
            return f"{name} cut"
        case 4:
            tensors[name] = (
                torch.full_like(value, torch.iinfo(value.dtype).max)
                if not value.is_floating_point()
                else value * float("nan")
            )
            return f"{name} out of range"
        case _:
            tensors[name] = value.unsqueeze(0)
            return f"{name} with one more dimension"


def changed_tree(value: Any, rng: random.Random) -> tuple[Any, str]:
    """A JSON value with one node replaced, removed, renamed or buried; and what was done."""
    if rng.random() < 0.1:
        return rng.choice(ODD_VALUES), "all replaced"
    places = list(_places(value))
    if not places:
        return rng.choice(ODD_VALUES), "all replaced"
    holder, key = rng.choice(places)
    match rng.randrange(5):
        case 0 | 1 | 2:
            holder[key] = rng.choice(ODD_VALUES)
            return value, f"{key}: {str(holder[key])[:40]!r}"
        case 3:
            del holder[key]
            return value, f"{key} removed"
        case _:
            old = holder[key]
            if isinstance(holder, dict):
                del holder[key]
                holder[rng.choice(("", "x", "../x", "\ud800", "extra"))] = old
                return value, f"{key} renamed"
            holder[key] = [old]
            return value, f"{key} buried"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])

"""A model's folder in files of a bounded size, and the folder again.

    OUT/weights-1-of-3.safetensors    the tensors of all files, in float16, each named FILE/TENSOR; FILE/ is all of it
    OUT/model.json                    the files that are JSON

All files of one export hold its number: a mixture of two is refused.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hart import HartError
from hart.checkpoint import read_safetensors, write_safetensors
from hart.files import read_json, read_text, write_json, write_text

LARGEST_FILE = 15 * 2**20
"""Bytes, safely below the 16 MiB to which some machines limit returned files."""
MODEL_FILE, WRITING = "model.json", "writing"
NAME = re.compile(r"weights-(\d+)-of-(\d+)\.safetensors")


def export(model: Path, out: Path) -> list[Path]:
    """Write a model's folder whole, or leave what was there. Raises `HartError` for a tensor that is too large."""
    tensors = {
        f"{file.name}/{name}": value.half() if value.is_floating_point() else value
        for file in sorted(model.glob("*.safetensors"))
        for name, value in read_safetensors(file).items()
    }
    known = (".safetensors", ".json")
    others = [file for file in sorted(model.iterdir()) if file.is_file() and file.suffix not in known]
    tensors |= {f"{file.name}/": torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8) for file in others}
    parts = bounded(tensors, LARGEST_FILE)
    writing = time.time_ns()
    names = [f"weights-{i}-of-{len(parts)}.safetensors" for i in range(1, len(parts) + 1)]
    out.mkdir(parents=True, exist_ok=True)
    for name, part in zip(names, parts, strict=True):
        write_safetensors(out / f"{name}.new", part | {WRITING: torch.tensor(writing)})
    before = [path for path in out.iterdir() if NAME.fullmatch(path.name) and path.name not in names]
    for name in names:
        (out / f"{name}.new").replace(out / name)
    texts = {file.name: read_text(file) for file in sorted(model.glob("*.json"))}
    write_json(out / MODEL_FILE, {WRITING: writing, "files": texts})
    for path in before:
        path.unlink()
    return [out / name for name in names]


def bounded(tensors: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """Tensors in groups of at most `most` bytes, in their order. Raises `HartError` for one that is larger."""
    parts: list[dict[str, Tensor]] = [{}]
    room = most
    for name, tensor in tensors.items():
        if tensor.nbytes > most:
            raise HartError(f"{name} takes {tensor.nbytes} bytes, a file takes {most}")
        if tensor.nbytes > room:
            parts.append({})
            room = most
        parts[-1][name] = tensor
        room -= tensor.nbytes
    return parts


def join(out: Path, model: Path) -> Path:
    """The model's folder from what `export` wrote. Raises `HartError` where files are missing or of two exports."""
    config = read_json(out / MODEL_FILE)
    found = {int(match[1]): match for path in out.iterdir() if (match := NAME.fullmatch(path.name))}
    if not found or sorted(found) != list(range(1, int(next(iter(found.values()))[2]) + 1)):
        there = ", ".join(match[0] for match in found.values()) or "none"
        raise HartError(f"{out}: weight files are missing: there are {there}")
    files: dict[str, dict[str, Tensor]] = {}
    for match in found.values():
        tensors = read_safetensors(out / match[0])
        if int(tensors.pop(WRITING)) != config[WRITING]:
            raise HartError(f"{out / match[0]} and {MODEL_FILE} are of two writings: copy all files again")
        for name, tensor in tensors.items():
            file, _, own = name.partition("/")
            files.setdefault(file, {})[own] = tensor
    model.mkdir(parents=True, exist_ok=True)
    for file, own_tensors in files.items():
        if (whole := own_tensors.get("")) is not None:
            (model / file).write_bytes(whole.numpy().tobytes())
        else:
            write_safetensors(model / file, own_tensors)
    for file, text in config["files"].items():
        write_text(model / file, text)
    return model

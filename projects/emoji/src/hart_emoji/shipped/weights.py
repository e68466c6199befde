"""Splits a model's folder into files of a bounded size, and joins them again.

    OUT/model-NUMBER.tar.I-of-N    pieces of an archive of the folder, with weights in float16

All pieces of an export carry its number, so that two exports are never mixed.
"""

from __future__ import annotations

import io
import re
import tarfile
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from hart import HartError
from hart.checkpoint import read_safetensors, write_safetensors
from hart.files import atomic_write

LARGEST_FILE = 15 * 2**20
"""Size in bytes, safely below the 16 MiB limit that some machines set for returned files."""
NAME = re.compile(r"model-(\d+)\.tar\.(\d+)-of-(\d+)")


def export(model: Path, out: Path) -> list[Path]:
    """Export a model's folder. Pieces of an earlier export are removed once all new ones are written."""
    archive, number = io.BytesIO(), time.time_ns()
    with TemporaryDirectory() as folder, tarfile.open(fileobj=archive, mode="w") as tar:
        for file in sorted(model.iterdir()):
            stored = file
            if file.suffix == ".safetensors":
                stored = Path(folder) / file.name
                tensors = read_safetensors(file)
                write_safetensors(stored, {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()})
            tar.add(stored, file.name)
    content = archive.getvalue()
    pieces = [content[at : at + LARGEST_FILE] for at in range(0, len(content), LARGEST_FILE)]
    out.mkdir(parents=True, exist_ok=True)
    before = [path for path in out.iterdir() if NAME.fullmatch(path.name)]
    files = [out / f"model-{number}.tar.{place}-of-{len(pieces)}" for place in range(1, len(pieces) + 1)]
    for path, piece in zip(files, pieces, strict=True):
        atomic_write(path, lambda file, piece=piece: file.write(piece))  # type: ignore[misc]
    for path in before:
        path.unlink()
    return files


def join(out: Path, model: Path) -> Path:
    """Restore the model's folder from the last complete export. Raises `HartError` if files are missing."""
    exports: defaultdict[tuple[int, int], dict[int, Path]] = defaultdict(dict)
    for path in out.iterdir():
        if match := NAME.fullmatch(path.name):
            exports[int(match[1]), int(match[3])][int(match[2])] = path
    whole = [(number, pieces) for (number, count), pieces in exports.items() if len(pieces) == count]
    if not whole:
        there = ", ".join(path.name for pieces in exports.values() for path in pieces.values()) or "none"
        raise HartError(f"{out}: files of the model are missing: there are {there}")
    _, pieces = max(whole)
    content = b"".join(pieces[place].read_bytes() for place in sorted(pieces))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(model, filter="data")
    return model

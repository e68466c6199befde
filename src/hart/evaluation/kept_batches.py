"""What was computed of batches of pictures, kept in a folder so that a stopped run goes on.

A file's name is a digest of the pictures and of all else that decides the numbers: it is taken over only where both are
the same.

Shapes: B batch, H W image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hart.checkpoint.storage import read_safetensors, write_safetensors
from hart.errors import HartError


class KeptBatches:
    """Named figures of batches of pictures, a row a picture."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], names: Set[str] = frozenset()) -> None:
        """facts: all that decides the numbers beside the pictures, as JSON values. names: what every batch has; there
        may be more."""
        self._folder = folder
        self._names = names
        self._shapes: dict[str, torch.Size] | None = None
        self._facts = json.dumps(facts, sort_keys=True)

    def of(self, pixels: Tensor, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What `compute` gives for pictures (B, 3, H, W) uint8, by name, computed at the first call.

        Raises `HartError` for a kept file that is damaged or holds something else.
        """
        digest = hashlib.sha256(f"{self._facts} {tuple(pixels.shape)}".encode())
        digest.update(pixels.numpy().tobytes())
        file = self._folder / f"{digest.hexdigest()}.safetensors"
        if not file.exists():
            write_safetensors(file, compute())
        values = read_safetensors(file)
        shapes = {name: value.shape[1:] for name, value in values.items()}
        if self._shapes is None and values.keys() >= self._names:
            self._shapes = shapes
        rows = all(len(value) == len(pixels) for value in values.values() if value.dim())
        if shapes != self._shapes or not rows or any(bool(value.isnan().any()) for value in values.values()):
            raise HartError(f"{file}: holds no figures of these pictures: delete it, and they are measured again")
        return values

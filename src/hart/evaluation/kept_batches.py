"""What was computed of batches of pictures, kept in a folder so that a stopped run goes on.

A file's name is a digest of the pictures and of all else that decides the numbers: it is taken over only where both are
the same.

Shapes: B batch, H W image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hart.checkpoint.storage import read_safetensors, write_safetensors


class KeptBatches:
    """facts: all that decides the numbers beside the pictures, as JSON values."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self._folder = folder
        self._facts = json.dumps(facts, sort_keys=True)

    def of(self, pixels: Tensor, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What `compute` gives for pictures (B, 3, H, W) uint8, by name, computed at the first call.

        Raises `CheckpointError`, a `HartError`, for a kept file that is damaged.
        """
        digest = hashlib.sha256(f"{self._facts} {tuple(pixels.shape)}".encode())
        digest.update(pixels.numpy().tobytes())
        file = self._folder / f"{digest.hexdigest()}.safetensors"
        if not file.exists():
            write_safetensors(file, compute())
        return read_safetensors(file)

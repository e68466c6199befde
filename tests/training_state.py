"""What is in the folder of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hart.training import checkpoint
from hart.training.trackers import LOG_FILE
from hart.training.trainer import Trainer


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / checkpoint.FOLDER).iterdir())


def state(folder: Path, step: int) -> dict[str, Any]:
    return torch.load(folder / checkpoint.FOLDER / f"step-{step:08d}.pt", weights_only=True)


def assert_resumes(make: Callable[[Path], Trainer], folder: Path, last: int) -> dict[str, Any]:
    """A run that goes on from the checkpoint before its last one ends as the unbroken one, to the last bit."""
    make(folder).run()
    whole, lines = state(folder, last), log_lines(folder)
    (folder / checkpoint.FOLDER / f"step-{last:08d}.pt").unlink()
    again = make(folder)
    assert 0 < again.step < last
    again.run()
    assert log_lines(folder) == lines, "each line once, averages included"
    assert flat(state(folder, last)) == flat(whole)
    return whole


def flat(values: Any) -> list[Any]:
    """All leaves of nested dictionaries and lists, in order."""
    if isinstance(values, dict):
        return [leaf for key in values for leaf in flat(values[key])]
    if isinstance(values, list):
        return [leaf for value in values for leaf in flat(value)]
    return [_exact(values)] if isinstance(values, Tensor) else [values]


def _exact(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    """Two tensors have the same to the last bit, whatever they hold; lists of a million numbers would be slow."""
    return str(tensor.dtype), tuple(tensor.shape), tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def log_lines(folder: Path) -> list[dict[str, float]]:
    """The log without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / LOG_FILE).read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]

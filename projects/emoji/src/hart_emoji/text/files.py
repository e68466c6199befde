"""What a distillation keeps while it runs: the student half-trained, and what the teacher says of all texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from hart.errors import HartError
from hart.files import atomic_write
from hart.training.checkpoint import Identity
from hart.training.optimizer import CombinedOptimizer
from hart.training.saved_state import DamagedError, read_saved, require_tensor, require_tensors, table
from hart_emoji.text.recipe import TextDistillationRecipe

RESUME_FILE = "resume.pt"
TARGETS_FILE = "teacher_targets.pt"


class KeptFiles:
    """Both files in one folder, each with the identity of its run."""

    def __init__(self, folder: Path, identity: Identity, *, accept_changes: bool = False) -> None:
        """accept_changes: go on with another recipe, teacher or corpus; what the teacher said is then made again."""
        self.folder = folder
        self._identity = identity
        self._accept_changes = accept_changes

    def write(self, name: str, values: dict[str, Any]) -> None:
        state = {**values, "identity": self._identity.to_dict()}
        atomic_write(self.folder / name, lambda file: torch.save(state, file))

    def read_resume(self, check: Callable[[dict[Any, Any]], None]) -> dict[str, Any] | None:
        """See `_read`."""
        return self._read(RESUME_FILE, check, remade=False)

    def read_targets(self, check: Callable[[dict[Any, Any]], None]) -> dict[str, Any] | None:
        """See `_read`; None too where a change was accepted."""
        return self._read(TARGETS_FILE, check, remade=True)

    def remove(self) -> None:
        for name in (RESUME_FILE, TARGETS_FILE):
            (self.folder / name).unlink(missing_ok=True)

    def _read(self, name: str, check: Callable[[dict[Any, Any]], None], *, remade: bool) -> dict[str, Any] | None:
        """What `write` stored, None where there is nothing. check: raises `DamagedError` for what does not fit.

        Raises `HartError` for what is damaged, or of another run where changes are not accepted.
        """
        path = self.folder / name
        if not path.exists():
            return None
        try:
            state = read_saved(path)
            theirs = Identity.read(state.get("identity"))
            changes = [
                *theirs.other_settings(self._identity, TextDistillationRecipe),
                *theirs.other_sources(self._identity),
            ]
            if changes and remade and self._accept_changes:
                return None
            if changes and not self._accept_changes:
                raise HartError(
                    f"{path}: is of another recipe or other sources: {', '.join(changes)}; finish that run, choose "
                    "another folder, or go on with --accept-changes"
                )
            check(state)
        except DamagedError as error:
            what = "it is then made again" if remade else "the run then starts anew"
            raise HartError(f"{path} is damaged ({error}); delete it: {what}") from None
        return state


def check_resume(
    state: dict[Any, Any], student: nn.Module, optimizer: torch.optim.Optimizer, generator: Generator, steps: int
) -> None:
    """Raise `DamagedError` unless a run of so many steps can go on from a state."""
    table(state, "it", {"student", "optimizer", "generator", "step", "identity"})
    if type(state["step"]) is not int or not 0 < state["step"] <= steps:
        raise DamagedError(f"it is of step {state['step']} of {steps}")
    require_tensors(state["student"], student.state_dict(), "the student")
    CombinedOptimizer([optimizer]).check({"0": state["optimizer"]}, "the optimiser")
    own = generator.get_state()
    require_tensor(state["generator"], own.shape, own.dtype, "the random state")
    try:
        torch.Generator().set_state(state["generator"])
    except RuntimeError:
        raise DamagedError("the random state is none") from None


def check_targets(state: dict[Any, Any], phrases: int, tokens: int, vocabulary: int, width: int) -> None:
    """Raise `DamagedError` unless a state holds targets for so many phrases of so many tokens; see `Targets`."""
    targets = table(table(state, "it", {"targets", "identity"})["targets"], "it")
    shapes = {
        "ids": ((phrases, tokens), torch.int64),
        "lengths": ((phrases,), torch.int64),
        "sentence": ((None, width), torch.float16),
        "sentence_row": ((phrases,), torch.int64),
        "states": ((None, width), torch.float16),
        "state_row": ((phrases, tokens), torch.int64),
        "weights": ((phrases,), torch.float32),
    }
    table(targets, "it", set(shapes))
    for name, (shape, dtype) in shapes.items():
        rows = len(targets[name]) if isinstance(targets[name], Tensor) and targets[name].dim() else 0
        require_tensor(targets[name], torch.Size(rows if n is None else n for n in shape), dtype, name)
    ranges = {
        "ids": (0, vocabulary),
        "lengths": (1, tokens + 1),
        "sentence_row": (0, len(targets["sentence"])),
        "state_row": (-1, len(targets["states"])),
    }
    for name, (low, end) in ranges.items():
        if bool(((targets[name] < low) | (targets[name] >= end)).any()):
            raise DamagedError(f"{name} has numbers outside of {low} to {end - 1}")
    if bool((targets["weights"] < 0).any()):
        raise DamagedError("weights are negative")

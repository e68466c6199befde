"""Checkpoints of a run: written whole or not at all, the newest few kept, read back only by the same recipe.

RUN/recipe.json                      what is trained; another recipe is refused here
RUN/checkpoints/step-00000200.pt     weights, average, optimisers and half-finished figures after 200 steps
"""

from __future__ import annotations

import errno
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from hart.config import Config, ConfigError
from hart.errors import HartError
from hart.files import atomic_write

RECIPE_FILE = "recipe.json"
FOLDER = "checkpoints"
# What may change between two sittings of one run: it decides how long and where, not what is computed.
HARMLESS = frozenset({"reading.workers", "reading.max_damaged", "reading.on_device"}) | frozenset(
    f"trainer.{name}"
    for name in (
        "steps",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "sample_every",
        "trackers",
        "peak_tflops",
        "device",
        "distributed",
        "accumulate",
        "activation_checkpointing",
        "compile",
    )
)


class RunFolder:
    """The checkpoints in one run's folder."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """The steps after which there is a checkpoint, oldest first."""
        names = (re.fullmatch(r"step-(\d+)\.pt", path.name) for path in (self.folder / FOLDER).glob("*.pt"))
        return sorted(int(name[1]) for name in names if name)

    def path(self, step: int) -> Path:
        return self.folder / FOLDER / f"step-{step:08d}.pt"

    def last_good(self) -> str:
        """Where the newest checkpoint is, for messages."""
        steps = self.steps()
        return f"the last good checkpoint is {self.path(steps[-1])}" if steps else "there is no checkpoint yet"

    def claim(self, recipe: Config) -> None:
        """Store the recipe, or compare it with the stored one. Raises `HartError` naming what differs.

        A setting that the stored one does not know yet had its default then.
        """
        path = self.folder / RECIPE_FILE
        if self.steps() and path.exists():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise HartError(f"{path}: cannot be read ({error}); restore it or choose another folder") from None
            with suppress(ConfigError):  # of another version: what differs is named below
                stored = _plain(type(recipe).from_dict(stored))
            now = _plain(recipe)
            if differing := sorted(_differing(stored, now)):
                shown = ", ".join(f"{key} ({_at(stored, key)!r} there, {_at(now, key)!r} now)" for key in differing)
                raise HartError(f"{self.folder} holds a run of another recipe: {shown}; choose another folder")
        with self.writing("the recipe"):
            atomic_write(path, lambda file: file.write(recipe.to_json().encode()))

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint and remove the oldest beyond `keep`."""
        path = self.path(step)
        with self.writing(f"the checkpoint of step {step}"):
            atomic_write(path, lambda file: torch.save(state, file))
        self.tidy()

    def tidy(self) -> None:
        """Remove what is beyond `keep`, and what a killed run left half-written."""
        for old in self.steps()[: -self.keep]:
            self.path(old).unlink()
        for left in (self.folder / FOLDER).glob("*.partial"):
            left.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint, None where there is none.

        Raises `HartError` when it is damaged, naming the next older one that can be read; goes back to it only
        when the damaged file is gone, since that is a person's decision.
        """
        steps = self.steps()
        if not steps:
            return None
        try:
            return _read(self.path(steps[-1]))
        except OSError as error:
            raise HartError(f"{self.path(steps[-1])}: cannot be read ({error})") from None
        except Exception as error:  # damaged files make the unpickler fail in many ways
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            good = next((step for step in reversed(steps[:-1]) if _readable(self.path(step))), None)
            advice = (
                "no older one can be read: start anew in another folder"
                if good is None
                else f"delete it{' and newer ones' if good != steps[-2] else ''} to go on from {self.path(good)}"
            )
            raise HartError(f"{self.path(steps[-1])} is damaged ({reason}); {advice}") from None

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Says clearly what could not be written and what is left."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            # torch's writer reports a failed write as a RuntimeError, with the cause behind it
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "the disk is full" if full else cause.strerror
            advice = "make room" if full else "mend that"
            raise HartError(
                f"{self.folder}: {what} could not be written: {reason}; {self.last_good()}; {advice} and run again"
            ) from None


def _read(path: Path) -> dict[str, Any]:
    # torch does not look at the checksums of its zip file
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{damaged} has another checksum")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _readable(path: Path) -> bool:
    try:
        _read(path)
    except Exception:
        return False
    return True


def _plain(recipe: Config) -> dict[str, Any]:
    """As it is stored: tuples become lists."""
    values: dict[str, Any] = json.loads(recipe.to_json())
    return values


def _differing(stored: Any, now: Any, key: str = "") -> Iterator[str]:
    """Dotted keys, other than harmless ones, whose values are not the same."""
    if isinstance(stored, dict) and isinstance(now, dict):
        for name in stored.keys() | now.keys():
            inner = f"{key}.{name}" if key else name
            if inner not in HARMLESS:
                yield from _differing(stored.get(name), now.get(name), inner)
    elif stored != now:
        yield key


def _at(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values

"""Checkpoints of a run: written whole or not at all, the newest few kept, gone on with only by the same run.

RUN/recipe.json                      what is trained, for people; what counts is in the checkpoints
RUN/checkpoints/step-00000200.pt     weights, average, optimisers and half-finished figures after 200 steps, and what
                                     they were learned from: recipe, data, frozen networks (`Identity`)
"""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hart.config import Config, ConfigError
from hart.errors import HartError
from hart.files import PARTIAL, atomic_write, read_json
from hart.training.saved_state import DamagedError, read_saved, table
from hart.training.task import Origin

RECIPE_FILE = "recipe.json"
FOLDER = "checkpoints"
MODEL_FOLDER = "model"
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


@dataclass(frozen=True)
class Identity:
    """What a run is of.

    stage: what it trains. recipe: its settings, as JSON values. sources: what it learns from beside them, by name.
    """

    stage: str
    recipe: Mapping[str, Any]
    sources: Mapping[str, Origin]

    @staticmethod
    def of(stage: str, recipe: Config, sources: Mapping[str, Origin]) -> Identity:
        return Identity(stage, _plain(recipe), sources)

    @staticmethod
    def read(values: Any) -> Identity:
        """What `to_dict` gave. Raises `DamagedError`."""
        entries = table(values, "its identity", {"stage", "recipe", "sources"})
        pairs = table(entries["sources"], "its list of sources").items()
        if any(not isinstance(pair, list) or [type(part) for part in pair] != [str, str] for _, pair in pairs):
            raise DamagedError("its list of sources is no list of texts")
        sources = {str(name): Origin(*pair) for name, pair in pairs}
        return Identity(str(entries["stage"]), table(entries["recipe"], "its recipe"), sources)

    def to_dict(self) -> dict[str, Any]:
        sources = {name: [source.digest, source.said] for name, source in self.sources.items()}
        return {"stage": self.stage, "recipe": dict(self.recipe), "sources": sources}

    def other_settings(self, now: Identity, recipe: type[Config]) -> list[str]:
        """Settings that are no longer as they were, one text each. recipe: class of the recipe of `now`.

        A setting that the old recipe does not know yet had its default then.
        """
        theirs: Any = self.recipe
        with suppress(ConfigError):  # of another version: what differs is named below
            theirs = _plain(recipe.from_stored(theirs))
        keys = sorted(set(_differing(theirs, now.recipe)))
        return [f"{key} ({_at(theirs, key)!r} there, {_at(now.recipe, key)!r} now)" for key in keys]

    def other_sources(self, now: Identity) -> list[str]:
        """What is learned from and no longer as it was, one text each; none where nothing was kept of it."""
        said = []
        for name in sorted(self.sources.keys() | now.sources.keys()):
            there, here = self.sources.get(name, NO_SOURCE), now.sources.get(name, NO_SOURCE)
            if self.sources and there.digest != here.digest:
                said.append(f"{name} ({there.told(here)} there, {here.told(there)} now)")
        return said


NO_SOURCE = Origin("", "none")


class RunFolder:
    """The checkpoints in one run's folder."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """The steps after which there is a checkpoint, oldest first."""
        found = []
        for path in (self.folder / FOLDER).glob("step-*.pt"):
            number = path.stem.removeprefix("step-")
            if number.isascii() and number.isdigit() and path == self.path(int(number)):
                found.append(int(number))
        return sorted(found)

    def path(self, step: int) -> Path:
        return self.folder / FOLDER / f"step-{step:08d}.pt"

    def last_good(self) -> str:
        """Where the newest checkpoint is, for messages."""
        steps = self.steps()
        return f"the last good checkpoint is {self.path(steps[-1])}" if steps else "there is no checkpoint yet"

    def write_recipe(self, recipe: Config) -> None:
        path = self.folder / RECIPE_FILE
        with self.writing("the recipe"):
            atomic_write(path, lambda file: file.write(recipe.to_json().encode()))

    def identity(self, state: Mapping[str, Any], stage: str) -> Identity | None:
        """That of a checkpoint, or of an older version's recipe.json; None where neither says anything.

        Raises `HartError` for a recipe.json that is needed and cannot be read.
        """
        if "identity" in state:
            return Identity.read(state["identity"])
        path = self.folder / RECIPE_FILE
        if not path.exists():
            return None
        try:
            return Identity(stage, read_json(path), {})
        except HartError as error:
            raise HartError(f"{error}; restore it or choose another folder") from None

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
        for folder in (self.folder, *(self.folder / name for name in (FOLDER, MODEL_FOLDER, "samples"))):
            for left in folder.glob(f"*{PARTIAL}"):
                left.unlink()

    def load(self, stage: str, check: Callable[[Mapping[str, Any]], None]) -> dict[str, Any] | None:
        """The newest checkpoint, None where there is none.

        stage: what is trained. check: raises `DamagedError` for one that is not this run's.
        Raises `HartError` when it is damaged, naming the next older one that is not; goes back to it only when the
        damaged file is gone, since that is a person's decision.
        """
        steps = self.steps()
        if not steps:
            return None
        try:
            return self._read(steps[-1], stage, check)
        except DamagedError as error:
            good = next((step for step in reversed(steps[:-1]) if self._is_good(step, stage, check)), None)
            advice = (
                "no older one can be read: start anew in another folder"
                if good is None
                else f"delete it{' and newer ones' if good != steps[-2] else ''} to go on from {self.path(good)}"
            )
            raise HartError(f"{self.path(steps[-1])} is damaged ({error}); {advice}") from None

    def _read(self, step: int, stage: str, check: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
        state = read_saved(self.path(step))
        table(state, "it", {"step", "sums", "counts", "weights"} | (state.keys() & {"identity", "model"}))
        if type(state["step"]) is not int or state["step"] != step:
            raise DamagedError(f"it is of step {state['step']}, its name says {step}")
        _require_means(state["sums"], state["counts"])
        if "identity" in state:
            identity = Identity.read(state["identity"])
            if identity.stage != stage:
                raise DamagedError(f"it is of stage {identity.stage}")
            steps = _at(identity.recipe, "trainer.steps")
            if type(steps) is not int or step > steps:
                raise DamagedError(f"it is of step {step} of {steps}")
        names = state.get("model", [])
        if not isinstance(names, list) or any(type(name) is not str for name in names):
            raise DamagedError("its list of the model's files is no list of names")
        check(state)
        return state

    def _is_good(self, step: int, stage: str, check: Callable[[Mapping[str, Any]], None]) -> bool:
        try:
            self._read(step, stage, check)
        except HartError:
            return False
        return True

    @contextmanager
    def writing(self, what: str, place: str = "") -> Iterator[None]:
        """Says clearly what could not be written, where (in `place`, unless the system says it), and what is left."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "the disk is full" if full else error.strerror or error
            advice = "make room" if full else "mend that"
            raise HartError(
                f"{error.filename or self.folder / place}: {what} could not be written: {reason}; {self.last_good()}; "
                f"{advice} and run again"
            ) from None


def _require_means(sums: Any, counts: Any) -> None:
    """Raise `DamagedError` unless these are what `Means` holds."""
    table(counts, "its count of figures", set(map(str, table(sums, "its sum of figures"))))
    if any(type(value) not in (int, float) or not math.isfinite(value) for value in sums.values()):
        raise DamagedError("its sums of figures are no numbers")
    if any(type(value) is not int or value < 1 for value in counts.values()):
        raise DamagedError("its counts of figures are no counts")


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

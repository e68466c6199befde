"""Checkpoints of a run: written whole or not at all, the newest few kept, resumed only by the same run.

Files written by `torch.save` are read without trusting them: a file can be intact and still hold something else.

RUN/recipe.json                      the recipe, for people; runs resume from the checkpoints' own copy
RUN/checkpoints/step-00000200.pt     the state of a run after 200 steps (`Saved`)
"""

from __future__ import annotations

import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from hart.checkpoint.folders import MODEL_FOLDER
from hart.config import Config, ConfigError
from hart.devices import is_out_of_memory
from hart.errors import HartError
from hart.files import PARTIAL, atomic_write, require_regular
from hart.strict import reason
from hart.training.task import Origin

RECIPE_FILE = "recipe.json"
FOLDER = "checkpoints"
SAMPLES_FOLDER = "samples"
# Settings that may change when a run is resumed: they decide how long and where, not what is computed.
HARMLESS = {f"reading.{name}" for name in ("workers", "max_damaged", "on_device")}
HARMLESS |= {
    f"trainer.{name}" for name in ("steps", "log_every", "checkpoint_every", "keep_checkpoints", "sample_every")
}
HARMLESS |= {f"trainer.{name}" for name in ("trackers", "peak_tflops", "device", "distributed", "accumulate")}
HARMLESS |= {"trainer.activation_checkpointing", "trainer.compile"}
# Settings that only say where a source is, beside the source they name: they may change while its content does not.
PLACES = {
    "data": ("data", "reading.also"),
    "text encoder": ("text_encoder",),
    "perceptual network": ("perceptual.files",),
}


class Identity(Config):
    """What makes a run the same run.

    stage: what it trains. recipe: its settings, nested. sources: what else it learns from, by name.
    """

    stage: str
    recipe: dict[str, Any]
    sources: dict[str, Origin]

    def other_settings(self, now: Config, sources: Mapping[str, Origin] | None = None) -> list[str]:
        """Return the settings of this recipe that differ in `now`, one text each.

        sources: the current ones, if already known. An address may change as long as its content does not; so it may
        also change while that is unknown.
        """
        there, here = _flat(self.recipe), _flat(now.to_dict())
        same = [name for name in self.sources if sources is None or self.sources[name].is_same(sources.get(name))]
        moved = {key for name in same for key in PLACES.get(name, (name,))}
        keys = sorted(key for key in (there.keys() | here.keys()) - HARMLESS - moved if there.get(key) != here.get(key))
        return [f"{key} ({there.get(key)!r} there, {here.get(key)!r} now)" for key in keys]

    def other_sources(self, now: Mapping[str, Origin]) -> list[str]:
        """Return the sources that have changed, one text each."""
        none = Origin("", "none")
        pairs = [(name, self.sources.get(name, none), now.get(name, none)) for name in sorted({*self.sources, *now})]
        return [
            f"{name} ({there.told(here)} there, {here.told(there)} now)"
            for name, there, here in pairs
            if not there.is_same(here)
        ]


class Saved(Config, kw_only=True):
    """The content of a checkpoint."""

    step: int
    identity: Identity
    means: dict[str, tuple[Annotated[float, Field(allow_inf_nan=True)], Annotated[int, Field(ge=1)]]]
    """Figures since the last line of the log, see `Means.totals`."""
    weights: dict[str, Any]
    """See `Stepper.state_dict`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the content as plain tables, as stored in a file."""
        return vars(self) | {"identity": self.identity.to_dict()}


class UnreadableError(HartError):
    """Why a run cannot resume from a file, without naming the file."""


@dataclass(frozen=True)
class RunFolder:
    """The checkpoints in one run's folder; the newest `keep` are kept."""

    folder: Path
    keep: int

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, oldest first."""
        numbers = (path.stem.removeprefix("step-") for path in (self.folder / FOLDER).glob("step-*.pt"))
        return sorted(int(number) for number in numbers if re.fullmatch("[0-9]{8,}", number))

    def path(self, step: int) -> Path:
        return self.folder / FOLDER / f"step-{step:08d}.pt"

    def last_good(self) -> str:
        """Return where the newest checkpoint is, for messages."""
        steps = self.steps()
        return f"the last good checkpoint is {self.path(steps[-1])}" if steps else "there is no checkpoint yet"

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint (`Saved.state_dict`) and remove the oldest beyond `keep`."""
        with self.writing(f"the checkpoint of step {step}"):
            atomic_write(self.path(step), lambda file: torch.save(state, file))
        self.tidy()

    def tidy(self) -> None:
        """Remove checkpoints beyond `keep`, and files that a killed run left half-written."""
        for old in self.steps()[: -self.keep]:
            self.path(old).unlink()
        for folder in (self.folder, *(self.folder / name for name in (FOLDER, MODEL_FOLDER, SAMPLES_FOLDER))):
            for left in folder.glob(f"*{PARTIAL}"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def require_settings(self, stage: str, recipe: Config) -> None:
        """Raise `HartError` for a run of another recipe, as far as this shows before the data is read, which may take
        minutes. Anything else wrong with the newest checkpoint is left to `load`, which reads all of it."""
        if not (steps := self.steps()):
            return
        try:
            require_regular(self.path(steps[-1]))
            state = torch.load(self.path(steps[-1]), map_location="cpu", weights_only=True, mmap=True)
            theirs = Identity.from_dict(state["identity"])
        except Exception:  # damaged files make the unpickler fail in many ways
            return
        if theirs.stage == stage and (settings := theirs.other_settings(recipe)):
            raise other_run(self.folder, "another recipe", settings)

    def load(self, stage: str, check: Callable[[Saved], None]) -> Saved | None:
        """Return the newest checkpoint, None if there is none.

        stage: what is trained. check: raises `UnreadableError` if a checkpoint is not this run's.
        Raises `HartError` if it cannot be read, naming the newest one that can, so that a person can decide to go back
        to that one by deleting the others; and if a file is in the place of a folder that the run writes.
        """
        for path in (self.folder / name for name in (FOLDER, MODEL_FOLDER, SAMPLES_FOLDER)):
            if path.exists() and not path.is_dir():
                raise HartError(f"{path}: is a file, where the run makes a folder: remove it, or choose another --out")
        steps = self.steps()
        if not steps:
            return None
        try:
            return self._read(steps[-1], stage, check)
        except UnreadableError as error:
            good = next((step for step in reversed(steps[:-1]) if self._is_good(step, stage, check)), None)
            advice = (
                "no older one can be read: go on with the version of hart that wrote it, or start again in another "
                "folder"
                if good is None
                else f"delete it{' and newer ones' if good != steps[-2] else ''} to go on from {self.path(good)}"
            )
            raise HartError(f"{self.path(steps[-1])} cannot be resumed from ({error}); {advice}") from None

    def _read(self, step: int, stage: str, check: Callable[[Saved], None]) -> Saved:
        state = _loaded(self.path(step))
        try:
            saved = Saved.from_dict(state, "it")
        except ConfigError as error:
            raise UnreadableError(str(error)) from None
        if saved.identity.stage != stage:
            raise HartError(f"{self.folder} holds a run of stage {saved.identity.stage}: choose another folder")
        if saved.step != step:
            raise UnreadableError(f"it is from step {saved.step}, its name says {step}")
        check(saved)
        return saved

    def _is_good(self, step: int, stage: str, check: Callable[[Saved], None]) -> bool:
        try:
            self._read(step, stage, check)
        except HartError:
            return False
        return True

    @contextmanager
    def writing(self, what: str, place: str = "") -> Iterator[None]:
        """Turn an `OSError` into a message: what could not be written, where (`place` if unknown), and what is left."""
        try:
            yield
        except OSError as error:
            where, why = error.filename or self.folder / place, error.strerror or error
            raise HartError(
                f"{where}: {what} could not be written: {why}; {self.last_good()}; fix that and run again"
            ) from None


def other_run(folder: Path, what: str, changes: Sequence[str]) -> HartError:
    """Return the error for a folder with another kind of run."""
    return HartError(
        f"{folder} holds a run of {what}: {', '.join(changes)}; choose another folder, or, if the weights keep their "
        "shapes, go on with --accept-changes"
    )


def _flat(values: Mapping[str, Any], begin: str = "") -> dict[str, Any]:
    """Map dotted keys of nested tables to their values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{begin}{key}.") if isinstance(value, dict) else {f"{begin}{key}": value}
    return found


def _loaded(path: Path) -> Any:
    """Return the content of a file, on the CPU. Raises `UnreadableError`."""
    if not path.is_file():
        raise UnreadableError("not a regular file")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not check its checksums
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UnreadableError("it holds objects other than numbers, texts and tensors") from None
    except Exception as error:  # damaged files make the unpickler fail in many ways
        if is_out_of_memory(error):
            raise
        raise UnreadableError(reason(error)) from None
    raise UnreadableError(f"{damaged} has a wrong checksum")


def require_alike(saved: Any, own: Any, what: str) -> None:
    """Raise `UnreadableError` unless `saved` has the same nested tables as `own`, with plain finite tensors of the same
    shapes and types in the same places. what: its name in the message."""
    if isinstance(own, Mapping):
        if not isinstance(saved, dict):
            raise UnreadableError(f"{what}: a {type(saved).__name__} instead of a table")
        for missing, said in ((own.keys() - saved.keys(), "lacks"), (saved.keys() - own.keys(), "has unknown")):
            if missing:
                raise UnreadableError(f"{what}: {said} {', '.join(sorted(map(str, missing))[:3])}")
        for name, value in own.items():
            require_alike(saved[name], value, f"{what}: {name}")
    elif not isinstance(saved, Tensor) or saved.layout != torch.strided or saved.device.type != "cpu":
        raise UnreadableError(f"{what}: not a plain tensor")
    elif saved.shape != own.shape or saved.dtype != own.dtype:
        theirs, ours = (f"{each.dtype} {tuple(each.shape)}".removeprefix("torch.") for each in (saved, own))
        raise UnreadableError(f"{what}: {theirs} instead of {ours}")
    elif not bool(saved.isfinite().all()):
        raise UnreadableError(f"{what}: not finite")

"""Checkpoints of a run: written whole or not at all, the newest few kept, resumed only by the same run.

What `torch.save` wrote is read without trusting it: a file can be whole and still hold something else.

RUN/recipe.json                      the recipe, for people; the checkpoints have what counts
RUN/checkpoints/step-00000200.pt     weights, average, optimisers and unlogged figures after 200 steps, and what they
                                     were learned from: recipe, data, frozen networks (`Identity`)
"""

from __future__ import annotations

import errno
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic_core import to_jsonable_python
from torch import Tensor

from hart.checkpoint.folders import MODEL_FOLDER
from hart.config import Config, ConfigError
from hart.devices import is_out_of_memory
from hart.errors import HartError
from hart.files import PARTIAL, atomic_write, require_regular
from hart.strict import Listed, clipped, reason, require
from hart.training.task import Origin

RECIPE_FILE = "recipe.json"
FOLDER = "checkpoints"
SAMPLES_FOLDER = "samples"
# What may change when a run is resumed: it decides how long and where, not what is computed.
HARMLESS = {f"reading.{name}" for name in ("workers", "max_damaged", "on_device")} | {
    f"trainer.{name}"
    for names in (
        ("steps", "log_every", "checkpoint_every", "keep_checkpoints", "sample_every", "trackers", "peak_tflops"),
        ("device", "distributed", "accumulate", "activation_checkpointing", "compile"),
    )
    for name in names
}
# Settings that only say where a source is, beside the one that is called as it: they may change while its content
# does not.
PLACES = {
    "data": ("data", "reading.also"),
    "text encoder": ("text_encoder",),
    "perceptual network": ("perceptual.files",),
}


class Identity(Config):
    """What makes a run the same run.

    stage: what it trains. recipe: its settings, as JSON values. sources: what else it learns from, by name, each with
    its `Origin`'s digest and description.
    """

    stage: str
    recipe: dict[str, Any]
    sources: dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]]

    @staticmethod
    def of(stage: str, recipe: Config, sources: Mapping[str, Origin]) -> Identity:
        return Identity(
            stage, to_jsonable_python(recipe), {name: [each.digest, each.said] for name, each in sources.items()}
        )

    def other_settings(self, recipe: Config, now: Identity | None = None) -> list[str]:
        """Settings that are others in `recipe`, one text each. now: its identity, if its sources are known already.

        A setting that the old recipe does not have yet had its default then. An address may change where its content
        has not, and before that is known.
        """
        theirs: Any = self.recipe
        with suppress(ConfigError):  # of another version: the differences are named below
            theirs = to_jsonable_python(type(recipe).from_dict(theirs))
        there, here = _flat(theirs), _flat(to_jsonable_python(recipe))
        same = [name for name in self.sources if now is None or self._source(name).digest == now._source(name).digest]
        moved = {key for name in same for key in PLACES.get(name, (name,))}
        keys = sorted(key for key in (there.keys() | here.keys()) - HARMLESS - moved if there.get(key) != here.get(key))
        return [f"{key} ({there.get(key)!r} there, {here.get(key)!r} now)" for key in keys]

    def other_sources(self, now: Identity) -> list[str]:
        """Sources that have changed, one text each."""
        said = []
        for name in sorted(self.sources.keys() | now.sources.keys()):
            there, here = self._source(name), now._source(name)
            if there.digest != here.digest:
                said.append(f"{name} ({there.told(here)} there, {here.told(there)} now)")
        return said

    def _source(self, name: str) -> Origin:
        return Origin(*self.sources.get(name, ("", "none")))


class _Saved(Config, kw_only=True):
    """What a checkpoint holds; `Stepper.check` knows the weights."""

    step: int
    sums: dict[str, float]
    counts: dict[str, Annotated[int, Field(ge=1)]]
    weights: dict[str, Any]
    identity: Identity
    model: Listed[str]
    """Names of the model's files."""

    def __post_init__(self) -> None:
        require(self.sums.keys() == self.counts.keys(), "counts are of other figures than sums")


@dataclass(frozen=True)
class RunFolder:
    """The checkpoints in one run's folder, of which the newest `keep` stay."""

    folder: Path
    keep: int

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, oldest first."""
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

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint and remove the oldest beyond `keep`."""
        path = self.path(step)
        with self.writing(f"the checkpoint of step {step}"):
            atomic_write(path, lambda file: torch.save(state, file))
        self.tidy()

    def tidy(self) -> None:
        """Remove checkpoints beyond `keep`, and files that a killed run left half-written."""
        for old in self.steps()[: -self.keep]:
            self.path(old).unlink()
        for folder in (self.folder, *(self.folder / name for name in (FOLDER, MODEL_FOLDER, SAMPLES_FOLDER))):
            for left in folder.glob(f"*{PARTIAL}"):
                left.unlink()

    def require_settings(self, stage: str, recipe: Config) -> None:
        """Raise `HartError` for a run of another recipe, as far as that shows before its data is read, which may take
        minutes. Whatever else is wrong with the newest checkpoint is for `load`, which reads all of it."""
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

    def load(self, stage: str, check: Callable[[Mapping[str, Any]], None]) -> dict[str, Any] | None:
        """The newest checkpoint, None where there is none.

        stage: what is trained. check: raises `UnreadableError` for one that is not this run's.
        Raises `HartError` when it cannot be read, naming the newest one that can: a person decides to go back to that
        one, by deleting the other; and for a file in the place of a folder that the run writes.
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
                error.advice
                if good is None
                else f"delete it{' and newer ones' if good != steps[-2] else ''} to go on from {self.path(good)}"
            )
            raise HartError(f"{self.path(steps[-1])} {error.what} ({error}); {advice}") from None

    def _read(self, step: int, stage: str, check: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
        state = read_saved(self.path(step))
        for values, what, kind in ((state, "it", _Saved), (state.get("identity"), "its identity", Identity)):
            table(values, what, {field.name for field in fields(kind)})
        if (theirs := state["identity"]["stage"]) != stage:
            raise HartError(f"{self.folder} holds a run of stage {clipped(theirs, 40)}: choose another folder")
        try:
            saved = _Saved.from_dict(state, "it")
        except ConfigError as error:
            raise DamagedError(str(error)) from None
        if saved.step != step:
            raise DamagedError(f"it is from step {saved.step}, its name says {step}")
        steps = _flat(saved.identity.recipe).get("trainer.steps")
        if type(steps) is not int or step > steps:
            raise DamagedError(f"it is from step {step} of {steps}")
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
        """Turns an `OSError` into what could not be written, where (`place` unless it says so), and what is left."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "the disk is full" if full else error.strerror or error
            advice = "make room" if full else "mend that"
            raise HartError(
                f"{error.filename or self.folder / place}: {what} could not be written: {why}; {self.last_good()}; "
                f"{advice} and run again"
            ) from None


def other_run(folder: Path, what: str, changes: Sequence[str]) -> HartError:
    """What to say of a folder with a run of something else."""
    return HartError(
        f"{folder} holds a run of {what}: {', '.join(changes)}; choose another folder, or go on with --accept-changes"
    )


def _flat(values: Mapping[str, Any], begin: str = "") -> dict[str, Any]:
    """Dotted keys of nested tables -> their values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{begin}{key}.") if isinstance(value, dict) else {f"{begin}{key}": value}
    return found


class UnreadableError(HartError):
    """Why a run cannot resume from a file; does not name the file."""

    what = ""
    advice = ""
    """Where no older checkpoint can be read."""


class DamagedError(UnreadableError):
    what = "is damaged"
    advice = "no older one can be read: start anew in another folder"


class OtherVersionError(UnreadableError):
    """For a file that lacks something, or has something unknown: files are written whole."""

    what = "was written by another version of hart"
    advice = "go on with that version, or start anew in another folder"


def read_saved(path: Path) -> dict[str, Any]:
    """The dictionary in a file, on the CPU. Raises `DamagedError`; `FileError` for one that may not be opened."""
    if path.exists() and not path.is_file():
        raise DamagedError("not a regular file")
    require_regular(path)
    try:
        # torch does not check the checksums of its zip file
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise DamagedError(f"{damaged} has another checksum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that are refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except DamagedError:
        raise
    except OSError as error:
        raise DamagedError(f"cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError:
        raise DamagedError("it holds objects other than numbers, texts and tensors") from None
    except Exception as error:  # damaged files make the unpickler fail in many ways
        if is_out_of_memory(error):
            raise
        raise DamagedError(reason(error)) from None
    return table(state, "it")


def table(value: Any, what: str, keys: set[str] | None = None) -> dict[Any, Any]:
    """`value`, which must be a dictionary, with exactly these keys where they are given. Raises `UnreadableError`."""
    if not isinstance(value, dict):
        raise DamagedError(f"{what} holds a {type(value).__name__} instead of a table")
    if keys is not None and (missing := sorted(keys - value.keys())):
        raise OtherVersionError(f"{what} lacks {', '.join(missing[:3])}")
    if keys is not None and (unknown := sorted(map(str, value.keys() - keys))):
        raise OtherVersionError(f"{what} has {', '.join(unknown[:3])}, which this run does not know")
    return value


def require_tensors(saved: Any, expected: Mapping[str, Tensor], what: str) -> None:
    """Raise `UnreadableError` unless `saved` has plain tensors of these names, shapes and types, all finite."""
    values = table(saved, what, set(expected))
    for name, like in expected.items():
        value = values[name]
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise DamagedError(f"{what}: {name} is not a plain tensor")
        if value.shape != like.shape or value.dtype != like.dtype:
            theirs, ours = (f"{each.dtype} {tuple(each.shape)}".removeprefix("torch.") for each in (value, like))
            raise DamagedError(f"{what}: {name} is {theirs} instead of {ours}")
        if not bool(value.isfinite().all()):
            raise DamagedError(f"{what}: {name} is not finite")

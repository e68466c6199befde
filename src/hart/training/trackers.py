"""The log of a run: always a JSONL file; TensorBoard and Weights & Biases if the recipe asks for them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import numpy as np
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from PIL import Image

from hart.errors import missing_package
from hart.files import atomic_write, open_regular, read_text, write_text
from hart.strict import counted
from hart.training.checkpoint import SAMPLES_FOLDER
from hart.training.config import StageRecipe

LOG_FILE = "metrics.jsonl"
LINE = re.compile(rb'\{"step": (?P<step>\d+)\b[^\0\n]*\}\r?\n')
"""A whole line; a power cut may leave zeros in the middle of one, and an editor on Windows changes line ends."""
EXTRAS = {"tensorboard": "train", "wandb": "wandb"}
"""Maps a tracker (and package) to the extra that installs it."""


class RunLog:
    """`metrics.jsonl` with one line per report, `samples/` with PNG files, and the trackers that the recipe names."""

    def __init__(self, recipe: StageRecipe, folder: Path, step: int, note: Callable[[str], None]) -> None:
        """Drop damaged lines, and those after `step`, which the run is about to write again.

        note: called with the number of damaged lines, unless only the last was cut short by a killed run.
        Raises `HartError` for a tracker that is not installed.
        """
        self.folder = folder
        self.path = folder / LOG_FILE
        if self.path.exists():
            self._cut(step, note)
        require_trackers(recipe.trainer.trackers)
        self.trackers = [_tracker(name, recipe, folder, step) for name in recipe.trainer.trackers]
        for tracker in self.trackers:
            tracker.start()

    def _cut(self, step: int, note: Callable[[str], None]) -> None:
        with open_regular(self.path) as file:
            lines = file.readlines()
        found = [LINE.fullmatch(line) for line in lines]
        if broken := found[:-1].count(None):
            note(f"{self.path}: left out {counted(broken, 'damaged line')}")
        whole = b"".join(line[0] for line in found if line and int(line["step"]) <= step)
        if whole != b"".join(lines):
            atomic_write(self.path, lambda file: file.write(whole))

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for tracker in self.trackers:
            tracker.log(dict(values), step)

    def images(self, step: int, values: Mapping[str, Image.Image]) -> None:
        for name, image in values.items():
            path = self.folder / SAMPLES_FOLDER / f"step-{step:08d}-{name}.png"
            atomic_write(path, partial(image.save, format="PNG"))
        batches = {name: np.asarray(image)[None] for name, image in values.items()}
        for tracker in self.trackers:
            options = {"dataformats": "NHWC"} if isinstance(tracker, TensorBoardTracker) else {}
            tracker.log_images(batches, step, **options)

    def close(self) -> None:
        for tracker in self.trackers:
            with suppress(OSError):  # a full disk has been reported already
                tracker.finish()


def require_trackers(names: Sequence[str]) -> None:
    """Raise `HartError` for a tracker that is not installed."""
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError:
            raise missing_package(f'the tracker "{name}"', EXTRAS[name]) from None


def _tracker(name: str, recipe: StageRecipe, folder: Path, step: int) -> GeneralTracker:
    if name == "tensorboard":  # steps after `step` will be logged again
        return TensorBoardTracker("tensorboard", folder, purge_step=step + 1)
    known = folder / "wandb" / "id"  # per folder, not per name, which other folders may share
    if not known.exists():
        write_text(known, uuid4().hex)
    name, number = folder.resolve().name, read_text(known).strip()
    return WandBTracker("hart", name=name, id=number, dir=folder, config=recipe.to_dict(), resume="allow")

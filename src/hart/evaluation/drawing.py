"""Pictures drawn for a suite: made once, kept in a folder, gone on with after a stop.

`plan.json` beside them says which model, settings, prompts and seeds they are of; pictures of another plan are never
taken over.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hart.config import SamplingConfig
from hart.data.images import open_image
from hart.data.transforms import pil_to_pixels
from hart.devices import dtype_name
from hart.errors import HartError, PromptWarning
from hart.evaluation.features import FeatureExtractor, Features
from hart.evaluation.report import Progress
from hart.files import FileError, atomic_write, read_json
from hart.generation.contact_sheet import contact_sheet
from hart.generation.metadata import save_png
from hart.generation.request import Prompt
from hart.pipeline import HartPipeline

PLAN_FILE = "plan.json"
IMAGES_FOLDER = "images"
SHEET_FILE, SHEET_PICTURES = "drawn.png", 36


@contextmanager
def quiet_prompts() -> Iterator[None]:
    """No `PromptWarning` from the pipeline: hundreds of prompts would say the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        yield


class DrawnPictures:
    """One picture a prompt; picture i has the seed `seed + i`. The files in `out`/images are the only state."""

    def __init__(
        self, pipe: HartPipeline, prompts: Sequence[Prompt], sampling: SamplingConfig, seed: int, out: Path
    ) -> None:
        """Raises `HartError` when `out` holds pictures of another plan."""
        folder = out / IMAGES_FOLDER
        self._pipe = pipe
        self._prompts = list(prompts)
        self._sampling = sampling
        self._seed = seed
        self._folder = folder
        self._plan: dict[str, Any] = {
            "weights": pipe.fingerprints(),
            "device": pipe.device.type,
            "dtype": dtype_name(pipe.dtype),
            "sampling": sampling.to_dict(),
            "seed": seed,
            "prompts": self._prompts,
        }
        file = folder / PLAN_FILE
        if not file.exists():
            if any(folder.glob("*.png")):
                raise HartError(f"{folder}: holds pictures but no {PLAN_FILE}: choose another --out, or empty it")
            text = json.dumps(self._plan, indent=1, ensure_ascii=False)
            atomic_write(file, lambda stream: stream.write(text.encode()))
        elif _read_plan(file) != self._plan:
            raise HartError(
                f"{folder}: holds pictures of another model, other prompts or other settings: choose another --out, or "
                "delete the folder"
            )

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the pictures but the prompts, for `Result.settings`."""
        return {name: value for name, value in self._plan.items() if name != "prompts"}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the text encoder did not read of the prompts, for `Result.notes`."""
        prompts = list(dict.fromkeys(prompt for prompt in self._prompts if isinstance(prompt, str)))
        readings = self._pipe.text_encoder.reading(prompts) if prompts else []
        cut = sum(bool(reading.left_out) for reading in readings)
        unknown = sum(bool(reading.unknown) for reading in readings)
        found = {
            "are longer than the text encoder reads, and were cut": cut,
            "have words that the text encoder does not know": unknown,
        }
        return tuple(f"{count:,} of {len(prompts):,} prompts {what}" for what, count in found.items() if count)

    def path(self, number: int) -> Path:
        """Where picture `number` lies or will lie."""
        return self._folder / f"{number:06d}.png"

    def draw(self, batch_size: int, progress: Progress) -> int:
        """Draw what is missing, a file at a time; returns how many were there already."""
        missing = [number for number in range(len(self)) if not self.path(number).exists()]
        kept = len(self) - len(missing)
        done = kept
        for batch in _runs(missing, batch_size):
            progress(done, len(self), f"{done} of {len(self)} pictures drawn")
            with quiet_prompts():  # `notes` counts them
                out = self._pipe(
                    [self._prompts[number] for number in batch],
                    seed=self._seed + batch[0],
                    batch_size=len(batch),
                    sampling=self._sampling,
                )
            for number, image in zip(batch, out.images, strict=True):
                save_png(self.path(number), image)
            done += len(batch)
        return kept

    def sheet(self, labels: Sequence[str], file: str = SHEET_FILE, count: int | None = None) -> dict[str, Image.Image]:
        """A contact sheet of the first pictures, for `Result.sheets`. labels: one of each picture, or more.

        file: its name. count: how many to show; by default `SHEET_PICTURES`.
        """
        shown = range(min(len(self), SHEET_PICTURES if count is None else count))
        images = [[open_image(self.path(number))] for number in shown]
        return {file: contact_sheet(images, list(labels)[: len(images)])}

    def features(
        self, extractor: FeatureExtractor, batch_size: int, progress: Progress, size: int | None = None
    ) -> Features:
        """Features of all pictures, which must have been drawn. size: see `pixels`."""
        parts = []
        for start in range(0, len(self), batch_size):
            progress(start, len(self), "features of the drawn pictures")
            parts.append(extractor(self.pixels(range(start, min(start + batch_size, len(self))), size)))
        return Features.cat(parts)

    def pixels(self, numbers: Sequence[int], size: int | None = None) -> Tensor:
        """(B, 3, size, size) uint8 of drawn pictures, resized where `size` is not their own."""
        side = self._pipe.image_size if size is None else size
        return torch.stack([pil_to_pixels(open_image(self.path(i)), side) for i in numbers])


def _runs(numbers: Sequence[int], longest: int) -> Iterator[list[int]]:
    """Neighbouring numbers together, at most `longest`: the seeds of a batch follow each other."""
    run: list[int] = []
    for number in numbers:
        if run and (number != run[-1] + 1 or len(run) == longest):
            yield run
            run = []
        run.append(number)
    if run:
        yield run


def _read_plan(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except FileError as error:
        raise HartError(f"{error}: choose another --out, or delete the folder") from None

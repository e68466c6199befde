"""Images generated for a suite: generated once and kept in a folder; a stopped run continues with what is missing.

`plan.json` beside them holds model, settings, prompts and seeds; images of another plan are never reused.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hart.benchmark.parts import quiet_prompts
from hart.config import SamplingConfig
from hart.data.transforms import pil_to_pixels
from hart.devices import dtype_name
from hart.errors import HartError
from hart.evaluation.cache import IMAGES, Cache
from hart.evaluation.judges.scores import Scorer
from hart.evaluation.metrics.features import FeatureExtractor, Features, extracted
from hart.evaluation.suites.base import Progress
from hart.generation.arguments import Prompt, checked_prompts, checked_seed
from hart.generation.contact_sheet import contact_sheet
from hart.pipeline import HartPipeline
from hart.text_encoder import vocabulary_digest

IMAGES_FOLDER = "images"
SHEET_FILE, SHEET_IMAGES = "generated.png", 36


def plan_of(pipe: HartPipeline, sampling: SamplingConfig, seed: int) -> dict[str, Any]:
    """Return everything that determines the images except the prompts: the model's weights, the parts of its
    configuration that weights do not show, the number types that are fast on this machine, and what its text encoder
    reads words as."""
    config = pipe.config
    choices: dict[str, Any] = {part: getattr(config, part) for part in ("tokenizer", "transformer", "diffusion")}
    choices["speed"] = pipe.speed
    model = {name: None if part is None else part.to_dict() for name, part in choices.items()}
    if config.transformer.text is not None:
        encoder = pipe.text_encoder
        # where its weights are stored does not matter
        model["text_encoder"] = encoder.config.to_dict() | {"source": "", "vocabulary": vocabulary_digest(encoder)}
    return {
        "weights": pipe.fingerprints(),
        "device": pipe.device.type,
        "dtype": dtype_name(pipe.dtype),
        "sampling": sampling.to_dict(),
        "seed": seed,
        "model": model,
    }


class GeneratedImages:
    """One image per prompt; image i has the seed `seed + i`. The files in `out`/images are the only state."""

    def __init__(
        self, pipe: HartPipeline, prompts: Sequence[Prompt], sampling: SamplingConfig, seed: int, out: Path
    ) -> None:
        """Raise `HartError` if `out` holds images of another plan, the model does not take a prompt, or a class model
        is given text."""
        if pipe.num_classes is not None and any(isinstance(prompt, str) for prompt in prompts):
            raise HartError(
                "this suite generates from text, and this model generates classes by number: give a text model"
            )
        self._pipe = pipe
        # all of them, before hours are spent on the first ones
        self._prompts = checked_prompts(prompts, pipe.num_classes)
        self._sampling = sampling
        self._seed = checked_seed(seed, len(self._prompts))
        plan = plan_of(pipe, sampling, seed)
        self.settings = {"size": pipe.image_size} | {name: plan[name] for name in plan if name != "model"}
        """For `Result.settings`."""
        self.plan = {**plan, "prompts": self._prompts}
        """Everything that determines the images, for the keys of what is measured on them."""
        self._files: Cache[Image.Image] = Cache(out / IMAGES_FOLDER, IMAGES, plan=self.plan)

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return how many prompts the text encoder did not read in full, for `Result.notes`."""
        prompts = list(dict.fromkeys(prompt for prompt in self._prompts if isinstance(prompt, str)))
        readings = self._pipe.text_encoder.reading(prompts) if prompts else []
        cut = sum(bool(reading.left_out) for reading in readings)
        unknown = sum(bool(reading.unknown) for reading in readings)
        found = {
            "longer than the text encoder reads, which were cut": cut,
            "with words that the text encoder does not know": unknown,
        }
        return tuple(f"prompts {what}: {count:,} of {len(prompts):,}" for what, count in found.items() if count)

    def path(self, number: int) -> Path:
        """Return where image `number` is or will be stored."""
        return self._files.path(f"{number:06d}")

    def image(self, number: int) -> Image.Image:
        """Return a generated image. Raises `HartError` that names a damaged file."""
        return self._files.read(f"{number:06d}")

    def generate(self, batch_size: int, progress: Progress) -> int:
        """Generate what is missing; return how many already existed."""
        names = [f"{number:06d}" for number in range(len(self))]
        return self._files.fill(names, self._generated, batch_size, progress, "{} of {} images generated")

    def _generated(self, numbers: Sequence[int]) -> list[Image.Image]:
        prompts, seeds = [self._prompts[number] for number in numbers], [self._seed + number for number in numbers]
        with quiet_prompts():  # `notes` counts them
            return list(self._pipe(prompts, seed=seeds, batch_size=len(numbers), sampling=self._sampling).images)

    def batches(self, size: int) -> list[Sequence[int]]:
        """Return all numbers, `size` at a time."""
        return [range(len(self))[start : start + size] for start in range(0, len(self), size)]

    def sheet(
        self, labels: Sequence[str] = (), file: str = SHEET_FILE, count: int | None = None
    ) -> dict[str, Image.Image]:
        """Return a contact sheet of the first `count` images, for `Result.sheets`.

        labels: one per image, or more; prompts by default. file: its name. count: `SHEET_IMAGES` by default.
        """
        images = [[self.image(i)] for i in range(min(len(self), SHEET_IMAGES if count is None else count))]
        return {file: contact_sheet(images, list(labels or map(str, self._prompts))[: len(images)])}

    def features(
        self, extractor: FeatureExtractor, batch_size: int, progress: Progress, size: int | None = None
    ) -> Features:
        """Return features of all images, which must have been generated. size: see `pixels`."""
        batches = (self.pixels(numbers, size) for numbers in self.batches(batch_size))
        return extracted(batches, extractor, progress, len(self), "features of the generated images")

    def scores(self, scorer: Scorer, batch_size: int, progress: Progress) -> Tensor:
        """Return (N,) float64: the score of every image with its prompt, a text."""
        scores = []
        for numbers in self.batches(batch_size):
            progress(numbers[0], len(self), scorer.name)
            # resized bicubically by Pillow to whole values, as CLIP's own preprocessing does
            pixels = self.pixels(numbers, scorer.image_size)
            scores.append(scorer(pixels, [str(self._prompts[i]) for i in numbers]))
        return torch.cat(scores)

    def pixels(self, numbers: Sequence[int], size: int | None = None) -> Tensor:
        """Return (B, 3, size, size) uint8 of generated images, resized if `size` is not their own."""
        image_size = self._pipe.image_size if size is None else size
        return torch.stack([pil_to_pixels(self.image(i), image_size) for i in numbers])


def evenly_chosen(groups: Sequence[str], limit: int | None, seed: int) -> list[int]:
    """Return the rows to use, in order: all, or `limit` of them, as evenly from the groups as possible, by `seed`.

    groups: the group of each row.
    """
    if limit is None or limit >= len(groups):
        return list(range(len(groups)))
    members: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    generator = random.Random(seed)
    for rows in members.values():
        generator.shuffle(rows)
    # the first of every group, the second of every group, ...
    turns = [(turn, row) for rows in members.values() for turn, row in enumerate(rows)]
    turns.sort(key=lambda item: item[0])
    return sorted(row for _, row in turns[:limit])

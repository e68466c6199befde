"""Best of n: more images than wanted are generated, and those are kept that a scorer prefers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from hart.errors import HartError
from hart.evaluation.judges.references import SCORER_FILE, ReferenceScore
from hart.evaluation.judges.scores import ClipScore, Scorer
from hart.generation.outputs import HartOutput
from hart.generation.request import MAX_BATCH, whole_number
from hart.pipeline import HartPipeline


def open_scorer(spec: str | None, pipe: HartPipeline) -> Scorer:
    """ "clip:SOURCE", a folder or hub id of a CLIP model; None: what the model comes with. Raises `HartError`."""
    if spec is None:
        if pipe.folder is None or not (pipe.folder / SCORER_FILE).exists():
            raise HartError("this model comes without a scorer: give one, such as clip:openai/clip-vit-large-patch14")
        return ReferenceScore(pipe.folder / SCORER_FILE, pipe.text_encoder, pipe.device)
    kind, _, source = spec.partition(":")
    if kind != "clip" or not source:
        raise HartError(f"unknown scorer {spec!r}: give clip:SOURCE, or none for the model's own")
    return ClipScore(source, pipe.device)


def best_of(
    pipe: HartPipeline,
    prompt: str | Iterable[str],
    count: int,
    scorer: Scorer,
    *,
    num_images_per_prompt: int = 1,
    seed: int = 0,
    callback_on_batch: Callable[[HartOutput], object] | None = None,
    collect: bool = True,
    **options: Any,
) -> HartOutput:
    """As `pipe(prompt, ...)`, each image the best of `count`, whose seeds follow each other.

    The result's seeds are those of the images kept: each can be generated alone. options: of the call. Raises
    `HartError`.
    """
    whole_number("best_of", count, 2, MAX_BATCH)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if pipe.num_classes is not None:
        raise HartError("best of n is for models that generate from text: scorers compare images with a prompt")
    kept: list[HartOutput] = []
    last: HartOutput | None = None
    for place in range(len(prompts) * num_images_per_prompt):
        text = prompts[place // num_images_per_prompt]
        found = pipe(text, num_images_per_prompt=count, seed=seed + place * count, **options)
        scores = scorer(torch.stack([_pixels(image, scorer.image_size) for image in found.images]), [text] * count)
        at = int(scores.argmax())
        last = replace(
            found, images=[found.images[at]], prompts=[found.prompts[at]], seeds=[found.seeds[at]], batch_size=1
        )
        if callback_on_batch is not None:
            callback_on_batch(last)
        if collect:
            kept.append(last)
    if last is None:
        raise HartError("no prompts: give at least one")
    return replace(
        last,
        images=[image for output in kept for image in output.images],
        prompts=[text for output in kept for text in output.prompts],
        seeds=[one for output in kept for one in output.seeds],
    )


def _pixels(image: Image.Image, size: int) -> torch.Tensor:
    """(3, size, size) uint8."""
    resized = image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized.convert("RGB")).copy()).permute(2, 0, 1)

"""Best of n: more images than wanted are generated, and only those that a scorer prefers are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from hart.checkpoint.folders import SCORER_FILE
from hart.checkpoint.hub import folder_or_id
from hart.config import MAX_SEED
from hart.data.transforms import pil_to_pixels
from hart.errors import HartError
from hart.evaluation.judges.scores import CLIP_SCORE, ClipScore, ReferenceScore, Scorer
from hart.generation.arguments import MAX_BATCH, check_callbacks, checked_prompts
from hart.generation.outputs import HartOutput
from hart.pipeline import HartPipeline
from hart.strict import has_members, shown, whole_number


def open_scorer(spec: str | None, pipe: HartPipeline) -> Scorer:
    """Open "clip:SOURCE", a folder or hub id of a CLIP model; None: the model's own scorer. Raises `HartError`."""
    if spec is None:
        if pipe.folder is None or not (pipe.folder / SCORER_FILE).exists():
            raise HartError("this model comes without a scorer: give one, such as clip:openai/clip-vit-large-patch14")
        return ReferenceScore(pipe.folder / SCORER_FILE, pipe.text_encoder, pipe.device)
    return ClipScore(scorer_source(spec), pipe.device)


def scorer_source(spec: str) -> str:
    """Return the folder or hub id in "clip:SOURCE" without loading it. Raises `HartError` for a missing folder."""
    kind, _, source = spec.partition(":")
    if kind != "clip" or not source:
        raise HartError(f"unknown scorer {spec!r}: give clip:SOURCE, or leave it out for the model's own")
    return folder_or_id(source, CLIP_SCORE)


def best_of(
    pipe: HartPipeline,
    prompt: str | Iterable[str],
    count: int,
    scorer: Scorer,
    *,
    num_images_per_prompt: int = 1,
    callback_on_batch: Callable[[HartOutput], object] | None = None,
    collect: bool = True,
    **options: Any,
) -> HartOutput:
    """Like `pipe(prompt, ...)`, but each image is the best of `count`, whose seeds are consecutive.

    The result's seeds are those of the images kept: each can be generated alone. callback_on_batch: called with every
    image that is kept. options: of the call, which generates `count` times as many images. Raises `HartError`.
    """
    count = whole_number("best_of", count, 2, MAX_BATCH)
    each = whole_number("num_images_per_prompt", num_images_per_prompt, 1, MAX_SEED)
    check_callbacks(callback_on_batch=callback_on_batch)
    if not has_members(scorer, Scorer):
        raise HartError(f"scorer must be a Scorer, as open_scorer returns it, not {shown(scorer)}")
    if pipe.num_classes is not None:
        raise HartError("best of n is for models that generate from text: scorers compare images with a prompt")
    if options.get("output_type", "pil") != "pil":
        raise HartError("best of n chooses among PIL images: leave output_type out")
    kept: list[HartOutput] = []
    waiting: list[HartOutput] = []

    def choose() -> None:
        group = HartOutput.cat(waiting)
        waiting.clear()
        pixels = torch.stack([pil_to_pixels(image, scorer.image_size) for image in group.images])
        best = group.image(int(scorer(pixels, [str(prompt) for prompt in group.prompts]).argmax()))
        if callback_on_batch is not None:
            callback_on_batch(best)
        if collect:
            kept.append(best)

    def take(batch: HartOutput) -> None:
        for i in range(len(batch.images)):
            waiting.append(batch.image(i))
            if len(waiting) == count:
                choose()

    prompts = checked_prompts(prompt, None)
    pipe(prompts, num_images_per_prompt=each * count, callback_on_batch=take, collect=False, **options)
    if waiting:  # a callback ended the call
        choose()
    return HartOutput.cat(kept)

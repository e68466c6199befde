"""What both suites share: which prompts are drawn how often, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hart.config import SamplingConfig
from hart.errors import HartError
from hart.evaluation.alignment.prompt_files import PublishedFile
from hart.evaluation.drawing import DrawnPictures
from hart.evaluation.statistics import RESAMPLES
from hart.pipeline import HartPipeline


@dataclass(frozen=True)
class AskingOptions:
    """limit: prompts; None takes all. per_prompt: pictures of each. seed: of the first picture, of the choice of
    prompts and of the intervals. draw_batch: pictures drawn together. judge_batch: pictures that a detector sees
    together. resamples: of the intervals."""

    limit: int | None = None
    per_prompt: int = 4
    seed: int = 0
    draw_batch: int = 1
    judge_batch: int = 1
    resamples: int = RESAMPLES


def draw_prompts(
    pipe: HartPipeline, sampling: SamplingConfig, prompts: Sequence[str], folder: Path, options: AskingOptions
) -> DrawnPictures:
    """Pictures to draw: all of the first prompt, then of the second; each has a seed of its own.

    Raises `HartError` for a model that draws classes.
    """
    if pipe.num_classes is not None:
        raise HartError("this suite draws from words, and this model draws classes: give a text-to-image model")
    return DrawnPictures(
        pipe, [prompt for prompt in prompts for _ in range(options.per_prompt)], sampling, options.seed, folder
    )


def part_warning(published: PublishedFile, prompts: int, options: AskingOptions) -> list[str]:
    """What to say when less than the benchmark was drawn."""
    if prompts == published.prompts and options.per_prompt == 4:
        return []
    return [
        f"{prompts:,} prompts with {options.per_prompt} pictures each, where {published.benchmark} has "
        f"{published.prompts:,} with 4: do not compare with published scores"
    ]

"""Suite `geneval`: are the objects there that a prompt names, as many, in the colours and places that it says?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from hart.config import SamplingConfig
from hart.data.images import open_image
from hart.evaluation.alignment.asking import AskingOptions, draw_prompts, part_warning
from hart.evaluation.alignment.geneval_rules import (
    CONFIDENCE,
    COUNTING_CONFIDENCE,
    MOST_OBJECTS,
    POSITION_MARGIN,
    PROMPTS,
    TASKS,
    Found,
    ObjectPrompt,
    counted_objects,
    faults,
)
from hart.evaluation.alignment.published import GENEVAL
from hart.evaluation.alignment.verdicts import VERDICTS_FILE, Verdict, kept_verdicts
from hart.evaluation.published_text import TEXT_TO_IMAGE
from hart.evaluation.report import Progress, Result, pictures_text
from hart.evaluation.selection import spread
from hart.evaluation.statistics import Figure, bootstrap, bootstrap_mean
from hart.pipeline import HartPipeline

OVERALL = "overall"


class Detector(Protocol):
    """Objects in pictures of one size. side: pixels that it sees."""

    name: str
    weights: str
    side: int

    def __call__(self, images: Sequence[Image.Image]) -> list[list[Found]]: ...


class ColourNamer(Protocol):
    """Colours of objects of one class in a picture."""

    name: str
    weights: str

    def __call__(self, image: Image.Image, name: str, objects: Sequence[Found]) -> list[str]: ...


def evaluate_geneval(
    pipe: HartPipeline,
    sampling: SamplingConfig,
    prompts: Sequence[ObjectPrompt],
    detector: Detector,
    colours: ColourNamer,
    folder: Path,
    options: AskingOptions,
    settings: Mapping[str, Any],
    progress: Progress = lambda _done, _total, _what: None,
) -> Result:
    """Draw, detect and judge. Pictures lie in `folder`/images, verdicts in `folder`/verdicts.jsonl; both are gone on
    with after a stop. settings: what the caller chose, for the report.
    """
    chosen = [prompts[row] for row in spread([prompt.tag for prompt in prompts], options.limit, options.seed)]
    drawn = draw_prompts(pipe, sampling, [prompt.prompt for prompt in chosen], folder, options)
    drawn.draw(options.draw_batch, progress)
    asked = [prompt for prompt in chosen for _ in range(options.per_prompt)]
    judges = {
        "detector": f"{detector.name} {detector.weights}",
        "detector_side": detector.side,
        "colours": f"{colours.name} {colours.weights}",
        "confidence": CONFIDENCE,
        "counting_confidence": COUNTING_CONFIDENCE,
        "most_objects": MOST_OBJECTS,
        "position_margin": POSITION_MARGIN,
    }

    def judge(numbers: Sequence[int]) -> list[Verdict]:
        images = [open_image(drawn.path(number)) for number in numbers]
        found = detector(images)
        return [
            _verdict(asked[number], image, objects, colours)
            for number, image, objects in zip(numbers, images, found, strict=True)
        ]

    verdicts = kept_verdicts(
        folder / VERDICTS_FILE,
        drawn,
        [dataclasses.asdict(prompt) for prompt in asked],
        judges,
        judge,
        options.judge_batch,
        progress,
        lambda verdict: type(verdict.get("correct")) is bool and isinstance(verdict.get("prompt"), str),
    )
    right = torch.tensor([bool(verdict["correct"]) for verdict in verdicts]).view(-1, options.per_prompt)
    judged_by = f"{detector.name}, {colours.name}"
    return Result(
        suite="geneval",
        title=f"GenEval, {len(chosen):,} prompts, {pictures_text(len(drawn))}",
        figures=scores([prompt.tag for prompt in chosen], right, judged_by, options.seed, options.resamples),
        settings={**settings, **drawn.settings, **judges, "resamples": options.resamples},
        counts={"prompts": len(chosen), "drawn": len(drawn), "right": int(right.sum())},
        notes=(
            *part_warning(PROMPTS, len(chosen), options),
            *drawn.notes,
            "the published scores are by mmdetection's training of the same detector: compare with care",
        ),
        published=(TEXT_TO_IMAGE, GENEVAL),
        sheets=drawn.sheet([f"{'right' if v['correct'] else 'wrong'}: {v['prompt']}" for v in verdicts]),
    )


def scores(
    tags: Sequence[str], right: Tensor, judged_by: str, seed: int, resamples: int
) -> dict[str, dict[str, Figure]]:
    """Shares of right pictures by task, and overall the mean over tasks, with intervals over prompts.

    tags: task of each prompt. right: (prompts, pictures) bool. Overall, prompts are resampled within their tasks.
    """
    generator = torch.Generator().manual_seed(seed)
    values = right.double().mean(dim=1)
    any_right = right.any(dim=1)
    present = [tag for tag in TASKS if tag in tags]
    parts = [torch.tensor([row for row, other in enumerate(tags) if other == tag]) for tag in present]

    def over_tasks(of: Tensor) -> Figure:
        def mean(*rows: Tensor) -> float:
            return sum(float(of[part[i]].double().mean()) for part, i in zip(parts, rows, strict=True)) / len(parts)

        return bootstrap(mean, [len(part) for part in parts], generator, resamples)

    share, once = f"right pictures ({judged_by})", f"prompts with a right picture ({judged_by})"
    rows = {OVERALL: {share: over_tasks(values), once: over_tasks(any_right)}}
    for tag, part in zip(present, parts, strict=True):
        rows[TASKS[tag]] = {
            share: bootstrap_mean(values[part], generator, resamples),
            once: bootstrap_mean(any_right[part], generator, resamples),
        }
    return rows


def _verdict(prompt: ObjectPrompt, image: Image.Image, found: Sequence[Found], colours: ColourNamer) -> Verdict:
    objects = counted_objects(found, prompt.tag)
    said = faults(prompt, objects, lambda name, items: colours(image, name, items))
    return {
        "tag": prompt.tag,
        "prompt": prompt.prompt,
        "correct": not said,
        "reason": "; ".join(said),
        "objects": {name: [[*item.box, round(item.score, 4)] for item in items] for name, items in objects.items()},
    }

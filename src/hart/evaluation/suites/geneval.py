"""Suite `geneval`: are the objects that a prompt names there, in the right number, colours and places?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from hart.data.images import open_image
from hart.evaluation.judges.geneval_rules import (
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
    read_prompts,
)
from hart.evaluation.judges.objects import ClipColours, Mask2FormerDetector
from hart.evaluation.metrics.figures import Figure, bootstrap, bootstrap_mean
from hart.evaluation.published_files import at_hand, located
from hart.evaluation.report import Result, images_text, published_tables
from hart.evaluation.suites.asking import OVERALL, Asked
from hart.evaluation.suites.base import Context
from hart.evaluation.suites.core import GenevalOptions
from hart.strict import Config, Listed


class Verdict(Config):
    """On one image. reason: what is not as asked. objects: by class, each its box and score."""

    tag: str
    prompt: str
    correct: bool
    reason: str
    objects: dict[str, Listed[Listed[float]]]


def run(context: Context[GenevalOptions]) -> Result:
    """Generate, detect and judge. Raises `HartError`."""
    options = context.options
    file = located(PROMPTS, options.data)
    prompts = read_prompts(file)
    detector = Mask2FormerDetector(at_hand(options.detector, options.data), context.device, options.detector_size)
    colours = ClipColours(at_hand(options.clip, options.data), context.device)
    asked = Asked(context, PROMPTS, prompts, [prompt.tag for prompt in prompts])
    judges = {
        "detector": f"{detector.name} {detector.weights}",
        "detector_image_size": detector.image_size,
        "colours": f"{colours.name} {colours.weights}",
        "confidence": CONFIDENCE,
        "counting_confidence": COUNTING_CONFIDENCE,
        "most_objects": MOST_OBJECTS,
        "position_margin": POSITION_MARGIN,
    }

    def judge(numbers: list[int]) -> list[Verdict]:
        images = [open_image(asked.generated.path(number)) for number in numbers]
        found = zip(numbers, images, detector(images), strict=True)
        return [_verdict(asked.each[number], image, objects, colours) for number, image, objects in found]

    verdicts = asked.verdicts(Verdict, judges, judge, options.judge_batch)
    right = torch.tensor([verdict.correct for verdict in verdicts]).view(-1, options.per_prompt)
    judged_by = f"{detector.name}, {colours.name}"
    return Result(
        title=f"GenEval, {len(asked.prompts):,} prompts, {images_text(len(verdicts))}",
        figures=scores([p.tag for p in asked.prompts], right, judged_by, context.generator(), options.resamples),
        settings={"prompts": str(file), **asked.settings, **judges},
        counts={"prompts": len(asked.prompts), "generated": len(verdicts), "right": int(right.sum())},
        notes=(
            *asked.notes,
            "the published scores are by mmdetection's training of the same detector: compare with care",
        ),
        published=(published_tables()["text_to_image"], published_tables()["geneval"]),
        sheets=asked.generated.sheet([f"{'right' if v.correct else 'wrong'}: {v.prompt}" for v in verdicts]),
        lines=asked.lines(verdicts),
    )


def scores(
    tags: Sequence[str], right: Tensor, judged_by: str, generator: torch.Generator, resamples: int
) -> dict[str, dict[str, Figure]]:
    """Shares of right images by task, and overall the mean over tasks, with intervals over prompts.

    tags: task of each prompt. right: (prompts, images) bool. Overall, prompts are resampled within their tasks.
    """
    values = right.double().mean(dim=1)
    any_right = right.any(dim=1)
    present = [tag for tag in TASKS if tag in tags]
    parts = [torch.tensor([row for row, other in enumerate(tags) if other == tag]) for tag in present]

    def over_tasks(of: Tensor) -> Figure:
        def mean(*rows: Tensor) -> float:
            return sum(float(of[part[i]].double().mean()) for part, i in zip(parts, rows, strict=True)) / len(parts)

        return bootstrap(mean, [len(part) for part in parts], generator, resamples)

    share, once = f"right images ({judged_by})", f"prompts with a right image ({judged_by})"
    rows = {OVERALL: {share: over_tasks(values), once: over_tasks(any_right)}}
    for tag, part in zip(present, parts, strict=True):
        rows[TASKS[tag]] = {
            share: bootstrap_mean(values[part], generator, resamples),
            once: bootstrap_mean(any_right[part], generator, resamples),
        }
    return rows


def _verdict(prompt: ObjectPrompt, image: Image.Image, found: Sequence[Found], colours: ClipColours) -> Verdict:
    objects = counted_objects(found, prompt.tag)
    said = faults(prompt, objects, lambda name, items: colours(image, name, items))
    return Verdict(
        prompt.tag,
        prompt.prompt,
        not said,
        "; ".join(said),
        {name: tuple((*item.box, round(item.score, 4)) for item in items) for name, items in objects.items()},
    )

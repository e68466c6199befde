"""Suite `geneval`: are the objects that a prompt names present, in the right number, colours and places?

GenEval (Ghosh et al., 2023, arXiv 2310.11513): a prompt asks for objects, some of them in a colour or beside another
one, and excludes some. An image is right if everything is as requested.

Boxes: (left, top, right, bottom) in pixels, y down.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
from PIL import Image
from pydantic import Field, Strict
from torch import Tensor

from hart.errors import HartError
from hart.evaluation.judges.objects import CONFIDENCE, OBJECTS, ClipColours, Colour, Found, Mask2FormerDetector
from hart.evaluation.metrics.figures import Figure, bootstrap, bootstrap_mean
from hart.evaluation.published_files import PublishedFile, at_hand, located
from hart.evaluation.report import Result, published_tables
from hart.evaluation.suites.base import Context
from hart.evaluation.suites.core import GenevalOptions
from hart.evaluation.suites.judged_prompts import OVERALL, JudgedPrompts
from hart.files import parse_json, read_text
from hart.networks.pretrained import choices
from hart.strict import Config, Listed, counted, require

PROMPTS = PublishedFile(
    "GenEval", "https://raw.githubusercontent.com/djghosh13/geneval/main/prompts/evaluation_metadata.jsonl", 553
)
Tag = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
COUNTING: Tag = "counting"
TASKS: Mapping[Tag, str] = {
    "single_object": "single object",
    "two_object": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "position",
    "color_attr": "colour attribution",
}
"""Maps a prompt's tag to its row of the table, in the published order."""
Relation = Literal["left of", "right of", "above", "below"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)

COUNTING_CONFIDENCE = 0.9
"""Like `CONFIDENCE`, but for counting, which is stricter: one object detected twice would count as two."""
MOST_OBJECTS = 16
"""Most objects of a class in one image: the most confident ones."""
POSITION_MARGIN = 0.1
"""Share of both boxes' sizes by which their centres must differ for one to be beside the other."""


class Wanted(Config):
    """At least `count` objects `name`, in `colour`, each `position[0]` all objects of the clause `position[1]`."""

    name: Annotated[str, Field(validation_alias="class")]
    count: Annotated[int, Field(ge=1)]
    colour: Colour | None = Field(None, validation_alias="color")
    position: Annotated[tuple[Relation, int], Strict(False)] | None = None

    def __post_init__(self) -> None:
        require(self.name in OBJECTS, f"unknown class {self.name!r}")


class ObjectPrompt(Config):
    """A line of the file. tag: its task. exclude: this many of an object, or more, are too many."""

    tag: Tag
    prompt: str
    include: Listed[Wanted]
    exclude: Listed[Wanted] = ()

    def __post_init__(self) -> None:
        require(bool(self.prompt.strip()), "prompt: is empty")
        require(bool(self.include), "include: is empty")
        for number, wanted in enumerate(self.include):
            require(
                wanted.position is None or 0 <= wanted.position[1] < number,
                "a position refers to a clause that does not come before it",
            )


ColoursOf = Callable[[str, Sequence[Found]], Sequence[str]]
"""Returns the colours of objects of one class, each one of `COLOURS`."""


def read_prompts(file: Path) -> list[ObjectPrompt]:
    """Read the published format: one JSON object per line. Raises `HartError` that names the line."""
    prompts = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            try:
                prompts.append(ObjectPrompt.from_dict(parse_json(line.encode(), "the line")))
            except HartError as error:
                raise HartError(
                    f"{file}, line {number}: is not a prompt of GenEval ({error}): see {PROMPTS.address}"
                ) from None
    if not prompts:
        raise HartError(f"{file}: holds no prompts: fetch {PROMPTS.address}")
    return prompts


def counted_objects(found: Iterable[Found], tag: str) -> dict[str, list[Found]]:
    """Return the objects of an image that count for a task, by class, most confident first, at most `MOST_OBJECTS`."""
    least = COUNTING_CONFIDENCE if tag == COUNTING else CONFIDENCE
    objects: dict[str, list[Found]] = defaultdict(list)
    for item in sorted(found, key=lambda item: -item.score):
        if item.score > least and len(objects[item.name]) < MOST_OBJECTS:
            objects[item.name].append(item)
    return {name: items for name, items in objects.items() if items}


def relations(box: Sequence[float], target: Sequence[float]) -> tuple[str, ...]:
    """Return where a box lies as seen from `target`, of `RELATIONS`: none, one, or two if it lies diagonally.

    The distance of the centres is reduced by `POSITION_MARGIN` of both boxes along each axis; what is left must be more
    than half of the whole distance.
    """
    (left, top, right, bottom), (left_of, top_of, right_of, bottom_of) = box, target
    apart = torch.tensor([left + right - left_of - right_of, top + bottom - top_of - bottom_of]).double() / 2
    sizes = torch.tensor([right - left + right_of - left_of, bottom - top + bottom_of - top_of]).double()
    rest = apart.sign() * (apart.abs() - POSITION_MARGIN * sizes).clamp(min=0)
    if rest.abs().max() < 1e-3:  # in pixels, as published
        return ()
    x, y = (rest / apart.norm()).tolist()
    holds = (x < -0.5, x > 0.5, y < -0.5, y > 0.5)
    return tuple(name for name, true in zip(RELATIONS, holds, strict=True) if true)


def faults(prompt: ObjectPrompt, objects: Mapping[str, Sequence[Found]], colours_of: ColoursOf) -> list[str]:
    """Return what is not as requested, one text each; empty for a right image. objects: see `counted_objects`.

    Colour and position are judged on the most confident objects of the class, as many as are requested.
    """
    said: list[str] = []
    matched: list[Sequence[Found] | None] = []
    for wanted in prompt.include:
        chosen = objects.get(wanted.name, ())[: wanted.count]
        if fault := _fault(wanted, chosen, matched, colours_of):
            said.append(fault)
        matched.append(None if fault else chosen)
    for limit in prompt.exclude:
        number = len(objects.get(limit.name, ()))
        if number >= limit.count:
            said.append(f"expected {limit.name}<{limit.count}, found {number}")
    return said


def _fault(
    wanted: Wanted, chosen: Sequence[Found], matched: Sequence[Sequence[Found] | None], colours_of: ColoursOf
) -> str:
    """Return what one clause finds wrong; empty for nothing. matched: what earlier clauses found, None for a fault."""
    if len(chosen) < wanted.count:
        return f"expected {wanted.name}>={wanted.count}, found {len(chosen)}"
    if wanted.colour is not None:
        colours = list(colours_of(wanted.name, chosen))
        right, are = colours.count(wanted.colour), ", ".join(colours)
        if right < wanted.count:
            return f"expected {wanted.colour} {wanted.name}>={wanted.count}, found {right}; they are {are}"
    if wanted.position is not None:
        relation, clause = wanted.position
        targets = matched[clause]
        if targets is None:
            return f"no target for {wanted.name} to be {relation}"
        for item, target in product(chosen, targets):
            if relation not in (true := relations(item.box, target.box)):
                return f"expected {wanted.name} {relation} {target.name}, found {' and '.join(true) or 'neither side'}"
    return ""


class Verdict(Config):
    """The verdict on one image. reason: what is not as requested. objects: by class, each its box and score."""

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
    asked = JudgedPrompts(context, PROMPTS, prompts, [prompt.tag for prompt in prompts])
    judges = {
        "detector": f"{detector.name} {detector.weights} {choices(detector)}",
        "detector_image_size": detector.image_size,
        "colours": f"{colours.name} {colours.weights} {choices(colours)}",
        "confidence": CONFIDENCE,
        "counting_confidence": COUNTING_CONFIDENCE,
        "most_objects": MOST_OBJECTS,
        "position_margin": POSITION_MARGIN,
    }

    def judge(numbers: list[int]) -> list[Verdict]:
        images = [asked.generated.image(number) for number in numbers]
        found = zip(numbers, images, detector(images), strict=True)
        return [_verdict(asked.each[number], image, objects, colours) for number, image, objects in found]

    verdicts = asked.verdicts(Verdict, judges, judge, options.judge_batch)
    right = torch.tensor([verdict.correct for verdict in verdicts]).view(-1, options.per_prompt)
    judged_by = f"{detector.name}, {colours.name}"
    return Result(
        title=f"GenEval, {counted(len(asked.prompts), 'prompt')}, {counted(len(verdicts), 'image')}",
        figures=scores([p.tag for p in asked.prompts], right, judged_by, context.generator(), options.resamples),
        settings={"prompts": str(file), **asked.generated.settings, **judges},
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
    """Return shares of right images by task, and overall the mean over tasks, with intervals over prompts.

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

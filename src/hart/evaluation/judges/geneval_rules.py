"""GenEval's protocol (Ghosh et al., 2023, arXiv 2310.11513) as functions of detected objects: no network runs here.

A prompt asks for objects, some of them in a colour or beside another one, and excludes some. An image is right when
everything is as asked.

Boxes: (left, top, right, bottom) in pixels, y down.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, Strict
from torch import Tensor

from hart.errors import HartError
from hart.evaluation.published_files import PublishedFile, read_prompt_file
from hart.files import parse_json
from hart.strict import Config, Listed, require

PROMPTS = PublishedFile(
    "GenEval",
    "evaluation_metadata.jsonl",
    "https://raw.githubusercontent.com/djghosh13/geneval/main/prompts/evaluation_metadata.jsonl",
    553,
)
COUNTING = "counting"
TASKS = {
    "single_object": "single object",
    "two_object": "two objects",
    COUNTING: "counting",
    "colors": "colours",
    "position": "position",
    "color_attr": "colour attribution",
}
"""Tag of a prompt -> row of the table, in the published order."""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")

CONFIDENCE, COUNTING_CONFIDENCE = 0.3, 0.9
"""An object counts above it. Counting asks for more: one object detected twice would be two."""
MOST_OBJECTS = 16
"""Of a class in one image: the most confident ones."""
POSITION_MARGIN = 0.1
"""Share of both boxes' sizes by which their centres must differ before one is beside the other."""
_COCO = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, "
    "clock, vase, scissors, teddy bear, hair drier, toothbrush"
)
OBJECTS = frozenset(_COCO.split(", "))
"""COCO's 80 classes by the names that the prompts use."""


def _one_of(what: str, known: Container[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}")
        return name

    return AfterValidator(check)


class Wanted(Config):
    """At least `count` objects `name`, in `colour`, each `position[0]` all objects of the clause `position[1]`."""

    name: Annotated[str, _one_of("class", OBJECTS), Field(validation_alias="class")]
    count: Annotated[int, Field(ge=1)]
    colour: Annotated[str, _one_of("colour", COLOURS)] | None = Field(None, validation_alias="color")
    position: Annotated[tuple[Annotated[str, _one_of("position", RELATIONS)], int], Strict(False)] | None = None


class ObjectPrompt(Config):
    """A line of the file. tag: its task. exclude: this many of an object, or more, are too many."""

    tag: Annotated[str, _one_of("tag", TASKS)]
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


@dataclass(frozen=True, eq=False)
class Found:
    """A detected object. box: see above. score: 0 to 1. mask: (H, W) bool, the object's pixels, or None."""

    name: str
    box: tuple[int, int, int, int]
    score: float
    mask: Tensor | None = None


ColoursOf = Callable[[str, Sequence[Found]], Sequence[str]]
"""Colours of objects of one class, each of `COLOURS`."""


def read_prompts(file: Path) -> list[ObjectPrompt]:
    """The published format: a JSON object a line. Raises `HartError` that names the line."""
    prompts = []
    for number, line in enumerate(read_prompt_file(file).split("\n"), start=1):
        if line.strip():
            try:
                prompts.append(ObjectPrompt.from_dict(parse_json(line.encode(), "the line")))
            except HartError as error:
                raise HartError(
                    f"{file}, line {number}: is no prompt of GenEval ({error}): see {PROMPTS.address}"
                ) from None
    if not prompts:
        raise HartError(f"{file}: holds no prompts: fetch {PROMPTS.address}")
    return prompts


def counted_objects(found: Iterable[Found], tag: str) -> dict[str, list[Found]]:
    """The objects of an image that count for a task, by class, most confident first, at most `MOST_OBJECTS`."""
    least = COUNTING_CONFIDENCE if tag == COUNTING else CONFIDENCE
    objects: dict[str, list[Found]] = defaultdict(list)
    for item in sorted(found, key=lambda item: -item.score):
        if item.score > least and len(objects[item.name]) < MOST_OBJECTS:
            objects[item.name].append(item)
    return {name: items for name, items in objects.items() if items}


def relations(box: Sequence[float], target: Sequence[float]) -> tuple[str, ...]:
    """Where a box lies as seen from `target`, of `RELATIONS`: none, one, or two where it lies across a corner.

    The distance of the centres is shortened by `POSITION_MARGIN` of both boxes along each axis; what is left must be
    more than half of the whole distance.
    """
    offset, left = [], []
    for low, high in ((0, 2), (1, 3)):
        apart = (box[low] + box[high] - target[low] - target[high]) / 2
        margin = POSITION_MARGIN * (abs(box[high] - box[low]) + abs(target[high] - target[low]))
        offset.append(apart)
        left.append(math.copysign(max(abs(apart) - margin, 0.0), apart))
    if max(map(abs, left)) < 1e-3:  # of a pixel, as published
        return ()
    x, y = (value / math.hypot(*offset) for value in left)
    holds = (x < -0.5, x > 0.5, y < -0.5, y > 0.5)
    return tuple(name for name, true in zip(RELATIONS, holds, strict=True) if true)


def faults(prompt: ObjectPrompt, objects: Mapping[str, Sequence[Found]], colours_of: ColoursOf) -> list[str]:
    """What is not as asked, one text each; empty for a right image. objects: see `counted_objects`.

    Colour and position are judged on the most confident objects of the class, as many as are asked for.
    """
    said: list[str] = []
    matched: list[Sequence[Found] | None] = []
    for wanted in prompt.include:
        chosen = objects.get(wanted.name, ())[: wanted.count]
        if len(chosen) < wanted.count:
            fault = f"expected {wanted.name}>={wanted.count}, found {len(chosen)}"
        else:
            fault = _colour_fault(wanted, chosen, colours_of) or _position_fault(wanted, chosen, matched)
        if fault:
            said.append(fault)
        matched.append(None if fault else chosen)
    for limit in prompt.exclude:
        number = len(objects.get(limit.name, ()))
        if number >= limit.count:
            said.append(f"expected {limit.name}<{limit.count}, found {number}")
    return said


def _colour_fault(wanted: Wanted, chosen: Sequence[Found], colours_of: ColoursOf) -> str:
    if wanted.colour is None:
        return ""
    colours = colours_of(wanted.name, chosen)
    right = sum(colour == wanted.colour for colour in colours)
    if right >= wanted.count:
        return ""
    return f"expected {wanted.colour} {wanted.name}>={wanted.count}, found {right}; they are {', '.join(colours)}"


def _position_fault(wanted: Wanted, chosen: Sequence[Found], matched: Sequence[Sequence[Found] | None]) -> str:
    if wanted.position is None:
        return ""
    relation, clause = wanted.position
    targets = matched[clause]
    if targets is None:
        return f"no target for {wanted.name} to be {relation}"
    for item in chosen:
        for target in targets:
            true = relations(item.box, target.box)
            if relation not in true:
                return f"expected {wanted.name} {relation} {target.name}, found {' and '.join(true) or 'neither side'}"
    return ""

"""The judge of composed images: right for what is composed as asked, wrong for what is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from hart import HartError
from hart.evaluation import Features
from hart_emoji.data.captions import DEFAULT_STYLE
from hart_emoji.suites import composed as suite
from hart_emoji.suites.emoji_set import image_of

SIZE = 96


class Shapes:
    """A set with one image of each concept: a polygon of its own. Those that may be painted are blue."""

    def __init__(self) -> None:
        self.number = {slug: number for number, slug in enumerate(chain.from_iterable(suite.THINGS.values()))}
        self.held_out, self.style = [None] * len(self.number), [DEFAULT_STYLE] * len(self.number)

    def images_of(self, number: int) -> list[int]:
        return [number]

    def pixels(self, rows: list[int]) -> torch.Tensor:
        return torch.stack([self.drawing(row) for row in rows])

    def drawing(self, row: int) -> torch.Tensor:
        image = Image.new("RGB", (SIZE, SIZE), "white")
        corners = np.random.default_rng(row).uniform(8, SIZE - 8, (3, 2))
        ImageDraw.Draw(image).polygon([*map(tuple, corners), (8 + row, 8)], fill=(31, 117, 220))
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


class Outlines:
    """Features of what is not white, whatever its colour."""

    name, weights = "outlines", ""

    def __call__(self, pixels: torch.Tensor) -> Features:
        dark = (pixels.float().amin(dim=1, keepdim=True) < 235).float()
        small = torch.nn.functional.adaptive_avg_pool2d(dark, 16).flatten(1)
        return Features(small - small.mean(dim=1, keepdim=True))


@pytest.fixture(scope="module")
def shapes() -> Any:
    return Shapes()


@pytest.fixture(scope="module")
def judge(shapes: Any) -> suite.Judge:
    return suite.Judge(shapes, Outlines())


def test_prompts_are_of_every_kind_and_all_different() -> None:
    asked = suite.prompts()
    assert len({one.text for one in asked}) == len(asked)
    assert set(Counter(one.kind for one in asked)) == set(suite.KINDS)
    assert {"a cat", "two cats", "a red apple", "a cat left of a house"} <= {one.text for one in asked}


def test_what_is_composed_as_asked_is_right(judge: suite.Judge, shapes: Any) -> None:
    asked = suite.prompts()
    right = [judge.right(one, suite.composed(shapes, one)) for one in asked]
    assert sum(right) >= 0.9 * len(asked), [one.text for one, ok in zip(asked, right, strict=True) if not ok]


def test_a_thing_is_known_by_any_concept_that_its_word_means(judge: suite.Judge, shapes: Any) -> None:
    for word, slugs in suite.THINGS.items():
        for slug in slugs:
            image = image_of(shapes.drawing(shapes.number[slug]))
            assert judge.shown([suite.cut_out(image, suite.around(image))]) == [word]


def test_other_things_places_numbers_and_colours_are_wrong(judge: suite.Judge, shapes: Any) -> None:
    by_kind = {one.kind: one for one in suite.prompts()}
    for kind, one in by_kind.items():
        assert not judge.right(one, Image.new("RGB", (SIZE, SIZE), "white")), kind
        assert not judge.right(one, suite.composed(shapes, by_kind["single" if kind != "single" else "two"])), kind
    placed = by_kind["position"]
    parts = tuple(replace(part, x=1 - part.x, y=1 - part.y) for part in placed.parts)
    assert judge.right(placed, suite.composed(shapes, placed))
    assert not judge.right(placed, suite.composed(shapes, replace(placed, parts=parts)))


def test_a_set_without_the_things_is_named(shapes: Any) -> None:
    small = Shapes()
    del small.number["banana"]
    with pytest.raises(HartError, match="no concept 'banana'"):
        suite.Judge(small, Outlines())  # type: ignore[arg-type]

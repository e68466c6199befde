"""Sizes and aspect ratios as callers write them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hart.errors import HartError
from hart.grids import Grid, ScaleSchedule
from hart.presets import SCALES_256, SCALES_512, SCALES_1024
from hart.sizes import (
    ImageSize,
    grid_of_size,
    parsed_size,
    requested_schedule,
    scales_of_size,
    schedule_of_grid,
    size_of_grid,
)
from helpers import tiny_class_config, tiny_text_config

OWN = (1, 2, 3, 5, 8)


def test_scales_of_a_size_are_the_published_ones_where_there_are_any() -> None:
    for size, scales in ((256, SCALES_256), (512, SCALES_512), (1024, SCALES_1024)):
        assert scales_of_size(SCALES_256, 16, size) == scales_of_size(SCALES_1024, 16, size) == scales
    assert scales_of_size(SCALES_256, 16, 384) == (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 24)
    assert scales_of_size(OWN, 8, 64) == OWN
    assert scales_of_size(OWN, 8, 256) == (1, 2, 3, 5, 8, 10, 13, 18, 24, 32)


@pytest.mark.parametrize(
    ("own", "size", "schedule"),
    [
        (SCALES_1024, "1024x1024", "1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64"),
        # the square of as many tokens has 48 x 48
        (SCALES_1024, "1024x576", "1, 3x2, 4x2, 5x3, 7x4, 9x5, 12x7, 16x9, 21x12, 28x16, 36x20, 48x27, 64x36"),
        # published scales of 512 px in a 1024 px model: the square of as many tokens has 32 x 32
        (SCALES_1024, "672x400", "1, 3x2, 4x2, 5x3, 8x5, 12x7, 17x10, 24x14, 32x19, 42x25"),
        # about the model's own size: as many scales
        (SCALES_1024, "1360x768", "1, 3x2, 4x2, 5x3, 7x4, 9x5, 12x7, 16x9, 21x12, 28x16, 36x20, 48x27, 64x36, 85x48"),
        (SCALES_1024, "1088x1024", "1, 2, 3, 4, 5, 7, 10x9, 13x12, 17x16, 22x21, 29x27, 38x36, 51x48, 68x64"),
        (OWN, "48x192", "1, 1x4, 2x6, 3x10, 4x16, 6x24"),
    ],
)
def test_a_schedule_of_any_size(own: tuple[int, ...], size: str, schedule: str) -> None:
    downsampling = 16 if own == SCALES_1024 else 8
    found = schedule_of_grid(own, grid_of_size(parsed_size(size), downsampling))
    assert str(found) == schedule
    assert size_of_grid(found.final, downsampling) == parsed_size(size)


def test_a_square_keeps_its_schedule() -> None:
    assert schedule_of_grid(OWN, Grid(8, 8)) == ScaleSchedule.square(OWN)


TINY = tiny_text_config()  # 8 px, 2 px per position


@pytest.mark.parametrize(
    ("wanted", "final"),
    [
        ({}, "4"),
        ({"size": 8}, "4"),
        ({"size": "16x8"}, "8x4"),
        ({"height": 8, "width": 12}, "6x4"),
        ({"height": np.int64(16)}, "4x8"),
        ({"aspect": "4:1"}, "8x2"),
        ({"aspect": "1:4", "size": 16}, "4x16"),
    ],
)
def test_what_callers_ask_for(wanted: dict[str, object], final: str) -> None:
    assert str(requested_schedule(TINY, **wanted).final) == final
    if final == "4":
        assert requested_schedule(TINY, **wanted) == TINY.transformer.schedule


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        ({"size": (16, 8)}, 'size (16, 8): give a whole number of pixels, or text such as "1024x576"'),
        (
            {"size": 2048, "aspect": "4:1"},
            "aspect 4:1: as many tokens as in a square of 1024x1024 make 2048x512 of them",
        ),
        ({"size": 7}, "size 7: sides are multiples of 2 px, from 4 to 2048; near it: 6, 8"),
        ({"size": 8.0}, "size 8.0: give a whole number"),
        ({"height": True}, "height True: give a whole number"),
        ({"size": 8, "width": 8}, "give either size, or height and width"),
        ({"size": "8x4", "aspect": "2:1"}, "give one number as size"),
        ({"aspect": 1.78}, "aspect '1.78': give width:height"),
    ],
)
def test_what_no_model_makes_is_refused(wanted: dict[str, object], fault: str) -> None:
    with pytest.raises(HartError, match=re.escape(fault)):
        requested_schedule(TINY, **wanted)


def test_learned_tables_limit_the_sizes() -> None:
    with pytest.raises(HartError, match="size 16x8: this model has learned the positions of the scales 1, 2, 3, 4"):
        requested_schedule(tiny_class_config(), size="16x8")
    levels = tiny_class_config(position="rotary")
    assert str(requested_schedule(levels, size=32)) == "1, 4, 9, 16"


@pytest.mark.parametrize(
    ("text", "size"),
    [("256", (256, 256)), ("1024x576", (1024, 576)), (" 64X128 ", (64, 128)), ("64 \u00d7 32", (64, 32))],
)
def test_sizes_in_text(text: str, size: tuple[int, int]) -> None:
    assert parsed_size(text) == size
    assert parsed_size(str(ImageSize(*size).stored)) == size


@pytest.mark.parametrize("text", ["", "x", "1024x", "1024x576x3", "-64", "64.0", "16:9", "10000000"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(HartError, match="such as 256 or 1024x576"):
        parsed_size(text)


@pytest.mark.parametrize(
    ("size", "near"),
    [
        ("1000x576", "near it: 992x576, 1008x576"),
        ("1000x570", "near it: 992x560, 992x576, 1008x560, 1008x576"),
        ("100", "near it: 96, 112"),
        ("8", "near it: 32"),
        ("512x16", "near it: 512x32"),
        ("99999", "from 32 to 16384; near it: 16384"),
    ],
)
def test_a_size_between_positions_names_its_neighbours(size: str, near: str) -> None:
    with pytest.raises(HartError, match="multiples of 16 px") as fault:
        grid_of_size(parsed_size(size), 16)
    assert str(fault.value).endswith(near)

"""The judge of skin tones: colours decide, wherever they are."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from hart_emoji.suites.colours import nearest_by_colours

TONES = ((250, 220, 190), (224, 187, 149), (191, 143, 104), (155, 100, 61), (89, 69, 57))


def person(tone: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 4, 44, 28), tone)
    draw.rectangle((18, 28, 46, 60), (40, 110, 200))
    draw.line((20, 32, 4, 56), tone, 6)
    return image


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("angle", [0, 30, 180])
def test_a_tone_is_told_however_the_figure_stands(angle: int) -> None:
    renderings = torch.stack([pixels(person(tone)) for tone in TONES])
    for number, tone in enumerate(TONES):
        drawn = person(tone).rotate(angle, Image.Resampling.BICUBIC, fillcolor="white").resize((48, 48))
        assert nearest_by_colours(pixels(drawn), renderings) == number


def test_other_things_in_an_image_do_not_change_its_tone() -> None:
    renderings = torch.stack([pixels(person(tone)) for tone in TONES])
    drawn = person(TONES[4])
    ImageDraw.Draw(drawn).rectangle((0, 0, 18, 24), (60, 180, 75))
    assert nearest_by_colours(pixels(drawn), renderings) == 4


def test_how_much_white_a_rendering_has_does_not_count() -> None:
    right, other = person(TONES[2]), person((191, 143, 120))
    small = Image.new("RGB", right.size, "white")
    small.paste(right.resize((16, 16), Image.Resampling.NEAREST), (24, 24))
    assert nearest_by_colours(pixels(right), torch.stack([pixels(other), pixels(small)])) == 1


def test_what_is_blank_is_no_error() -> None:
    white = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    renderings = torch.stack([white, *(pixels(person(tone)) for tone in TONES)])
    assert nearest_by_colours(white, renderings) in range(6)
    assert nearest_by_colours(pixels(person(TONES[1])), renderings) == 2

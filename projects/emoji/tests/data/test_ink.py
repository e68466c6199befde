"""Icons in one colour: nothing but the colours that the caption names, and the form that the icon has."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
from PIL import Image, ImageDraw

from hart_emoji.data.ink import DARK, EDGE, ON_DARK, ON_WHITE, OVERSAMPLED, inked, line_drawing
from hart_emoji.data.recolour import plain_rgb

SIZE = 40
WORDS = {
    "lines": ("line", "outline"),
    "silhouette": ("silhouette", "stencil"),
    "shades": ("shades", "all in", "monochrome", "printed"),
}


def face() -> Image.Image:
    """A yellow disc with a black eye in its middle."""
    side = SIZE * OVERSAMPLED
    sprite = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(sprite)
    draw.ellipse((2, 2, side - 3, side - 3), fill="#fc0")
    draw.ellipse((side * 0.4, side * 0.4, side * 0.6, side * 0.6), fill="black")
    return sprite


def opacities() -> dict[str, list[np.ndarray]]:
    """Kind of drawing, by its captions -> opacities (H, W), 0 to 1."""
    found = defaultdict(list)
    for seed in range(40):
        sprite, _, describe = inked(face(), SIZE, ("face",), random.Random(seed))
        texts = [describe(random.Random(n)) for n in range(30)]
        (kind,) = [kind for kind, words in WORDS.items() if all(any(word in text for word in words) for text in texts)]
        found[kind].append(np.asarray(sprite.getchannel("A")) / 255)
    return found


def test_each_kind_shows_its_form() -> None:
    shown, middle, cheek = opacities(), SIZE // 2, SIZE // 5
    assert min(len(shown[kind]) for kind in WORDS) > 3
    for alpha in shown["lines"]:
        assert alpha[middle, middle] == alpha[middle, cheek] == 0, "between the lines nothing is drawn"
        assert alpha[middle, :4].max() > 0.8
        assert alpha[middle, cheek:middle].max() > 0.8, "the eye has an outline"
    for alpha in shown["silhouette"]:
        assert alpha[middle, cheek] == alpha[middle, middle] == 1
    for alpha in shown["shades"]:
        assert 0.1 < alpha[middle, cheek] < 0.6 < alpha[middle, middle], "dark parts are strong"


def test_a_line_is_where_colours_differ_enough() -> None:
    for step, shown in ((EDGE, False), (EDGE + 1, True)):
        halves = Image.new("RGBA", (SIZE * OVERSAMPLED, SIZE * OVERSAMPLED), (100, 100, 100, 255))
        halves.paste((100 + step, 100, 100, 255), (0, 0, SIZE * OVERSAMPLED // 2, SIZE * OVERSAMPLED))
        assert (np.asarray(line_drawing(halves)).max() > 0) == shown


def test_captions_name_the_colours() -> None:
    inks = {word: plain_rgb(word) for word in ON_WHITE} | {"white": plain_rgb("white")}
    for seed in range(60):
        sprite, ground, describe = inked(face(), SIZE, ("face",), random.Random(seed))
        (ink,) = np.unique(np.asarray(sprite)[..., :3].reshape(-1, 3), axis=0).tolist()
        assert sprite.size == (SIZE, SIZE)
        texts = [describe(random.Random(n)) for n in range(30)]
        words = [word for word, colour in (*inks.items(), *ON_DARK.items()) if [*colour] == ink]
        assert any(word in text for text in texts for word in words)
        assert all((" on " in text) == (ground != (255, 255, 255)) for text in texts)
        if ground in DARK.values():
            said = {text.rpartition(" on ")[2].removeprefix("a ").removesuffix(" background") for text in texts}
            assert [DARK[word] for word in said] == [ground]

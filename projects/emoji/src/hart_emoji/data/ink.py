"""Icons in one colour: line drawings, silhouettes, shades. They separate a thing's form from its usual colours."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter

from hart_emoji.data.captions import with_article
from hart_emoji.data.recolour import background, plain_rgb

RGB = tuple[int, int, int]

OVERSAMPLED = 3
"""Drawings are made from icons rendered this many times larger."""
EDGE = 40
"""A line is drawn where neighbouring pixels differ by more than this, on a scale of 255."""
LINE = 5
"""Width of a line in pixels of the large icon, odd; finding the edge adds two pixels."""
FAINTEST = 0.2
"""Opacity of the lightest shade."""

ON_WHITE = ("black", "black", "black", "blue", "red", "purple", "green", "brown")
ON_DARK: dict[str, RGB] = {
    "white": (250, 250, 250),
    "pale blue": (170, 205, 250),
    "light blue": (150, 195, 245),
    "yellow": (250, 215, 70),
    "pink": (250, 160, 195),
    "light green": (160, 235, 170),
}
"""Words for an ink that shows on a dark background -> its colour."""
DARK: dict[str, RGB] = {
    "navy": (18, 28, 82),
    "dark blue": (20, 34, 100),
    "black": (14, 14, 16),
    "dark green": (10, 58, 34),
    "dark grey": (52, 54, 60),
    "purple": (70, 30, 104),
    "dark red": (104, 14, 22),
}
"""Words for a dark background -> its colour."""

TEMPLATES = {
    "lines": (
        "a line drawing of {thing}",
        "an outline of {thing}",
        "{thing}, line art",
        "{thing} in {ink} lines",
        "{thing} drawn in {ink} lines",
        "{name}, {ink} lines",
        "{ink} line drawing of {thing}",
    ),
    "silhouette": (
        "a silhouette of {thing}",
        "{name} silhouette",
        "{ink} silhouette of {thing}",
        "{thing} as a {ink} silhouette",
        "a {ink} stencil of {thing}",
    ),
    "shades": (
        "{thing} in shades of {ink}",
        "{thing} all in {ink}",
        "{name}, monochrome {ink}",
        "{thing} printed in {ink}",
    ),
}
"""Kind of drawing -> templates of its captions. thing: the name with its article."""


def inked(
    large: Image.Image, size: int, names: Sequence[str], rng: random.Random
) -> tuple[Image.Image, RGB, Callable[[random.Random], str]]:
    """Return an icon in one colour, its background's colour, and a function that writes captions of the two.

    large: RGBA, `OVERSAMPLED` times as large as the result. size: of the result's longer side.
    """
    kind = rng.choice(("lines", "lines", "silhouette", "shades"))
    ink, colour, said, ground = _colours(rng)
    drawn = {"lines": line_drawing, "silhouette": lambda icon: icon.getchannel("A"), "shades": _shades}
    mask = drawn[kind](large)
    factor = size / max(large.size)
    mask = mask.resize([max(1, round(side * factor)) for side in large.size], Image.Resampling.BOX)
    sprite = Image.new("RGBA", mask.size, colour)
    sprite.putalpha(mask)

    def describe(rng: random.Random) -> str:
        name = rng.choice(names)
        text = rng.choice(TEMPLATES[kind]).format(thing=with_article(name), name=name, ink=ink)
        if not said:
            return text
        return f"{text} on {rng.choice((said, with_article(f'{said} background')))}"

    return sprite, ground, describe


def _colours(rng: random.Random) -> tuple[str, RGB, str, RGB]:
    """Return ink and background, each in words and as RGB; the words are empty for white paper."""
    kind = rng.random()
    if kind < 0.45:
        word = rng.choice(ON_WHITE)
        return word, plain_rgb(word), "", (255, 255, 255)
    if kind < 0.85:
        ink, ground = rng.choice(tuple(ON_DARK)), rng.choice(tuple(DARK))
        return ink, ON_DARK[ink], ground, DARK[ground]
    said, ground_colour = background(rng)
    word = "black" if sum(ground_colour) > 380 else "white"
    return word, plain_rgb(word), said, ground_colour


def line_drawing(icon: Image.Image) -> Image.Image:
    """Return a mask of where an icon's colours or its opacity change abruptly."""
    pixels = np.asarray(icon).astype(np.uint16)
    pixels[..., :3] = pixels[..., :3] * pixels[..., 3:] // 255  # what is transparent has no colour
    flat = Image.fromarray(pixels.astype(np.uint8))
    lightest, darkest = (
        np.asarray(flat.filter(of(3))).astype(np.int16) for of in (ImageFilter.MaxFilter, ImageFilter.MinFilter)
    )
    edges = ((lightest - darkest).max(axis=-1) > EDGE).astype(np.uint8) * 255
    return Image.fromarray(edges).filter(ImageFilter.MaxFilter(LINE))


def _shades(icon: Image.Image) -> Image.Image:
    """Return a mask in which dark parts are opaque and light parts faint."""
    darkness = 1 - np.asarray(icon.convert("L")) / 255
    alpha = np.asarray(icon.getchannel("A")) * (FAINTEST + (1 - FAINTEST) * darkness)
    return Image.fromarray(np.round(alpha).astype(np.uint8))

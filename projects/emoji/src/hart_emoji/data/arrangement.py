"""Where the things in a scene are placed, and how captions describe it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from PIL import Image


def related(first: str, second: str, *, beside: bool, rng: random.Random) -> str:
    """Return words for two things, the first of which is to the left of the second (`beside`) or above it.

    Words that do not tell the places name the left thing first, and are never used for things above each other: the
    tokens of a map are sampled independently, so whatever a caption leaves open becomes a mixture.
    """
    if beside and rng.random() < 0.55:
        return f"{first} {rng.choice(('and', 'and', 'and', 'next to', 'beside'))} {second}"
    if beside:
        phrase = rng.choice(("left of", "to the left of", "on the left of"))
        swapped = phrase.replace("left", "right")
    else:
        phrase, swapped = rng.choice((("above", "below"), ("over", "under"), ("above", "beneath")))
    return f"{first} {phrase} {second}" if rng.random() < 0.6 else f"{second} {swapped} {first}"


def centres(number: int) -> list[tuple[float, float]]:
    """Return the centres (x, y) of `number` things, in widths of the image."""
    near, far, middle = 0.26, 0.74, 0.5
    thirds = (0.19, 0.5, 0.81)
    match number:
        case 2:
            return [(near, middle), (far, middle)]
        case 3:
            return [(middle, near), (near, far), (far, far)]
        case 4:
            return [(x, y) for y in (near, far) for x in (near, far)]
        case 5:
            return [(x, 0.32) for x in thirds] + [(x, 0.68) for x in (0.33, 0.67)]
        case _:
            return [(x, y) for y in (0.32, 0.68) for x in thirds]


def laid(size: int, colour: tuple[int, int, int], placed: Sequence[tuple[Image.Image, float, float]]) -> Image.Image:
    """Return a square of `size` px in one colour with RGBA sprites centred at (x, y), in widths of the image."""
    canvas = Image.new("RGBA", (size, size), (*colour, 255))
    for sprite, x, y in placed:
        layer = Image.new("RGBA", canvas.size)
        layer.paste(sprite, (round(x * size - sprite.width / 2), round(y * size - sprite.height / 2)))
        canvas = Image.alpha_composite(canvas, layer)
    return canvas.convert("RGB")

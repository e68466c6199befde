"""Named colours: finding an icon's own colour, repainting icons, choosing backgrounds.

Pixels are (H, W, 4) uint8 RGBA, not premultiplied.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.99, 0.82, 0.85),
    "orange": (0.08, 0.92, 1.0),
    "yellow": (0.145, 0.85, 1.0),
    "green": (0.35, 0.75, 0.68),
    "blue": (0.6, 0.78, 0.9),
    "purple": (0.77, 0.65, 0.75),
    "pink": (0.93, 0.45, 1.0),
    "brown": (0.07, 0.65, 0.5),
    "black": (0.0, 0.0, 0.17),
    "white": (0.0, 0.0, 0.98),
    "grey": (0.0, 0.0, 0.6),
}
"""Word -> its colour as hue, saturation and value, 0 to 1."""
OTHER_WORDS = {"purple": ("violet",), "grey": ("gray",)}
COLOUR_WORDS = frozenset([*COLOURS, *(word for words in OTHER_WORDS.values() for word in words)])

BACKGROUND_SHADES = {"": (1.0, 1.0), "light ": (0.38, 1.12), "dark ": (1.05, 0.5)}
"""Word before a background's colour -> factors on its saturation and value."""
NO_SHADE = frozenset({"black", "white", "brown", "pink", "orange", "yellow", "red"})

COLOURED = 0.25
"""A pixel of at least this saturation and value has a hue."""
HUE_WIDTH = 0.09
"""Hues closer than this to an icon's most frequent hue count as its own colour."""
LEAST_SHARE = 0.5
"""Share of an icon's opaque pixels that must have one colour for it to be the icon's own."""
KNOWN_HUE = 0.045
"""Hues closer than this to the hue of a word are called by that word."""


@dataclass(frozen=True)
class OwnColour:
    """The colour of most of an icon. hue: 0 to 1. word: its name, None if between names. mask: (H, W), where it is."""

    hue: float
    word: str | None
    mask: NDArray[np.bool_]


def own_colour(sprite: Image.Image) -> OwnColour | None:
    """Return the colour that covers at least `LEAST_SHARE` of an RGBA icon, or None if no single colour does."""
    pixels = np.asarray(sprite)
    hue, saturation, value = _hsv(pixels)
    opaque = pixels[..., 3] > 127
    coloured = opaque & (saturation > COLOURED) & (value > COLOURED)
    if not coloured.any():
        return None
    counts, edges = np.histogram(hue[coloured], bins=48, range=(0, 1))
    smooth = counts + np.roll(counts, 1) + np.roll(counts, -1)
    top = float(edges[int(smooth.argmax())] + 1 / 96)
    mask = coloured & (_apart(hue, top) < HUE_WIDTH)
    if mask.sum() < LEAST_SHARE * opaque.sum():
        return None
    bright, strong = float(np.median(value[mask])), float(np.median(saturation[mask]))
    return OwnColour(top, _word(top, strong, bright), mask)


def repainted(sprite: Image.Image, colour: OwnColour, word: str) -> Image.Image:
    """Return the icon with its own colour replaced by that of `word`; light and shade stay."""
    pixels = np.array(sprite)
    _, saturation, value = _hsv(pixels)
    hue, strong, bright = COLOURS[word]
    mask = colour.mask
    usual_saturation, usual_value = np.median(saturation[mask]), np.median(value[mask])
    new_saturation = np.clip(strong * saturation / max(usual_saturation, 0.1), 0, 1)
    # shades keep their distance from the usual one; very dark or light colours leave them less room
    room = min(bright, 1 - bright) + 0.35
    new_value = np.clip(bright + room * (value - usual_value), 0.02, 1)
    painted = _rgb(np.full_like(value, hue), new_saturation, new_value)
    pixels[mask, :3] = painted[mask]
    return Image.fromarray(pixels, "RGBA")


def plain_rgb(word: str) -> tuple[int, int, int]:
    """Return the colour of a word in `COLOURS`, 0 to 255."""
    red, green, blue = (int(c) for c in _rgb(*(np.array([c]) for c in COLOURS[word]))[0])
    return red, green, blue


def colour_word(word: str, rng: random.Random) -> str:
    """Return `word` or another word for the same colour."""
    return rng.choice((word, word, *OTHER_WORDS.get(word, ())))


def without_colour(name: str) -> str:
    """ "red apple" -> "apple"; a name that is nothing but colours stays."""
    return " ".join(word for word in name.split() if word.lower() not in COLOUR_WORDS) or name


def background(rng: random.Random) -> tuple[str, tuple[int, int, int]]:
    """Return words for a background's colour ("light blue") and a matching RGB; never white."""
    word = rng.choice([name for name in COLOURS if name != "white"])
    shade = "" if word in NO_SHADE else rng.choice(("", "", *BACKGROUND_SHADES))
    hue, saturation, value = COLOURS[word]
    more, brighter = BACKGROUND_SHADES[shade]
    saturation = min(1.0, saturation * more * rng.uniform(0.85, 1.1))
    value = min(1.0, value * brighter * rng.uniform(0.92, 1.08))
    hue = (hue + rng.uniform(-0.015, 0.015)) % 1
    red, green, blue = (int(c) for c in _rgb(*(np.array([c]) for c in (hue, saturation, value)))[0])
    return shade + colour_word(word, rng), (red, green, blue)


def _word(hue: float, saturation: float, value: float) -> str | None:
    if saturation < 0.4 or value < 0.35:
        return None
    if _apart(np.array(hue), 0.07) < KNOWN_HUE and value < 0.68:
        return "brown" if saturation < 0.9 else None
    if value < 0.5:
        return None
    if saturation < 0.6 and _apart(np.array(hue), COLOURS["pink"][0]) < 0.08:
        return "pink"
    names = ("red", "orange", "yellow", "green", "blue", "purple")
    near = min(names, key=lambda name: float(_apart(np.array(hue), COLOURS[name][0])))
    return near if _apart(np.array(hue), COLOURS[near][0]) < KNOWN_HUE and saturation > 0.5 else None


def _apart(hue: NDArray[np.floating], other: float) -> NDArray[np.floating]:
    """Return the distance around the colour circle, 0 to 0.5."""
    apart: NDArray[np.floating] = np.abs((hue - other + 0.5) % 1 - 0.5)
    return apart


def _hsv(pixels: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return hue, saturation and value, 0 to 1, each (H, W)."""
    hsv = np.asarray(Image.fromarray(np.ascontiguousarray(pixels[..., :3]), "RGB").convert("HSV")) / 255.0
    return hsv[..., 0], hsv[..., 1], hsv[..., 2]


def _rgb(hue: NDArray[np.floating], saturation: NDArray[np.floating], value: NDArray[np.floating]) -> Pixels:
    """Return (..., 3) uint8 RGB for hue, saturation and value from 0 to 1."""
    sector = np.stack([(5 + hue * 6) % 6, (3 + hue * 6) % 6, (1 + hue * 6) % 6], axis=-1)
    falling = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    rgb = value[..., None] * (1 - saturation[..., None] * falling)
    return np.round(rgb * 255).astype(np.uint8)

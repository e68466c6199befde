"""How often drawings follow words for colours, grounds and counts, judged from pixels alone.

Prompts: 10 things, each in 7 colours, on 7 grounds, and 2 to 4 times. A colour is right when most of what is not white
has it (`hart_emoji.data.recolour.own_colour`); a ground, when the border is nearer to its colour than to any other; a
count, when that many separate blots stand on white.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hart import HartPipeline
from hart_emoji.data.build import Progress
from hart_emoji.data.captions import with_article
from hart_emoji.data.recolour import COLOURS, own_colour, plain_rgb
from hart_emoji.data.rewriting import plural

THINGS = ("apple", "cat", "car", "top hat", "star", "heart", "fish", "house", "butterfly", "book")
WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
NUMBERS = {2: "two", 3: "three", 4: "four"}
BORDER, GRID, SMALLEST_BLOT = 5, 48, 0.012


def prompts() -> list[tuple[str, str, str | int]]:
    """(what is judged, prompt, what is right)."""
    found: list[tuple[str, str, str | int]] = []
    for thing in THINGS:
        found += [("colour", with_article(f"{word} {thing}"), word) for word in WORDS]
        found += [("ground", f"{with_article(thing)} on {with_article(word)} background", word) for word in WORDS]
        found += [("count", f"{said} {plural(thing)}", number) for number, said in NUMBERS.items()]
    return found


def colour_of(image: Image.Image) -> str | None:
    pixels = np.asarray(image)
    opaque = (pixels.min(axis=-1) < 230).astype(np.uint8) * 255
    own = own_colour(Image.fromarray(np.dstack([pixels, opaque]), "RGBA"))
    return own.word if own is not None else None


def ground_of(image: Image.Image) -> str:
    pixels = np.asarray(image).astype(float)
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    border = np.median(pixels[~inside], axis=0)
    return min(COLOURS, key=lambda word: float(np.square(border - plain_rgb(word)).sum()))


def blots_of(image: Image.Image) -> int:
    """Separate things on white: parts of an image that hang together, but for the smallest."""
    small = np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX))
    left: NDArray[np.bool_] = small.min(axis=-1) < 225
    count = 0
    while left.any():
        waiting, size = [tuple(np.argwhere(left)[0])], 0
        while waiting:
            row, column = waiting.pop()
            if not (0 <= row < GRID and 0 <= column < GRID and left[row, column]):
                continue
            left[row, column] = False
            size += 1
            waiting += [(row + r, column + c) for r in (-1, 0, 1) for c in (-1, 0, 1)]
        count += size >= SMALLEST_BLOT * GRID**2
    return count


def judge(pipe: HartPipeline, progress: Progress) -> dict[str, tuple[int, int]]:
    """What is judged -> how many images are right, of how many."""
    judges = {"colour": colour_of, "ground": ground_of, "count": blots_of}
    right, asked = Counter[str](), Counter[str]()
    todo = prompts()
    for seed, (kind, prompt, wanted) in enumerate(todo):
        progress(seed, len(todo), "images")
        image = pipe(prompt, seed=seed).images[0]
        asked[kind] += 1
        right[kind] += judges[kind](image) == wanted
    return {kind: (right[kind], number) for kind, number in asked.items()}

"""Suite `scenes`: how often images follow words for colours, backgrounds, counts and drawings, judged from pixels.

Prompts: 10 things, each in 7 colours, on 7 backgrounds, 2 to 4 times, as a line drawing and as a silhouette. A colour
is right if most non-white pixels have it (`hart_emoji.data.recolour.own_colour`); a background, if the border is nearer
to its colour than to any other; a count, if that many separate blots stand on white; a drawing, if its ink has no
colour and leaves much of the form empty (line drawing) or fills it (silhouette).
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from hart.evaluation import Context, GeneratedImages, Result, SamplingOptions, Suite, bootstrap_mean, counted
from hart_emoji.data.captions import with_article
from hart_emoji.data.recolour import COLOURS, own_colour, plain_rgb
from hart_emoji.data.rewriting import plural

THINGS = ("apple", "cat", "car", "top hat", "star", "heart", "fish", "house", "butterfly", "book")
WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
NUMBERS = {2: "two", 3: "three", 4: "four"}
DRAWN = ("line drawing", "silhouette")
BORDER, GRID, SMALLEST_BLOT = 5, 48, 0.012
INK, GREY = 170, 0.3
"""Pixels darker than `INK` (of 255) are ink; it is black if its median saturation is at most `GREY`."""
EMPTY, FULL = 0.65, 0.85
"""Share of a form that is ink: less than `EMPTY` for a line drawing, more than `FULL` for a silhouette."""


def prompts() -> list[tuple[str, str, str | int]]:
    """Return (what is judged, prompt, right answer) triples."""
    found: list[tuple[str, str, str | int]] = []
    for thing in THINGS:
        found += [("colour", with_article(f"{word} {thing}"), word) for word in WORDS]
        found += [("background", f"{with_article(thing)} on {with_article(word)} background", word) for word in WORDS]
        found += [("count", f"{said} {plural(thing)}", number) for number, said in NUMBERS.items()]
        found += [("drawn", f"a {kind} of {with_article(thing)}", kind) for kind in DRAWN]
    return found


def without_white(image: Image.Image, white: int) -> Image.Image:
    """Return the image, transparent wherever all channels are at least `white`."""
    pixels = np.asarray(image)
    opaque = (pixels.min(axis=-1) < white).astype(np.uint8) * 255
    return Image.fromarray(np.dstack([pixels, opaque]), "RGBA")


def colour_of(image: Image.Image) -> str | None:
    own = own_colour(without_white(image, 230))
    return own.word if own is not None else None


def background_of(image: Image.Image) -> str:
    pixels = np.asarray(image).astype(float)
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    border = np.median(pixels[~inside], axis=0)
    return min(COLOURS, key=lambda word: float(np.square(border - plain_rgb(word)).sum()))


def blots(image: Image.Image) -> list[tuple[int, int, int, int]]:
    """Return boxes (left, top, right, bottom) of the separate things on white, largest first. They are the connected
    parts, without the smallest."""
    small = np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX))
    labels, _ = ndimage.label(small.min(axis=-1) < 225, np.ones((3, 3)))
    places, cells = ndimage.find_objects(labels), np.bincount(labels.flat)[1:]
    kept = [number for number in np.argsort(-cells, kind="stable") if cells[number] >= SMALLEST_BLOT * GRID**2]
    across, down = image.width / GRID, image.height / GRID
    return [
        (round(columns.start * across), round(rows.start * down), round(columns.stop * across), round(rows.stop * down))
        for rows, columns in (places[number] for number in kept)
    ]


def drawn_as(image: Image.Image) -> str | None:
    """Return "line drawing" or "silhouette" if the image is one in black on white, else None."""
    ink = np.asarray(image.convert("L")) < INK
    saturation = np.asarray(image.convert("HSV"))[..., 1] / 255
    if not ink.any() or np.median(saturation[ink]) > GREY:
        return None
    # a copy, since filling an image that shares an array's memory has no lasting effect
    framed = Image.fromarray(np.pad(ink, 1).astype(np.uint8)).copy()
    ImageDraw.floodfill(framed, (0, 0), 2)
    share = ink.sum() / (np.asarray(framed) != 2).sum()
    return DRAWN[0] if share < EMPTY else DRAWN[1] if share > FULL else None


JUDGES = {"colour": colour_of, "background": background_of, "count": lambda image: len(blots(image)), "drawn": drawn_as}


def run(context: Context[SamplingOptions]) -> Result:
    """Return a row for each kind: the share of images that are right."""
    options, asked = context.options, prompts()
    pipe = options.pipeline()
    generated = GeneratedImages(pipe, [text for _, text, _ in asked], options.sampling(pipe), options.seed, context.out)
    generated.generate(options.batch_size, context.progress)
    right: dict[str, list[float]] = {kind: [] for kind in JUDGES}
    for number, (kind, _, wanted) in enumerate(asked):
        right[kind].append(float(JUDGES[kind](generated.image(number)) == wanted))
    generator = context.generator()
    figures = {
        kind: {"right": bootstrap_mean(torch.tensor(found), generator, options.resamples)}
        for kind, found in right.items()
    }
    return Result(
        title=counted(len(generated), "image"),
        figures=figures,
        settings=generated.settings,
        counts={kind: len(found) for kind, found in right.items()},
        sheets=generated.sheet([text for _, text, _ in asked]),
    )


SUITE = Suite(
    "scenes",
    "How often images follow words for colours, backgrounds, counts and drawings, by pixels. A stopped run continues.",
    SamplingOptions,
    run,
    "hart-emoji",
)

"""Makes docs/figures/edits.jpg: twenty edits of the shipped model, before and after. `make edit-sheet` runs it.

The list was written before any edit was drawn. Images have seed 0 and edits seed 1; none is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from hart import HartPipeline

COLUMNS, GAP, LABEL, TILE = 4, 6, 30, 128
BOXES = {
    "left": (0, 0, 0.5, 1),
    "right": (0.5, 0, 1, 1),
    "upper half": (0, 0, 1, 0.5),
    "lower half": (0, 0.5, 1, 1),
    "middle": (0.25, 0.25, 0.75, 0.75),
    "corner": (0.625, 0.625, 1, 1),
}
"""Left, top, right and bottom as shares of the image's side."""

Pair = tuple[Image.Image, Image.Image]
Edited = Callable[[HartPipeline], Pair]


def drawn(pipe: HartPipeline, prompt: str) -> Image.Image:
    image: Image.Image = pipe(prompt, seed=0).images[0]
    return image


def inpainted(before: str, box: str, after: str | None) -> tuple[str, Edited]:
    def edited(pipe: HartPipeline) -> Pair:
        image = drawn(pipe, before)
        left, top, right, bottom = (round(place * image.width) for place in BOXES[box])
        mask = Image.new("L", image.size)
        mask.paste(255, (left, top, right, bottom))
        after_image = pipe.edit(image, mask, after, seed=1).images[0]
        shown = image.copy()
        ImageDraw.Draw(shown).rectangle((left, top, right, bottom), outline="magenta", width=image.width // TILE)
        return shown, after_image

    return f"{before}\n{box}: {after or 'no prompt'}", edited


def changed(before: str, label: str, change: Callable[[HartPipeline, Image.Image], Any]) -> tuple[str, Edited]:
    """Return label and edit. change: returns what a call of the pipeline returns."""

    def edited(pipe: HartPipeline) -> Pair:
        image = drawn(pipe, before)
        return image, change(pipe, image).images[0]

    return f"{before}\n{label}", edited


def outpainted(before: str, aspect: str) -> tuple[str, Edited]:
    label = f"canvas of {aspect}"
    return changed(before, label, lambda pipe, image: pipe.edit(image, None, before, aspect=aspect, seed=1))


def varied(before: str, kept_scales: int) -> tuple[str, Edited]:
    label = f"other seed, {kept_scales} scales kept"
    return changed(before, label, lambda pipe, image: pipe.vary(image, before, kept_scales=kept_scales, seed=1))


def described(before: str, after: str) -> tuple[str, Edited]:
    label = f"no mask: {after}"
    return changed(before, label, lambda pipe, image: pipe.edit(image, None, after, source_prompt=before, seed=1))


def mixed(form: str, look: str, switch: int) -> tuple[str, Edited]:
    label = f"mixed with {look}, from scale {switch}"
    return changed(form, label, lambda pipe, _: pipe.mix([form, look], switch=switch, seed=1))


EDITS = [
    inpainted("a red apple", "right", "a green apple"),
    inpainted("a smiling cat", "upper half", "a smiling cat with a hat"),
    inpainted("a pizza", "corner", "a pizza"),
    inpainted("a red heart", "left", "a blue heart"),
    inpainted("a soccer ball", "middle", None),
    inpainted("an ice cream", "lower half", "a cup of coffee"),
    inpainted("a house", "lower half", "a house"),
    outpainted("a train", "2:1"),
    outpainted("a green tree", "1:2"),
    outpainted("a red apple", "16:9"),
    varied("a butterfly", 1),
    varied("a butterfly", 3),
    varied("a castle", 4),
    described("a red apple", "a green apple"),
    described("a blue heart", "a red heart"),
    described("a smiling face", "a crying face"),
    described("a puppy", "a fox"),
    mixed("a soccer ball", "a pizza", 3),
    mixed("a red heart", "a fire", 3),
    mixed("an owl", "a penguin", 2),
]


def sheet(pairs: list[Pair], labels: list[str]) -> Image.Image:
    """Return a sheet of pairs, before and after side by side below their label."""
    width = 2 * TILE + 3 * GAP
    height = LABEL + TILE + GAP
    whole = Image.new("RGB", (COLUMNS * width, -(-len(pairs) // COLUMNS) * height), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(12)
    for i, (pair, label) in enumerate(zip(pairs, labels, strict=True)):
        left, top = i % COLUMNS * width + GAP, i // COLUMNS * height
        draw.multiline_text((left, top), label, "black", font, spacing=1)
        for place, image in enumerate(pair):
            image.thumbnail((TILE, TILE))
            whole.paste(image, (left + place * (TILE + GAP), top + LABEL + (TILE - image.height) // 2))
    return whole


if __name__ == "__main__":
    pipe = HartPipeline.from_pretrained(sys.argv[2] if len(sys.argv) > 2 else "emoji", device="cpu")
    sheet([edited(pipe) for _, edited in EDITS], [label for label, _ in EDITS]).save(Path(sys.argv[1]), quality=88)

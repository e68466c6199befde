"""Makes docs/figures/adapters.jpg: ten things without and with each of two adapters. `make adapter-sheet` runs it all.

    python docs/adapter_sheet.py images FOLDER          30 icons in each of two styles, with captions, to learn from
    python docs/adapter_sheet.py sheet FOLDER SHEET     the figure, with the adapters in FOLDER/STYLE-run/model

The icons are OpenMoji's (CC BY-SA 4.0), from npm. None of the ten things is among them; none is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tiles import tiled

from hart import HartPipeline
from hart.files import default_cache
from hart_emoji.data.build import render
from hart_emoji.data.catalogue import IconSet
from hart_emoji.data.npm import NpmPackage, fetch_package, read_json

PACKAGE = NpmPackage("@iconify-json/openmoji", "1.2.29")
ICONS = (
    "airplane", "banana", "bicycle", "birthday-cake", "books", "bus", "camera", "candle", "carrot", "castle",
    "chair", "deciduous-tree", "dog", "duck", "elephant", "guitar", "key", "lemon", "lighthouse", "light-bulb",
    "mouse", "owl", "pear", "penguin", "rabbit", "sailboat", "scissors", "snail", "sunflower", "teapot",
)  # fmt: skip
THINGS = ("cat", "rocket", "pizza", "house", "mushroom", "umbrella", "fish", "apple", "robot", "star")
STYLES = {"inked": "inked by me", "lines": "pale blue lines on navy"}
NAVY, PALE = np.array([18, 28, 82]), np.array([205, 222, 250])
SIZE, TILE = 256, 132


def pale_lines(image: Image.Image) -> Image.Image:
    """Return the image's dark outlines, pale on navy."""
    grey = np.asarray(image.convert("L")).astype(float)
    line = np.clip((110 - grey) / 70, 0, 1)[..., None]
    return Image.fromarray(((1 - line) * NAVY + line * PALE).astype(np.uint8))


def write_images(folder: Path) -> None:
    (content,) = read_json(fetch_package(PACKAGE, default_cache()), "icons.json")
    icons = dict(IconSet(content["icons"], {}, {}, content).documents())
    for style, words in STYLES.items():
        (folder / style).mkdir(parents=True)
        for number, name in enumerate(ICONS):
            image = render(icons[name], SIZE)
            assert image is not None
            (image if style == "inked" else pale_lines(image)).save(folder / style / f"{number:04}.png")
            (folder / style / f"{number:04}.txt").write_text(f"{name.replace('-', ' ')}, {words}\n")


def write_sheet(folder: Path, file: Path) -> None:
    rows = []
    for style, words in STYLES.items():
        pipe = HartPipeline.from_pretrained("emoji", device="cpu")
        for adapter in (None, folder / f"{style}-run" / "model"):
            if adapter is not None:
                pipe.load_lora(adapter)
            rows.append([pipe(f"{thing}, {words}", seed=seed).images[0] for seed, thing in enumerate(THINGS)])
    tiled(rows, TILE, "grey").save(file, quality=75)


if __name__ == "__main__":
    what, *paths = sys.argv[1:]
    {"images": write_images, "sheet": write_sheet}[what](*map(Path, paths))

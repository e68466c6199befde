"""Makes docs/figures/style.jpg, images in the colours of others, and prints its figures. `make edit-sheet` runs it.

python docs/style_sheet.py SHEET [MODEL]

Palette: mean distance in CIELAB between the quantiles of both images' colours, without near-white ones. Agreement: the
shipped scorer's, with the prompt's name. Both are means over all references, prompts and seeds; the sheet shows the
first seed, with none left out.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiles import tiled

from hart import HartPipeline
from hart.evaluation.reranking import open_scorer

REFERENCES = ("a blue heart", "a green frog", "a purple octopus", "a rainbow", "a sunflower", "an old key")
PROMPTS = (
    "a red apple",
    "a house",
    "a cat face",
    "a butterfly",
    "an automobile",
    "a deciduous tree",
    "a birthday cake",
    "a rocket",
)
SEEDS = (1, 2)
WAYS: dict[str, dict[str, Any]] = {
    "no reference": {"kept_scales": 0},
    "style_strength=0.5": {"style_strength": 0.5},
    "style_strength=1": {"style_strength": 1.0},
    "style_strength=2": {"style_strength": 2.0},
    "kept_scales=1": {"kept_scales": 1},
    "kept_scales=2": {"kept_scales": 2},
}
SHOWN = "style_strength=1"
TILE = 64
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1, 1.089])


def palette(image: Image.Image) -> np.ndarray:
    """Return (49, 3), quantiles of L, a and b."""
    rgb = np.asarray(image, dtype=np.float64).reshape(-1, 3) / 255
    rgb = rgb[rgb.min(axis=1) < 0.94]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ TO_XYZ.T / WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    return np.quantile(lab, np.linspace(0.02, 0.98, 49), axis=0)


def main(file: str, model: str = "emoji") -> None:
    pipe = HartPipeline.from_pretrained(model, device="cpu")
    scorer = open_scorer(None, pipe)
    references = [pipe(prompt, seed=0).images[0] for prompt in REFERENCES]
    rows: dict[str, list[list[Image.Image]]] = {}
    for way, options in WAYS.items():
        distances, scores, rows[way] = [], [], []
        for reference in references:
            drawn = {
                (prompt, seed): pipe.vary(reference, prompt, seed=seed, **options).images[0]
                for seed in SEEDS
                for prompt in PROMPTS
            }
            rows[way].append(list(drawn.values())[: len(PROMPTS)])
            distances += [np.abs(palette(image) - palette(reference)).mean() for image in drawn.values()]
            pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in drawn.values()])
            scores += scorer(pixels, [prompt for prompt, _ in drawn]).tolist()
        sys.stdout.write(f"{way}: palette {np.mean(distances):.1f}, agreement {np.mean(scores):.3f}\n")
    sheet = [[Image.new("RGB", (TILE, TILE), "white"), *rows["no reference"][0]]]
    sheet += [[reference, *row] for reference, row in zip(references, rows[SHOWN], strict=True)]
    tiled(sheet, TILE, "white").save(file, quality=70)


if __name__ == "__main__":
    main(*sys.argv[1:])

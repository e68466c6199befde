"""Measures what speed levels and their options cost in quality on the shipped model, as a Markdown table.

    python benchmarks/levels.py --data data/emoji128
    python benchmarks/levels.py --random-weights hart-0.7b-256

All rows have the same prompts, seeds and noise; rows without right names have fewer prompts. "same seed" is the median
PSNR to the exact image: a single code that is sampled differently changes all that follow, so the row of bfloat16 shows
how far apart two good images of one seed are. "decoder alone" is the PSNR of decoding exact latents. A dash means that
images are identical, for example because a processor without bfloat16 products decodes in float32 at any level. "right
name" is the share of images whose nearest 1 and 5 concepts of the set include the one asked for (`hart-emoji evaluate
agreement`). Needs the set that `hart-emoji data` builds.

With random weights of a preset, numbers are compared instead: all scales are predicted at once from the same random
sums, and the table shows differences of the logits of their codes, and of an image decoded from a random latent.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from running import run_program
from torch import Tensor

from hart import HartPipeline
from hart.benchmark.parts import PROMPT
from hart.benchmark.report import table
from hart.evaluation import EfficientNetLite
from hart.generation.outputs import psnr
from hart.inference.speed import LEVELS, Speed
from hart_emoji.suites.agreement import Judge
from hart_emoji.suites.emoji_set import FEATURE_IMAGE_SIZE, EmojiSet, looks
from hart_emoji.suites.prompts import seen_names

EXACT = "exact"
OTHER_SEEDS = "exact, other seeds"
ROWS: dict[str, dict[str, Any]] = {
    EXACT: {},
    OTHER_SEEDS: {},
    "bfloat16 (everything)": {"dtype": "bfloat16"},
    "decoder in bfloat16": {"speed": Speed(decoder="bfloat16")},
    "cache in bfloat16": {"speed": Speed(cache="bfloat16")},
    "cache in int8": {"speed": Speed(cache="int8")},
    "weights and activations in int8": {"speed": Speed(weights="int8")},
    "level `int8`": {"speed": "int8"},
    "level `int8`, cache in int8": {"speed": LEVELS["int8"].replace(cache="int8")},
    "no guidance at the last 2 scales": {"speed": Speed(unguided_scales=2)},
    "level `draft`": {"speed": "draft"},
}
NAMED = (EXACT, "bfloat16 (everything)", "level `int8`", "level `draft`")
"""Rows with the share of right names."""


NUMBERS = ("plain", "bfloat16 (everything)", "level `int8`")
"""Rows with random weights, beside exact numbers; nothing is cached there."""


def predicted(preset: str, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return logits (1, L, V) of all scales and an image (1, 3, H, W) in [0, 1] of a model with random weights."""
    pipe = HartPipeline.from_config(preset, device="cpu", **options)
    sizes, generator = pipe.config.transformer, torch.Generator().manual_seed(0)
    sums = torch.randn(1, sizes.schedule.total_tokens - 1, sizes.latent_channels, generator=generator)
    latent = torch.randn(1, sizes.latent_channels, *sizes.schedule.final, generator=generator)
    transformer = pipe.components.hart.transformer
    with torch.inference_mode():
        output = transformer(pipe.encode_prompt(PROMPT), sums)
        return transformer.logits(output.hidden, output.conditioning), pipe.decode(latent, "pt")


def numbers(preset: str) -> list[list[Any]]:
    """Return for each of `NUMBERS`: the logits' RMS difference over their deviation, how often the likeliest code is
    the same, and the PSNR of decoding."""
    logits, image = predicted(preset, {"speed": EXACT})
    found = []
    for name in NUMBERS:
        others, decoded = predicted(preset, ROWS.get(name, {"speed": name}))
        difference = float((others - logits).square().mean().sqrt() / logits.std())
        same = float((others.argmax(dim=-1) == logits.argmax(dim=-1)).float().mean())
        found.append([name, difference, same, decibels(decoded, image)])
    return found


def decibels(images: Tensor, exact: Tensor) -> float | None:
    """Return the median PSNR of images (N, 3, H, W) in [0, 1]; None if most are identical."""
    found = float(psnr(images, exact).median())
    return None if found == math.inf else found


class Compared:
    """Compares images of one set of prompts at any level with exact ones."""

    def __init__(self, data: Path, prompts: int) -> None:
        pipe = HartPipeline.from_pretrained("emoji", device="cpu")
        self.extractor = EfficientNetLite(pipe.device, image_size=FEATURE_IMAGE_SIZE)
        emoji = EmojiSet(data, pipe.image_size)
        self.judge = Judge(emoji, emoji.features(self.extractor, lambda *_: None), self.extractor.name)
        self.group = seen_names(emoji, prompts, seed=0)
        self.latents, self.exact = self.images(pipe, prompts)

    def images(self, pipe: HartPipeline, count: int, first_seed: int = 0) -> tuple[list[Tensor], Tensor]:
        """Return latents and images (N, 3, H, W) in [0, 1] of the first `count` prompts."""
        latents = [
            pipe(text, seed=first_seed + number, output_type="latent").images
            for number, text in enumerate(self.group.texts[:count])
        ]
        return latents, torch.cat([pipe.decode(latent, "pt") for latent in latents])

    def row(self, name: str, options: dict[str, Any], few: int) -> list[Any]:
        """Return a row. few: number of prompts in rows without right names."""
        pipe = HartPipeline.from_pretrained("emoji", device="cpu", **options)
        count = len(self.exact) if name in NAMED else min(few, len(self.exact))
        same, decoder = None, None
        images = self.exact
        if name != EXACT:
            _, images = self.images(pipe, count, 10_000 if name == OTHER_SEEDS else 0)
            decoded = torch.cat([pipe.decode(latent, "pt") for latent in self.latents[:few]])
            same = decibels(images, self.exact[:count])
            decoder = decibels(decoded, self.exact[: len(decoded)])
        right = [None, None]
        if name in NAMED:
            seen = looks((255 * images).round().to(torch.uint8), self.extractor)
            right = [float(column.mean()) for column in list(self.judge.verdicts(seen, self.group).values())[:2]]
        return [name, count, same, decoder, *right]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--data", type=Path)
    kinds.add_argument("--random-weights", metavar="PRESET")
    parser.add_argument("--prompts", type=int, default=100, help="prompts of the rows with right names")
    parser.add_argument("--few", type=int, default=24, help="prompts of the other rows")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    options = parser.parse_args(arguments)
    if options.random_weights:
        header = ["", "logits differ by", "same likeliest code", "decoder, dB"]
        sys.stdout.write("\n".join(table(header, numbers(options.random_weights))) + "\n")
        return
    compared = Compared(options.data, options.prompts)
    found = []
    for name in options.rows:
        found.append(compared.row(name, ROWS[name], options.few))
        sys.stderr.write(f"{found[-1]}\n")
    header = ["", "images", "same seed", "decoder alone", "right name, 1", "right name, 5"]
    sys.stdout.write("\n".join(table(header, found)) + "\n")


if __name__ == "__main__":
    run_program(main)

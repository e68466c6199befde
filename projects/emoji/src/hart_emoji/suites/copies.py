"""Suite `copies`: does the model copy its training images, and how does it draw one concept in different styles?

Every generated image is shown with its nearest training images. Its distances to them are compared with those of
images that are certainly not copies (renderings held out of training) and of images that certainly are (training
images through the tokenizer, as any copy would have to go). A model that copies has distances like the latter.

Distances: 1 - cosine of the extractor's features; and the root mean square difference of pixel values, 0 to 255, of
images reduced to `REDUCED_SIZE` px.

Shapes: N images, M images of the set, D width of a feature, P = 3 * REDUCED_SIZE**2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from hart import HartError
from hart.evaluation import (
    Context,
    Figure,
    GeneratedImages,
    Result,
    Suite,
    contact_sheet,
    counted,
    extractor_facts,
    quiet_prompts,
)
from hart_emoji.suites.emoji_set import CHUNK, EmojiOptions, EmojiSet, Opened, features_of, image_of
from hart_emoji.suites.prompts import PromptGroup, seen_names, styled, unseen_styles

SHOWN = 24
"""Number of generated images on the sheet, each with its nearest training images."""
REDUCED_SIZE = 32
"""Size in pixels for comparing images pixel by pixel: colours and masses count, not the exact place of an edge."""
CONCEPTS = 12
"""Number of concepts on the sheet of styles."""
HELD_OUT, COPIES = "held-out renderings", "training images through the tokenizer"
QUANTILES = (0.05, 0.5, 0.95)
NEAREST_FILE, STYLES_FILE = "nearest.png", "styles.png"


class CopiesOptions(EmojiOptions, kw_only=True):
    """The seed is used for the first image and the choice of prompts."""

    limit: Annotated[int, Field(ge=1, description="Maximum number of images of each kind.")] = 100


@dataclass(frozen=True)
class Nearest:
    """For N images and one distance: how far away the nearest training image is (N,), and its row (N,)."""

    distance: Tensor
    row: Tensor


def run(context: Context[CopiesOptions]) -> Result:
    """Run the suite. Generated images are kept, except those of the sheet of styles.

    Raises `HartError` if the set has no concept to ask for, or holds nothing out.
    """
    options, progress = context.options, context.progress
    opened = Opened.by(context)
    pipe, emoji, extractor = opened.pipe, opened.emoji, opened.extractor
    names, styles = (make(emoji, options.limit, options.seed) for make in (seen_names, unseen_styles))
    if not names.prompts or not styles.prompts:
        raise HartError("the set has no concepts to ask for, or no held-out styles: build a larger one")
    training = emoji.training
    features = F.normalize(emoji.features(extractor, progress)[: len(training)], dim=1)
    pixels = torch.cat([reduced(emoji.pixels(training[i : i + CHUNK])) for i in range(0, len(training), CHUNK)])

    def nearest(images: Tensor) -> dict[str, Nearest]:
        """Return the nearest training images by kind of distance, for images (N, 3, H, W)."""
        cosine = (F.normalize(features_of(images, extractor), dim=1) @ features.T).max(dim=1)
        apart = torch.cdist(reduced(images), pixels).min(dim=1)
        return {
            f"feature distance ({extractor.name})": Nearest(1 - cosine.values, cosine.indices),
            f"pixel distance ({REDUCED_SIZE} px)": Nearest(apart.values / math.sqrt(pixels.shape[1]), apart.indices),
        }

    generated = {
        group.key: GeneratedImages(pipe, group.texts, options.sampling(pipe), options.seed, context.out / group.key)
        for group in (names, styles)
    }
    found: dict[str, dict[str, Nearest]] = {}
    for group in (names, styles):
        generated[group.key].generate(options.batch_size, progress)
        progress(0, None, "nearest training images")
        found[f"generated: {group.title}"] = nearest(generated[group.key].pixels(range(len(group.prompts))))
    found[HELD_OUT] = nearest(emoji.pixels(styles.renderings))
    found[COPIES] = nearest(opened.reconstructed(emoji.pixels(names.renderings))["hybrid"])
    return Result(
        title=f"{counted(len(names.prompts), 'image')} of names, {len(training):,} in training",
        figures={row: _figures(nearest, found[HELD_OUT], found[COPIES]) for row, nearest in found.items()},
        settings=generated[names.key].settings,
        counts={key: len(images) for key, images in generated.items()},
        extractor=extractor_facts(extractor),
        sheets={
            NEAREST_FILE: _nearest_sheet(emoji, names, generated[names.key], found[f"generated: {names.title}"]),
            STYLES_FILE: _styles_sheet(opened, names, context),
        },
    )


def reduced(pixels: Tensor) -> Tensor:
    """Return images (B, 3, H, W) reduced to `REDUCED_SIZE` px, as float32 rows (B, P) on the CPU."""
    parts = [
        F.interpolate(part.float(), (REDUCED_SIZE, REDUCED_SIZE), mode="area").cpu() for part in pixels.split(CHUNK)
    ]
    return torch.cat(parts).flatten(1)


def _figures(
    nearest: Mapping[str, Nearest], held_out: Mapping[str, Nearest], copies: Mapping[str, Nearest]
) -> dict[str, Figure]:
    """Return quantiles of each distance, and the shares nearer than most held-out images and as near as most copies."""
    low, median, high = QUANTILES
    figures = {}
    for name, found in nearest.items():
        distance = found.distance.double()
        for q in QUANTILES:
            figures[f"{name}, {'median' if q == median else f'{q:.0%}'}"] = Figure(float(distance.quantile(q)))
        nearer = distance < held_out[name].distance.double().quantile(low)
        copied = distance <= copies[name].distance.double().quantile(high)
        figures[f"{name}, nearer than {high:.0%} of held-out"] = Figure(float(nearer.double().mean()))
        figures[f"{name}, as near as {high:.0%} of copies"] = Figure(float(copied.double().mean()))
    return figures


def _nearest_sheet(
    emoji: EmojiSet, group: PromptGroup, generated: GeneratedImages, found: Mapping[str, Nearest]
) -> Image.Image:
    """Return a sheet of each image, its nearest by features and by pixels, with the distances in the label."""
    groups, labels = [], []
    for i, prompt in enumerate(group.prompts[:SHOWN]):
        pixels = [generated.pixels([i])[0], *(emoji.pixels([int(nearest.row[i])])[0] for nearest in found.values())]
        groups.append([image_of(one) for one in pixels])
        labels.append(f"{prompt.text}: " + ", ".join(f"{nearest.distance[i]:.3g}" for nearest in found.values()))
    return contact_sheet(groups, labels)


def _styles_sheet(opened: Opened, group: PromptGroup, context: Context[CopiesOptions]) -> Image.Image:
    """Return a sheet of concepts in all styles: generated from one seed, and rendered (white if there is none)."""
    pipe, emoji, options = opened.pipe, opened.emoji, context.options
    groups, labels = [], []
    for i, prompt in enumerate(group.prompts[:CONCEPTS]):
        context.progress(i, min(len(group.prompts), CONCEPTS), "the same in all styles")
        (number,) = prompt.accepted
        rendered = {emoji.style[row]: row for row in emoji.images_of(number) if emoji.tone[row] is None}
        blank = Image.new("RGB", (pipe.image_size, pipe.image_size), "white")
        words = [styled(emoji, prompt.text, style) for style in emoji.style_words]
        seed, sampling = options.seed + i, options.sampling(pipe)
        with quiet_prompts():
            groups.append([pipe(text, seed=seed, sampling=sampling).images[0] for text in words])
        groups.append([image_of(emoji.pixels([rendered[s]])[0]) if s in rendered else blank for s in emoji.style_words])
        held_out = [word for s, word in emoji.style_words.items() if s in rendered and emoji.held_out[rendered[s]]]
        labels.append(f"{prompt.text}: {', '.join(emoji.style_words.values())}")
        labels.append("rendered" + (f"; held out of training: {', '.join(held_out)}" if held_out else ""))
    return contact_sheet(groups, labels)


SUITE = Suite(
    "copies",
    "Generated emoji beside the nearest training images, and the same concept in all styles.",
    CopiesOptions,
    run,
    "hart-emoji",
)

"""Suite `copies`: does the model copy its training pictures, and what does it do between styles?

Every drawn picture is put beside the training pictures nearest to it, and its distances to them beside those of
pictures that certainly are no copies (renderings held out of training) and of pictures that certainly are (training
pictures through the tokenizer, as a copy would have to go). A model that copies has distances like the latter.

Distances: 1 - cosine of the extractor's features; and the root mean square of differences of pixel values, 0 to 255, of
pictures reduced to `PIXEL_SIDE` px.

Shapes: N pictures, M pictures of the set, D width of a feature, P = 3 * PIXEL_SIDE**2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hart.config import SamplingConfig
from hart.data.transforms import unit_to_pil
from hart.errors import HartError
from hart.evaluation.drawing import DrawnPictures, quiet_prompts
from hart.evaluation.features import FeatureExtractor
from hart.evaluation.reconstruction import reconstruct
from hart.evaluation.report import Progress, Result, extractor_facts, pictures_text
from hart.evaluation.statistics import Figure
from hart.generation.contact_sheet import contact_sheet
from hart.pipeline import HartPipeline
from hart_emoji.suites.emoji_set import BATCH, CHUNK, PIXEL_SIDE, EmojiSet, looks, reduced
from hart_emoji.suites.prompts import PromptGroup, seen_names, styled, unseen_styles

SHOWN = 24
"""Drawn pictures on the sheet with their nearest training pictures."""
CONCEPTS = 12
"""Concepts on the sheet of styles."""
HELD_OUT, COPIES = "held-out renderings", "training pictures through the tokenizer"
QUANTILES = (0.05, 0.5, 0.95)
NEAREST_FILE, STYLES_FILE = "nearest.png", "styles.png"


@dataclass(frozen=True)
class CopiesOptions:
    """limit: pictures of each kind. seed: of the first picture and of the choice of prompts."""

    limit: int = 100
    seed: int = 0
    draw_batch: int = 1


@dataclass(frozen=True)
class Nearest:
    """Of N pictures by one distance: how far the nearest training picture is (N,), and which it is (N,)."""

    distance: Tensor
    row: Tensor


def evaluate_copies(
    pipe: HartPipeline,
    sampling: SamplingConfig,
    emoji: EmojiSet,
    extractor: FeatureExtractor,
    folder: Path,
    options: CopiesOptions,
    settings: Mapping[str, Any],
    progress: Progress = lambda _done, _total, _what: None,
) -> Result:
    """Draw, look for the nearest, and make both sheets. Pictures are kept in `folder`; those of styles are not.

    Raises `HartError` when the set has no concept to ask for, or holds nothing out.
    """
    names, styles = (make(emoji, options.limit, options.seed) for make in (seen_names, unseen_styles))
    if not names.prompts or not styles.prompts:
        raise HartError("the set has no concepts to ask for, or holds no style of them out: build a larger one")
    training = emoji.training
    bank = _Bank(
        F.normalize(emoji.features(extractor, progress)[: len(training)], dim=1),
        torch.cat([reduced(emoji.pixels(training[i : i + CHUNK])) for i in range(0, len(training), CHUNK)]),
        extractor,
    )
    drawn = {
        group.key: DrawnPictures(pipe, group.texts, sampling, options.seed, folder / group.key)
        for group in (names, styles)
    }
    found: dict[str, dict[str, Nearest]] = {}
    for group in (names, styles):
        drawn[group.key].draw(options.draw_batch, progress)
        progress(0, None, "nearest training pictures")
        found[f"drawn: {group.title}"] = bank.nearest(drawn[group.key].pixels(range(len(group.prompts))))
    found[HELD_OUT] = bank.nearest(_renderings(emoji, styles))
    found[COPIES] = bank.nearest(_copies(pipe, _renderings(emoji, names)))
    return Result(
        suite="copies",
        title=f"{pictures_text(len(names.prompts))} of names, {len(training):,} in training",
        figures={row: _figures(nearest, found[HELD_OUT], found[COPIES]) for row, nearest in found.items()},
        settings={**settings, **drawn[names.key].settings},
        counts={**{key: len(pictures) for key, pictures in drawn.items()}, "damaged": emoji.damaged},
        extractor=extractor_facts(extractor),
        sheets={
            NEAREST_FILE: _nearest_sheet(emoji, names, drawn[names.key], found[f"drawn: {names.title}"]),
            STYLES_FILE: _styles_sheet(pipe, sampling, emoji, names, options.seed, progress),
        },
    )


@dataclass(frozen=True)
class _Bank:
    """The training pictures: features (M, D) of length 1, and pixels (M, P)."""

    features: Tensor
    reduced: Tensor
    extractor: FeatureExtractor

    def nearest(self, pixels: Tensor) -> dict[str, Nearest]:
        """By distance, for pictures (N, 3, H, W)."""
        drawn = looks(pixels, self.extractor)
        cosine = (F.normalize(drawn.features, dim=1) @ self.features.T).max(dim=1)
        apart = torch.cdist(drawn.pixels, self.reduced).min(dim=1)
        rms = apart.values / math.sqrt(self.reduced.shape[1])
        return {
            f"feature distance ({self.extractor.name})": Nearest(1 - cosine.values, cosine.indices),
            f"pixel distance ({PIXEL_SIDE} px)": Nearest(rms, apart.indices),
        }


def _figures(
    nearest: Mapping[str, Nearest], held_out: Mapping[str, Nearest], copies: Mapping[str, Nearest]
) -> dict[str, Figure]:
    """Quantiles of each distance, and the shares nearer than most held-out pictures and as near as most copies."""
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


def _renderings(emoji: EmojiSet, group: PromptGroup) -> Tensor:
    return emoji.pixels([prompt.rendering for prompt in group.prompts if prompt.rendering is not None])


def _copies(pipe: HartPipeline, pixels: Tensor) -> Tensor:
    """Pictures through the tokenizer, codes and exact rest."""
    schedule = pipe.config.tokenizer.schedule
    parts = [reconstruct(pipe.tokenizer, batch.to(pipe.device), schedule)["hybrid"] for batch in pixels.split(BATCH)]
    return torch.cat(parts).cpu()


def _nearest_sheet(
    emoji: EmojiSet, group: PromptGroup, drawn: DrawnPictures, found: Mapping[str, Nearest]
) -> Image.Image:
    """Drawn, nearest by features, nearest by pixels; distances in the label."""
    groups, labels = [], []
    for i, prompt in enumerate(group.prompts[:SHOWN]):
        pixels = [drawn.pixels([i])[0], *(emoji.pixels([int(nearest.row[i])])[0] for nearest in found.values())]
        groups.append([_image(one) for one in pixels])
        labels.append(f"{prompt.text}: " + ", ".join(f"{nearest.distance[i]:.3g}" for nearest in found.values()))
    return contact_sheet(groups, labels)


def _styles_sheet(
    pipe: HartPipeline, sampling: SamplingConfig, emoji: EmojiSet, group: PromptGroup, seed: int, progress: Progress
) -> Image.Image:
    """A concept a row, drawn in every style from one seed, beside its renderings; white where there is none."""
    groups, labels = [], []
    for i, prompt in enumerate(group.prompts[:CONCEPTS]):
        progress(i, min(len(group.prompts), CONCEPTS), "the same in all styles")
        (number,) = prompt.accepted
        rendered = {emoji.style[row]: row for row in emoji.pictures_of(number) if emoji.tone[row] is None}
        blank = Image.new("RGB", (pipe.image_size, pipe.image_size), "white")
        words = [styled(emoji, prompt.text, style) for style in emoji.style_words]
        with quiet_prompts():
            groups.append([pipe(text, seed=seed + i, sampling=sampling).images[0] for text in words])
        groups.append([_image(emoji.pixels([rendered[s]])[0]) if s in rendered else blank for s in emoji.style_words])
        held_out = [word for s, word in emoji.style_words.items() if s in rendered and emoji.held_out[rendered[s]]]
        labels.append(f"{prompt.text}: {', '.join(emoji.style_words.values())}")
        labels.append("rendered" + (f"; held out of training: {', '.join(held_out)}" if held_out else ""))
    return contact_sheet(groups, labels)


def _image(pixels: Tensor) -> Image.Image:
    """(3, H, W) uint8 as a picture."""
    return unit_to_pil(pixels.float() / 255)

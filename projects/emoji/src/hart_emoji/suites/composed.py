"""Suite `composed`: things alone, in pairs, counted, coloured, placed, and pairs in two colours, after GenEval
(arXiv 2310.11513), judged automatically.

Separate blots on white are cut out; a blot shows the thing (of `THINGS`) that its nearest rendering shows, by the
cosine of EfficientNet-Lite0 features. In a count, every blot must show the thing. Colours are judged from pixels.

For comparison, images are composed from the set's renderings as the prompts say, and also passed through the
tokenizer: they show the limits set by the judge and by the tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hart import HartError
from hart.evaluation import (
    Context,
    FeatureExtractor,
    Figure,
    GeneratedImages,
    Result,
    Suite,
    bootstrap_mean,
    counted,
    extractor_facts,
)
from hart_emoji.data.arrangement import laid
from hart_emoji.data.captions import DEFAULT_STYLE, with_article
from hart_emoji.data.recolour import own_colour, repainted
from hart_emoji.data.rewriting import plural
from hart_emoji.data.scenes import WHITE
from hart_emoji.suites.emoji_set import FEATURE_IMAGE_SIZE, EmojiOptions, EmojiSet, Opened, features_of, image_of
from hart_emoji.suites.scenes import NUMBERS, blots, colour_of, without_white

THINGS = {
    "cat": ("cat", "cat-face"),
    "apple": ("red-apple", "green-apple"),
    "car": ("automobile", "oncoming-automobile"),
    "star": ("star", "glowing-star"),
    "fish": ("tropical-fish", "fish"),
    "house": ("house", "house-with-garden"),
    "book": ("blue-book", "closed-book", "green-book", "orange-book"),
    "heart": ("red-heart", "orange-heart", "yellow-heart", "green-heart", "blue-heart", "purple-heart"),
    "tree": ("deciduous-tree", "evergreen-tree"),
    "ball": ("soccer-ball", "basketball"),
    "butterfly": ("butterfly",),
    "banana": ("banana",),
}
"""Word -> the concepts whose renderings show it; composed images use the first."""
PAINTED = ("apple", "car", "star", "house", "book", "heart", "fish", "butterfly")
"""Things that may have any colour."""
COLOURS = ("red", "yellow", "green", "blue", "purple")
KINDS = ("single", "two", "count", "colour", "position", "attribution")
SIDES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Words -> the direction (x, y) of the first thing as seen from the second."""
MARGIN = 0.1
"""Margin around a blot that is cut out, as a share of its longer side."""


@dataclass(frozen=True)
class Part:
    """A thing that an image should show, its colour, and its centre in widths of the image."""

    thing: str
    colour: str | None
    x: float
    y: float


@dataclass(frozen=True)
class Asked:
    """A prompt and the parts of its image. side: direction of the first from the second; (0, 0) means anywhere."""

    kind: str
    text: str
    parts: tuple[Part, ...]
    side: tuple[int, int] = (0, 0)


def prompts() -> list[Asked]:
    """Return the prompts, of every kind in `KINDS`; they are always the same."""
    words = list(THINGS)
    pairs = [(word, words[(at + 5) % len(words)]) for at, word in enumerate(words)]
    left, right, middle = (0.27, 0.5), (0.73, 0.5), (0.5, 0.5)
    asked = [Asked("single", with_article(word), (Part(word, None, *middle),)) for word in words]
    for one, other in pairs:
        both = (Part(one, None, *left), Part(other, None, *right))
        asked.append(Asked("two", f"{with_article(one)} and {with_article(other)}", both))
    places = {2: (left, right), 3: ((0.5, 0.27), (0.27, 0.73), (0.73, 0.73))}
    places[4] = tuple((x, y) for y in (0.27, 0.73) for x in (0.27, 0.73))
    for at, word in enumerate(words):
        for number in (2 + at % 3, 2 + (at + 1) % 3):
            parts = tuple(Part(word, None, x, y) for x, y in places[number])
            asked.append(Asked("count", f"{NUMBERS[number]} {plural(word)}", parts))
    for at, word in enumerate(PAINTED):
        for step in range(3):
            colour = COLOURS[(at + step) % len(COLOURS)]
            asked.append(Asked("colour", with_article(f"{colour} {word}"), (Part(word, colour, *middle),)))
    for at, (one, other) in enumerate(pairs):
        for between, side in list(SIDES.items())[at % 2 :: 2]:
            ends = [
                Part(name, None, 0.5 + away * side[0], 0.5 + away * side[1])
                for name, away in ((one, 0.23), (other, -0.23))
            ]
            text = f"{with_article(one)} {between} {with_article(other)}"
            asked.append(Asked("position", text, tuple(ends), side))
    for at, (one, other) in enumerate(pairwise([*PAINTED, *PAINTED[:1]])):
        for step in range(2):
            first, second = COLOURS[(at + step) % 5], COLOURS[(at + step + 2) % 5]
            text = f"{with_article(f'{first} {one}')} and {with_article(f'{second} {other}')}"
            asked.append(Asked("attribution", text, (Part(one, first, *left), Part(other, second, *right))))
    return asked


class Judge:
    """Decides what the blots of an image show."""

    def __init__(self, emoji: EmojiSet, extractor: FeatureExtractor) -> None:
        """Raises `HartError` if the set lacks one of `THINGS`."""
        named = [(word, slug) for word, slugs in THINGS.items() for slug in slugs]
        if missing := [slug for _, slug in named if slug not in emoji.number]:
            raise HartError(f"the set has no concept {missing[0]!r}, which is asked for: build the whole one")
        self.extractor = extractor
        self._words: list[str] = []
        renderings: list[Image.Image] = []
        for word, slug in named:
            rows = [row for row in emoji.images_of(emoji.number[slug]) if emoji.held_out[row] is None]
            for pixels in emoji.pixels(rows):
                image = image_of(pixels)
                renderings.append(cut_out(image, around(image)))
                self._words.append(word)
        self._bank = F.normalize(features_of(torch.stack([_pixels(image) for image in renderings]), extractor), dim=1)

    def shown(self, parts: Sequence[Image.Image]) -> list[str]:
        """Return the thing that each cut-out blot shows."""
        if not parts:
            return []
        seen = features_of(torch.stack([_pixels(part) for part in parts]), self.extractor)
        return [self._words[at] for at in (F.normalize(seen, dim=1) @ self._bank.T).argmax(dim=1).tolist()]

    def right(self, asked: Asked, image: Image.Image) -> bool:
        """Return whether an image shows the parts asked for and no others."""
        boxes = [around(image)] if len(asked.parts) == 1 else blots(image)
        if len(boxes) != len(asked.parts):
            return False
        cut = [cut_out(image, box) for box in boxes]
        found = list(zip(self.shown(cut), map(colour_of, cut), boxes, strict=True))
        places = []
        for part in asked.parts:
            fit = [one for one in found if one[0] == part.thing and part.colour in (None, one[1])]
            if not fit:
                return False
            found.remove(fit[0])
            places.append(((fit[0][2][0] + fit[0][2][2]) / 2, (fit[0][2][1] + fit[0][2][3]) / 2))
        if asked.side == (0, 0):
            return True
        (x, y), (other_x, other_y) = places
        across, down = x - other_x, y - other_y
        return across * asked.side[0] + down * asked.side[1] > abs(across * asked.side[1] + down * asked.side[0])


def around(image: Image.Image) -> tuple[int, int, int, int]:
    """Return the box around all of an image's blots, or the whole image if it has none."""
    left, top, right, bottom = zip(*(blots(image) or [(0, 0, *image.size)]), strict=True)
    return min(left), min(top), max(right), max(bottom)


def cut_out(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return the content of a box, centred on a white square of the size at which features are computed."""
    part = image.crop(box)
    side = round(max(part.size) * (1 + 2 * MARGIN))
    square = Image.new("RGB", (side, side), "white")
    square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return square.resize((FEATURE_IMAGE_SIZE, FEATURE_IMAGE_SIZE), Image.Resampling.BICUBIC)


def composed(emoji: EmojiSet, asked: Asked) -> Image.Image:
    """Compose the image that a prompt asks for from renderings in the default style."""
    size = emoji.pixels([0]).shape[-1]
    placed: list[tuple[Image.Image, float, float]] = []
    side = round(size * (0.9 if len(asked.parts) == 1 else 0.42))
    for part in asked.parts:
        rows = emoji.images_of(emoji.number[THINGS[part.thing][0]])
        row = next((row for row in rows if emoji.style[row] == DEFAULT_STYLE), rows[0])
        rendering = image_of(emoji.pixels([row])[0])
        sprite = rendering.crop(around(rendering))
        if part.colour is not None:
            layer = without_white(sprite, 235)
            own = own_colour(layer)
            sprite = layer.convert("RGB") if own is None else repainted(layer, own, part.colour).convert("RGB")
        scale = side / max(sprite.size)
        sprite = sprite.resize((round(sprite.width * scale), round(sprite.height * scale)), Image.Resampling.BICUBIC)
        placed.append((sprite.convert("RGBA"), part.x, part.y))
    return laid(size, WHITE, placed)


def run(context: Context[EmojiOptions]) -> Result:
    """Return a row for each kind of image, a column for each kind of prompt: the share of images that are right."""
    opened, options, asked = Opened.by(context), context.options, prompts()
    judge = Judge(opened.emoji, opened.extractor)
    texts = [one.text for one in asked]
    generated = GeneratedImages(opened.pipe, texts, options.sampling(opened.pipe), options.seed, context.out)
    generated.generate(options.batch_size, context.progress)
    true = torch.stack([_pixels(composed(opened.emoji, one)) for one in asked])
    images = {
        "generated": [generated.image(at) for at in range(len(asked))],
        "composed": [image_of(pixels) for pixels in true],
        "composed, codes and exact residual": [image_of(pixels) for pixels in opened.reconstructed(true)["hybrid"]],
    }
    generator = context.generator()
    figures: dict[str, dict[str, Figure]] = {}
    for name, row in images.items():
        right = torch.tensor([float(judge.right(one, image)) for one, image in zip(asked, row, strict=True)])
        columns = {kind: right[[at for at, one in enumerate(asked) if one.kind == kind]] for kind in KINDS}
        figures[name] = {kind: bootstrap_mean(values, generator, options.resamples) for kind, values in columns.items()}
        # as in GenEval: the mean of the kinds
        figures[name]["all"] = Figure(sum(float(values.mean()) for values in columns.values()) / len(columns))
    return Result(
        title=counted(len(generated), "image"),
        figures=figures,
        settings=generated.settings,
        counts={kind: sum(one.kind == kind for one in asked) for kind in KINDS},
        extractor=extractor_facts(opened.extractor),
        sheets=generated.sheet(texts),
    )


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


SUITE = Suite(
    "composed",
    "How often an image shows one thing or two, how many, in which colours and where. A stopped run continues.",
    EmojiOptions,
    run,
    "hart-emoji",
)

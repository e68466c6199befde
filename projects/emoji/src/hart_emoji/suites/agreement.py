"""Suite `agreement`: how often a generated emoji looks most like what the prompt asks for.

Groups of prompts: names seen in training, unseen synonyms, unseen combinations of style and concept and of skin tone
and concept, and free prompts from a file (`hart_emoji.suites.prompts`). Each prompt gives one image.

- Right concept: all concepts are ranked by the nearest of their training images, by cosine of the extractor's features.
  The group of skin tones is ranked among all training images, the others among those without skin tones.
- Right style: among all rendered images of the right concept without skin tone, held out or not, the nearest has the
  style asked for. This is judged by the same features, and by colours, which tell a misdrawn image's style better.
- Right skin tone: among the rendered images of the right concept in the style asked for, held out or not, the nearest
  by colours has the tone. The features hardly see skin tones.

Every row of generated images stands beside chance and the tokenizer's reconstructions of the renderings that the
prompts describe, from codes with the exact residual and from codes alone: a model that generates tokens of this
tokenizer can hardly do better. Renderings not seen in training are ranked too, unchanged and turned: these rows show
what a perfect image would reach, and a perfect one that is turned.

Shapes: N images, M images of the set, C concepts, D width of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

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
    bootstrap_mean,
    counted,
    extractor_facts,
)
from hart_emoji.suites.colours import nearest_by_colours
from hart_emoji.suites.emoji_set import EmojiOptions, EmojiSet, Looks, Opened, looks
from hart_emoji.suites.prompts import (
    EmojiPrompt,
    PromptGroup,
    free_prompts,
    seen_names,
    unseen_styles,
    unseen_synonyms,
    unseen_tones,
)

TOPS = (1, 5, 20)
RIGHT = {
    "style": {"features": "right style ({})", "colours": "right style (colours)"},
    "tone": {"colours": "right skin tone (colours)"},
}
"""What a group holds out, judged besides the concept -> what it is judged by -> name of the column."""


class AgreementOptions(EmojiOptions, kw_only=True):
    """The seed is used for each group's first image, the choice of prompts and the intervals."""

    limit: Annotated[int, Field(ge=1, description="Maximum number of prompts in each group.")] = 300
    free_prompts: Annotated[
        Path | None, Field(description="TOML file with free prompts and the right concepts; none by default.")
    ] = None


def run(context: Context[AgreementOptions]) -> Result:
    """Run the suite. Each group's images are kept, so a stopped run continues. Raises `HartError` without prompts."""
    options, progress = context.options, context.progress
    opened = Opened.by(context)
    emoji, extractor = opened.emoji, opened.extractor
    groups = [
        make(emoji, options.limit, options.seed) for make in (seen_names, unseen_synonyms, unseen_styles, unseen_tones)
    ]
    if options.free_prompts is not None:
        groups.append(free_prompts(emoji, options.free_prompts, options.limit, options.seed))
    groups = [group for group in groups if group.prompts]
    if not groups:
        raise HartError("the set has no concept to ask for besides flags and symbols: build a larger one")
    judge = Judge(emoji, emoji.features(extractor, progress), extractor.name)
    figures: dict[str, Mapping[str, Figure]] = {}
    sheets: dict[str, Image.Image] = {}
    counts: dict[str, int] = {}
    shared: dict[str, Any] = {}
    for group in groups:
        generated = GeneratedImages(
            opened.pipe, group.texts, options.sampling(opened.pipe), options.seed, context.out / group.key
        )
        generated.generate(options.batch_size, progress)
        progress(0, None, f"what the images of {group.title} look like")
        seen = looks(generated.pixels(range(len(generated))), extractor)
        figures |= _rows(judge, group, seen, _described(opened, group, context), context)
        labels = [
            prompt.text if rank is None else f"{rank}: {prompt.text}"
            for prompt, rank in zip(group.prompts, judge.ranks(seen, group), strict=True)
        ]
        sheets |= generated.sheet(labels, f"{group.key}.png", len(generated) if group.key == "free" else None)
        counts[group.key] = len(generated)
        shared = generated.settings
    return Result(
        title=f"{counted(sum(counts.values()), 'image')}, {counted(len(emoji.slugs), 'concept')}",
        figures=figures,
        settings=shared,
        counts={**counts, "references": len(emoji), "concepts": len(emoji.slugs)},
        extractor=extractor_facts(extractor),
        sheets=sheets,
    )


class Judge:
    """Decides what images look most like, by comparing them with the rendered images of a set."""

    def __init__(self, emoji: EmojiSet, features: Tensor, extractor: str) -> None:
        """features: (M, D) of all images of the set; `bank` has them normalised. extractor: its name, for columns."""
        self._emoji = emoji
        self.bank = F.normalize(features, dim=1)
        self._extractor = extractor

    def ranks(self, seen: Looks, group: PromptGroup) -> list[int | None]:
        """Return, for the image of each prompt, the rank from 1 of the best right concept; None if none is right."""
        toned = group.held_out == "tone"
        rows = [row for row in self._emoji.training if toned or self._emoji.tone[row] is None]
        asked = [i for i, prompt in enumerate(group.prompts) if prompt.accepted]
        found = concept_ranks(
            seen.features[asked],
            self.bank[rows],
            self._emoji.concept[rows],
            [group.prompts[i].accepted for i in asked],
            len(self._emoji.slugs),
        )
        rank_of = dict(zip(asked, found.tolist(), strict=True))
        return [rank_of.get(i) for i in range(len(group.prompts))]

    def verdicts(self, seen: Looks, group: PromptGroup) -> dict[str, Tensor]:
        """Return by column: 1 or 0 for each image that the column applies to. seen: one image per prompt."""
        found = [rank for rank in self.ranks(seen, group) if rank is not None]
        columns = {self._column(top): torch.tensor([float(rank <= top) for rank in found]) for top in TOPS}
        judged = self._right_columns(group)
        right: dict[str, list[float]] = {column: [] for column in judged.values()}
        for i, prompt in enumerate(group.prompts if judged else ()):
            candidates, matching = self._candidates(prompt, group.held_out)
            for by, column in judged.items():
                if by == "features":
                    nearest = int((self.bank[candidates] @ seen.features[i]).argmax())
                else:
                    nearest = nearest_by_colours(seen.images[i], self._emoji.pixels(candidates))
                right[column].append(float(matching[nearest]))
        columns |= {column: torch.tensor(values) for column, values in right.items()}
        return columns

    def chance(self, group: PromptGroup) -> dict[str, Figure]:
        """Return by column: the share that images unrelated to their prompts would reach."""
        accepted = [len(prompt.accepted) for prompt in group.prompts if prompt.accepted]
        count = len(self._emoji.slugs)
        columns = {self._column(top): [chance_of_rank(top, right, count) for right in accepted] for top in TOPS}
        if judged := self._right_columns(group):
            choices = [self._candidates(prompt, group.held_out)[1] for prompt in group.prompts]
            shares = [sum(matching) / len(matching) for matching in choices]
            columns |= dict.fromkeys(judged.values(), shares)
        return {column: Figure(fmean(values)) for column, values in columns.items() if values}

    def _column(self, top: int) -> str:
        return f"right concept in the nearest {top} ({self._extractor})"

    def _right_columns(self, group: PromptGroup) -> dict[str, str]:
        """Return the entry of `RIGHT` for what the group holds out."""
        return {by: column.format(self._extractor) for by, column in RIGHT.get(group.held_out or "", {}).items()}

    def _candidates(self, prompt: EmojiPrompt, what: str | None) -> tuple[list[int], list[bool]]:
        """Return the images of the right concept to choose from, and whether each has the style or tone asked for."""
        emoji, asked = self._emoji, prompt.rendering
        assert asked is not None
        rows = emoji.images_of(prompt.accepted[0])
        if what == "style":
            rows = [row for row in rows if emoji.tone[row] is None]
            return rows, [emoji.style[row] == emoji.style[asked] for row in rows]
        rows = [row for row in rows if emoji.tone[row] is not None and emoji.style[row] == emoji.style[asked]]
        return rows, [emoji.tone[row] == emoji.tone[asked] for row in rows]


def concept_ranks(
    generated: Tensor, bank: Tensor, concept: Tensor, accepted: Sequence[Collection[int]], concepts: int
) -> Tensor:
    """Return the ranks (N,) from 1 of each image's best concept in `accepted`. generated: features (N, D).

    bank: (M, D) features of images whose concepts are `concept` (M,), numbered from 0 to `concepts` - 1. Concepts are
    ranked by the cosine of the nearest of their images; those without images come last.
    """
    if not accepted:
        return torch.empty(0, dtype=torch.int64)
    similarity = F.normalize(generated, dim=1) @ F.normalize(bank, dim=1).T
    nearest = torch.full((len(generated), concepts), -torch.inf)
    nearest = nearest.scatter_reduce(1, concept.expand(len(generated), -1), similarity, "amax")
    best = torch.stack([row[list(right)].max() for row, right in zip(nearest, accepted, strict=True)])
    return (nearest > best[:, None]).sum(dim=1) + 1


def chance_of_rank(top: int, accepted: int, concepts: int) -> float:
    """Return the probability that one of `accepted` concepts is among the first `top` of `concepts` in random order."""
    missed = 1.0
    for turn in range(accepted):
        missed *= max(concepts - top - turn, 0) / (concepts - turn)
    return 1 - missed


def _described(opened: Opened, group: PromptGroup, context: Context[AgreementOptions]) -> dict[str, Looks]:
    """Return by kind: the images that the prompts describe; empty if not every prompt describes one."""
    rows = group.renderings
    if len(rows) < len(group.prompts):
        return {}
    context.progress(0, None, "reconstructions")
    decoded = opened.reconstructed(opened.emoji.pixels(rows))
    images = {"codes and exact residual": decoded["hybrid"], "codes": decoded["discrete"]}
    if group.held_out is not None:
        images["the rendering itself"] = opened.emoji.pixels(rows)
        images["the rendering, turned"] = turned(images["the rendering itself"])
    return {kind: looks(pixels, opened.extractor) for kind, pixels in images.items()}


def turned(pixels: Tensor) -> Tensor:
    """Turn images (B, 3, H, W), uint8, by 15 degrees and shrink them to 0.85 on white: a judge must still know them."""
    sine, cosine = math.sin(math.radians(15)) / 0.85, math.cos(math.radians(15)) / 0.85
    turn = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]]).expand(len(pixels), -1, -1)
    places = F.affine_grid(turn, list(pixels.shape), align_corners=False)
    ink = F.grid_sample(255 - pixels.float().cpu(), places, align_corners=False)
    return (255 - ink).round().to(torch.uint8)


def _rows(
    judge: Judge,
    group: PromptGroup,
    generated: Looks,
    described: Mapping[str, Looks],
    context: Context[AgreementOptions],
) -> dict[str, Mapping[str, Figure]]:
    generator = context.generator()
    rows: dict[str, Mapping[str, Figure]] = {}
    for kind, seen in {"generated": generated, **described}.items():
        rows[f"{group.title}: {kind}"] = {
            column: bootstrap_mean(values, generator, context.options.resamples)
            for column, values in judge.verdicts(seen, group).items()
            if len(values)
        }
        if kind == "generated":
            rows[f"{group.title}: chance"] = judge.chance(group)
    return rows


SUITE = Suite(
    "agreement",
    "How often a generated emoji looks most like what the prompt asks for. A stopped run continues.",
    AgreementOptions,
    run,
    "hart-emoji",
)

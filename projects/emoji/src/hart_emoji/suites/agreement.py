"""Suite `agreement`: how often a drawn emoji looks most like what it was asked for.

Groups of prompts: names that training has seen, synonyms that it has not, combinations of style and concept and of skin
tone and concept that it has not, and free prompts from a file (`hart_emoji.suites.prompts`). One picture a prompt.

- Right concept: all concepts rank by the nearest of their training pictures, by cosine of the extractor's features.
  The group of skin tones is ranked among all training pictures, the others among those without skin tones.
- Right style: of all rendered pictures of the right concept without skin tone, held out or not, the nearest by the
  same features has the style that was asked for.
- Right skin tone: of the rendered pictures of the right concept in the style that was asked for, held out or not, the
  nearest by pixels has the tone. The features hardly see skin tones: by them, not even half of the tokenizer's
  reconstructions at 64 px have theirs.

Beside every drawn row: what chance gives, and what the tokenizer's reconstructions of the renderings reach that the
prompts describe, from codes and exact rest, and from the codes alone: a model that draws tokens of this tokenizer can
hardly do better. Renderings that training has not seen are ranked themselves too: what a perfect picture reaches.

Shapes: N pictures, M pictures of the set, C concepts, D width of a feature.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hart.config import SamplingConfig
from hart.errors import HartError
from hart.evaluation.drawing import DrawnPictures
from hart.evaluation.features import FeatureExtractor
from hart.evaluation.reconstruction import reconstruct
from hart.evaluation.report import Progress, Result, extractor_facts, pictures_text
from hart.evaluation.statistics import RESAMPLES, Figure, bootstrap_mean
from hart.pipeline import HartPipeline
from hart_emoji.suites.emoji_set import BATCH, PIXEL_SIDE, EmojiSet, Looks, looks, reduced
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
RIGHT = {"style": "right style ({})", "tone": f"right skin tone (pixels at {PIXEL_SIDE} px)"}
"""What is judged besides the concept, with its column, for pictures that were held out for it."""


@dataclass(frozen=True)
class AgreementOptions:
    """limit: prompts of each group at most. seed: of each group's first picture, of the choice of prompts and of the
    intervals. free: a file of free prompts, or None for none."""

    limit: int = 300
    free: Path | None = None
    seed: int = 0
    draw_batch: int = 1
    resamples: int = RESAMPLES


def evaluate_agreement(
    pipe: HartPipeline,
    sampling: SamplingConfig,
    emoji: EmojiSet,
    extractor: FeatureExtractor,
    folder: Path,
    options: AgreementOptions,
    settings: Mapping[str, Any],
    progress: Progress = lambda _done, _total, _what: None,
) -> Result:
    """Draw and rank. Pictures of each group are kept in a folder of `folder`: a stopped run goes on there.

    Raises `HartError` when there is no prompt at all.
    """
    groups = [
        make(emoji, options.limit, options.seed) for make in (seen_names, unseen_synonyms, unseen_styles, unseen_tones)
    ]
    if options.free is not None:
        groups.append(free_prompts(emoji, options.free, options.limit, options.seed))
    groups = [group for group in groups if group.prompts]
    if not groups:
        raise HartError("the set has no concept to ask for besides flags and symbols: build a larger one")
    judge = Judge(emoji, emoji.features(extractor, progress), extractor.name)
    figures: dict[str, Mapping[str, Figure]] = {}
    sheets: dict[str, Image.Image] = {}
    counts: dict[str, int] = {}
    shared: dict[str, Any] = {}
    for group in groups:
        drawn = DrawnPictures(pipe, group.texts, sampling, options.seed, folder / group.key)
        drawn.draw(options.draw_batch, progress)
        progress(0, None, f"what the pictures of {group.title} look like")
        seen = looks(drawn.pixels(range(len(drawn))), extractor)
        verdicts = judge.verdicts(seen, group)
        figures |= _rows(judge, group, verdicts, _reconstructed(pipe, emoji, extractor, group, progress), options)
        labels = [
            prompt.text if rank is None else f"{rank}: {prompt.text}"
            for prompt, rank in zip(group.prompts, judge.ranks(seen, group), strict=True)
        ]
        sheets |= drawn.sheet(labels, f"{group.key}.png", len(drawn) if group.key == "free" else None)
        counts[group.key] = len(drawn)
        shared = drawn.settings
    return Result(
        suite="agreement",
        title=f"{pictures_text(sum(counts.values()))}, {len(emoji.slugs):,} concepts",
        figures=figures,
        settings={**settings, **shared, "resamples": options.resamples},
        counts={**counts, "references": len(emoji), "concepts": len(emoji.slugs), "damaged": emoji.damaged},
        extractor=extractor_facts(extractor),
        sheets=sheets,
    )


class Judge:
    """Says of pictures what they look most like, by the rendered pictures of a set."""

    def __init__(self, emoji: EmojiSet, features: Tensor, extractor: str) -> None:
        """features: (M, D) of all pictures of the set; extractor: its name, for the columns."""
        self._emoji = emoji
        self._bank = F.normalize(features, dim=1)
        self._extractor = extractor

    def ranks(self, seen: Looks, group: PromptGroup) -> list[int | None]:
        """Rank from 1 of the best right concept for a picture of each prompt; None where none is right."""
        toned = group.held_out == "tone"
        rows = [row for row in self._emoji.training if toned or self._emoji.tone[row] is None]
        asked = [i for i, prompt in enumerate(group.prompts) if prompt.accepted]
        found = concept_ranks(
            seen.features[asked],
            self._bank[rows],
            self._emoji.concept[rows],
            [group.prompts[i].accepted for i in asked],
            len(self._emoji.slugs),
        )
        rank_of = dict(zip(asked, found.tolist(), strict=True))
        return [rank_of.get(i) for i in range(len(group.prompts))]

    def verdicts(self, seen: Looks, group: PromptGroup) -> dict[str, Tensor]:
        """By column: 1 or 0 for each picture that the column is about, of one picture of each prompt."""
        found = [rank for rank in self.ranks(seen, group) if rank is not None]
        columns = {self._column(top): torch.tensor([float(rank <= top) for rank in found]) for top in TOPS}
        if group.held_out is not None:
            right = []
            for i, prompt in enumerate(group.prompts):
                candidates, matching = self._candidates(prompt, group.held_out)
                if group.held_out == "style":
                    near = self._bank[candidates] @ seen.features[i]
                else:
                    near = -torch.cdist(seen.pixels[i : i + 1], reduced(self._emoji.pixels(candidates)))[0]
                right.append(float(matching[int(near.argmax())]))
            columns[RIGHT[group.held_out].format(self._extractor)] = torch.tensor(right)
        return columns

    def chance(self, group: PromptGroup) -> dict[str, Figure]:
        """By column: the share that pictures would reach that have nothing to do with their prompts."""
        accepted = [len(prompt.accepted) for prompt in group.prompts if prompt.accepted]
        count = len(self._emoji.slugs)
        columns = {self._column(top): [chance_of_rank(top, right, count) for right in accepted] for top in TOPS}
        if group.held_out is not None:
            choices = [self._candidates(prompt, group.held_out)[1] for prompt in group.prompts]
            columns[RIGHT[group.held_out].format(self._extractor)] = [sum(m) / len(m) for m in choices]
        return {column: Figure(fmean(values)) for column, values in columns.items() if values}

    def _column(self, top: int) -> str:
        return f"right concept in the nearest {top} ({self._extractor})"

    def _candidates(self, prompt: EmojiPrompt, what: str) -> tuple[list[int], list[bool]]:
        """Pictures of the right concept to choose from, and which of them have the style or tone asked for."""
        emoji, asked = self._emoji, prompt.rendering
        assert asked is not None
        rows = emoji.pictures_of(prompt.accepted[0])
        if what == "style":
            rows = [row for row in rows if emoji.tone[row] is None]
            return rows, [emoji.style[row] == emoji.style[asked] for row in rows]
        rows = [row for row in rows if emoji.tone[row] is not None and emoji.style[row] == emoji.style[asked]]
        return rows, [emoji.tone[row] == emoji.tone[asked] for row in rows]


def concept_ranks(
    drawn: Tensor, bank: Tensor, concept: Tensor, accepted: Sequence[Collection[int]], concepts: int
) -> Tensor:
    """Rank (N,) from 1 of the best of the concepts `accepted` of each picture, for features `drawn` (N, D).

    bank: (M, D) features of pictures of the concepts `concept` (M,), numbered from 0 to `concepts` - 1. Concepts rank
    by the cosine of the nearest of their pictures; those without pictures come last.
    """
    if not accepted:
        return torch.empty(0, dtype=torch.int64)
    similarity = F.normalize(drawn, dim=1) @ F.normalize(bank, dim=1).T
    nearest = torch.full((len(drawn), concepts), -torch.inf)
    nearest = nearest.scatter_reduce(1, concept.expand(len(drawn), -1), similarity, "amax")
    best = torch.stack([row[list(right)].max() for row, right in zip(nearest, accepted, strict=True)])
    return (nearest > best[:, None]).sum(dim=1) + 1


def chance_of_rank(top: int, accepted: int, concepts: int) -> float:
    """Probability that one of `accepted` concepts is among the first `top` of `concepts` in random order."""
    missed = 1.0
    for turn in range(accepted):
        missed *= max(concepts - top - turn, 0) / (concepts - turn)
    return 1 - missed


def _reconstructed(
    pipe: HartPipeline, emoji: EmojiSet, extractor: FeatureExtractor, group: PromptGroup, progress: Progress
) -> dict[str, Looks]:
    """By kind: what the prompts describe; nothing where they describe no picture."""
    rows = [prompt.rendering for prompt in group.prompts if prompt.rendering is not None]
    if len(rows) < len(group.prompts):
        return {}
    pixels = emoji.pixels(rows)
    kinds = {"codes and exact rest": "hybrid", "codes": "discrete"}
    decoded: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    for start in range(0, len(rows), BATCH):
        progress(start, len(rows), "reconstructions")
        batch = pixels[start : start + BATCH].to(pipe.device)
        both = reconstruct(pipe.tokenizer, batch, pipe.config.tokenizer.schedule)
        for kind, name in kinds.items():
            decoded[kind].append(both[name].cpu())
    found = {kind: looks(torch.cat(parts), extractor) for kind, parts in decoded.items()}
    if group.held_out is not None:
        found["the rendering itself"] = looks(pixels, extractor)
    return found


def _rows(
    judge: Judge,
    group: PromptGroup,
    drawn: Mapping[str, Tensor],
    reconstructed: Mapping[str, Looks],
    options: AgreementOptions,
) -> dict[str, Mapping[str, Figure]]:
    generator = torch.Generator().manual_seed(options.seed)

    def shares(verdicts: Mapping[str, Tensor]) -> dict[str, Figure]:
        return {
            column: bootstrap_mean(values, generator, options.resamples)
            for column, values in verdicts.items()
            if len(values)
        }

    rows: dict[str, Mapping[str, Figure]] = {f"{group.title}: drawn": shares(drawn)}
    rows[f"{group.title}: chance"] = judge.chance(group)
    for kind, seen in reconstructed.items():
        rows[f"{group.title}: {kind}"] = shares(judge.verdicts(seen, group))
    return rows

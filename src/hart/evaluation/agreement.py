"""Suite `agreement`: how often a drawn emoji looks most like the concept that it was asked for.

For concepts drawn at random, without flags and symbols, one picture of "a NAME" is drawn. All concepts are ranked by
the nearest of their training pictures (without skin tones), by cosine of the extractor's features.

Shapes: N drawn pictures, M pictures of the set, D width of a feature.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hart.config import SamplingConfig
from hart.data.datasets import open_dataset
from hart.errors import HartError
from hart.evaluation.drawing import DrawnPictures
from hart.evaluation.features import FeatureExtractor
from hart.evaluation.report import Progress, Result, extractor_facts, pictures_text
from hart.evaluation.statistics import RESAMPLES, Figure, bootstrap_mean
from hart.pipeline import HartPipeline

LEFT_OUT = frozenset({"flags", "symbols"})
TOPS = (1, 5, 20)
FEATURE_SIDE = 128
"""EfficientNet-Lite0 sees the pictures at this side: emoji of 64 px have nothing finer, and it takes a third."""


@dataclass(frozen=True)
class AgreementOptions:
    """names: concepts asked for. seed: of the first picture, of the choice of names and of the intervals."""

    names: int = 300
    seed: int = 0
    draw_batch: int = 1
    feature_batch: int = 64
    resamples: int = RESAMPLES


def evaluate_agreement(
    pipe: HartPipeline,
    sampling: SamplingConfig,
    data: Path,
    extractor: FeatureExtractor,
    folder: Path,
    options: AgreementOptions,
    settings: Mapping[str, Any],
    progress: Progress = lambda _done, _total, _what: None,
) -> Result:
    """Draw and rank. data: what `hart data emoji` built. Pictures are kept in `folder`/images.

    Raises `HartError` when the set has no concepts or fewer than `options.names`.
    """
    concepts = _read_concepts(data)
    pictures = open_dataset(data, "train", pipe.image_size)
    rows = [i for i, record in enumerate(pictures.records) if record.get("skin_tone") is None and "concept" in record]
    names = sorted({str(pictures.records[i]["concept"]) for i in rows})
    number = {name: i for i, name in enumerate(names)}
    pool = [name for name in names if concepts[name]["group"] not in LEFT_OUT]
    if not 1 <= options.names <= len(pool):
        raise HartError(f"{options.names} names asked for: the set has {len(pool)} concepts to choose from")
    random.Random(options.seed).shuffle(pool)
    pool = pool[: options.names]
    prompts = [f"a {concepts[name]['names'][0]}" for name in pool]

    drawn = DrawnPictures(pipe, prompts, sampling, options.seed, folder)
    drawn.draw(options.draw_batch, progress)
    bank = []
    for start in range(0, len(rows), options.feature_batch):
        progress(start, len(rows), "features of the set")
        bank.append(extractor(pictures.pixels[rows[start : start + options.feature_batch]]).pooled)
    ranks = nearest_concept_ranks(
        drawn.features(extractor, options.feature_batch, progress).pooled,
        torch.cat(bank),
        torch.tensor([number[str(pictures.records[i]["concept"])] for i in rows]),
        torch.tensor([number[name] for name in pool]),
    )
    generator = torch.Generator().manual_seed(options.seed)
    return Result(
        suite="agreement",
        title=f"{pictures_text(len(drawn))}, {len(names):,} concepts",
        figures={
            "drawn": {
                f"named concept in the nearest {top} ({extractor.name})": bootstrap_mean(
                    ranks <= top, generator, options.resamples
                )
                for top in TOPS
            },
            "chance": {
                f"named concept in the nearest {top} ({extractor.name})": Figure(top / len(names)) for top in TOPS
            },
        },
        settings={**settings, **drawn.settings, "resamples": options.resamples},
        counts={"drawn": len(drawn), "references": len(rows), "concepts": len(names), "damaged": len(pictures.damaged)},
        extractor=extractor_facts(extractor),
        sheets=drawn.sheet([f"{prompt}: {rank}" for prompt, rank in zip(prompts, ranks.tolist(), strict=True)]),
    )


def nearest_concept_ranks(drawn: Tensor, bank: Tensor, concept: Tensor, wanted: Tensor) -> Tensor:
    """Rank (N,) from 1 of the concept `wanted` (N,) for features `drawn` (N, D).

    bank: (M, D) features of pictures of the concepts `concept` (M,), numbered from 0. Concepts rank by the cosine of
    the nearest of their pictures.
    """
    similarity = F.normalize(drawn, dim=1) @ F.normalize(bank, dim=1).T
    nearest = torch.full((len(drawn), int(concept.max()) + 1), -1.0)
    nearest = nearest.scatter_reduce(1, concept.expand(len(drawn), -1), similarity, "amax")
    return (nearest > nearest.gather(1, wanted[:, None])).sum(dim=1) + 1


def _read_concepts(data: Path) -> Mapping[str, Any]:
    try:
        concepts: Mapping[str, Any] = json.loads((data / "concepts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise HartError(f"{data}: no readable concepts.json: give a folder that hart data emoji built") from None
    return concepts

"""Suites `mjhq` and `coco`: pictures drawn for the prompts of a published set, against the pictures of the set.

FID and KID, over all and by category, precision and recall, and scores of picture and words such as CLIP's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hart.config import SamplingConfig
from hart.data.sources import Source
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from hart.evaluation.comparison import LEAST_PICTURES, all_figures, distances, features_of_set
from hart.evaluation.drawing import DrawnPictures
from hart.evaluation.features import FeatureExtractor, Features
from hart.evaluation.pictures import Pictures
from hart.evaluation.report import Progress, PublishedTable, Result, extractor_facts, pictures_text
from hart.evaluation.scorers import Scorer, score_drawn
from hart.evaluation.statistics import FEW_PICTURES, RESAMPLES, Figure, bootstrap_mean, few_pictures_warning
from hart.pipeline import HartPipeline

CATEGORY = "category"
"""Field of a picture's record that names its category."""
ALL = "drawn"


@dataclass(frozen=True)
class Benchmark:
    """A published set: what is drawn for it and what is compared.

    suite: its name. prompts: of every picture drawn. categories: of every prompt; empty where the set has none.
    references: all pictures of the set, with a record that holds their `CATEGORY` where the set has any.
    reference_side: pixels that the pictures of the set are cut and resized to. drawn_side: the same for drawn ones;
    None leaves them as they are. notes: where this is not the published set. published: rows of others.
    """

    suite: str
    prompts: tuple[str, ...]
    categories: tuple[str, ...]
    references: Source
    reference_side: int
    drawn_side: int | None = None
    notes: tuple[str, ...] = ()
    published: tuple[PublishedTable, ...] = ()


@dataclass(frozen=True)
class TextToImageOptions:
    """seed: of the first picture and of the statistics. draw_batch, feature_batch: pictures computed together.
    resamples: of the intervals; 0 leaves them out."""

    seed: int = 0
    draw_batch: int = 1
    feature_batch: int = 16
    resamples: int = RESAMPLES


def evaluate_text_to_image(
    pipe: HartPipeline,
    sampling: SamplingConfig,
    benchmark: Benchmark,
    extractor: FeatureExtractor,
    scorers: Sequence[Scorer],
    folder: Path,
    options: TextToImageOptions,
    settings: Mapping[str, Any],
    progress: Progress = lambda _done, _total, _what: None,
) -> Result:
    """Draw, compare and score. Pictures are kept in `folder`/images: a stopped run goes on there.

    settings: what the caller chose, for the report. Raises `HartError` for a model that draws classes, and for too few
    pictures.
    """
    if pipe.num_classes is not None:
        raise HartError(
            f"{benchmark.suite} draws from words, and this model draws classes by number: give a text model"
        )
    _require_enough(benchmark)
    drawn = DrawnPictures(pipe, benchmark.prompts, sampling, options.seed, folder)
    drawn.draw(options.draw_batch, progress)
    scores = {
        scorer.name: score_drawn(drawn, benchmark.prompts, scorer, options.feature_batch, progress)
        for scorer in scorers
    }
    references = Pictures(benchmark.references, ImageTransform(benchmark.reference_side))
    real, real_categories = features_of_set(
        references,
        extractor,
        options.feature_batch,
        lambda sample: str(sample.record.get(CATEGORY, "")),
        progress,
    )
    generated = drawn.features(extractor, options.feature_batch, progress, benchmark.drawn_side)
    progress(0, None, "distances and intervals")
    generator = torch.Generator().manual_seed(options.seed)

    def means(rows: Tensor) -> dict[str, Figure]:
        return {name: bootstrap_mean(values[rows], generator, options.resamples) for name, values in scores.items()}

    figures = {
        ALL: {
            **all_figures(real, generated, extractor.name, generator, options.resamples),
            **means(torch.arange(len(generated))),
        }
    }
    for category in sorted(set(benchmark.categories)):
        ours, theirs = _rows(benchmark.categories, category), _rows(real_categories, category)
        parts = _chosen(real, theirs), _chosen(generated, ours)
        figures[category] = {**distances(*parts, extractor.name, generator, options.resamples), **means(ours)}
    return Result(
        suite=benchmark.suite,
        title=f"{pictures_text(len(generated))} of {pipe.image_size} px against {len(real):,}",
        figures=figures,
        settings={
            **settings,
            "size": pipe.image_size,
            "reference_size": benchmark.reference_side,
            "compared_size": benchmark.drawn_side or pipe.image_size,
            **drawn.settings,
            "scorers": {scorer.name: scorer.weights for scorer in scorers},
            "resamples": options.resamples,
        },
        counts={"drawn": len(generated), "references": len(real), "damaged": len(references.damaged)},
        extractor=extractor_facts(extractor),
        notes=(*_warnings(benchmark, sampling, min(len(real), len(generated))), *drawn.notes, *benchmark.notes),
        published=benchmark.published,
        sheets=drawn.sheet(benchmark.prompts),
    )


def _require_enough(benchmark: Benchmark) -> None:
    """Before any picture is drawn: every row of the table needs so many."""
    counts = Counter(benchmark.categories) or Counter({ALL: len(benchmark.prompts)})
    name, least = min(counts.items(), key=lambda item: item[1])
    if least < LEAST_PICTURES:
        raise HartError(
            f"{least} pictures of {name!r} are to be drawn, and figures need at least {LEAST_PICTURES} in each of "
            f"{len(counts)} rows: give --limit {LEAST_PICTURES * len(counts)} or more"
        )


def _warnings(benchmark: Benchmark, sampling: SamplingConfig, count: int) -> list[str]:
    warnings = []
    if warning := few_pictures_warning("FID", count):
        warnings.append(warning)
    elif benchmark.categories:
        warnings.append(
            f"FID of one category is of fewer than {FEW_PICTURES:,} pictures, and so above that of all: compare it "
            "only with the same category of others"
        )
    if sampling.smooth:
        warnings.append("drawn with smooth mixing, which published FIDs leave out: they are lower without it")
    if benchmark.published:
        warnings.append(
            f"drawn with guidance {sampling.guidance_scale:g}; which guidance the published figures were drawn with is "
            "not known"
        )
    return warnings


def _rows(categories: Sequence[str], wanted: str) -> Tensor:
    return torch.tensor([row for row, category in enumerate(categories) if category == wanted], dtype=torch.int64)


def _chosen(features: Features, rows: Tensor) -> Features:
    return Features(features.pooled[rows])

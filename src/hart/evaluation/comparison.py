"""Pictures drawn by a model against pictures of a set: what every suite that does so shares.

Shapes: N pictures of the set, M drawn ones, D width of a feature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from hart.data.samples import Sample
from hart.evaluation.features import FeatureExtractor, Features
from hart.evaluation.pictures import Pictures
from hart.evaluation.report import Progress
from hart.evaluation.statistics import (
    Figure,
    Gaussian,
    bootstrap,
    bootstrap_mean,
    frechet_distance,
    inception_score_of_parts,
    kernel_distance,
    precision_recall,
)

LEAST_PICTURES = 4
"""Fewer have no KID, which compares halves, and no neighbours for precision and recall."""

T = TypeVar("T")


@dataclass(frozen=True)
class SetStatistics:
    """Published ones of a whole set: of pooled features, for FID, and of spatial ones, for sFID."""

    pooled: Gaussian
    spatial: Gaussian


def features_of_set(
    pictures: Pictures,
    extractor: FeatureExtractor,
    batch_size: int,
    keep: Callable[[Sample], T],
    progress: Progress,
) -> tuple[Features, list[T]]:
    """Features of a set, and of each picture what `keep` takes: the encoded pictures would fill the memory."""
    parts: list[Features] = []
    kept: list[T] = []
    for batch in pictures.batches(batch_size):
        progress(len(kept), pictures.total, "features of the set")
        parts.append(extractor(batch.pixels))
        kept += [keep(sample) for sample in batch.samples]
    return Features.cat(parts), kept


def frechet_figure(real: Tensor | Gaussian, drawn: Tensor, generator: torch.Generator, resamples: int) -> Figure:
    """FID or sFID of features (N, D) and (M, D), with an interval over pictures of both.

    real: or what is known of a set whose features are not at hand; then only drawn pictures are resampled.
    """
    if isinstance(real, Gaussian):
        return bootstrap(lambda j: frechet_distance(real, Gaussian.of(drawn[j])), [len(drawn)], generator, resamples)
    return bootstrap(
        lambda i, j: frechet_distance(Gaussian.of(real[i]), Gaussian.of(drawn[j])),
        [len(real), len(drawn)],
        generator,
        resamples,
    )


def distances(
    real: Features,
    drawn: Features,
    extractor: str,
    generator: torch.Generator,
    resamples: int,
    whole: SetStatistics | None = None,
) -> dict[str, Figure]:
    """FID and KID. extractor: its name, for the columns. whole: see `all_figures`."""
    return {
        f"FID ({extractor})": frechet_figure(
            real.pooled if whole is None else whole.pooled, drawn.pooled, generator, resamples
        ),
        f"KID ({extractor})": kernel_distance(real.pooled, drawn.pooled, generator),
    }


def all_figures(
    real: Features,
    drawn: Features,
    extractor: str,
    generator: torch.Generator,
    resamples: int,
    whole: SetStatistics | None = None,
) -> dict[str, Figure]:
    """`distances`, precision and recall; sFID and the Inception Score where the extractor has features for them.

    whole: statistics of the set that `real` is a part of; FID and sFID are then to the whole set.
    """
    manifolds = precision_recall(real.pooled, drawn.pooled)
    figures = {
        **distances(real, drawn, extractor, generator, resamples, whole),
        f"precision ({extractor})": bootstrap_mean(manifolds.precise, generator, resamples),
        f"recall ({extractor})": bootstrap_mean(manifolds.recalled, generator, resamples),
    }
    if real.spatial is not None and drawn.spatial is not None:
        figures[f"sFID ({extractor})"] = frechet_figure(
            real.spatial if whole is None else whole.spatial, drawn.spatial, generator, resamples
        )
    if drawn.logits is not None:
        figures[f"Inception Score ({extractor})"] = inception_score_of_parts(drawn.logits)
    return figures

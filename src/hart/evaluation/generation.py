"""Suite `generation`: pictures drawn for the captions (or classes) of a set, against the pictures of the set.

FID, KID, precision and recall, and where the extractor has them sFID and the Inception Score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hart.config import SamplingConfig
from hart.data.samples import Sample
from hart.errors import HartError
from hart.evaluation.comparison import all_figures, features_of_set
from hart.evaluation.drawing import DrawnPictures
from hart.evaluation.features import FeatureExtractor
from hart.evaluation.pictures import Pictures
from hart.evaluation.report import Progress, Result, extractor_facts, pictures_text
from hart.evaluation.statistics import RESAMPLES, few_pictures_warning
from hart.generation.request import Prompt
from hart.pipeline import HartPipeline


@dataclass(frozen=True)
class GenerationOptions:
    """count: pictures drawn; None draws one for each of the set. seed: of the first picture, of the choice of captions
    and of the statistics. draw_batch, feature_batch: pictures computed together. resamples: of the intervals of FID,
    precision and recall; 0 leaves them out."""

    count: int | None = None
    seed: int = 0
    draw_batch: int = 1
    feature_batch: int = 16
    resamples: int = RESAMPLES


def evaluate_generation(
    pipe: HartPipeline,
    sampling: SamplingConfig,
    references: Pictures,
    extractor: FeatureExtractor,
    folder: Path,
    options: GenerationOptions,
    settings: Mapping[str, Any],
    progress: Progress = lambda _done, _total, _what: None,
) -> Result:
    """Draw and compare. Pictures are kept in `folder`/images: a stopped run goes on there.

    references: all of them are compared with; captions are taken from them. settings: what the caller chose, for the
    report. Raises `HartError` when the set has no captions (or classes, for a class model), or too few pictures.
    """
    # only their words are needed from here on
    real, samples = features_of_set(
        references,
        extractor,
        options.feature_batch,
        lambda sample: replace(sample, image=b"", record={}),
        progress,
    )
    prompts = _prompts(samples, pipe.num_classes, options)
    drawn = DrawnPictures(pipe, prompts, sampling, options.seed, folder)
    drawn.draw(options.draw_batch, progress)
    generated = drawn.features(extractor, options.feature_batch, progress)
    progress(0, None, "distances and intervals")
    generator = torch.Generator().manual_seed(options.seed)
    warning = few_pictures_warning("FID", min(len(real), len(generated)))
    return Result(
        suite="generation",
        title=f"{pictures_text(len(generated))} of {pipe.image_size} px against {len(real):,}",
        figures={"drawn": all_figures(real, generated, extractor.name, generator, options.resamples)},
        settings={**settings, **drawn.settings, "resamples": options.resamples},
        counts={"drawn": len(generated), "references": len(real), "damaged": len(references.damaged)},
        extractor=extractor_facts(extractor),
        notes=((warning,) if warning else ()) + drawn.notes,
        sheets=drawn.sheet([str(prompt) for prompt in prompts]),
    )


def _prompts(samples: list[Sample], num_classes: int | None, options: GenerationOptions) -> list[Prompt]:
    """A caption (drawn among its own) or the class of each of `options.count` samples, drawn without replacement."""
    generator = torch.Generator().manual_seed(options.seed)
    usable = [sample for sample in samples if (sample.captions if num_classes is None else sample.label is not None)]
    count = len(samples) if options.count is None else options.count
    if count > len(usable):
        what = "a caption" if num_classes is None else "a class"
        raise HartError(f"{count} pictures are to be drawn, and {len(usable)} of the set have {what}: lower --limit")
    order = torch.randperm(len(usable), generator=generator)[:count].tolist()
    prompts: list[Prompt] = []
    for row in order:
        sample = usable[row]
        if num_classes is None:
            prompts.append(sample.captions[int(torch.randint(len(sample.captions), (), generator=generator))])
        else:
            assert sample.label is not None
            prompts.append(sample.label)
    return prompts

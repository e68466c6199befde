"""What `mjhq` and `coco` share: pictures drawn for the prompts of a published set, against the pictures of the set.

FID and KID, over all and by category, precision and recall, and scores of picture and words such as CLIP's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from hart.config import SamplingConfig
from hart.data.sources import Source
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from hart.evaluation.drawing import DrawnPictures
from hart.evaluation.judges import scores
from hart.evaluation.judges.scores import ClipScore, Scorer, score_drawn
from hart.evaluation.metrics.distances import LEAST_PICTURES, all_figures, distances
from hart.evaluation.metrics.features import open_extractor
from hart.evaluation.metrics.figures import FEW_PICTURES, Figure, bootstrap_mean, few_pictures_warning
from hart.evaluation.pictures import Pictures, features_of_set
from hart.evaluation.published_files import at_hand
from hart.evaluation.report import Result, extractor_facts, pictures_text
from hart.evaluation.suites import base
from hart.evaluation.suites.base import STRICT, Context, SamplingOptions
from hart.files import user_path

CATEGORY = "category"
"""Field of a picture's record that names its category."""
ALL = "drawn"
NONE = "none"
FEATURE_BATCH = 16


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TextToImageOptions(SamplingOptions):
    """The paper does not say which CLIP its scores are from. The default is the most used, and torchmetrics'."""

    data: base.PublishedSet = None
    limit: Annotated[int | None, Field(ge=1, description="Pictures to draw; as many as published by default.")] = None
    features: base.Features = "inception-v3"
    clip: Annotated[
        str, Field(description="CLIP model of the CLIP score: a folder, a hub id, or none to leave the score out.")
    ] = "openai/clip-vit-large-patch14"
    hps: Annotated[
        str | None, Field(description="Also give HPS v2: a folder or hub id with its weights in transformers' layout.")
    ] = None
    image_reward: Annotated[Path | None, Field(description="Also give ImageReward: the file ImageReward.pt.")] = None
    image_reward_words: Annotated[
        str, Field(description="Text tokenizer of ImageReward, which its file does not hold: a folder or hub id.")
    ] = "google-bert/bert-base-uncased"
    smooth: Annotated[bool | None, Field(description="Mix codes; the published FIDs are sampled without.")] = False

    @property
    def folder(self) -> Path | None:
        """`data` as a path."""
        return None if self.data is None else user_path(self.data)

    def scorers(self, device: torch.device) -> list[Scorer]:
        """What scores pictures and words. Raises `HartError`."""
        found: list[Scorer] = []
        if self.clip != NONE:
            found.append(ClipScore(at_hand(self.clip, self.folder), device))
        if self.hps is not None:
            found.append(ClipScore(at_hand(self.hps, self.folder), device, "HPS v2"))
        if self.image_reward is not None:
            words = at_hand(self.image_reward_words, self.folder)
            found.append(scores.ImageReward(user_path(self.image_reward), words, device))
        return found


@plain_dataclass(frozen=True)
class Benchmark:
    """A published set: what is drawn for it and what is compared.

    prompts: of every picture drawn. categories: of every prompt; empty where the set has none.
    references: all pictures of the set, with a record that holds their `CATEGORY` where the set has any.
    reference_side: pixels that the pictures of the set are cut and resized to. drawn_side: the same for drawn ones;
    None leaves them as they are. notes: where this is not the published set. published: tables of others.
    """

    prompts: tuple[str, ...]
    categories: tuple[str, ...]
    references: Source
    reference_side: int
    drawn_side: int | None = None
    notes: tuple[str, ...] = ()
    published: tuple[str, ...] = ()


def measure(context: Context[TextToImageOptions], benchmark: Benchmark) -> Result:
    """Draw, compare and score. Raises `HartError` for a model that draws classes, and for too few pictures."""
    options, progress, generator = context.options, context.progress, context.generator()
    resamples, prompts = options.resamples, benchmark.prompts
    _require_enough(benchmark)
    # what may be missing is looked for before anything is drawn
    extractor = open_extractor(options.features, context.device, options.folder)
    scorers = options.scorers(context.device)
    pipe = options.pipeline()
    sampling = options.sampling(pipe)
    drawn = DrawnPictures(pipe, prompts, sampling, options.seed, context.out)
    drawn.draw(options.batch_size, progress)
    scored = {scorer.name: score_drawn(drawn, prompts, scorer, FEATURE_BATCH, progress) for scorer in scorers}
    references = Pictures(benchmark.references, ImageTransform(benchmark.reference_side))
    real, real_categories = features_of_set(
        references, extractor, FEATURE_BATCH, lambda sample: str(sample.record.get(CATEGORY, "")), progress
    )
    generated = drawn.features(extractor, FEATURE_BATCH, progress, benchmark.drawn_side)
    progress(0, None, "distances and intervals")

    def means(rows: Tensor) -> dict[str, Figure]:
        return {name: bootstrap_mean(values[rows], generator, resamples) for name, values in scored.items()}

    compared = all_figures(real, generated, extractor.name, generator, resamples)
    figures = {ALL: compared | means(torch.arange(len(generated)))}
    for category in sorted(set(benchmark.categories)):
        ours, theirs = _rows(benchmark.categories, category), _rows(real_categories, category)
        figures[category] = distances(real[theirs], generated[ours], extractor.name, generator, resamples)
        figures[category] |= means(ours)
    return Result(
        title=f"{pictures_text(len(generated))} of {pipe.image_size} px against {len(real):,}",
        figures=figures,
        settings={
            "data": "public home" if options.data is None else str(options.data),
            "size": pipe.image_size,
            "reference_size": benchmark.reference_side,
            "compared_size": benchmark.drawn_side or pipe.image_size,
            **drawn.settings,
            "scorers": {scorer.name: scorer.weights for scorer in scorers},
        },
        counts={"drawn": len(generated), "references": len(real), "damaged": len(references.damaged)},
        extractor=extractor_facts(extractor),
        notes=(*_warnings(benchmark, sampling, min(len(real), len(generated))), *drawn.notes, *benchmark.notes),
        published=benchmark.published,
        sheets=drawn.sheet(prompts),
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
    warnings = [*few_pictures_warning("FID", count)]
    if not warnings and benchmark.categories:
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

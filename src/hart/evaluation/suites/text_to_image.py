"""What `mjhq` and `coco` share: images generated for the prompts of a published set, compared with the set's images.

FID and KID, overall and by category, precision and recall, and scores of image and text such as CLIP's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from hart.config import SamplingConfig
from hart.data.sources import Source
from hart.data.transforms import ImageTransform
from hart.evaluation.generated_images import GeneratedImages
from hart.evaluation.image_sets import ImageSet, features_of_set
from hart.evaluation.judges.scores import ClipScore, ImageReward, Scorer
from hart.evaluation.metrics.distances import all_figures
from hart.evaluation.metrics.features import FEATURE_BATCH, Features, open_extractor
from hart.evaluation.metrics.figures import FEW_IMAGES, Figure, bootstrap_mean, few_images_warning, require_images
from hart.evaluation.published_files import at_hand
from hart.evaluation.report import PublishedTable, Result, extractor_facts
from hart.evaluation.suites.base import LEAST_IMAGES, Context
from hart.evaluation.suites.core import TextToImageOptions
from hart.files import user_path
from hart.strict import counted

CATEGORY = "category"
"""Field of an image's record that names its category."""
ALL = "generated"
NONE = "none"


@dataclass(frozen=True)
class Benchmark:
    """A published set: its prompts, and the images to compare with.

    prompts: of every generated image. categories: of every prompt; empty if the set has none.
    references: all images of the set, with a record that holds their `CATEGORY` if the set has any.
    reference_size: pixels that the set's images are cropped and resized to. generated_size: the same for generated
    ones; None leaves them as they are. notes: how this differs from the published set. published: rows of others.
    """

    prompts: tuple[str, ...]
    categories: tuple[str, ...]
    references: Source
    reference_size: int
    generated_size: int | None = None
    notes: tuple[str, ...] = ()
    published: tuple[PublishedTable, ...] = ()


def measure(context: Context[TextToImageOptions], benchmark: Benchmark) -> Result:
    """Generate, compare and score. Raises `HartError` for a model that generates classes, and for too few images."""
    options, progress, generator = context.options, context.progress, context.generator()
    categories = benchmark.categories or [ALL] * len(benchmark.prompts)
    rows = Counter(categories)
    require_images(
        min(rows.values(), default=0),
        LEAST_IMAGES,
        f"each of {counted(len(rows), 'row')}",
        f"give --limit {LEAST_IMAGES * len(rows)} or more",
    )
    # files that may be missing are looked for before anything is generated
    references = ImageSet(benchmark.references, ImageTransform(benchmark.reference_size))
    references.require(LEAST_IMAGES)
    extractor = open_extractor(options.features, context.device, options.data)
    scorers = _scorers(options, context.device)
    pipe = options.pipeline()
    sampling = options.sampling(pipe)
    samples = GeneratedImages(pipe, benchmark.prompts, sampling, options.seed, context.out)
    samples.generate(options.batch_size, progress)
    scored = {scorer.name: samples.scores(scorer, FEATURE_BATCH, progress) for scorer in scorers}
    real, real_categories = features_of_set(
        references, extractor, FEATURE_BATCH, lambda sample: str(sample.record.get(CATEGORY, "")), progress
    )
    generated = samples.features(extractor, FEATURE_BATCH, progress, benchmark.generated_size)
    progress(0, None, "distances and intervals")
    figures: dict[str, dict[str, Figure]] = {}
    for row in (ALL, *sorted(set(benchmark.categories))):
        ours, theirs = (
            torch.tensor([i for i, category in enumerate(each) if row in (ALL, category)], dtype=torch.int64)
            for each in (categories, real_categories)
        )
        parts = real, generated
        if row != ALL:
            parts = Features(real.pooled[theirs]), Features(generated.pooled[ours])
        figures[row] = all_figures(*parts, extractor.name, generator, options.resamples, manifolds=row == ALL)
        for name, values in scored.items():
            figures[row][name] = bootstrap_mean(values[ours], generator, options.resamples)
    return Result(
        title=f"{counted(len(generated), 'image')} of {pipe.image_size} px against {len(real):,}",
        figures=figures,
        settings={
            "data": "public home" if options.data is None else str(options.data),
            "reference_size": benchmark.reference_size,
            "compared_size": benchmark.generated_size or pipe.image_size,
            **samples.settings,
            "scorers": {scorer.name: scorer.weights for scorer in scorers},
        },
        counts={"generated": len(generated), "references": len(real), "damaged": len(references.damaged)},
        extractor=extractor_facts(extractor),
        notes=(*_warnings(benchmark, sampling, min(len(real), len(generated))), *samples.notes, *benchmark.notes),
        published=benchmark.published,
        sheets=samples.sheet(),
    )


def _warnings(benchmark: Benchmark, sampling: SamplingConfig, count: int) -> list[str]:
    warnings = [*few_images_warning("FID", count)]
    if not warnings and benchmark.categories:
        warnings.append(
            f"FID of one category is computed from fewer than {FEW_IMAGES:,} images, and so is above that of all: "
            "compare it only with the same category of others"
        )
    if sampling.gumbel_smoothing:
        warnings.append("generated with Gumbel smoothing, which published FIDs leave out: they are lower without it")
    if benchmark.published:
        warnings.append(
            f"generated with guidance {sampling.guidance_scale:g}; the guidance of the published figures is not known"
        )
    return warnings


def _scorers(options: TextToImageOptions, device: torch.device) -> list[Scorer]:
    """Return what scores images with their prompts. Raises `HartError`."""
    found: list[Scorer] = []
    if options.clip != NONE:
        found.append(ClipScore(at_hand(options.clip, options.data), device))
    if options.hps is not None:
        found.append(ClipScore(at_hand(options.hps, options.data), device, "HPS v2"))
    if options.image_reward is not None:
        tokenizer = at_hand(options.image_reward_tokenizer, options.data)
        found.append(ImageReward(user_path(options.image_reward), tokenizer, device))
    return found

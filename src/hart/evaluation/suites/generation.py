"""Suite `generation`: images generated for the captions (or classes) of a set, compared with the images of the set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from hart.data.kinds import Condition
from hart.data.samples import Damage, DamagedSample, Sample, first_reasons
from hart.data.sources import Source, Stream
from hart.data.transforms import ImageTransform
from hart.evaluation.generated_images import GeneratedImages
from hart.evaluation.image_sets import ImageSet, features_of_set
from hart.evaluation.metrics.distances import all_figures
from hart.evaluation.metrics.features import FEATURE_BATCH, open_extractor
from hart.evaluation.metrics.figures import few_images_warning, require_available
from hart.evaluation.report import Result, extractor_facts
from hart.evaluation.suites.base import LEAST_IMAGES, Context
from hart.evaluation.suites.core import GenerationOptions
from hart.generation.arguments import Prompt
from hart.strict import counted


def run(context: Context[GenerationOptions]) -> Result:
    """Measure. Raises `HartError` if the set has no captions (or classes, for a class model), or too few images."""
    options, progress = context.options, context.progress
    source = options.source(options.caption_column, out=context.out)
    context.note(source.description)
    pipe = options.pipeline()
    references = ImageSet(source, ImageTransform(pipe.image_size, fit=options.fit))
    references.require(LEAST_IMAGES)
    sampling = options.sampling(pipe)

    def images_for(samples: Sequence[Sample]) -> GeneratedImages:
        prompts = _prompts(samples, "caption" if pipe.num_classes is None else "label", options)
        return GeneratedImages(pipe, prompts, sampling, options.seed, context.out)

    # problems with them are reported before the features of a large set are computed, except for a stream
    said = references.said()
    generated_images = None if said is None else images_for(said)
    extractor = open_extractor(options.features, context.device)
    # only captions and labels are needed from here on
    real, samples = features_of_set(
        references, extractor, FEATURE_BATCH, lambda sample: replace(sample, image=b"", record={}), progress
    )
    if generated_images is None:
        generated_images = images_for(samples)
    generated_images.generate(options.batch_size, progress)
    generated = generated_images.features(extractor, FEATURE_BATCH, progress)
    progress(0, None, "distances and intervals")
    return Result(
        title=f"{counted(len(generated), 'image')} of {pipe.image_size} px against {len(real):,}",
        figures={"generated": all_figures(real, generated, extractor.name, context.generator(), options.resamples)},
        settings={"set": source.description, **generated_images.settings},
        counts={"generated": len(generated), "references": len(real), "damaged": len(references.damaged)},
        extractor=extractor_facts(extractor),
        notes=(
            *few_images_warning("FID", min(len(real), len(generated))),
            *_numbering(source, pipe.num_classes),
            *generated_images.notes,
        ),
        sheets=generated_images.sheet(),
    )


def _numbering(source: Source | Stream, classes: int | None) -> tuple[str, ...]:
    """Return a note if a set numbers other classes than a class model, whose class names are unknown."""
    named = () if classes is None or isinstance(source, Stream) else source.classes
    if len(named) in (0, classes):
        return ()
    return (
        f"the set has {counted(len(named), 'class')} by name, of {classes:,} that the model generates by number: the "
        f"figures are right only if the model's class 0 is {named[0]!r}, and so on in the order of the alphabet",
    )


def _usable(samples: Sequence[Sample], condition: Condition, limit: int | None) -> list[Sample]:
    """Return samples with a caption or a class. Raises `HartError` for fewer than `limit`, by default all."""
    usable, bare = [], list[Damage]()
    for sample in samples:
        try:
            sample.require(condition)
            usable.append(sample)
        except DamagedSample as error:
            bare.append(Damage(sample.key, str(error)))
    what = " with captions" if condition == "caption" else " with a class"
    count = len(samples) if limit is None else limit
    require_available(count, len(usable), f"{what} ({first_reasons(bare[:1])})" if bare else what)
    return usable


def _prompts(samples: Sequence[Sample], condition: Condition, options: GenerationOptions) -> Sequence[Prompt]:
    """Return a caption (chosen among its own) or the class of each of `limit` samples, chosen without replacement."""
    generator = torch.Generator().manual_seed(options.seed)
    usable = _usable(samples, condition, options.limit)
    chosen = [usable[row] for row in torch.randperm(len(usable), generator=generator)[: options.limit].tolist()]
    if condition == "label":
        return [sample.label for sample in chosen if sample.label is not None]
    return [sample.captions[int(torch.randint(len(sample.captions), (), generator=generator))] for sample in chosen]

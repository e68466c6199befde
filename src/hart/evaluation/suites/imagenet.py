"""Suite `imagenet`: class-conditional ImageNet at 256 px by ADM's protocol (Dhariwal and Nichol, 2021).

50,000 images, evenly from all classes, compared with a reference batch: FID, sFID, Inception Score, precision and
recall. The measured file is always an `.npz` that ADM's own evaluator reads, whoever generated the images.
"""

from __future__ import annotations

import random
from typing import Any

from hart.data.transforms import unit_to_pil
from hart.errors import HartError
from hart.evaluation.generated_images import SHEET_FILE, SHEET_IMAGES, GeneratedImages
from hart.evaluation.metrics.distances import all_figures
from hart.evaluation.metrics.features import FEATURE_BATCH, PUBLISHED_FEATURES, extracted, open_extractor
from hart.evaluation.metrics.figures import few_images_warning, require_images
from hart.evaluation.npz import SampleFile, write_samples
from hart.evaluation.published_files import PublishedFile, located
from hart.evaluation.report import Result, extractor_facts, published_tables
from hart.evaluation.suites.base import LEAST_IMAGES, Context
from hart.evaluation.suites.core import IMAGENET_IMAGES, ImageNetOptions
from hart.files import user_path
from hart.generation.contact_sheet import contact_sheet
from hart.pipeline import HartPipeline
from hart.presets import VAR_SAMPLING
from hart.strict import counted

CLASSES, IMAGE_SIZE = 1000, 256
SAMPLES_FILE = "samples.npz"
REFERENCE = PublishedFile(
    "ADM's reference batch",
    "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/"
    "VIRTUAL_imagenet256_labeled.npz",
)
SAMPLING = VAR_SAMPLING
"""VAR's published settings, according to its authors. HART's for ImageNet are unpublished; these are the nearest."""


def run(context: Context[ImageNetOptions]) -> Result:
    """Measure. Raises `HartError`; files that may be missing are looked for before anything is generated."""
    options, progress = context.options, context.progress
    reference = SampleFile(located(REFERENCE, options.reference or options.data))
    require_images(len(reference), LEAST_IMAGES, f"{reference.path}: the suite")
    extractor = open_extractor(options.features, context.device, options.data)
    to_statistics = reference.has_statistics and extractor.name == PUBLISHED_FEATURES
    whole = reference.statistics() if to_statistics else None
    if options.model is not None:
        samples, settings, notes = _generate(context, options.model)
    else:
        assert options.samples is not None
        samples, settings, notes = SampleFile(user_path(options.samples)), {}, []
        require_images(len(samples), LEAST_IMAGES, f"{samples.path}: the suite")
    if (len(samples), samples.height, samples.width) != (IMAGENET_IMAGES, IMAGE_SIZE, IMAGE_SIZE):
        notes.append(
            f"{counted(len(samples), 'image')} of {samples.width} x {samples.height} px: published figures are of "
            f"{IMAGENET_IMAGES:,} of {IMAGE_SIZE} px: do not compare them with these"
        )
    if reference.has_statistics and not to_statistics:
        notes.append("the reference's statistics are of inception-v3: FID is to the reference's images instead")
    real, generated = (
        extracted(file.batches(FEATURE_BATCH), extractor, progress, len(file), f"features of the {name}")
        for file, name in ((reference, "reference"), (samples, "samples"))
    )
    progress(0, None, "distances and intervals")
    shown = next(samples.batches(SHEET_IMAGES))
    compared = len(generated) if to_statistics else min(len(generated), len(real))
    figures = all_figures(real, generated, extractor.name, context.generator(), options.resamples, whole)
    return Result(
        title=f"{counted(len(generated), 'image')} of {samples.height} px against {reference.path.name}",
        figures={"samples": figures},
        settings={
            **settings,
            "reference": reference.path.name,
            "fid_to": f"{'statistics' if to_statistics else 'images'} of the reference",
        },
        counts={"samples": len(generated), "references": len(real)},
        extractor=extractor_facts(extractor),
        notes=(*few_images_warning("FID", compared), *notes),
        published=(published_tables()["class_to_image"], published_tables()["class_residual_tokens"]),
        sheets={SHEET_FILE: contact_sheet([[unit_to_pil(image.float() / 255)] for image in shown], [""] * len(shown))},
    )


def _generate(context: Context[ImageNetOptions], model: str) -> tuple[SampleFile, dict[str, Any], list[str]]:
    """Generate images, as evenly from all classes as possible, into `samples.npz`; return their settings, and notes.

    Raises `HartError` for a model that does not generate classes.
    """
    options, count = context.options, context.options.limit
    pipe = HartPipeline.from_pretrained(model, device=options.device)
    if pipe.num_classes is None:
        raise HartError("imagenet generates classes by number, and this model generates from text: give a class model")
    sampling = SAMPLING.replace(
        guidance_scale=options.guidance, gumbel_smoothing=options.gumbel_smoothing, discrete_only=options.discrete_only
    )
    classes = balanced_classes(count, pipe.num_classes, options.seed)
    generated = GeneratedImages(pipe, classes, sampling, options.seed, context.out)
    generated.generate(options.batch_size, context.progress)
    context.progress(0, None, f"writing {SAMPLES_FILE}")
    batches = map(generated.pixels, generated.batches(FEATURE_BATCH))
    write_samples(context.out / SAMPLES_FILE, batches, pipe.image_size, classes)
    notes = []
    if pipe.num_classes != CLASSES:
        notes.append(
            f"this model generates {counted(pipe.num_classes, 'class')}, ImageNet has {CLASSES:,}: no published row "
            "compares"
        )
    if sampling != SAMPLING:
        notes.append("generated with other settings than VAR's published figures")
    if pipe.config.hybrid:
        notes.append(
            "HART's settings for ImageNet are not published: these are VAR's, with half of top-k at late scales"
        )
    return SampleFile(context.out / SAMPLES_FILE), generated.settings, notes


def balanced_classes(count: int, classes: int, seed: int) -> list[int]:
    """Return the class of every image: all classes in turn, and at the end, if they do not fit, some chosen by `seed`.

    The order matters: the Inception Score is computed on 5,000 images at a time; sorted ones would have few classes.
    """
    turns, left = divmod(count, classes)
    return [*range(classes)] * turns + random.Random(seed).sample(range(classes), left)

"""Suite `imagenet`: class-conditional ImageNet at 256 px by ADM's protocol (Dhariwal and Nichol, 2021).

50,000 pictures, as many of every class, against a reference batch: FID, sFID, Inception Score, precision and recall.
What is measured is always an `.npz` that ADM's own evaluator reads, whoever drew the pictures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from hart.data.transforms import unit_to_pil
from hart.errors import HartError
from hart.evaluation.drawing import SHEET_FILE, SHEET_PICTURES, DrawnPictures
from hart.evaluation.metrics.distances import LEAST_PICTURES, SetStatistics, all_figures
from hart.evaluation.metrics.features import PUBLISHED_FEATURES, FeatureExtractor, Features, open_extractor
from hart.evaluation.metrics.figures import few_pictures_warning
from hart.evaluation.npz import SampleFile, write_samples
from hart.evaluation.published_files import cached_file
from hart.evaluation.report import Result, extractor_facts, pictures_text
from hart.evaluation.suites import base
from hart.evaluation.suites.base import STRICT, Context, Progress, Suite, SuiteOptions
from hart.files import user_path
from hart.generation.contact_sheet import contact_sheet
from hart.networks.pretrained import short_name
from hart.pipeline import HartPipeline
from hart.presets import VAR_SAMPLING

FEATURE_BATCH = 16
COUNT, CLASSES, SIDE = 50_000, 1000, 256
SAMPLES_FILE = "samples.npz"
REFERENCE_ADDRESS = (
    "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/"
    "VIRTUAL_imagenet256_labeled.npz"
)
SAMPLING = VAR_SAMPLING
"""Of VAR's published numbers, as its authors say. HART's for ImageNet are not published: these are the nearest."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImageNetOptions(SuiteOptions):
    """Either a model or samples."""

    model: Annotated[
        str | None, Field(description="Class-conditional model: folder or hub id. Generates and measures.")
    ] = None
    samples: Annotated[
        Path | None, Field(description="Instead of a model: .npz with pictures of any program. Measures only.")
    ] = None
    reference: Annotated[
        Path | None,
        Field(description="ADM's reference batch, .npz; VIRTUAL_imagenet256_labeled.npz is fetched once by default."),
    ] = None
    data: Annotated[
        Path | None,
        Field(description="Folder with that file, and with the weights of the features if they are there."),
    ] = None
    limit: Annotated[int, Field(ge=1, description="Pictures to draw, as many of every class as can be.")] = COUNT
    features: base.Features = PUBLISHED_FEATURES
    guidance: Annotated[float, Field(description="Guidance scale; the published one by default.")] = 1.5
    smooth: Annotated[
        bool,
        Field(
            description="Mix codes; the published figures are sampled without.",
            json_schema_extra={"flags": ["--smooth/--no-smooth"]},
        ),
    ] = False
    discrete_only: base.DiscreteOnly = False
    batch_size: base.BatchSize = 1

    @model_validator(mode="after")
    def _either(self) -> ImageNetOptions:
        if (self.model is None) == (self.samples is None):
            raise HartError("give either --model, to draw, or --samples, to measure pictures that are there")
        return self


@plain_dataclass(frozen=True)
class Samples:
    """Pictures to measure. settings: what they were drawn with, where that is known. notes: warnings about them."""

    file: SampleFile
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_reference(path: Path | None, data: Path | None = None) -> SampleFile:
    """ADM's reference batch; None takes the published one: of the folder `data`, or fetched once, 2 GB.

    Raises `HartError` with its address.
    """
    if path is None and data is not None:
        path = data / short_name(REFERENCE_ADDRESS)
        if not path.exists():
            raise HartError(f"{path}: no such file: fetch it from {REFERENCE_ADDRESS}")
    elif path is None:
        path = cached_file(REFERENCE_ADDRESS, "fetch it elsewhere, and give its folder with --data")
    reference = SampleFile(path)
    _require_enough(len(reference), f"{path} has")
    return reference


def open_samples(path: Path) -> Samples:
    """Pictures that any program has written. Raises `HartError`."""
    file = SampleFile(path)
    _require_enough(len(file), f"{path} has")
    return Samples(file, {"samples": str(path)}, _notes(len(file), (file.height, file.width)))


def draw_samples(context: Context[ImageNetOptions], model: str) -> Samples:
    """Draw pictures, as many of every class as can be, and write `samples.npz`.

    Pictures are kept: a stopped run goes on. Raises `HartError` for a model that does not draw classes.
    """
    options, folder, progress, count = context.options, context.out, context.progress, context.options.limit
    pipe = HartPipeline.from_pretrained(model, device=options.device)
    if pipe.num_classes is None:
        raise HartError("imagenet draws classes by number, and this model draws from words: give a class model")
    _require_enough(count, "--limit asks for")
    sampling = SAMPLING.replace(
        guidance_scale=options.guidance, smooth=options.smooth, discrete_only=options.discrete_only
    )
    classes = balanced_classes(count, pipe.num_classes, options.seed)
    drawn = DrawnPictures(pipe, classes, sampling, options.seed, folder)
    drawn.draw(options.batch_size, progress)

    def batches() -> Iterator[Tensor]:
        for numbers in drawn.batches(FEATURE_BATCH, progress, f"{SAMPLES_FILE} is written"):
            yield drawn.pixels(numbers)

    write_samples(folder / SAMPLES_FILE, batches(), pipe.image_size, classes)
    notes = _notes(count, (pipe.image_size, pipe.image_size))
    if pipe.num_classes != CLASSES:
        notes += (f"this model draws {pipe.num_classes} classes, ImageNet has {CLASSES:,}: no published row compares",)
    if sampling != SAMPLING:
        notes += ("drawn with other settings than VAR's published figures",)
    if pipe.config.hybrid:
        notes += ("HART's settings for ImageNet are not published: these are VAR's, with half of top-k at late scales",)
    return Samples(SampleFile(folder / SAMPLES_FILE), {"size": pipe.image_size, **drawn.settings}, notes)


def run(context: Context[ImageNetOptions]) -> Result:
    """Raises `HartError`; what may be missing is looked for before anything is drawn."""
    options, progress = context.options, context.progress
    data, reference_path = (None if path is None else user_path(path) for path in (options.data, options.reference))
    extractor = open_extractor(options.features, context.device, data)
    reference = open_reference(reference_path, data)
    if options.model is not None:
        samples = draw_samples(context, options.model)
    else:
        assert options.samples is not None
        samples = open_samples(user_path(options.samples))
    notes = list(samples.notes)
    whole = None
    if reference.has_statistics and extractor.name == PUBLISHED_FEATURES:
        whole = reference.statistics()
    elif reference.has_statistics:
        notes.append("the reference's statistics are of inception-v3: FID is to the pictures beside them instead")
    real = _features(reference, extractor, "features of the reference", progress)
    if whole is not None:
        _require_fitting(whole, real, reference.path)
    generated = _features(samples.file, extractor, "features of the samples", progress)
    progress(0, None, "distances and intervals")
    compared = len(generated) if whole is not None else min(len(generated), len(real))
    figures = all_figures(real, generated, extractor.name, context.generator(), options.resamples, whole)
    return Result(
        title=f"{pictures_text(len(generated))} of {samples.file.height} px against {reference.path.name}",
        figures={"samples": figures},
        settings={
            **samples.settings,
            "reference": reference.path.name,
            "fid_to": "pictures of the reference" if whole is None else "statistics of the reference",
        },
        counts={"samples": len(generated), "references": len(real)},
        extractor=extractor_facts(extractor),
        notes=(*few_pictures_warning("FID", compared), *notes),
        published=("class_to_image", "class_residual_tokens"),
        sheets=_sheet(samples.file),
    )


def balanced_classes(count: int, classes: int, seed: int) -> list[int]:
    """The class of every picture: all classes in turn, and at the end, where they do not fit, some drawn by `seed`.

    The turn matters: the Inception Score is of 5,000 pictures at a time, and sorted ones would show it few classes.
    """
    turns, rest = divmod(count, classes)
    return [*range(classes)] * turns + random.Random(seed).sample(range(classes), rest)


def _features(file: SampleFile, extractor: FeatureExtractor, what: str, progress: Progress) -> Features:
    parts = []
    for number, pixels in enumerate(file.batches(FEATURE_BATCH)):
        progress(number * FEATURE_BATCH, len(file), what)
        parts.append(extractor(pixels))
    return Features.cat(parts)


def _require_fitting(whole: SetStatistics, features: Features, path: Path) -> None:
    for known, found in ((whole.pooled, features.pooled), (whole.spatial, features.spatial)):
        if found is not None and len(known.mean) != found.shape[1]:
            raise HartError(
                f"{path}: statistics of {len(known.mean):,} features, and Inception-v3 has {found.shape[1]:,} there: "
                "give a reference batch of ADM"
            )


def _sheet(file: SampleFile) -> dict[str, Any]:
    first = next(file.batches(SHEET_PICTURES))
    return {SHEET_FILE: contact_sheet([[unit_to_pil(picture.float() / 255)] for picture in first], [""] * len(first))}


def _notes(count: int, size: tuple[int, int]) -> tuple[str, ...]:
    if (count, size) == (COUNT, (SIDE, SIDE)):
        return ()
    return (
        f"{pictures_text(count)} of {size[1]} x {size[0]} px: published figures are of {COUNT:,} of {SIDE} px: "
        "do not compare them with these",
    )


def _require_enough(count: int, where: str) -> None:
    if count < LEAST_PICTURES:
        raise HartError(f"{where} {pictures_text(count)}: figures need at least {LEAST_PICTURES}")


SUITE = Suite(
    "imagenet",
    "ImageNet 256 px, 50,000 pictures: FID, sFID, Inception Score, precision, recall. A stopped run goes on.",
    ImageNetOptions,
    run,
)

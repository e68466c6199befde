"""Suite `imagenet`: class-conditional ImageNet at 256 px by ADM's protocol (Dhariwal and Nichol, 2021).

50,000 pictures, as many of every class, against a reference batch: FID, sFID, Inception Score, precision and recall.
What is measured is always an `.npz` that ADM's own evaluator reads, whoever drew the pictures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hart.config import SamplingConfig
from hart.data.transforms import unit_to_pil
from hart.errors import HartError
from hart.evaluation.comparison import LEAST_PICTURES, SetStatistics, all_figures
from hart.evaluation.downloads import cached_file
from hart.evaluation.drawing import SHEET_FILE, SHEET_PICTURES, DrawnPictures
from hart.evaluation.features import FeatureExtractor, Features, InceptionV3
from hart.evaluation.pretrained import short_name
from hart.evaluation.published_class import CLASS_RESIDUAL_TOKENS, CLASS_TO_IMAGE
from hart.evaluation.report import Progress, Result, extractor_facts, pictures_text
from hart.evaluation.sample_files import SampleFile, write_samples
from hart.evaluation.statistics import RESAMPLES, few_pictures_warning
from hart.generation.contact_sheet import contact_sheet
from hart.pipeline import HartPipeline
from hart.presets import VAR_SAMPLING

COUNT, CLASSES, SIDE = 50_000, 1000, 256
SAMPLES_FILE = "samples.npz"
REFERENCE_ADDRESS = (
    "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/"
    "VIRTUAL_imagenet256_labeled.npz"
)
SAMPLING = VAR_SAMPLING
"""Of VAR's published numbers, as its authors say. HART's for ImageNet are not published: these are the nearest."""


@dataclass(frozen=True)
class ImageNetOptions:
    """seed: of the first picture, of the classes that are one picture ahead, and of the statistics. draw_batch,
    feature_batch: pictures computed together. resamples: of the intervals; 0 leaves them out."""

    seed: int = 0
    draw_batch: int = 1
    feature_batch: int = 16
    resamples: int = RESAMPLES


@dataclass(frozen=True)
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


def draw_samples(
    pipe: HartPipeline,
    sampling: SamplingConfig,
    count: int,
    folder: Path,
    options: ImageNetOptions,
    progress: Progress = lambda _done, _total, _what: None,
) -> Samples:
    """Draw `count` pictures, as many of every class as can be, and write `folder`/samples.npz.

    Pictures are kept in `folder`/images: a stopped run goes on there. Raises `HartError` for a model that does not draw
    classes.
    """
    if pipe.num_classes is None:
        raise HartError("imagenet draws classes by number, and this model draws from words: give a class model")
    _require_enough(count, "--limit asks for")
    classes = balanced_classes(count, pipe.num_classes, options.seed)
    drawn = DrawnPictures(pipe, classes, sampling, options.seed, folder)
    drawn.draw(options.draw_batch, progress)

    def batches() -> Iterator[Tensor]:
        for start in range(0, count, options.feature_batch):
            progress(start, count, f"{SAMPLES_FILE} is written")
            yield drawn.pixels(range(start, min(start + options.feature_batch, count)))

    write_samples(folder / SAMPLES_FILE, batches(), pipe.image_size, classes)
    notes = _notes(count, (pipe.image_size, pipe.image_size))
    if pipe.num_classes != CLASSES:
        notes += (f"this model draws {pipe.num_classes} classes, ImageNet has {CLASSES:,}: no published row compares",)
    if sampling != SAMPLING:
        notes += ("drawn with other settings than VAR's published figures",)
    if pipe.config.hybrid:
        notes += ("HART's settings for ImageNet are not published: these are VAR's, with half of top-k at late scales",)
    return Samples(SampleFile(folder / SAMPLES_FILE), {"size": pipe.image_size, **drawn.settings}, notes)


def evaluate_imagenet(
    samples: Samples,
    reference: SampleFile,
    extractor: FeatureExtractor,
    options: ImageNetOptions,
    settings: Mapping[str, Any],
    progress: Progress = lambda _done, _total, _what: None,
) -> Result:
    """Compare. settings: what the caller chose, for the report."""
    notes = list(samples.notes)
    whole = None
    if reference.has_statistics and isinstance(extractor, InceptionV3):
        whole = reference.statistics()
    elif reference.has_statistics:
        notes.append("the reference's statistics are of inception-v3: FID is to the pictures beside them instead")
    real = _features(reference, extractor, options.feature_batch, "features of the reference", progress)
    if whole is not None:
        _require_fitting(whole, real, reference.path)
    generated = _features(samples.file, extractor, options.feature_batch, "features of the samples", progress)
    progress(0, None, "distances and intervals")
    compared = len(generated) if whole is not None else min(len(generated), len(real))
    if warning := few_pictures_warning("FID", compared):
        notes.insert(0, warning)
    generator = torch.Generator().manual_seed(options.seed)
    return Result(
        suite="imagenet",
        title=f"{pictures_text(len(generated))} of {samples.file.height} px against {reference.path.name}",
        figures={"samples": all_figures(real, generated, extractor.name, generator, options.resamples, whole)},
        settings={
            **settings,
            **samples.settings,
            "reference": reference.path.name,
            "fid_to": "pictures of the reference" if whole is None else "statistics of the reference",
            "seed": options.seed,
            "resamples": options.resamples,
        },
        counts={"samples": len(generated), "references": len(real)},
        extractor=extractor_facts(extractor),
        notes=tuple(notes),
        published=(CLASS_TO_IMAGE, CLASS_RESIDUAL_TOKENS),
        sheets=_sheet(samples.file),
    )


def balanced_classes(count: int, classes: int, seed: int) -> list[int]:
    """The class of every picture: all classes in turn, and at the end, where they do not fit, some drawn by `seed`.

    The turn matters: the Inception Score is of 5,000 pictures at a time, and sorted ones would show it few classes.
    """
    turns, rest = divmod(count, classes)
    return [*range(classes)] * turns + random.Random(seed).sample(range(classes), rest)


def _features(
    file: SampleFile, extractor: FeatureExtractor, batch_size: int, what: str, progress: Progress
) -> Features:
    parts = []
    for number, batch in enumerate(file.batches(batch_size)):
        progress(number * batch_size, len(file), what)
        parts.append(extractor(batch))
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

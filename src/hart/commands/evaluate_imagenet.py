"""`hart evaluate imagenet`: class-conditional models by ADM's protocol, or anybody's samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hart.commands.console import model_name, owned, progress, writable_folder
from hart.commands.evaluate import (
    BatchSize,
    DiscreteOnlyOption,
    FeaturesOption,
    OutOption,
    ResamplesOption,
    SeedOption,
    finish,
)
from hart.commands.options import DeviceOption
from hart.errors import HartError
from hart.files import user_path


def imagenet(
    model: Annotated[
        str | None, typer.Option(help="Class-conditional model: folder or hub id. Draws and measures.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Instead of a model: .npz with pictures of any program. Measures only.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="ADM's reference batch, .npz; VIRTUAL_imagenet256_labeled.npz is fetched once by default."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with that file, and with the weights of the features if they are there.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Pictures to draw, as many of every class as can be.")] = 50_000,
    features: FeaturesOption = "inception-v3",
    guidance: Annotated[float, typer.Option(help="Guidance scale; the published one by default.")] = 1.5,
    smooth: Annotated[
        bool, typer.Option("--smooth/--no-smooth", help="Mix codes; the published figures are drawn without.")
    ] = False,
    discrete_only: DiscreteOnlyOption = False,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 100,
    batch_size: BatchSize = 1,
    device: DeviceOption = None,
    out: OutOption = Path("outputs/evaluate-imagenet"),
) -> None:
    """ImageNet 256 px, 50,000 pictures: FID, sFID, Inception Score, precision, recall. A stopped run goes on."""
    from hart.devices import resolve_device
    from hart.evaluation.features import open_extractor
    from hart.evaluation.imagenet import (
        SAMPLING,
        ImageNetOptions,
        draw_samples,
        evaluate_imagenet,
        open_reference,
        open_samples,
    )
    from hart.pipeline import HartPipeline

    if (model is None) == (samples is None):
        raise HartError("give either --model, to draw, or --samples, to measure pictures that are there")
    writable_folder(out)
    where = resolve_device(device)
    options = ImageNetOptions(seed, batch_size, resamples=resamples)
    with owned(out, "an evaluation"), progress("loading") as report:
        # what may be missing is looked for before anything is drawn
        folder = None if data is None else user_path(data)
        extractor = open_extractor(features, where, folder)
        batch = open_reference(None if reference is None else user_path(reference), folder)
        if samples is not None:
            measured = open_samples(user_path(samples))
        else:
            assert model is not None
            pipe = HartPipeline.from_pretrained(model, device=device)
            sampling = SAMPLING.replace(guidance_scale=guidance, smooth=smooth, discrete_only=discrete_only)
            measured = draw_samples(pipe, sampling, limit, out, options, report)
        settings = {} if model is None else {"model": model_name(model)}
        result = evaluate_imagenet(measured, batch, extractor, options, settings, report)
    finish(out, result)

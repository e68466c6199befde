"""`hart evaluate SUITE`: figures of a model with what they were measured on, a table, and picture grids.

A suite is a function in `hart.evaluation` that gives a `Result`, and a command here that opens what it needs; `finish`
writes and prints the result of any.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hart.commands.console import model_name, needs_extra, note, owned, progress, writable_folder
from hart.commands.options import (
    DATA_HELP,
    DATA_METAVAR,
    CaptionColumn,
    DeviceOption,
    FitOption,
    ImageColumn,
    KindOption,
    SplitOption,
)
from hart.config import MAX_SEED, SamplingConfig
from hart.errors import HartError

if TYPE_CHECKING:
    from hart.data.sources import Source, Stream
    from hart.evaluation.report import Result
    from hart.pipeline import HartPipeline

app = typer.Typer(help="Measure a model: figures, a table and picture grids.", no_args_is_help=False)

EXTRA = "evaluate"

ModelOption = Annotated[str, typer.Option(help="Shipped name, folder or hub id.")]
DataOption = Annotated[str, typer.Option(metavar=DATA_METAVAR, help=DATA_HELP)]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Pictures to measure; all by default.")]
SeedOption = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of every random draw.")]
FeaturesOption = Annotated[
    str,
    typer.Option(
        help="Feature extractor: efficientnet-lite0, inception-v3[:FILE], inception-v3-clean[:FILE], clip:SOURCE or "
        "dinov2:SOURCE."
    ),
]
GuidanceOption = Annotated[
    float | None, typer.Option(help="Guidance scale; 0 turns it off. The model's own by default.", show_default=False)
]
SmoothOption = Annotated[
    bool | None, typer.Option(help="Mix codes instead of taking the drawn one. The model's own by default.")
]
DiscreteOnlyOption = Annotated[
    bool, typer.Option("--discrete-only", help="Leave the residual tokens out, as in the paper's ablation.")
]
ResamplesOption = Annotated[int, typer.Option(min=0, help="Resamples of each interval; 0 leaves intervals out.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures computed together.")]
OutOption = Annotated[Path, typer.Option(help="Folder for figures.json, table.md and the pictures.")]


@app.callback()
def evaluate() -> None:
    """Measure a model: figures, a table and picture grids."""


@app.command()
def tokenizer(
    data: DataOption,
    model: ModelOption = "emoji",
    split: SplitOption = "val",
    kind: KindOption = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the pictures in pixels; the model's own by default.")
    ] = None,
    scales: Annotated[
        str | None, typer.Option(metavar="1,2,...", help="Sides of the token maps, for sizes that have no known ones.")
    ] = None,
    fit: FitOption = "crop",
    limit: LimitOption = None,
    features: FeaturesOption = "efficientnet-lite0",
    distance: Annotated[
        Literal["lpips", "efficientnet_lite0"], typer.Option(help="Perceptual distance; lpips needs weights.")
    ] = "efficientnet_lite0",
    distance_weights: Annotated[
        list[Path] | None, typer.Option(help="File with weights of lpips: VGG-16 and its heads; may be repeated.")
    ] = None,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 100,
    batch_size: BatchSize = 8,
    device: DeviceOption = None,
    image_column: ImageColumn = "",
    out: OutOption = Path("outputs/evaluate-tokenizer"),
) -> None:
    """Reconstruction, discrete against hybrid: PSNR, SSIM, perceptual distance, rFID, rKID. A stopped run goes on."""
    writable_folder(out)
    with needs_extra(EXTRA):
        from hart.evaluation.reconstruction import (
            ReconstructionOptions,
            evaluate_tokenizer,
            perceptual_distance,
            schedule_for,
        )
    from hart.checkpoint.starting import load_tokenizer
    from hart.data.transforms import ImageTransform
    from hart.devices import resolve_device
    from hart.evaluation.features import open_extractor
    from hart.evaluation.pictures import Pictures

    where = resolve_device(device)
    with owned(out, "an evaluation"), progress(f"loading {model}") as report:
        subject = load_tokenizer(model).requires_grad_(False).to(where)
        side = subject.config.image_size if size is None else size
        schedule = schedule_for(subject.config, side, None if scales is None else _sides(scales))
        source = _open(data, split, kind, image_column)
        result = evaluate_tokenizer(
            subject,
            Pictures(source, ImageTransform(side, fit=fit), limit=limit, seed=seed),
            schedule,
            open_extractor(features, where),
            perceptual_distance(distance, distance_weights or [], where),
            out,
            ReconstructionOptions(batch_size, seed, resamples),
            _settings(model, data, source, split, fit=fit, size=side),
            report,
        )
    finish(out, result)


@app.command()
def generation(
    data: DataOption,
    model: ModelOption = "emoji",
    split: SplitOption = "val",
    kind: KindOption = None,
    fit: FitOption = "crop",
    limit: Annotated[int | None, typer.Option(min=1, help="Pictures to draw; by default one for each.")] = None,
    features: FeaturesOption = "efficientnet-lite0",
    guidance: GuidanceOption = None,
    smooth: SmoothOption = None,
    discrete_only: DiscreteOnlyOption = False,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 100,
    batch_size: BatchSize = 1,
    device: DeviceOption = None,
    image_column: ImageColumn = "",
    caption_column: CaptionColumn = "",
    out: OutOption = Path("outputs/evaluate-generation"),
) -> None:
    """Pictures drawn for captions of a set, against the set: FID, KID, precision, recall. A stopped run goes on."""
    writable_folder(out)
    from hart.data.transforms import ImageTransform
    from hart.devices import resolve_device
    from hart.evaluation.features import open_extractor
    from hart.evaluation.generation import GenerationOptions, evaluate_generation
    from hart.evaluation.pictures import Pictures
    from hart.pipeline import HartPipeline

    with owned(out, "an evaluation"), progress(f"loading {model}") as report:
        pipe = HartPipeline.from_pretrained(model, device=device)
        source = _open(data, split, kind, image_column, caption_column)
        result = evaluate_generation(
            pipe,
            sampling_of(pipe, guidance, smooth, discrete_only),
            Pictures(source, ImageTransform(pipe.image_size, fit=fit)),
            open_extractor(features, resolve_device(device)),
            out,
            GenerationOptions(limit, seed, batch_size, resamples=resamples),
            _settings(model, data, source, split, fit=fit, size=pipe.image_size),
            report,
        )
    finish(out, result)


def sampling_of(
    pipe: HartPipeline, guidance: float | None, smooth: bool | None, discrete_only: bool = False
) -> SamplingConfig:
    """The model's own settings but for what was given."""
    given: dict[str, Any] = {"guidance_scale": guidance, "smooth": smooth, "discrete_only": discrete_only or None}
    return pipe.config.sampling.replace(**{name: value for name, value in given.items() if value is not None})


def _open(data: str, split: str, kind: KindOption, image_column: str = "", caption_column: str = "") -> Source | Stream:
    from hart.data.notes import Columns
    from hart.data.opening import open_source

    source = open_source(data, split, kind=kind, columns=Columns(image=image_column, caption=caption_column))
    note(source.description)
    return source


def _settings(model: str, data: str, source: Source | Stream, split: str, **others: object) -> dict[str, object]:
    """What every suite on a data set was given, for its report."""
    return {"model": model_name(model), "data": data, "set": source.description, "split": split, **others}


def _sides(text: str) -> tuple[int, ...]:
    """ "1,2,4" as (1, 2, 4)."""
    try:
        return tuple(int(side) for side in text.split(","))
    except ValueError:
        raise HartError(f"scales {text!r}: give whole numbers with commas, such as 1,2,4,8") from None


def finish(out: Path, result: Result) -> None:
    """Write a result, print its table and where it lies, and say its warnings on stderr."""
    from hart.evaluation.report import figures_table, write_result

    paths = write_result(out, result, shlex.join(["hart", *sys.argv[1:]]))
    typer.echo(figures_table(result))
    for remark in result.notes:
        note(remark)
    for path in paths:
        typer.echo(path)

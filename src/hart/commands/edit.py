"""`hart edit`, `hart vary` and `hart mix`: images from an image, and from two prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hart.commands.console import Report, progress, prompt_notes, scale_reporter, writable_folder
from hart.commands.from_config import options_from_config
from hart.commands.generate import (
    DEFAULT_MODEL,
    DrawOptions,
    ImageWriter,
    open_model,
    prompts_for,
    says_what_is_kept,
)
from hart.commands.options import sampling_options
from hart.errors import HartError
from hart.strict import shown

if TYPE_CHECKING:
    from hart.generation.edits import Edit
    from hart.pipeline import HartPipeline

ImageArgument = Annotated[Path, typer.Argument(help="Image file.", show_default=False)]


@sampling_options
@options_from_config
def edit(
    image: ImageArgument,
    options: DrawOptions,
    settings: Any,
    prompt: Annotated[str | None, typer.Argument(help="What the whole image shows afterwards.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Image of the same size: what is transparent is redrawn, or else what is white.")
    ] = None,
    source_prompt: Annotated[
        str | None, typer.Option(help="In place of a mask: what the image shows now.", show_default=False)
    ] = None,
    kept_scales: Annotated[
        int, typer.Option(help="First scales that are the image's everywhere: its colours, then its layout.")
    ] = 0,
    followed_scales: Annotated[
        int | None, typer.Option(help="With --source-prompt: first scales that follow the image.")
    ] = None,
) -> None:
    """Redraw a part of an image: under a mask, where it is transparent, where another --size or --aspect leaves it
    empty, or what PROMPT says otherwise than --source-prompt. All else stays to the pixel, but with --source-prompt."""
    from hart.data.images import open_image

    source, covering = open_image(image), None if mask is None else open_image(mask)
    files = _digests(image, mask)

    def prepared(pipe: HartPipeline) -> Edit:
        return pipe.prepare_edit(
            source,
            covering,
            source_prompt=None if source_prompt is None else prompts_for(pipe, [source_prompt])[0],
            kept_scales=kept_scales,
            followed_scales=followed_scales,
            size=options.size,
            aspect=options.aspect,
        )

    _draw(options, settings, prompt, prepared, files | {"source_prompt": source_prompt})


@sampling_options
@options_from_config
def vary(
    image: ImageArgument,
    options: DrawOptions,
    settings: Any,
    prompt: Annotated[str | None, typer.Argument(help="What the images show; by default left open.")] = None,
    kept_scales: Annotated[
        int | None,
        typer.Option(help="How many first scales are the image's; by default half of them, none with a style."),
    ] = None,
    style_strength: Annotated[
        float, typer.Option(help="In place of its scales: how far images have the image's look, 1 for clearly.")
    ] = 0.0,
) -> None:
    """Generate images that have an image's coarse scales, so its layout and colours, and finer ones of their own; or,
    by --style-strength, its look alone."""
    from hart.data.images import open_image

    source, files = open_image(image), _digests(image, None)

    def prepared(pipe: HartPipeline) -> Edit:
        return pipe.prepare_variation(
            source,
            kept_scales=kept_scales,
            style_strength=style_strength,
            size=options.size,
            aspect=options.aspect,
        )

    _draw(options, settings, prompt, prepared, files)


@sampling_options
@options_from_config
def mix(
    first: Annotated[str, typer.Argument(help="Prompt of the coarse scales: the form.", show_default=False)],
    second: Annotated[str, typer.Argument(help="Prompt of the fine scales: the look.", show_default=False)],
    options: DrawOptions,
    settings: Any,
    switch: Annotated[
        int | None, typer.Option(help="How many scales are the first prompt's; by default half of them.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="W,W,...", help="In place of --switch: the second prompt's share at each scale, 0 to 1."),
    ] = None,
) -> None:
    """Generate images of two prompts: usually the form of the first in the look of the second."""
    given = None if weights is None else _numbers(weights)
    writable_folder(options.out)
    total = options.images_per_prompt or 1
    with progress(f"loading {options.model or DEFAULT_MODEL}") as report, prompt_notes():
        pipe = open_model(options)
        from hart.generation.metadata import MixSettings
        from hart.inference.editing import mix_weights
        from hart.sizes import requested_schedule

        schedule = requested_schedule(pipe.config, size=options.size, aspect=options.aspect)
        shares = mix_weights(len(schedule), given, switch)
        writer = ImageWriter(options, total, mix=MixSettings(second, shares))
        with says_what_is_kept(writer):
            pipe.mix(
                prompts_for(pipe, [first, second]),
                shares,
                size=options.size,
                aspect=options.aspect,
                **_call(options, settings, pipe, writer, report),
            )


def _draw(
    options: DrawOptions,
    settings: dict[str, Any],
    prompt: str | None,
    prepared: Callable[[HartPipeline], Edit],
    files: dict[str, Any],
) -> None:
    """Write images of a prompt, or of none, with an edit. files: of its record."""
    writable_folder(options.out)
    with progress(f"loading {options.model or DEFAULT_MODEL}") as report, prompt_notes():
        pipe = open_model(options)
        from hart.generation.image_requests import null_context
        from hart.generation.metadata import EditSource

        made = prepared(pipe)
        amounts = {name: getattr(made, name) for name in ("kept_scales", "followed_scales", "style_strength")}
        source = EditSource(**files, **amounts)
        writer = ImageWriter(options, options.images_per_prompt or 1, edit=source)
        with says_what_is_kept(writer):
            pipe(
                None if prompt is None else prompts_for(pipe, [prompt])[0],
                prompt_embeds=null_context(pipe.config) if prompt is None else None,
                edit=made,
                size=made.size,
                **_call(options, settings, pipe, writer, report),
            )


def _call(
    options: DrawOptions, settings: dict[str, Any], pipe: HartPipeline, writer: ImageWriter, report: Report
) -> dict[str, Any]:
    """What all calls of a pipeline have in common."""
    negative = options.negative_prompt
    return settings | {
        "negative_prompt": None if negative is None else prompts_for(pipe, [negative]),
        "num_images_per_prompt": options.images_per_prompt or 1,
        "seed": options.seed or 0,
        "batch_size": options.batch_size,
        "callback_on_scale": scale_reporter(report),
        "callback_on_batch": lambda batch: writer.write(batch, pipe),
        "collect": False,
    }


def _digests(image: Path, mask: Path | None) -> dict[str, Any]:
    """Names and digests of files for `EditSource`."""
    from hart.data.images import read_image

    found: dict[str, Any] = {}
    for name, path in (("image", image), ("mask", mask)):
        if path is not None:
            found |= {name: path.name, f"{name}_sha256": hashlib.sha256(read_image(path)).hexdigest()}
    return found


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise HartError(f"--weights {shown(text)}: give numbers with commas, such as 0,0,0.5,1") from None

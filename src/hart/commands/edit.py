"""`hart edit`, `hart vary` and `hart mix`: images from an image, and from two prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hart.commands.console import progress, prompt_notes, require_writable
from hart.commands.from_config import options_from_config
from hart.commands.generate import ImageWriter, open_model, prompts_for, says_what_is_kept
from hart.commands.options import ImageOptions, SamplingSettings
from hart.strict import Listed

if TYPE_CHECKING:
    from PIL import Image

    from hart.generation.edits import Edit
    from hart.grids import ScaleSchedule
    from hart.pipeline import HartPipeline

ImageArgument = Annotated[Path, typer.Argument(help="Image file.", show_default=False)]
StyleOption = Annotated[Path | None, typer.Option(help="Image file whose colours are taken, not the image's own.")]
StyleStrengthOption = Annotated[
    float | None,
    typer.Option(
        help="How strongly what is generated takes on colours of --style, or of the image that is kept (0: not at all, "
        "1: clearly); by default 1 with --style, 0 without."
    ),
]


@options_from_config
def edit(
    image: ImageArgument,
    options: ImageOptions,
    settings: SamplingSettings,
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
    style: StyleOption = None,
    style_strength: StyleStrengthOption = None,
) -> None:
    """Redraw a part of an image: under a mask, where it is transparent, where another --size or --aspect leaves it
    empty, or what PROMPT says otherwise than --source-prompt. All else stays to the pixel, but with --source-prompt."""
    source, files = _opened(image, "image")
    covering, of_mask = _opened(mask, "mask")
    lent, of_style = _opened(style, "style")

    with _writing(options, settings) as (pipe, generate):
        _require_canvas(pipe, source, options, settings, second_prompt=source_prompt is not None)
        made = pipe.prepare_edit(
            source,
            covering,
            source_prompt=None if source_prompt is None else prompts_for(pipe, [source_prompt])[0],
            kept_scales=kept_scales,
            followed_scales=followed_scales,
            style=lent,
            style_strength=style_strength,
            size=options.size,
            aspect=options.aspect,
        )
        _edited(generate, pipe, made, prompt, files | of_mask | of_style | {"source_prompt": source_prompt})


@options_from_config
def vary(
    image: ImageArgument,
    options: ImageOptions,
    settings: SamplingSettings,
    prompt: Annotated[str | None, typer.Argument(help="What the images show; by default left open.")] = None,
    kept_scales: Annotated[
        int | None,
        typer.Option(help="First scales that are the image's; by default half of them, none with --style-strength."),
    ] = None,
    style: StyleOption = None,
    style_strength: StyleStrengthOption = None,
) -> None:
    """Generate images that have an image's coarse scales, so its layout and colours, and finer ones of their own; or,
    by --style-strength, its colours alone."""
    source, files = _opened(image, "image")
    lent, of_style = _opened(style, "style")

    with _writing(options, settings) as (pipe, generate):
        _require_canvas(pipe, source, options, settings, second_prompt=False)
        made = pipe.prepare_variation(
            source,
            kept_scales=kept_scales,
            style=lent,
            style_strength=style_strength,
            size=options.size,
            aspect=options.aspect,
        )
        _edited(generate, pipe, made, prompt, files | of_style)


class MixOptions(ImageOptions, kw_only=True):
    """How two prompts are mixed."""

    switch: int | None = None
    """How many scales are the first prompt's; by default half of them."""
    weights: Listed[float] = ()
    """In place of --switch: the second prompt's share at each scale, 0 to 1."""


@options_from_config
def mix(
    first: Annotated[str, typer.Argument(help="Prompt of the coarse scales: the form.", show_default=False)],
    second: Annotated[str, typer.Argument(help="Prompt of the fine scales: the look.", show_default=False)],
    options: MixOptions,
    settings: SamplingSettings,
) -> None:
    """Generate images of two prompts: usually the form of the first in the look of the second."""
    with _writing(options, settings) as (pipe, generate):
        from hart.generation.edits import PromptMix, mix_weights
        from hart.generation.metadata import MixSettings
        from hart.generation.requests import checked_changes
        from hart.sizes import requested_schedule

        schedule = requested_schedule(pipe.config, size=options.size, aspect=options.aspect)
        both = prompts_for(pipe, [first, second])
        shares = mix_weights(len(schedule), options.weights or None, options.switch)
        checked_changes(pipe.config, None, PromptMix(both[1], shares), schedule)
        _require_memory(pipe, schedule, options, settings, second_prompt=True)
        call = partial(pipe.mix, both, shares, size=options.size, aspect=options.aspect)
        generate(call, mix=MixSettings(second, shares))


@contextmanager
def _writing(options: ImageOptions, settings: dict[str, Any]) -> Iterator[tuple[HartPipeline, Callable[..., None]]]:
    """The model of the options; and what makes a call of it, whose images are written, with what records say of it."""
    require_writable(options.out)
    writer = ImageWriter(options, options.images_per_prompt or 1)
    with says_what_is_kept(writer), progress(f"loading {options.source}") as report, prompt_notes():
        pipe = open_model(options)

        def generate(call: Callable[..., object], **made_with: Any) -> None:
            writer.made_with |= made_with
            call(**writer.arguments(pipe, report), **settings)

        yield pipe, generate


def _edited(
    generate: Callable[..., None], pipe: HartPipeline, made: Edit, prompt: str | None, files: dict[str, Any]
) -> None:
    """Generate an edit with a prompt, or with none. files: of its record."""
    from hart.generation.metadata import EditSource
    from hart.generation.requests import null_context

    amounts = {name: getattr(made, name) for name in ("kept_scales", "followed_scales", "style_strength")}
    asked: dict[str, Any] = {"edit": made, "size": made.size}
    if prompt is None:
        asked["prompt_embeds"] = null_context(pipe.config)
    else:
        asked["prompt"] = prompts_for(pipe, [prompt])[0]
    generate(partial(pipe, **asked), edit=EditSource(**files, **amounts))


def _require_canvas(
    pipe: HartPipeline, image: Image.Image, options: ImageOptions, settings: dict[str, Any], *, second_prompt: bool
) -> None:
    """Memory for the canvas that is asked for, before the image is laid on it: gigabytes where it is large."""
    from hart.generation.canvas import canvas_schedule

    schedule = canvas_schedule(pipe.config, image, size=options.size, aspect=options.aspect)
    _require_memory(pipe, schedule, options, settings, second_prompt=second_prompt)


def _require_memory(
    pipe: HartPipeline,
    schedule: ScaleSchedule,
    options: ImageOptions,
    settings: dict[str, Any],
    *,
    second_prompt: bool,
) -> None:
    images = options.images_per_prompt or 1
    pipe.require_memory(schedule, images, batch_size=options.batch_size, second_prompt=second_prompt, **settings)


def _opened(path: Path | None, role: str) -> tuple[Any, dict[str, Any]]:
    """An image file, if there is one, and its name and digest for `EditSource`, where it is called `role`."""
    if path is None:
        return None, {}
    from hart.data.images import open_image, read_image

    content = read_image(path)
    facts = {role: path.name, f"{role}_sha256": hashlib.sha256(content).hexdigest()}
    return open_image(path, content), facts

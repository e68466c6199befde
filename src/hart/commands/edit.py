"""`hart edit`, `hart vary` and `hart mix`: images from an image, and from two prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hart.commands.console import hint_at_files, note
from hart.commands.from_config import options_from_config
from hart.commands.generate import ImageWriter, check_size, note_size, opened
from hart.commands.options import ImageOptions, SamplingSettings
from hart.files import read_bytes
from hart.sizes import ImageSize, requested_schedule
from hart.strict import Listed, require

if TYPE_CHECKING:
    from PIL import Image

    from hart.generation.edits import Edit
    from hart.pipeline import HartPipeline

ImageArgument = Annotated[Path, typer.Argument(help="Image file.", show_default=False)]
PromptArgument = Annotated[str | None, typer.Argument(help="What the whole image shows; by default left open.")]


class ChangeOptions(ImageOptions, kw_only=True):
    """What images take from another one."""

    style: Path | None = None
    """Image file whose colours are used instead of the image's own."""
    style_strength: float | None = None
    """How strongly the result takes on the colours of --style, or of the image that is kept (0: not at all, 1:
    clearly); by default 1 with --style, 0 without."""


class EditOptions(ChangeOptions, kw_only=True):
    """What an edit changes."""

    mask: Path | None = None
    """Image of the same size: its transparent part is redrawn, or without transparency its white part."""
    source_prompt: str | None = None
    """In place of a mask: a description of the image as it is."""
    kept_scales: int = 0
    """This many first scales are the image's everywhere: its colours, then its layout."""
    followed_scales: int | None = None
    """With --source-prompt: this many first scales follow the image."""

    def __post_init__(self) -> None:
        followed = self.followed_scales is None or self.source_prompt is not None
        require(followed, "--followed-scales requires --source-prompt: give that too")


class VaryOptions(ChangeOptions, kw_only=True):
    """What variations keep."""

    kept_scales: int | None = None
    """This many first scales are the image's; by default half of them, none with --style-strength."""


@options_from_config
def edit(image: ImageArgument, options: EditOptions, settings: SamplingSettings, prompt: PromptArgument = None) -> None:
    """Redraw a part of an image: under a mask, where it is transparent, where another --size or --aspect leaves it
    empty, or where PROMPT differs from --source-prompt. Except with --source-prompt, no other pixel changes."""
    source_prompt = options.source_prompt
    require(
        prompt is not None or source_prompt is None, "--source-prompt describes the image as it is: give PROMPT too"
    )
    mask, facts = _opened(options.mask, "mask")

    def prepared(pipe: HartPipeline, source: Image.Image, **style: Any) -> Edit:
        made = pipe.prepare_edit(
            source,
            mask,
            source_prompt=source_prompt,
            kept_scales=options.kept_scales,
            followed_scales=options.followed_scales,
            **style,
        )
        if made.redraw is not None and not made.redraw.any():
            note("the image stays as it is: no part of its mask is transparent or, without transparency, white")
        return made

    _change(image, options, settings, prompt, prepared, source_prompt=source_prompt, **facts)


@options_from_config
def vary(image: ImageArgument, options: VaryOptions, settings: SamplingSettings, prompt: PromptArgument = None) -> None:
    """Generate images with an image's coarse scales, and so its layout and colours, but their own finer scales; or,
    with --style-strength, only with its colours."""

    def prepared(pipe: HartPipeline, source: Image.Image, **style: Any) -> Edit:
        return pipe.prepare_variation(source, kept_scales=options.kept_scales, **style)

    _change(image, options, settings, prompt, prepared)


class MixOptions(ImageOptions, kw_only=True):
    """How two prompts are mixed."""

    switch: int | None = None
    """This many first scales follow the first prompt; by default half of them."""
    weights: Listed[float] = ()
    """In place of --switch: the second prompt's share at each scale, 0 to 1."""

    def __post_init__(self) -> None:
        require(self.switch is None or not self.weights, "give either --weights or --switch")


@options_from_config
def mix(
    first: Annotated[str, typer.Argument(help="Prompt of the coarse scales: the form.", show_default=False)],
    second: Annotated[str, typer.Argument(help="Prompt of the fine scales: the look.", show_default=False)],
    options: MixOptions,
    settings: SamplingSettings,
) -> None:
    """Generate images of two prompts: usually the form of the first in the look of the second."""
    writer = ImageWriter(options, options.each)
    with opened(writer) as (pipe, report):
        from hart.generation.edits import PromptMix, mix_weights
        from hart.generation.metadata import MixSettings
        from hart.generation.requests import checked_changes

        hint_at_files([first, second])
        schedule = requested_schedule(pipe.config, **options.shape)
        shares = mix_weights(len(schedule), options.weights or None, options.switch)
        checked_changes(pipe.config, None, PromptMix(second, shares), schedule)
        check_size(pipe, schedule, options, writer.total, mixed=True, **settings)
        writer.made_with["mix"] = MixSettings(second, shares)
        pipe.mix([first, second], shares, **options.shape, **writer.arguments(pipe, report), **settings)


def _change(
    image: Path,
    options: ChangeOptions,
    settings: dict[str, Any],
    prompt: str | None,
    prepared: Callable[..., Edit],
    **facts: Any,
) -> None:
    """Write images of what `prepared` keeps of an image, with a prompt or none. facts: for their records."""
    writer = ImageWriter(options, options.each)
    source, of_image = _opened(image, "image")
    lent, of_style = _opened(options.style, "style")
    with opened(writer) as (pipe, report):
        from hart.data.images import upright
        from hart.generation.canvas import canvas_schedule
        from hart.generation.metadata import EditSource

        # before the image is laid on the canvas, which takes gigabytes if it is large
        canvas = canvas_schedule(pipe.config, source, **options.shape)
        has_second = facts.get("source_prompt") is not None
        pipe.require_memory(canvas, writer.total, batch_size=options.batch_size, second_prompt=has_second, **settings)
        made = prepared(pipe, source, style=lent, style_strength=options.style_strength, **options.shape)
        before = ImageSize(*upright(source).size)
        if made.size != str(before) and (options.size, options.aspect) == (None, None):
            note(f"{image.name} has {before} px, the result {made.size}, about as many as the model's own images")
        if made.redraw is None or made.redraw.any():  # a redrawn part gets as stretched as a whole image
            note_size(pipe, canvas)
        amounts = {name: getattr(made, name) for name in ("kept_scales", "followed_scales", "style_strength")}
        writer.made_with["edit"] = EditSource(**facts, **of_image, **of_style, **amounts)
        said = [] if prompt is None else [prompt]
        hint_at_files(said)
        pipe(said or None, edit=made, size=made.size, **writer.arguments(pipe, report), **settings)


def _opened(path: Path | None, role: str) -> tuple[Any, dict[str, Any]]:
    """Open an image file, if given; also return its name and digest for `EditSource`, in which it is called `role`."""
    if path is None:
        return None, {}
    from hart.data.images import MAX_FILE, open_image

    content = read_bytes(path, MAX_FILE)
    facts = {role: path.name, f"{role}_sha256": hashlib.sha256(content).hexdigest()}
    return open_image(path, content), facts

"""The editing methods of a pipeline: everything here prepares a call with `edit` or `mix`.

`hart.generation.edits` explains how editing works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from PIL import Image
from torch import Tensor

from hart.data.images import opacity
from hart.errors import HartError
from hart.generation.arguments import Prompt, finite_number, listed_values
from hart.generation.canvas import canvas_schedule, laid_out, redrawn_area, require_image, stretched
from hart.generation.edits import Edit, PromptMix, mix_weights
from hart.generation.outputs import HartOutput
from hart.generation.requests import checked_changes
from hart.grids import ScaleSchedule
from hart.inference.base import BasePipeline
from hart.sizes import SizeOptions, requested_schedule
from hart.strict import shown
from hart.types import Context

FOLLOWED = 0.7
"""Share of the scales at which an edit with a source prompt follows the image, by default."""


class Editing(BasePipeline):
    """`edit`, `vary` and `mix`, for a pipeline whose calls generate."""

    def __call__(self, *arguments: Any, **options: Any) -> HartOutput:
        raise NotImplementedError

    def edit(
        self,
        image: Image.Image,
        mask: Image.Image | None = None,
        prompt: Prompt | None = None,
        *,
        source_prompt: Prompt | Context | None = None,
        kept_scales: int = 0,
        followed_scales: int | None = None,
        style: Image.Image | None = None,
        style_strength: float | None = None,
        size: int | str | None = None,
        height: int | None = None,
        width: int | None = None,
        aspect: str | None = None,
        **options: Any,
    ) -> HartOutput:
        """Redraw a part of an image, or what a new description changes in it.

        mask: the transparent part of a mask is redrawn, or the white part of one without transparency, and no pixel
            outside it changes. Without a mask, the transparent part of the image itself is redrawn.
        prompt: describes the whole image; None generates whatever fits.
        source_prompt: describes the image as it is, usually in place of a mask. Where `prompt` differs, the image
            changes.
        kept_scales: at this many first scales everything is the image's, which preserves colours, then the layout.
        followed_scales: with a source prompt, the first scales up to this one follow the image; by default `FOLLOWED`
            of them.
        style_strength: how strongly the result takes on the colours of `style`, or without a style those of the rest of
            the image (0: not at all, 1: clearly); by default 1 with a style, 0 without.
        size, height, width, aspect: of the canvas, by default the image's own or near it. The area that the image does
            not cover is redrawn.
        options: as in a call, for example num_images_per_prompt, seed and guidance_scale.
        """
        if source_prompt is not None and prompt is None and options.get("prompt_embeds") is None:
            raise HartError("source_prompt describes the image as it is: give a prompt too, which says what changes")
        where: SizeOptions = {"size": size, "height": height, "width": width, "aspect": aspect}
        made = self.prepare_edit(
            image, mask, source_prompt=source_prompt, kept_scales=kept_scales, followed_scales=followed_scales,
            style=style, style_strength=style_strength, **where,
        )  # fmt: skip
        return self(prompt, edit=made, size=made.size, **options)

    def vary(
        self,
        image: Image.Image,
        prompt: Prompt | None = None,
        *,
        kept_scales: int | None = None,
        style: Image.Image | None = None,
        style_strength: float | None = None,
        size: int | str | None = None,
        height: int | None = None,
        width: int | None = None,
        aspect: str | None = None,
        **options: Any,
    ) -> HartOutput:
        """Generate images that share the coarse scales of another one, or its colours.

        kept_scales: how many first scales are taken from it, by default half of them, or none with a style. All of them
            gives its reconstruction from codes only, 0 a new image.
        style_strength: how strongly images take on its colours, regardless of position, or those of `style` instead (0:
            not at all, 1: clearly). The other arguments are as in `edit`.
        """
        where: SizeOptions = {"size": size, "height": height, "width": width, "aspect": aspect}
        made = self.prepare_variation(
            image, kept_scales=kept_scales, style=style, style_strength=style_strength, **where
        )
        return self(prompt, edit=made, size=made.size, **options)

    def prepare_edit(
        self,
        image: Image.Image,
        mask: Image.Image | None = None,
        *,
        source_prompt: Prompt | Context | None = None,
        kept_scales: int = 0,
        followed_scales: int | None = None,
        style: Image.Image | None = None,
        style_strength: float | None = None,
        **size: Unpack[SizeOptions],
    ) -> Edit:
        """Return what images keep of another one in `edit`: for a call, or for an `ImageRequest` of `edit.size`."""
        image, followed = require_image("image", image), source_prompt is not None
        if followed_scales is not None and not followed:
            raise HartError("followed_scales requires a source prompt: give that too")
        if mask is None and not followed and opacity(image) is not None:
            mask = image
        area = None if mask is None else redrawn_area(image, require_image("mask", mask))
        schedule = canvas_schedule(self.config, image, **size)
        if followed_scales is None:
            followed_scales = round(FOLLOWED * len(schedule)) if followed else 0
        pixels, redraw = laid_out(image, area, self.config, schedule)
        if followed and mask is None:
            redraw = None  # the words may change all of it, not only the area that the image does not cover
        elif redraw is None and not followed:
            raise HartError(
                "nothing to redraw: give a mask, an image with transparent parts, a size or aspect that it does not "
                "fill, or a source prompt"
            )
        lent, strength = self._style(style, style_strength, schedule)
        made = Edit(pixels, redraw, kept_scales, source_prompt, followed_scales, strength, lent)
        checked_changes(self.config, made, None, schedule)
        return made

    def prepare_variation(
        self,
        image: Image.Image,
        *,
        kept_scales: int | None = None,
        style: Image.Image | None = None,
        style_strength: float | None = None,
        **size: Unpack[SizeOptions],
    ) -> Edit:
        """Return what images keep of another one in `vary`; see `prepare_edit`."""
        image = require_image("image", image)
        schedule = canvas_schedule(self.config, image, **size)
        pixels, around = laid_out(image, None, self.config, schedule)  # all is generated, also what is around it
        lent, strength = self._style(style, style_strength, schedule)
        if lent is None and around is not None:
            lent = stretched(image, self.config, schedule)  # the area around it has no colours of its own
        if kept_scales is None:
            kept_scales = 0 if strength else len(schedule) // 2
        made = Edit(pixels, None, kept_scales, style_strength=strength, style=lent)
        checked_changes(self.config, made, None, schedule)
        return made

    def _style(
        self, style: Image.Image | None, strength: float | None, schedule: ScaleSchedule
    ) -> tuple[Tensor | None, float]:
        """Return the pixels of a style reference, and how strongly it is followed."""
        lent = None if style is None else stretched(require_image("style", style), self.config, schedule)
        return lent, float(lent is not None) if strength is None else finite_number("style_strength", strength)

    def mix(
        self,
        prompts: Sequence[Prompt],
        weights: Sequence[float] | None = None,
        *,
        switch: int | None = None,
        size: int | str | None = None,
        height: int | None = None,
        width: int | None = None,
        aspect: str | None = None,
        **options: Any,
    ) -> HartOutput:
        """Generate images of two prompts: usually the form of the first in the look of the second.

        weights: the second prompt's share at each scale, from 0 to 1. switch: alternatively, this many first scales are
        the first prompt's and the others the second's; by default half of them. options: as in a call.
        """
        if (found := listed_values(prompts)) is None or len(found) != 2:
            raise HartError(f"prompts {shown(prompts)}: give a list of two")
        where: SizeOptions = {"size": size, "height": height, "width": width, "aspect": aspect}
        shares = mix_weights(len(requested_schedule(self.config, **where)), weights, switch)
        return self(found[0], mix=PromptMix(found[1], shares), **where, **options)

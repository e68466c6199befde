"""`HartPipeline` as the scheduler's engine: the only file of the server that needs PyTorch. Tests use a stand-in engine
with the same methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hart.devices import dtype_name
from hart.errors import HartError
from hart.generation.arguments import checked_settings
from hart.generation.batch_settings import SHARED
from hart.generation.canvas import canvas_schedule
from hart.generation.edits import Edit, PromptMix, mix_weights
from hart.generation.metadata import ImageSettings, MixSettings
from hart.generation.next_scale import States
from hart.generation.requests import ImageRequest, checked_images, null_context
from hart.grids import grid_of_aspect
from hart.inference.packing import treats_rows_alike
from hart.pipeline import HartPipeline
from hart.serving.engine import ModelFacts, Row, Source, largest
from hart.serving.schemas import ApiError, Generation, RequestBody
from hart.sizes import (
    ImageSize,
    parsed_size,
    requested_schedule,
    size_of_grid,
    size_of_schedule,
    trained_sizes,
    untrained_remark,
)
from hart.types import Context

KEPT_CONTEXTS = 64
"""Encoded prompts that are cached for the rows of a request."""


class PipelineEngine:
    """An opened pipeline. Its text encoder is loaded at once, so that no request waits for it.

    `start` and what it returns are used by one thread, the rest by any.
    """

    def __init__(
        self,
        pipe: HartPipeline,
        *,
        exact: bool | None = None,
        max_pixels: int | None = None,
        speed: str | None = None,
    ) -> None:
        """exact: sample every image by itself, so that not even rounding can depend on others. By default, on a CPU,
        only images whose rounding would depend on them: in float32 unguided ones, whose first scale is a single token,
        those with other settings, and all if `treats_rows_alike` is false.
        max_pixels: of the largest image, by default twice those of the model's own size. Raises `HartError` for fewer
        than that size has.
        speed: the level that the pipeline was opened with, if one was requested; images record it."""
        self.pipe = pipe
        max_pixels = largest(pipe.image_size, max_pixels)
        self._exact = exact
        config = pipe.config
        if pipe.num_classes is None:
            _ = pipe.text_encoder
        treats_rows_alike()  # it computes: in this thread, not in the one that groups rows
        # the sizes that it was trained at, the square first
        sizes = dict.fromkeys([ImageSize(pipe.image_size, pipe.image_size), *trained_sizes(config)])
        self.facts = ModelFacts(
            sizes=tuple(size for size in sizes if math.prod(size) <= max_pixels),
            scales=len(config.tokenizer.scales),
            sampling=pipe.sampling,
            token_size=config.tokenizer.downsampling,
            max_pixels=max_pixels,
            styles=config.styles,
            classes=pipe.num_classes,
            speed=speed,
        )
        self._context: Callable[[str], Context] = lru_cache(KEPT_CONTEXTS)(self._encoded)

    def size(self, request: RequestBody, source: Source | None = None) -> tuple[ImageSize, list[str]]:
        """Return the size of a request's result, and notes about it; an edit has its image's, or nearly its shape.
        Raises `ApiError` for a size that is not generated if the request is strict."""
        param, said, notes = "size", request.size, list[str]()
        if request.size is not None and request.size != "auto":
            wanted = parsed_size(request.size)
        elif request.aspect is not None:
            wanted = self._shaped(request.aspect)
            param, said = "aspect", f"{request.aspect} as {wanted}"
        elif source is not None:
            wanted = self._canvas(source.image)
            if wanted != source.image.size:
                notes.append(f"the result has {wanted} px, about as many as the model's own images")
        else:
            wanted = self.facts.sizes[0]
        size = self._nearest(*wanted)
        if size != wanted and request.strict:
            why = self._misfit(*wanted)
            raise ApiError(400, f"{param}: the model does not generate {said}: {why}", param=param)
        if size != wanted:
            notes.append(f"the model does not generate {said}: this is {size}")
        if (remark := untrained_remark(size, self.facts.sizes)) is not None:
            notes.append(remark)
        return size, notes

    def _nearest(self, width: int, height: int) -> ImageSize:
        """Return this size if the model generates it, else the nearest of whole tokens. If that is too large: its shape
        with about as many pixels as the model's own size. If there is none: the nearest that it was trained at."""
        step = self.facts.token_size
        whole = ImageSize(max(2, round(width / step)) * step, max(2, round(height / step)) * step)
        sizes = [ImageSize(width, height), whole]
        with suppress(HartError):  # for shapes that no image has
            sizes.append(self._shaped(f"{width}:{height}"))
        fitting = (size for size in sizes if self._misfit(*size) is None)
        return next(fitting, None) or self.facts.nearest(width, height)

    def _canvas(self, image: Image.Image) -> ImageSize:
        """Return the size of an edit that requests none, as in `HartPipeline.edit`. For a shape that no canvas has: the
        nearest that the model was trained at."""
        config = self.pipe.config
        try:
            return self._nearest(*size_of_schedule(config, canvas_schedule(config, image)))
        except HartError:
            return self.facts.nearest(*image.size)

    def _misfit(self, width: int, height: int) -> str | None:
        """Return why this size is not generated; None if it is."""
        if width * height > self.facts.max_pixels:
            return f"images have at most {self.facts.max_pixels} pixels here (--max-pixels)"
        try:
            requested_schedule(self.pipe.config, width=width, height=height)
        except HartError as error:
            return str(error)
        return None

    def _shaped(self, aspect: str) -> ImageSize:
        """Return the size of a shape, "WIDTH:HEIGHT", about as large as the model's own, even if it cannot be made."""
        tokenizer = self.pipe.config.tokenizer
        return size_of_grid(grid_of_aspect(aspect, tokenizer.scales[-1]), tokenizer.downsampling)

    def row(self, request: RequestBody, size: ImageSize, source: Source | None = None) -> Row:
        """Return the first image of a request that has a seed. Raises `HartError` if the model cannot sample it."""
        assert request.seed is not None
        edit = edited = mixed = None
        if source is not None:
            edit = self._edit(request, source, size)
            edited = source.files.replace(
                source_prompt=getattr(request, "source_prompt", None),
                kept_scales=edit.kept_scales,
                followed_scales=edit.followed_scales,
                style_strength=edit.style_strength,
            )
        schedule = requested_schedule(self.pipe.config, size=str(size))
        if isinstance(request, Generation) and request.second_prompt:
            weights = mix_weights(len(schedule), request.weights, request.switch)
            mixed = MixSettings(request.second_prompt, weights)
        made_with = ImageSettings(
            sampling=checked_settings(self.pipe.config, self.pipe.sampling, request.sampling(), schedule),
            size=size.stored,
            device=str(self.pipe.device),
            dtype=dtype_name(self.pipe.dtype),
            negative_prompt=request.negative_prompt or None,
            speed=self.facts.speed,
            edit=edited,
            mix=mixed,
        )
        row = Row(request.prompt or "", request.seed, size, made_with, len(schedule), schedule.total_tokens, edit)
        checked_images(self.pipe.config, [self._asked(row, str)], schedule)
        return row

    @torch.inference_mode()
    def _edit(self, request: RequestBody, source: Source, size: ImageSize) -> Edit:
        """Return what the rows of a request keep of its image, laid out on a canvas of this size."""
        if self.facts.classes is not None:
            said = "this model generates classes and does not edit images: use /v1/images/generations"
            raise ApiError(501, said, code="not_offered")
        asked: dict[str, Any] = {"style": source.style, "style_strength": request.style_strength, "size": str(size)}
        source_prompt = getattr(request, "source_prompt", None)
        if source.mask is None and source_prompt is None:
            return self.pipe.prepare_variation(source.image, kept_scales=request.kept_scales, **asked)
        asked |= {"source_prompt": source_prompt, "followed_scales": request.followed_scales}
        return self.pipe.prepare_edit(source.image, source.mask, kept_scales=request.kept_scales or 0, **asked)

    def remarks(self, prompt: str) -> list[str]:
        """Return what the author of a prompt should know: words that the model drops or does not know."""
        if self.pipe.num_classes is not None:
            return []
        adapted = self.pipe.components.without_lora is not None
        return self.pipe.text_encoder.reading([prompt])[0].remarks(prompt, adapted=adapted)

    def group(self, row: Row) -> Hashable:
        """Return a value that is equal for rows that may share a batch."""
        settings = row.settings
        if self._exact is False or (self._exact is None and self.pipe.device.type != "cpu"):
            return row.size, *(getattr(settings.sampling, name) for name in SHARED)
        if self._exact or self.pipe.dtype != torch.float32 or not treats_rows_alike():
            return object()  # equal to no other
        if settings.sampling.guidance_scale == 0:
            return object()
        # filters, negative and second prompts of other rows change how sums are rounded
        is_followed = row.edit is not None and row.edit.source_prompt is not None
        return row.size, settings.sampling, settings.negative_prompt is None, is_followed or settings.mix is not None

    def start(self, rows: Sequence[Row]) -> Batch:
        """Begin a batch of rows of one group."""
        return Batch(self.pipe, [self._asked(row, self._context) for row in rows], rows[0].size)

    def _asked(self, row: Row, read: Callable[[str], Any]) -> ImageRequest:
        """Return a row as the pipeline takes it, with prompts as `read` gives them. An edit without one generates
        whatever fits."""
        edit, settings, mix = row.edit, row.settings, None
        unnamed = edit is not None and row.prompt == ""
        prompt = null_context(self.pipe.config) if unnamed else read(row.prompt)
        negative = None if settings.negative_prompt is None else read(settings.negative_prompt)
        if edit is not None and edit.source_prompt is not None:
            edit = replace(edit, source_prompt=read(edit.source_prompt))
        if settings.mix is not None:
            mix = PromptMix(read(settings.mix.prompt), settings.mix.weights)
        return ImageRequest(prompt, row.seed, settings.sampling, negative, edit, mix)

    @torch.inference_mode()
    def _encoded(self, prompt: str) -> Context:
        """Encode with the encoder itself: the pipeline's warnings quote prompts, which do not belong in a log."""
        if self.pipe.num_classes is None:
            return self.pipe.text_encoder.encode([prompt])
        return self.pipe.encode_prompt(prompt)


class Batch:
    """Rows that are sampled together, by their places in `PipelineEngine.start`."""

    def __init__(self, pipe: HartPipeline, images: Sequence[ImageRequest], size: ImageSize) -> None:
        self._pipe, self._components, self._size = pipe, pipe.components, size
        self._images = dict(enumerate(images))  # those not dropped
        self._rows: list[int] = []  # the places of the rows of the last state
        self._states: States | None = None
        self._latents: Tensor | None = None

    def drop(self, places: Collection[int]) -> None:
        """Stop sampling rows from the next scale on. They must not be asked for again."""
        self._images = {place: image for place, image in self._images.items() if place not in places}

    def advance(self) -> None:
        """Sample the next scale of all remaining rows."""
        left = list(self._images)
        if self._states is None:
            self._states = self._pipe.generate_rows(list(self._images.values()), size=str(self._size))
            self._latents = next(self._states).latent
        else:
            self._latents = self._states.send([self._rows.index(place) for place in left]).latent
        self._rows = left

    @torch.inference_mode()
    def images(self, places: Sequence[int]) -> list[Image.Image]:
        """Return RGB images of rows as they are now: previews, and after the last scale the results."""
        assert self._latents is not None
        generated = self._components.images(self._latents[[self._rows.index(place) for place in places]])
        edits = (self._images[place].edit for place in places)
        return [image if edit is None else edit.finished(image) for image, edit in zip(generated, edits, strict=True)]

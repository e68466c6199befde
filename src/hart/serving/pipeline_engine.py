"""`HartPipeline` as the scheduler's engine: the only file of the server that needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hart.devices import dtype_name, is_out_of_memory
from hart.errors import HartError
from hart.generation.image_requests import ImageRequest, checked_images
from hart.generation.request import checked_settings
from hart.generation.rows import SHARED
from hart.pipeline import HartPipeline
from hart.serving.engine import Batch, ModelFacts, NotOffered, OutOfMemory, Row, Size, Source
from hart.sizes import ImageSize, requested_schedule, size_of_grid, trained_sizes
from hart.types import Context

LARGEST = 2
"""Times the model's own number of pixels: larger images are made of the nearest size."""
KEPT_CONTEXTS = 64
"""Encoded prompts that are kept for the rows of a request."""


class PipelineEngine:
    """An opened pipeline. Its text encoder is loaded at once, so that no request waits for it."""

    def __init__(self, pipe: HartPipeline, *, exact: bool | None = None) -> None:
        """exact: sample every image by itself, so that not even rounding depends on the other images of a batch; by
        default on a CPU only."""
        self.pipe = pipe
        self._exact = pipe.device.type == "cpu" if exact is None else exact
        config = pipe.config
        if pipe.num_classes is None:
            _ = pipe.text_encoder
        self.facts = ModelFacts(
            sizes=self._sizes(),
            scales=len(config.tokenizer.scales),
            sampling=config.sampling,
            num_classes=pipe.num_classes,
            device=str(pipe.device),
            dtype=dtype_name(pipe.dtype),
        )
        self._context: Callable[[str | int], Context] = lru_cache(KEPT_CONTEXTS)(self._encoded)

    def _sizes(self) -> tuple[Size, ...]:
        """Those that the model was trained at, the square first."""
        own = self.pipe.image_size
        return tuple(dict.fromkeys([(own, own), *map(_size, trained_sizes(self.pipe.config))]))

    def nearest(self, width: int, height: int) -> Size:
        if width * height <= LARGEST * self.pipe.image_size**2:
            with suppress(HartError):
                requested_schedule(self.pipe.config, width=width, height=height)
                return width, height
        return self.facts.nearest(width, height)

    def shaped(self, aspect: str) -> Size:
        schedule = requested_schedule(self.pipe.config, aspect=aspect)
        return _size(size_of_grid(schedule.final, self.pipe.config.tokenizer.downsampling))

    def row(
        self,
        prompt: str,
        negative_prompt: str | None,
        seed: int,
        size: Size,
        settings: Mapping[str, Any],
        source: Source | None = None,
    ) -> Row:
        if source is not None:
            raise NotOffered("this model does not edit images yet: use /v1/images/generations")
        schedule = requested_schedule(self.pipe.config, width=size[0], height=size[1])
        sampling = checked_settings(self.pipe.config, None, settings, schedule)
        asked = ImageRequest(self._prompt(prompt), seed, sampling, negative_prompt and self._prompt(negative_prompt))
        checked_images(self.pipe.config, [asked], schedule)
        return Row(asked.prompt, negative_prompt, seed, size, sampling, len(schedule), schedule.total_tokens, source)

    def remarks(self, prompt: str) -> list[str]:
        if self.pipe.num_classes is not None:
            return []
        return self.pipe.text_encoder.reading([prompt])[0].remarks(prompt)

    def group(self, row: Row) -> Hashable:
        return row.size, *(getattr(row.sampling, name) for name in SHARED)

    def start(self, rows: Sequence[Row]) -> Batch:
        with _memory_errors():
            images = [self._request(row) for row in rows]
            if self._exact:
                return _OneByOne(self.pipe, images, rows[0].size)
            return _Together(self.pipe, images, rows[0].size)

    def _prompt(self, text: str) -> str | int:
        """Text as it is; for a class model the number that it spells, if it spells one."""
        return int(text) if self.pipe.num_classes is not None and text.isdecimal() else text

    def _request(self, row: Row) -> ImageRequest:
        """A row as the pipeline takes it, its prompts encoded."""
        negative = None if row.negative_prompt is None else self._context(self._prompt(row.negative_prompt))
        return ImageRequest(self._context(row.prompt), row.seed, row.sampling, negative)

    @torch.inference_mode()
    def _encoded(self, prompt: str | int) -> Context:
        """By the encoder itself: the pipeline warns of words of the prompt, which are nobody's business in a log."""
        if isinstance(prompt, str):
            return self.pipe.text_encoder.encode([prompt])
        return self.pipe.encode_prompt(prompt)


class _Together:
    """Rows of one batch. Those that are dropped are sampled on, and nobody sees them."""

    def __init__(self, pipe: HartPipeline, images: Sequence[ImageRequest], size: Size) -> None:
        self._parts = pipe.components
        self._states = pipe.generate_rows(images, width=size[0], height=size[1])
        self._latents: Tensor | None = None

    def advance(self) -> None:
        with _memory_errors():
            self._latents = next(self._states).latent

    def drop(self, places: Collection[int]) -> None:
        pass

    @torch.inference_mode()
    def images(self, places: Sequence[int]) -> list[Image.Image]:
        assert self._latents is not None
        with _memory_errors():
            found: list[Image.Image] = self._parts.images(self._latents[list(places)])
            return found


class _OneByOne:
    """Rows that advance together, each computed by itself: its numbers are those that it has alone, to the last bit."""

    def __init__(self, pipe: HartPipeline, images: Sequence[ImageRequest], size: Size) -> None:
        self._rows = {place: _Together(pipe, [image], size) for place, image in enumerate(images)}

    def advance(self) -> None:
        for row in self._rows.values():
            row.advance()

    def drop(self, places: Collection[int]) -> None:
        for place in places:
            del self._rows[place]

    def images(self, places: Sequence[int]) -> list[Image.Image]:
        return [self._rows[place].images([0])[0] for place in places]


def _size(size: ImageSize) -> Size:
    return size.width, size.height


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except HartError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory("the device has too little memory for this request") from None
        raise

"""`HartPipeline` as the scheduler's engine: the only file of the server that needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hart.devices import dtype_name, is_out_of_memory
from hart.errors import HartError
from hart.generation.next_scale import NextScaleGenerator, ScaleState
from hart.generation.request import checked_request
from hart.pipeline import HartPipeline
from hart.serving.engine import ModelFacts, NotOffered, OutOfMemory, Row, Size, Source
from hart.types import Context

KEPT_CONTEXTS = 64
"""Encoded prompts that are kept for the rows of a request."""


class PipelineEngine:
    """An opened pipeline. Its text encoder is loaded at once, so that no request waits for it."""

    def __init__(self, pipe: HartPipeline) -> None:
        self.pipe = pipe
        config = pipe.config
        if pipe.num_classes is None:
            _ = pipe.text_encoder
        self.facts = ModelFacts(
            sizes=((pipe.image_size, pipe.image_size),),
            scales=len(config.tokenizer.scales),
            tokens=config.transformer.schedule.total_tokens,
            sampling=config.sampling,
            num_classes=pipe.num_classes,
            origin={"device": str(pipe.device), "dtype": dtype_name(pipe.dtype)},
        )
        self.encode: Callable[[str | int], Context] = lru_cache(KEPT_CONTEXTS)(self._encode)

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
        request = checked_request(
            self.pipe.config,
            self._prompt(prompt),
            negative_prompt=None if negative_prompt is None else self._prompt(negative_prompt),
            seed=seed,
            settings=settings,
            batch_size=1,
        )
        negative = request.negative_prompts[0] if request.negative_prompts else None
        return Row(
            request.prompts[0], None if negative is None else str(negative), seed, size, request.sampling, source
        )

    def remarks(self, prompt: str) -> list[str]:
        if self.pipe.num_classes is not None:
            return []
        return self.pipe.text_encoder.reading([prompt])[0].remarks(prompt)

    def group(self, row: Row) -> Hashable:
        return row.size

    def start(self, rows: Sequence[Row]) -> _Lockstep:
        with _memory_errors():
            return _Lockstep(self.pipe, [self._states(row) for row in rows])

    def _prompt(self, text: str) -> str | int:
        """Text as it is; for a class model the number that it spells, if it spells one."""
        return int(text) if self.pipe.num_classes is not None and text.isdecimal() else text

    @torch.inference_mode()
    def _encode(self, prompt: str | int) -> Context:
        return self.pipe.encode_prompt(prompt)

    @torch.inference_mode()
    def _states(self, row: Row) -> Iterator[ScaleState]:
        request = checked_request(
            self.pipe.config,
            row.prompt,
            negative_prompt=None if row.negative_prompt is None else self._prompt(row.negative_prompt),
            seed=row.seed,
            sampling=row.sampling,
            settings={},
            batch_size=1,
        )
        parts, alone = self.pipe.components, range(1)
        contexts = request.contexts(alone, self.encode, parts.device)
        noise = request.noise(alone, parts.device)
        return NextScaleGenerator(parts.hart, parts.tokenizer.quantizer, row.sampling, noise).states(*contexts)


class _Lockstep:
    """Rows that advance together, each computed by itself: its numbers are those that it has alone, to the last bit."""

    def __init__(self, pipe: HartPipeline, states: Sequence[Iterator[ScaleState]]) -> None:
        self._parts = pipe.components
        self._states = dict(enumerate(states))
        self._latents: dict[int, Tensor] = {}

    def advance(self) -> None:
        with _memory_errors():
            for place, states in self._states.items():
                self._latents[place] = next(states).latent

    def drop(self, places: Collection[int]) -> None:
        for place in places:
            del self._states[place]
            self._latents.pop(place, None)

    @torch.inference_mode()
    def images(self, places: Sequence[int]) -> list[Image.Image]:
        with _memory_errors():
            return [self._parts.images(self._latents[place])[0] for place in places]


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

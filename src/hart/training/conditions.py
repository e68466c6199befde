"""What the transformer is conditioned on: captions through a frozen text encoder, or class numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from hart.config import ConfigError
from hart.devices import sent
from hart.errors import HartError, PromptWarning
from hart.text_encoder import (
    Reading,
    TextEncoder,
    encoder_module,
    find_text_encoder,
    load_text_encoder,
    vocabulary_digest,
)
from hart.text_encoder.compact import CompactTextEncoder
from hart.training.config import Recipe, TransformerRecipe, named_by
from hart.types import Context, Rows, TextContext

REMEMBER_BATCH = 1024
"""Captions per batch in `remember`."""


class CaptionEncoder:
    """The frozen text encoder for captions, in float32. weights: its module. vocabulary: see `vocabulary_digest`."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self.weights = encoder_module(encoder)
        self.vocabulary = vocabulary_digest(encoder)
        self._rows: dict[str, int] = {}
        self._features: TextContext | None = None
        self._told = False
        self._is_cut = lru_cache(2**16)(self._left_out)

    def context(self, captions: Sequence[str]) -> TextContext:
        """Return the features of B captions, on the device."""
        if self._features is None or not self._rows.keys() >= set(captions):
            return self.encoder.encode(captions)
        rows = sent(torch.tensor([self._rows[caption] for caption in captions]), self._features.mask.device)
        return self._features.rows(rows)

    def remember(self, captions: Iterable[str]) -> None:
        """Encode captions once and keep their features on the device for all steps."""
        distinct = sorted(set(captions))
        parts = [distinct[start : start + REMEMBER_BATCH] for start in range(0, len(distinct), REMEMBER_BATCH)]
        self._features = TextContext.cat(self.encoder.encode(part) for part in parts)
        self._rows = {caption: row for row, caption in enumerate(distinct)}

    def cut_share(self, captions: Sequence[str]) -> float:
        """Return the share of captions that are longer than the encoder reads."""
        return sum(map(self._is_cut, captions)) / len(captions)

    def _left_out(self, caption: str) -> bool:
        """Return whether a caption is longer than the encoder reads; the first one gives a `PromptWarning`."""
        left_out = self.encoder.reading([caption])[0].left_out
        if left_out and not self._told:
            self._told = True
            remark = Reading(left_out).remarks(caption)[0]
            warnings.warn(f"{remark}; captions_cut is the share of such captions", PromptWarning, stacklevel=2)
        return bool(left_out)

    def save(self, folder: Path) -> None:
        """Store with a model whatever it needs to read prompts."""
        # only an encoder that is not found by its source
        if isinstance(self.encoder, CompactTextEncoder):
            self.encoder.save(folder, adapted=True)


def require_classes(labels: Tensor, recipe: Recipe, name: Callable[[int], str]) -> Tensor:
    """Return the classes (N,) int64 of images, -1 for none. Raises `HartError`, naming one, if the recipe's model lacks
    some of them."""
    number = recipe.num_classes
    if number is not None and (largest := int(labels.max())) >= number:
        raise HartError(
            f"{name(int(labels.argmax()))}: its class has the number {largest}, but transformer.classes.num_classes is "
            f"{number}: set it to at least {largest + 1}, or fix the label"
        )
    return labels


def open_caption_encoder(recipe: TransformerRecipe, device: torch.device) -> CaptionEncoder | None:
    """Open the text encoder of a recipe, on `device`; None for a class-conditional model.

    Raises `HartError` if the text encoder cannot be loaded, `ConfigError` if its features have other sizes.
    """
    if (text := recipe.transformer.text) is None:
        return None
    with named_by("text_encoder"):
        config, folder = find_text_encoder(recipe.text_encoder, tokens=text.tokens, instruction=recipe.text_instruction)
        encoder = load_text_encoder(config, folder)
    width, tokens = encoder.width, config.tokens
    if (text.width, text.tokens) != (width, tokens):
        raise ConfigError(f"transformer.text must be width {width} and tokens {tokens}, as the text encoder's are")
    return CaptionEncoder(encoder.to(device, torch.float32))


def drop_condition(context: Context, dropped: Tensor) -> Context:
    """Replace the contexts where `dropped` (B,) is true by the null context; the input stays unchanged."""
    rows = torch.arange(len(dropped)) + len(dropped) * dropped
    return Rows.cat([context, context.null()]).changed(lambda both: both[sent(rows, both.device)])


def with_text_noise(
    text: TextContext, largest: float, rows: slice, batch_size: int, generator: torch.Generator
) -> TextContext:
    """Add Gaussian noise to the features of real tokens, with a standard deviation in [0, largest] sampled per text.

    text: rows `rows` of a batch of `batch_size`; the generator samples for the whole batch, on its own device.
    """
    device = generator.device
    deviation = largest * torch.rand(batch_size, 1, 1, generator=generator, device=device)
    noise = torch.randn(batch_size, *text.embeddings.shape[1:], generator=generator, device=device)
    noise = sent((deviation * noise)[rows], text.embeddings.device)
    return TextContext(text.embeddings + noise * text.mask.unsqueeze(-1), text.mask)

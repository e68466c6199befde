"""Token maps and conditions of a batch for stage `transformer`, from any kind of training data.

Conditions are captions, or a `Context` if no text encoder is needed: stored features, or classes.

Images in memory are encoded once, before the first step, in all augmented versions. Images that are read in every step
are also encoded in every step, in a newly chosen version. An encoded set has the codes of one version, from which
codebook and phi make the maps.

Shapes: B images of a microbatch, N images of a set; otherwise see `hart.types`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from hart.checkpoint.storage import fingerprint
from hart.config import ConfigError
from hart.data.datasets import CaptionedImages
from hart.data.encoded import EncodedSet
from hart.data.transforms import slightly_moved, to_signed
from hart.devices import sent
from hart.errors import HartError
from hart.grids import ScaleSchedule
from hart.randomness import generator_for
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.tokenizer.quantizer import Corruption
from hart.training.conditions import CaptionEncoder, require_classes
from hart.training.config import TransformerRecipe
from hart.training.image_sources import (
    EncodedImages,
    LoadedImages,
    MemoryImages,
    TrainingData,
    require_versions,
    schedule_of,
)
from hart.training.task import Microbatch
from hart.types import ClassContext, Context, TextContext, TokenMaps

D = TypeVar("D", MemoryImages, LoadedImages, EncodedImages)
ENCODE_BATCH = 64


Conditions = tuple[str, ...] | Context
"""What B images are conditioned on: one caption each, or a context on the CPU."""


@dataclass(eq=False)
class TokenSource(ABC, Generic[D]):
    """Makes the token maps and conditions of each microbatch."""

    data: D
    recipe: TransformerRecipe
    tokenizer: HybridTokenizer
    device: torch.device

    def prepare(self) -> None:
        """Do what takes long, once, before the first step."""

    def classes(self, labels: Tensor, name: Callable[[int], str] = str) -> ClassContext:
        """Return the classes of images with labels (N,) int64. Raises like `require_classes`, which takes `name`."""
        assert self.recipe.num_classes is not None
        return ClassContext(require_classes(labels, self.recipe, name), self.recipe.num_classes)

    @abstractmethod
    def batch(self, microbatch: Microbatch) -> tuple[TokenMaps, Conditions]:
        """Return the rows of a microbatch, maps on the device. Raises `HartError` if they cannot be read."""

    @abstractmethod
    def first(self, count: int) -> Conditions:
        """Return the conditions of at most `count` first images, for samples."""


def token_source(
    data: TrainingData,
    recipe: TransformerRecipe,
    tokenizer: HybridTokenizer,
    texts: CaptionEncoder | None,
    device: torch.device,
) -> TokenSource[Any]:
    """Return token maps of `data` over the recipe's scales; `tokenizer` is on `device`.

    texts: the encoder that an encoded set with text must have been made with.
    Raises `HartError` if the set lacks captions (or classes), or was encoded differently.
    """
    if not isinstance(data, EncodedImages):
        require_versions(recipe)
    if isinstance(data, MemoryImages):
        return MemoryTokens(data, recipe, tokenizer, device)
    if isinstance(data, LoadedImages):
        return LiveTokens(data, recipe, tokenizer, device)
    _require_fitting(data.data, recipe, tokenizer, texts)
    data.data.require_codes_of(tokenizer.config.codebook_size)
    return StoredTokens(data, recipe, tokenizer, device)


@dataclass(eq=False)
class MemoryTokens(TokenSource[MemoryImages]):
    """Token maps of images in memory; see `encode_all`."""

    def __post_init__(self) -> None:
        self.captioned = self.data.captioned
        self._classes: ClassContext | None = None
        if self.recipe.condition == "label":
            self._classes = self.classes(self.captioned.require_labels(), self.captioned.key)
        else:
            self.captioned.require_captions()

    @cached_property
    def _maps(self) -> TokenMaps:
        return encode_all(
            self.tokenizer,
            schedule_of(self.captioned.pixels, self.tokenizer.config, self.recipe),
            self.captioned,
            self.device,
            augmentations=self.recipe.augmentations,
            code_corruption=self.recipe.code_corruption,
            seed=self.recipe.trainer.seed,
        )

    def prepare(self) -> None:
        _ = self._maps

    def batch(self, microbatch: Microbatch) -> tuple[TokenMaps, Conditions]:
        rows, count = self.data.rows(microbatch), microbatch.batch_size
        version = torch.randint(self.recipe.augmentations, (count,), generator=microbatch.generator("view"))
        chosen = microbatch.mine(version) * len(self.captioned) + rows
        maps = self._maps.rows(sent(chosen, self.captioned.pixels.device)).to(self.device)
        if self._classes is not None:
            return maps, self._classes.rows(rows)
        uniform = microbatch.mine(torch.rand(count, generator=microbatch.generator("captions"))).tolist()
        choices = [self.captioned.texts[row] for row in rows.tolist()]
        return maps, tuple(own[int(chance * len(own))] for own, chance in zip(choices, uniform, strict=True))

    def first(self, count: int) -> Conditions:
        if self._classes is not None:
            return self._classes.rows(slice(count))
        return tuple(captions[0] for captions in self.captioned.texts[:count])


class LiveTokens(TokenSource[LoadedImages]):
    """Token maps of images that are read and encoded in every step."""

    def batch(self, microbatch: Microbatch) -> tuple[TokenMaps, Conditions]:
        batch = self.data.loader.rows(microbatch.step, microbatch.rows)
        image, wrong = self._augmented(batch.signed(self.device), microbatch)
        schedule = schedule_of(image, self.tokenizer.config, self.recipe)
        maps = self.tokenizer.token_maps_of_image(image, schedule, wrong)
        if batch.labels is None:
            return maps, batch.captions
        return maps, self.classes(batch.labels, batch.keys.__getitem__)

    def first(self, count: int) -> Conditions:
        samples = [sample for sample, _ in self.data.first_samples(count)]
        if self.recipe.condition == "label":
            labels = torch.tensor([sample.label for sample in samples])
            return self.classes(labels, lambda row: samples[row].key)
        return tuple(sample.captions[0] for sample in samples)

    def _augmented(self, image: Tensor, microbatch: Microbatch) -> tuple[Tensor, Corruption | None]:
        """Return images (B, 3, H, W) in random versions, all but the first made anew, and their codes' corruption."""
        if self.recipe.augmentations == 1:
            return image, None
        generator = microbatch.generator("view")
        further = torch.randint(self.recipe.augmentations, (microbatch.batch_size, 1), generator=generator) > 0
        moved = slightly_moved(image, torch.rand(4, microbatch.batch_size, generator=generator)[:, microbatch.rows])
        chosen = microbatch.mine(further).to(self.device)[..., None, None]
        largest = self.recipe.code_corruption
        wrong = Corruption(largest * further, generator, microbatch.rows) if largest else None
        return torch.where(chosen, moved, image), wrong


@dataclass(eq=False)
class StoredTokens(TokenSource[EncodedImages]):
    """Token maps of an encoded set: neither the tokenizer's encoder nor the text encoder runs.

    With code corruption, codes are recomputed from the latent, which is the sum of stored codes and residual.
    """

    def __post_init__(self) -> None:
        if self.recipe.condition == "label":
            self.classes(self.data.data.require_labels(), self.data.data.key)

    def batch(self, microbatch: Microbatch) -> tuple[TokenMaps, Conditions]:
        batch = self.data.loader.rows(microbatch.step, microbatch.rows)
        indices = tuple(index.to(self.device) for index in batch.indices)
        residual = None if batch.last_scale_continuous is None else batch.last_scale_continuous.to(self.device)
        if self.recipe.code_corruption:
            assert residual is not None  # `_require_fitting`
            largest = microbatch.same(self.recipe.code_corruption)
            wrong = Corruption(largest, microbatch.generator("view"), microbatch.rows)
            latent = self.tokenizer.latent_from_codes(indices, residual, batch.schedule)
            smaller = self.tokenizer.smaller(batch.schedule)
            coarse = () if smaller is None else indices[: len(smaller) - 1]
            maps = self.tokenizer.token_maps(latent, batch.schedule, wrong, coarse)
        else:
            maps = self.tokenizer.token_maps_from_codes(indices, residual, batch.schedule)
        if self.recipe.condition == "label":
            return maps, self.classes(batch.labels)
        assert batch.text is not None  # `_require_fitting`
        return maps, batch.text

    def first(self, count: int) -> Conditions:
        encoded = self.data.data
        if self.recipe.condition == "label":
            return self.classes(encoded.labels[:count])
        return TextContext.cat(encoded.text(row, 0) for row in range(min(count, len(encoded))))


@torch.inference_mode()
def encode_all(
    tokenizer: HybridTokenizer,
    schedule: ScaleSchedule,
    data: CaptionedImages,
    device: torch.device,
    *,
    augmentations: int = 1,
    code_corruption: float = 0.0,
    seed: int = 0,
) -> TokenMaps:
    """Return token maps of every image of a set, kept where its pixels are; the tokenizer runs on `device`.

    augmentations: versions of the set, one after the other: the images themselves, then `slightly_moved` ones.
    code_corruption: largest share of wrong codes in a moved image, see `hart.tokenizer.quantizer.Corruption`.
    """
    parts = []
    for augmentation in range(augmentations):
        generator = generator_for(seed, "views", augmentation)
        for start in range(0, len(data), ENCODE_BATCH):
            image = to_signed(data.pixels[start : start + ENCODE_BATCH].to(device))
            rows = len(image)
            wrong = None
            if augmentation:
                image = slightly_moved(image, torch.rand(4, rows, generator=generator))
                if code_corruption:
                    wrong = Corruption(torch.full((rows, 1), code_corruption), generator, slice(None))
            parts.append(tokenizer.token_maps_of_image(image, schedule, wrong).to(data.pixels.device))
    return TokenMaps.cat(parts)


def _require_fitting(
    encoded: EncodedSet, recipe: TransformerRecipe, tokenizer: HybridTokenizer, texts: CaptionEncoder | None
) -> None:
    """Raise `HartError` unless a set was encoded with these weights and scales and has what the recipe needs."""
    there, text = encoded.settings, recipe.transformer.text
    if recipe.augmentations > 1:
        raise ConfigError(
            f"augmentations is {recipe.augmentations}, but {encoded.folder} holds each image in one "
            "version: set augmentations = 1, or give the images that it was encoded from as data"
        )
    if not there["residual"] and (recipe.diffusion is not None or recipe.code_corruption):
        raise HartError(
            f"{encoded.folder} was encoded without residuals, which [diffusion] and code_corruption need: encode it "
            "without --no-residual"
        )
    if text is not None and not encoded.has_text:
        raise HartError(f"{encoded.folder} holds no text features: encode the set again with --text-encoder")
    base = tokenizer.deciding_scales(encoded.schedules)
    compared = [
        ("scales", there["scales"], list(recipe.transformer.scales), "encode it with --scales"),
        ("base scales", list(encoded.base_scales), list(base), "encode it again with this tokenizer"),
        ("aspects", list(encoded.aspects), list(recipe.reading.aspects), "set reading.aspects accordingly"),
    ]
    if text is not None:
        again = "encode it again with the recipe's text encoder"
        compared += [
            ("text_instruction", there["text_instruction"], recipe.text_instruction, "set it accordingly"),
            ("text width", there["text_width"], text.width, again),
            ("text tokens", there["text_tokens"], text.tokens, again),
        ]
    for name, theirs, ours, advice in compared:
        if theirs != ours:
            raise HartError(f"{encoded.folder} has the {name} {theirs}, the recipe {ours}: {advice}")
    # a class-conditional model ignores the text, if there is any
    made_by = {"tokenizer": fingerprint(tokenizer, HybridTokenizer.DECODING)}
    if texts is not None:
        made_by |= {"text_encoder": fingerprint(texts.weights), "vocabulary": texts.vocabulary}
    encoded.require_made_by(**made_by)

"""The emoji set as the suites use it: all rendered images by concept, style and skin tone, and their features.

Shapes: B, M images, D width of a feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import torch
from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from hart import HartError, HartPipeline
from hart.data import open_dataset
from hart.evaluation import (
    TENSORS,
    Cache,
    Context,
    EfficientNetLite,
    FeatureExtractor,
    Progress,
    SamplingOptions,
    counted,
    extractor_facts,
    reconstruct,
)
from hart.files import FileError, default_cache, read_json
from hart_emoji.data.captions import DEFAULT_STYLE

FEATURE_IMAGE_SIZE = 128
"""Image size for EfficientNet-Lite in pixels: emoji have little finer detail, and this takes a third of the time."""
BATCH = 8
"""Images per batch of the extractor; larger batches are slower on a CPU."""
CHUNK = 512
"""Images per file of stored features."""


class EmojiOptions(SamplingOptions, kw_only=True):
    """Options of suites that compare a model's images with the emoji set."""

    data: Annotated[Path, Field(description="Folder that hart-emoji data built.")]
    features: Annotated[
        Literal["efficientnet-lite0", "efficientnet-lite2"],
        Field(description="Network whose features judge what images look like; lite2 was not used in any training."),
    ] = "efficientnet-lite0"


@pydantic.dataclasses.dataclass(frozen=True)
class ConceptEntry:
    """The parts of an entry of concepts.json that the suites read. names: the usual one first."""

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    group: str
    held_out_keywords: tuple[str, ...]


def read_concepts(folder: Path) -> dict[str, ConceptEntry]:
    """Return a set's concepts by slug. Raises `HartError` for a folder that `hart-emoji data` did not build."""
    try:
        return TypeAdapter(dict[str, ConceptEntry]).validate_python(read_json(folder / "concepts.json"))
    except FileError as error:
        raise HartError(f"{error}: give a folder that hart-emoji data built") from None
    except ValidationError:
        raise HartError(f"{folder}: does not describe an emoji set: build it again") from None


class EmojiSet:
    """What `hart-emoji data` built, in memory: 3 * size**2 bytes per image.

    Images are numbered from 0, training images first. built_size: size in pixels at which they were rendered.
    slugs: concepts in the order of their numbers. concepts: slug -> its entry in concepts.json.
    style_words: style -> its name in captions.
    concept, style, tone, held_out: one per image; tone is None without a skin tone, held_out is None for training.
    """

    def __init__(self, folder: Path, size: int) -> None:
        """Read all images at `size` px. Raises `HartError` for a folder that `hart-emoji data` did not build, or that
        has been damaged since."""
        self.concepts = read_concepts(folder)
        index = read_json(folder / "dataset.json")
        self.built_size: int = index["size"]
        self._splits = [open_dataset(folder, split, size) for split in ("train", "val")]
        if damaged := [damage for split in self._splits for damage in split.damaged]:
            raise HartError(f"{folder}: {counted(len(damaged), 'image')} cannot be read ({damaged[0]}): build it again")
        self.training = range(len(self._splits[0]))
        records: list[Any] = [record for split in self._splits for record in split.records]
        self.style_words: dict[str, str] = {name: style["word"] for name, style in index["styles"].items()}
        self.slugs: list[str] = sorted({record["concept"] for record in records})
        self.number = {slug: number for number, slug in enumerate(self.slugs)}
        self.concept = torch.tensor([self.number[record["concept"]] for record in records])
        self.style: tuple[str, ...] = tuple(record["style"] for record in records)
        self.tone: tuple[str | None, ...] = tuple(record["skin_tone"] for record in records)
        self.held_out: tuple[str | None, ...] = tuple(record["held_out"] for record in records)

    def __len__(self) -> int:
        return len(self.style)

    def entry(self, number: int) -> ConceptEntry:
        """Return the entry of a concept."""
        return self.concepts[self.slugs[number]]

    def images_of(self, number: int) -> list[int]:
        """Return all images of a concept, held out or not."""
        found: list[int] = (self.concept == number).nonzero().flatten().tolist()
        return found

    def renderings(self) -> dict[int, int]:
        """Return concept -> a training image without skin tone, in the default style if there is one."""
        found: dict[int, int] = {}
        for row in self.training:
            number = int(self.concept[row])
            if self.tone[row] is None and (number not in found or self.style[row] == DEFAULT_STYLE):
                found[number] = row
        return found

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """Return the images `rows` as (B, 3, size, size) uint8."""
        first, second = self._splits
        split = len(first)
        return torch.stack([first.pixels[row] if row < split else second.pixels[row - split] for row in rows])

    def features(self, extractor: FeatureExtractor, progress: Progress, cache: Path | None = None) -> Tensor:
        """Return (M, D) features of all images. They are computed once per set, size and extractor and kept in `cache`,
        by default a folder in the user's cache."""
        kept = Cache(cache or default_cache() / "features", TENSORS, extractor_facts(extractor))
        chunks = [chunk for split in self._splits for chunk in split.pixels.split(CHUNK)]
        names = list(map(kept.key, chunks))

        def compute(numbers: list[int]) -> list[Mapping[str, Tensor]]:
            return [{"features": features_of(chunks[number], extractor)} for number in numbers]

        kept.fill(names, compute, progress=progress, what="features of the set")
        return torch.cat([kept.read(name)["features"] for name in names])


@dataclass(frozen=True)
class Opened:
    """What the suites compare. extractor: its features decide which images look alike."""

    pipe: HartPipeline
    emoji: EmojiSet
    extractor: FeatureExtractor

    @staticmethod
    def by(context: Context[Any]) -> Opened:
        """Open model, set and extractor as a suite's options say. Raises `HartError`."""
        pipe = context.options.pipeline()
        context.progress(0, None, "reading the set")
        size: Literal[0, 2] = 2 if context.options.features == "efficientnet-lite2" else 0
        extractor = EfficientNetLite(pipe.device, size, FEATURE_IMAGE_SIZE)
        emoji = EmojiSet(context.options.data, pipe.image_size)
        if emoji.built_size < pipe.image_size:
            context.note(
                f"the set's images of {emoji.built_size} px are enlarged, which blurs them: for comparable figures, "
                f"build it with --size {pipe.image_size}"
            )
        return Opened(pipe, emoji, extractor)

    def reconstructed(self, pixels: Tensor) -> Mapping[str, Tensor]:
        """Reconstruct images (B, 3, H, W) uint8 with the tokenizer: "discrete" and "hybrid"."""
        decoded: dict[str, list[Tensor]] = {"discrete": [], "hybrid": []}
        for batch in pixels.split(BATCH):
            schedule = self.pipe.config.tokenizer.schedule
            for kind, images in reconstruct(self.pipe.tokenizer, batch.to(self.pipe.device), schedule).items():
                decoded[kind].append(images.cpu())
        return {kind: torch.cat(parts) for kind, parts in decoded.items()}


def image_of(pixels: Tensor) -> Image.Image:
    """Convert (3, H, W) uint8 to an image."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


@dataclass(frozen=True)
class Looks:
    """Images (B, 3, H, W) uint8, and their features (B, D)."""

    images: Tensor
    features: Tensor


def looks(pixels: Tensor, extractor: FeatureExtractor) -> Looks:
    """Return images (B, 3, H, W) uint8 with their features."""
    return Looks(pixels, features_of(pixels, extractor))


def features_of(pixels: Tensor, extractor: FeatureExtractor) -> Tensor:
    """Return features (B, D) of images (B, 3, H, W), computed a few at a time."""
    return torch.cat([extractor(batch).pooled for batch in pixels.split(BATCH)])

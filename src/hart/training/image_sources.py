"""Training data: images in memory, images read in every step, or a set encoded in advance.

`open_training_data` decides by the address, and `description` says in one line what it decided. In every case the
images of step n are a function of (seed, n): neither resuming nor the number of processes changes them.

Shapes: B images of a microbatch, H W image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from hart.config import ConfigError, TokenizerConfig
from hart.data.datasets import CaptionedImages, read_all
from hart.data.digests import SetDigest
from hart.data.encoded import EncodedLoader, EncodedSet
from hart.data.encoded_files import encoded_splits
from hart.data.kinds import Condition
from hart.data.loader import ImageLoader
from hart.data.notes import Columns
from hart.data.opening import open_source, require_outside
from hart.data.order import SampleOrder, Size
from hart.data.samples import Damage, Sample, decoded
from hart.data.sources import DamageCount, Source, Stream, iterate
from hart.data.transforms import ImageTransform, to_signed
from hart.errors import HartError
from hart.files import listed_once, user_address
from hart.grids import ScaleSchedule
from hart.sizes import ImageSize, aspect_sizes, schedule_of_size
from hart.strict import byte_count, counted
from hart.training.conditions import require_classes
from hart.training.config import ReadingConfig, Recipe, TransformerRecipe
from hart.training.task import Microbatch, TrainContext


class _Kept:
    """Data whose images are known to be sound before the first step: no step replaces any."""

    def figures(self, microbatch: Microbatch, train_context: TrainContext, device: torch.device) -> dict[str, float]:
        """Return figures of the last step to log; `microbatch` has all rows of the process."""
        return {}


class MemoryImages(_Kept):
    """All images, decoded, in the memory of the machine or of the device."""

    def __init__(
        self,
        captioned: CaptionedImages,
        seed: int,
        description: str = "images in memory",
        source: Source | Stream | None = None,
    ) -> None:
        """source: where they were read from, if anywhere."""
        self.captioned = captioned
        self._source = source
        self.order = SampleOrder(captioned.weights, seed)
        self.description = description
        self.damaged = captioned.damaged

    def rows(self, microbatch: Microbatch) -> Tensor:
        """Return the rows of a microbatch: (B,) int64."""
        return microbatch.mine(self.order.batch(microbatch.step, microbatch.batch_size))

    def images(self, microbatch: Microbatch, device: torch.device) -> Tensor:
        """Return (B, 3, H, W) float32 in [-1, 1]."""
        return to_signed(self.captioned.images(self.rows(microbatch)).to(device))

    def first(self, count: int) -> Tensor:
        """Return at most `count` first images, without random crops: (n, 3, H, W) in [-1, 1] on the CPU."""
        return to_signed(self.captioned.pixels[:count].cpu())

    def digest(self) -> str:
        """Return `hart.data.sources.Source.digest`; without a source, a digest of what is in memory."""
        if self._source is not None:
            return self._source.digest()
        digest = SetDigest("images in memory")
        for row in range(len(self.captioned)):
            digest.add(self.captioned.pixels[row].cpu().numpy().tobytes(), *self.captioned.texts[row])
        for numbers in (self.captioned.weights, self.captioned.labels):
            digest.add(b"" if numbers is None else numbers.cpu().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device) -> MemoryImages:
        """Return the same images with their pixels on `device`."""
        said = f"{self.description}, on {device}"
        return MemoryImages(self.captioned.to(device), self.order.seed, said, self._source)

    def close(self) -> None: ...


class LoadedImages:
    """Images read and decoded in every step; methods as in `MemoryImages`. `first` shows them in one shape."""

    def __init__(
        self, source: Source | Stream, transform: ImageTransform, condition: Condition, loader: ImageLoader, why: str
    ) -> None:
        """why: the reason that they are not kept in memory."""
        self.condition = condition
        self.loader = loader
        self.digest = source.digest
        self.close = loader.close
        ahead = f", {counted(loader.workers, 'process')} ahead" if loader.workers else ""
        self.description = f"{source.description}; read in every step{ahead} ({why})"
        self._source = source
        self._plain = transform.replace(crop="center", flip=0.0)
        self.first_samples = cache(self._read_first)

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """Return what this process has skipped so far."""
        return self.loader.damaged

    def images(self, microbatch: Microbatch, device: torch.device) -> Tensor:
        return self.loader.rows(microbatch.step, microbatch.rows).signed(device)

    def first(self, count: int) -> Tensor:
        return to_signed(torch.stack([pixels for _, pixels in self.first_samples(count)]))

    def _read_first(self, count: int) -> list[tuple[Sample, Tensor]]:
        """Return the first sound samples that have the condition, with their pixels."""
        sound = decoded(iterate(self._source), self._plain, [], self.condition)
        return list(itertools.islice(sound, count))

    def figures(self, microbatch: Microbatch, train_context: TrainContext, device: torch.device) -> dict[str, float]:
        """Return `damaged`: how many images of the last step were replaced; `microbatch` has all the process's rows."""
        replaced = self.loader.rows(microbatch.step, microbatch.rows).replaced
        return {"damaged": float(train_context.sum(torch.tensor(float(sum(replaced)), device=device)))}


class EncodedImages(_Kept):
    """Codes with text features or classes, written by `hart data encode`."""

    damaged: tuple[Damage, ...] = ()

    def __init__(self, data: EncodedSet, loader: EncodedLoader) -> None:
        self.data = data
        self.loader = loader
        self.digest = data.digest
        self.close = loader.close
        text = "text features" if data.has_text else "classes"
        total = sum(data.parts)
        of = [f" ({part / total:.0%})" for part in data.parts] or [""] * len(data.folders)
        sets = " and ".join(f"{folder}{part}" for folder, part in zip(data.folders, of, strict=True))
        self.description = (
            f"encoded set{'s' * (len(of) > 1)} {sets}: {counted(len(data), 'image')} as codes, with {text}; "
            "neither images nor prompts are encoded in training"
        )


ImageSource = MemoryImages | LoadedImages
TrainingData = ImageSource | EncodedImages
GivenData = TrainingData | CaptionedImages | Callable[[Sequence[ImageSize]], TrainingData]
"""The data a task takes. A function opens images of given sizes, which may take minutes, once all models fit."""


@listed_once()
def open_training_data(
    recipe: Recipe,
    size: int | Sequence[Size],
    *,
    out: Path | None = None,
    rank: int = 0,
    world: int = 1,
) -> TrainingData:
    """Open the images that a recipe names, for one of `world` processes.

    size: image size in pixels, or the width and height of each of `reading.aspects` (`hart.sizes.aspect_sizes`).
    out: the folder of the run, which must not be inside the images' folder.
    A folder with an encoded set gives `EncodedImages`; otherwise `hart.data.opening` finds the format. Sets that can be
    read at random, take at most `reading.memory_gb` and need no random crops or flips are kept in memory; all others
    are read in every step. Raises `HartError`.
    """
    reading, seed, batch_size = recipe.reading, recipe.trainer.seed, recipe.trainer.batch_size
    split = "train" if reading.split == "auto" else reading.split
    folder, *also = (Path(user_address(each)) for each in (recipe.data, *reading.also))
    encoded = encoded_splits(folder, split) if reading.kind == "auto" else set()
    if split in encoded:
        _require_plain(reading, recipe.data)
        data = EncodedSet(folder, split, also=also, parts=reading.weights)
        loader = EncodedLoader(data, batch_size=batch_size, seed=seed, rank=rank, world=world, workers=reading.workers)
        return EncodedImages(data, loader)
    if encoded:
        others = " or ".join(sorted(encoded))
        raise HartError(f"{recipe.data}: encoded, but not its split '{split}': set reading.split to {others}")
    if reading.also:
        raise HartError(
            f"reading.also mixes encoded sets, and {recipe.data} is not one: encode it, or leave reading.also out"
        )
    require_versions(recipe)
    kind = None if reading.kind == "auto" else reading.kind
    whole = reading.split == "auto" and not recipe.holds_out
    columns = Columns(reading.image_column, reading.caption_column, reading.label_column)
    source = open_source(recipe.data, None if whole else split, kind=kind, columns=columns)
    if out is not None:
        require_outside(out, source)
    if not isinstance(source, Stream):
        require_classes(source.labels, recipe, source.key)
    shapes = [(size, size)] if isinstance(size, int) else size
    transform = ImageTransform(shapes[0], reading.fit, reading.crop, reading.shorter_side, reading.flip)
    why = "several shapes" if len(shapes) > 1 else _why_not_memory(source, transform, reading)
    if why is None:
        return _in_memory(source, transform, recipe)
    if reading.on_device:
        raise HartError(
            f"reading.on_device keeps images that are held in memory, and {source.description} would be read in every "
            f"step ({why}): leave it out, or raise reading.memory_gb"
        )
    images = ImageLoader(
        source,
        transform,
        batch_size=batch_size,
        seed=seed,
        condition=recipe.condition,
        rank=rank,
        world=world,
        workers=reading.workers,
        max_damaged=reading.max_damaged,
        shuffle_buffer=reading.shuffle_buffer,
        shapes=shapes,
    )
    return LoadedImages(source, transform, recipe.condition, images, why)


def kept_data(given: GivenData, coder: TokenizerConfig, recipe: Recipe, device: torch.device) -> TrainingData:
    """Return the data, on the device if the recipe says so, which is only allowed for images in memory.

    coder: a tokenizer with the recipe's scales.
    """
    data = given(aspect_sizes(coder, recipe.reading.aspects)) if callable(given) else given
    if isinstance(data, CaptionedImages):
        data = MemoryImages(data, recipe.trainer.seed)
    return data.to(device) if isinstance(data, MemoryImages) and recipe.reading.on_device else data


def image_source(data: TrainingData) -> ImageSource:
    """Return images for stage `tokenizer`. Raises `HartError` for an encoded set, which has none."""
    if isinstance(data, EncodedImages):
        raise HartError(f"{data.data.folder} holds codes and no images: give the set that it was encoded from")
    return data


def schedule_of(image: Tensor, coder: TokenizerConfig, recipe: Recipe) -> ScaleSchedule:
    """Return the scales of images (..., H, W). Raises `HartError` if their size is not one of the recipe's.

    coder: a tokenizer with the recipe's scales.
    """
    size, sizes = ImageSize(image.shape[-1], image.shape[-2]), aspect_sizes(coder, recipe.reading.aspects)
    if size not in sizes:
        raise HartError(f"images have {size} px, but the recipe is for {' and '.join(map(str, sizes))} px")
    return schedule_of_size(coder, size)


def _in_memory(source: Source | Stream, transform: ImageTransform, recipe: Recipe) -> MemoryImages:
    captioned = read_all(source, transform, recipe.condition)
    DamageCount(source, recipe.reading.max_damaged, "reading.max_damaged").add(captioned.damaged, len(captioned))
    left_out = f", {len(captioned.damaged)} damaged left out" if captioned.damaged else ""
    description = f"{source.description}; held in memory{left_out} ({byte_count(captioned.pixels.nbytes)})"
    return MemoryImages(captioned, recipe.trainer.seed, description, source)


def _why_not_memory(source: Source | Stream, transform: ImageTransform, reading: ReadingConfig) -> str | None:
    """Return why a set is not kept in memory; None if it is."""
    if isinstance(source, Stream):
        return "a stream cannot be read at random"
    if transform.random:
        return "random crops or flips"
    size = len(source) * 3 * transform.width * transform.height
    if size > reading.memory_gb * 1e9:
        return f"{byte_count(size)} decoded, reading.memory_gb is {reading.memory_gb:g}"
    return None


def require_versions(recipe: Recipe) -> None:
    """Raise `ConfigError` if codes of augmented images should be wrong, but a set that is not encoded has no augmented
    versions."""
    if isinstance(recipe, TransformerRecipe) and recipe.code_corruption and recipe.augmentations == 1:
        raise ConfigError(
            "code_corruption is for augmented versions: set augmentations to 2 or more, or code_corruption to 0"
        )


def _require_plain(reading: ReadingConfig, folder: str) -> None:
    """Raise `HartError` for settings without effect on an encoded set, such as crops and flips."""
    plain = ReadingConfig().to_dict()
    for name, value in reading.to_dict().items():
        if name not in ReadingConfig.OF_ENCODED and value != plain[name]:
            raise HartError(
                f"{folder} is encoded already: reading.{name} cannot change it: leave it out, or name the images"
            )

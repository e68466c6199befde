"""An emoji set as its suites see it: all rendered pictures by concept, style and skin tone, and their features.

Shapes: B, M pictures, D width of a feature, P = 3 * PIXEL_SIDE**2.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hart.data.datasets import open_dataset
from hart.errors import HartError
from hart.evaluation.arrays import ArrayError, read_floats
from hart.evaluation.features import EfficientNetLite0, FeatureExtractor
from hart.evaluation.report import Progress
from hart.files import FileError, atomic_write, default_cache, open_regular, read_json

FEATURE_SIDE = 128
"""EfficientNet-Lite0 sees emoji at this side: they have little that is finer, and it takes a third of the time."""
PIXEL_SIDE = 32
"""Pictures are compared pixel by pixel at this side: colours and masses count, not the exact place of an edge."""
BATCH = 8
"""Pictures that the extractor sees together; more at once are slower on a CPU."""
CHUNK = 512
"""Pictures whose features are stored in one file."""


class EmojiSet:
    """What `hart data emoji` built, in memory: 3 * size**2 bytes a picture.

    Pictures are numbered from 0, those of training first. slugs: concepts in the order of their numbers.
    concepts: what concepts.json says of each slug. style_words: style -> what captions call it.
    concept, style, tone, held_out: of each picture; the tone is None for pictures without, held_out for training ones.
    """

    def __init__(self, folder: Path, size: int) -> None:
        """Reads all pictures at `size` px. Raises `HartError` for a folder that `hart data emoji` did not build."""
        self.concepts: Mapping[str, Any] = _read_json(folder / "concepts.json")
        dataset = _read_json(folder / "dataset.json")
        self._splits = [open_dataset(folder, split, size) for split in ("train", "val")]
        self.damaged = sum(len(split.damaged) for split in self._splits)
        self.training_count = len(self._splits[0])
        records = [record for split in self._splits for record in split.records]
        _require_form(self.concepts, dataset, records, folder)
        self.style_words: Mapping[str, str] = {name: style["word"] for name, style in dataset["styles"].items()}
        self.slugs = sorted({str(record["concept"]) for record in records})
        self.number = {slug: number for number, slug in enumerate(self.slugs)}
        self.concept = torch.tensor([self.number[str(record["concept"])] for record in records])
        self.style: tuple[str, ...] = tuple(record["style"] for record in records)
        self.tone: tuple[str | None, ...] = tuple(record["skin_tone"] for record in records)
        self.held_out: tuple[str | None, ...] = tuple(record["held_out"] for record in records)

    def __len__(self) -> int:
        return len(self.style)

    @property
    def training(self) -> range:
        """Pictures of the training split."""
        return range(self.training_count)

    def group(self, slug: str) -> str:
        """Unicode's group of a concept, such as "food-drink"."""
        return str(self.concepts[slug]["group"])

    def name(self, slug: str) -> str:
        """The first of a concept's names."""
        return str(self.concepts[slug]["names"][0])

    def pictures_of(self, number: int) -> list[int]:
        """All pictures of a concept, held out or not."""
        found: list[int] = (self.concept == number).nonzero().flatten().tolist()
        return found

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """(B, 3, size, size) uint8 of some pictures."""
        first, second = self._splits
        split = self.training_count
        return torch.stack([first.pixels[row] if row < split else second.pixels[row - split] for row in rows])

    def features(self, extractor: FeatureExtractor, progress: Progress, cache: Path | None = None) -> Tensor:
        """(M, D) of all pictures, computed once for each set, size and extractor and kept in `cache`.

        cache: by default a folder in the user's cache. Files are named by a hash of pictures and extractor.
        """
        folder = default_cache() / "features" if cache is None else cache
        chunks = [chunk for split in self._splits for chunk in split.pixels.split(CHUNK)]
        parts = []
        for number, chunk in enumerate(chunks):
            progress(number * CHUNK, len(self), "features of the set")
            parts.append(_cached_features(chunk, extractor, folder))
        return torch.cat(parts)


def emoji_extractor(device: torch.device) -> EfficientNetLite0:
    """What the suites on emoji compare pictures with."""
    return EfficientNetLite0(device, side=FEATURE_SIDE)


@dataclass(frozen=True)
class Looks:
    """What pictures look like: features (B, D), and pixel values 0 to 255 (B, P), see `PIXEL_SIDE`."""

    features: Tensor
    pixels: Tensor


def looks(pixels: Tensor, extractor: FeatureExtractor) -> Looks:
    """Of pictures (B, 3, H, W), uint8."""
    return Looks(features_of(pixels, extractor), reduced(pixels))


def reduced(pixels: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) at `PIXEL_SIDE` px, as float32 rows (B, P) on the CPU."""
    parts = [F.interpolate(part.float(), (PIXEL_SIDE, PIXEL_SIDE), mode="area").cpu() for part in pixels.split(CHUNK)]
    return torch.cat(parts).flatten(1)


def features_of(pixels: Tensor, extractor: FeatureExtractor) -> Tensor:
    """(B, D) of pictures (B, 3, H, W), a few at a time."""
    return torch.cat([extractor(batch).pooled for batch in pixels.split(BATCH)])


def _cached_features(pixels: Tensor, extractor: FeatureExtractor, folder: Path) -> Tensor:
    digest = hashlib.sha256(f"{extractor.name} {extractor.weights} {tuple(pixels.shape)}".encode())
    digest.update(pixels.numpy().tobytes())
    file = folder / f"{digest.hexdigest()}.npy"
    if not file.exists():
        features = features_of(pixels, extractor).numpy()
        atomic_write(file, lambda stream: np.save(stream, features))
    with open_regular(file) as stream:
        try:
            kept = read_floats(stream, os.fstat(stream.fileno()).st_size, (len(pixels), None))
        except ArrayError as error:
            raise HartError(f"{file}: is damaged ({error}): delete it, and the features are computed again") from None
    return kept.float()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except FileError as error:
        raise HartError(f"{error}: give a folder that hart data emoji built") from None


def _require_form(
    concepts: Mapping[str, Any], dataset: Mapping[str, Any], records: Sequence[Any], folder: Path
) -> None:
    """Raises `HartError` where what the suites read of an emoji set is missing or of another type."""
    styles = dataset.get("styles")
    whole = isinstance(styles, dict) and all(
        isinstance(style, dict) and isinstance(style.get("word"), str) for style in styles.values()
    )
    whole = whole and all(_is_concept(concept) for concept in concepts.values())
    whole = whole and all(
        isinstance(record, dict)
        and record.get("concept") in concepts
        and record.get("style") in (styles or {})
        and {"skin_tone", "held_out"} <= record.keys()
        and all(isinstance(record[name], str | None) for name in ("skin_tone", "held_out"))
        for record in records
    )
    if not whole:
        raise HartError(f"{folder}: its concepts, styles or notes are not those of an emoji set: build it again")


def _is_concept(value: Any) -> bool:
    """Whether an entry of concepts.json has what is read of it."""
    if not isinstance(value, dict):
        return False
    names, words = value.get("names"), value.get("held_out_keywords")
    return (
        isinstance(names, list)
        and bool(names)
        and isinstance(words, list)
        and all(isinstance(word, str) for word in (*names, *words, value.get("group")))
    )

"""Captioned pictures in memory, from WebDataset shards or a folder, and the order in which training sees them.

All pictures of a split are decoded once and kept: 3 * size**2 bytes each (0.2 GB for 18,000 at 64 px). That makes every
later access instant and the order free, which suits sets of up to a few 100,000 small pictures.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hart.data.transforms import pil_to_pixels
from hart.errors import HartError

IMAGE_SUFFIXES = frozenset({"webp", "png", "jpg", "jpeg", "bmp"})
CAPTION_SUFFIXES = frozenset({"txt", "json", "cls"})
VALIDATION_SHARE = 0.05
"""Of a folder without split folders, by the hash of the file name."""


@dataclass(frozen=True)
class CaptionedImages:
    """Pictures with captions, by number.

    pixels: (N, 3, H, W) uint8, RGB, 0 to 255. texts: the captions of each picture, possibly none.
    weights: (N,) float32, how often a picture is drawn relative to others; 1 where the source does not say.
    records: what a `.json` beside the picture holds (concept, style and so on), else empty.
    skipped: how many files could not be read.
    """

    pixels: Tensor
    texts: tuple[tuple[str, ...], ...]
    weights: Tensor
    records: tuple[Mapping[str, Any], ...]
    skipped: int

    def __len__(self) -> int:
        return len(self.texts)

    def image(self, index: int) -> Tensor:
        """(3, H, W) uint8."""
        return self.pixels[index]

    def captions(self, index: int) -> tuple[str, ...]:
        return self.texts[index]

    def require_captions(self) -> None:
        """Raises `HartError` unless every picture has a caption, which text-to-image training needs."""
        bare = sum(not captions for captions in self.texts)
        if bare:
            raise HartError(
                f"{bare} of {len(self)} pictures have no caption: add a .txt with the same name beside each"
            )


@dataclass
class _Sample:
    """One picture as stored; caption files by suffix."""

    image: bytes = b""
    notes: dict[str, bytes] = field(default_factory=dict)


def open_dataset(path: Path, split: str, size: int) -> CaptionedImages:
    """Read the pictures of one split, square and `size` pixels wide (see `hart.data.transforms.pil_to_pixels`).

    path: one of
    - a folder of tar shards in WebDataset form, of which those are read that have `split` as a word of their name
      ("train-0000.tar", "photos-256-train.tar");
    - one tar file, taken whole for whichever split;
    - a folder of pictures, with a folder per split or, without these, split by file name into "train" and "val".
    Captions lie beside a picture under the same name: `.txt` (one a line), `.json` ("captions" or "caption", optionally
    "weight") or `.cls` (a class number or name).
    Unreadable files are skipped and counted. Raises `HartError` where nothing at all can be read.
    """
    path = Path(path)
    if not path.exists():
        raise HartError(f"{path} does not exist: give a folder of pictures or tar shards")
    if path.is_file():
        shards = [path]
    else:
        shards = sorted(p for p in path.glob("*.tar") if split in re.split(r"[^0-9A-Za-z]+", p.name))
    samples: list[_Sample] = []
    damaged_shards = 0
    if shards:
        for shard in shards:
            part, complete = _read_shard(shard)
            samples += part
            damaged_shards += not complete
    elif any(path.glob("*.tar")):
        raise HartError(f"{path} has tar files but none for the split '{split}': name them {split}-0000.tar and so on")
    else:
        samples = list(_read_folder(path, split))
    data = _decode(samples, size, damaged_shards)
    if not len(data):
        raise HartError(f"{path} ({split}): no picture could be read, {data.skipped} damaged: give .webp, .png or .jpg")
    return data


def batch_indices(weights: Tensor, batch_size: int, seed: int, step: int) -> Tensor:
    """The pictures of training step `step`: (batch_size,) int64, always the same for the same arguments.

    Draws run in rounds of N. In each, picture i comes N * w_i / sum(w) times, rounded up or down at random
    (systematic sampling), in random order: with equal weights every picture exactly once. A resumed run needs no
    state but the step. Raises `HartError` for weights that are negative, not finite, or all zero.
    """
    total = weights.double().sum()
    if not (torch.isfinite(total) and total > 0 and bool((weights >= 0).all())):
        raise HartError("weights must be finite, not negative, and not all zero")
    count = len(weights)
    edges = weights.double().cumsum(0)
    # Divided by the last edge itself, so that the line ends at exactly N whatever the rounding.
    edges = edges / edges[-1] * count
    first = step * batch_size
    parts = []
    for round_number in range(first // count, (first + batch_size - 1) // count + 1):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + round_number)
        start = torch.rand((), generator=generator, dtype=torch.float64)
        place = torch.randperm(count, generator=generator)
        place = place[max(first - round_number * count, 0) : first + batch_size - round_number * count]
        parts.append(torch.searchsorted(edges, place + start, right=True))
    return torch.cat(parts)


def _read_shard(shard: Path) -> tuple[list[_Sample], bool]:
    """The pictures of a tar file, and whether it could be read to its end; what comes before the damage is good."""
    samples: dict[str, _Sample] = {}
    complete = True
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                key, _, suffix = name.partition(".")
                stream = tar.extractfile(member) if member.isfile() and key else None
                if stream is not None:
                    _put(samples.setdefault(f"{folder}/{key}", _Sample()), suffix.lower(), stream.read())
    except (tarfile.TarError, EOFError, OSError):
        complete = False
    return [sample for sample in samples.values() if sample.image], complete


def _read_folder(path: Path, split: str) -> Iterator[_Sample]:
    inside = path / split
    loose = not inside.is_dir()
    if loose and split not in {"train", "val"}:
        raise HartError(f"{path} has no folder '{split}': ask for train or val, or make that folder")
    for file in sorted((path if loose else inside).rglob("[!.]*")):
        if file.suffix.lower().removeprefix(".") not in IMAGE_SUFFIXES or not file.is_file():
            continue
        if loose:
            digest = hashlib.sha256(file.relative_to(path).with_suffix("").as_posix().encode()).digest()
            if (int.from_bytes(digest[:4], "big") / 2**32 < VALIDATION_SHARE) != (split == "val"):
                continue
        sample = _Sample(file.read_bytes())
        for suffix in CAPTION_SUFFIXES:
            if (note := file.with_suffix(f".{suffix}")).is_file():
                sample.notes[suffix] = note.read_bytes()
        yield sample


def _put(sample: _Sample, suffix: str, data: bytes) -> None:
    if suffix in IMAGE_SUFFIXES:
        sample.image = data
    elif suffix in CAPTION_SUFFIXES:
        sample.notes[suffix] = data


def _decode(samples: Sequence[_Sample], size: int, skipped: int) -> CaptionedImages:
    pixels = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    texts: list[tuple[str, ...]] = []
    weights: list[float] = []
    records: list[Mapping[str, Any]] = []
    for sample in samples:
        try:
            captions, weight, record = _read_notes(sample.notes)
            with Image.open(io.BytesIO(sample.image)) as image:
                pixels[len(texts)] = pil_to_pixels(image, size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            skipped += 1
            continue
        texts.append(captions)
        weights.append(weight)
        records.append(record)
    return CaptionedImages(pixels[: len(texts)], tuple(texts), torch.tensor(weights), tuple(records), skipped)


def _read_notes(notes: Mapping[str, bytes]) -> tuple[tuple[str, ...], float, Mapping[str, Any]]:
    """Captions, weight and record; raises `ValueError` where they make no sense."""
    record: dict[str, Any] = {}
    if "json" in notes:
        record = json.loads(notes["json"])
        if not isinstance(record, dict):
            raise ValueError("not an object")
    given = record.get("captions", record.get("caption", []))
    captions = [given] if isinstance(given, str) else given
    weight = record.get("weight", 1.0)
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError("captions are not text")
    if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
        raise ValueError("weight is not a number from 0 up")
    for suffix in ("txt", "cls"):
        captions = captions + notes.get(suffix, b"").decode("utf-8").splitlines()
    return tuple(caption.strip() for caption in captions if caption.strip()), float(weight), record

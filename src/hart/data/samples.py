"""One stored picture with what is said about it, and the reading of captions, classes and weights.

Every format ends here: whatever the file, a record's fields and the notes beside a picture mean the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from hart.data.transforms import ImageTransform
from hart.errors import HartError

IMAGE_SUFFIXES = frozenset({"webp", "png", "jpg", "jpeg", "bmp"})
NOTE_SUFFIXES = frozenset({"txt", "json", "cls"})

IMAGE_FIELDS = ("image", "file_name", "image_path", "path", "img", "jpg", "png", "webp")
CAPTION_FIELDS = ("captions", "caption", "text", "prompt")
LABEL_FIELDS = ("label", "class", "cls")
WEIGHT_FIELD = "weight"

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {"train": ("train", "training"), "val": ("val", "validation", "valid")}
"""Other names under which a split is found."""
VALIDATION_SHARE = 0.05
"""Of a set that is not divided, by the hash of the picture's name."""
WHOLE = "all"
"""Split that every picture of an undivided set belongs to: for measuring, where nothing is held out."""


class DamagedSample(Exception):
    """A picture that cannot be used; skipped and counted, never fatal by itself. Its text is the reason."""


@dataclass(frozen=True)
class Damage:
    """What was skipped: its name and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """One picture as stored.

    key: where it lies, for messages. image: the encoded file. captions: possibly none.
    label: class number, or None. weight: how often it is drawn relative to others.
    record: what a `.json` beside it, or its line or row, holds.
    """

    key: str
    image: bytes
    captions: tuple[str, ...] = ()
    label: int | None = None
    weight: float = 1.0
    record: Mapping[str, Any] = field(default_factory=dict)

    def pixels(self, transform: ImageTransform, draws: np.random.Generator | None = None) -> Tensor:
        """(3, size, size) uint8. Raises `DamagedSample` when the image does not decode."""
        try:
            with Image.open(io.BytesIO(self.image)) as image:
                return transform(image, draws)
        except UnidentifiedImageError:
            # its own words name an object in memory
            raise DamagedSample("no image that can be decoded (unknown format)") from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DamagedSample(f"no image that can be decoded ({one_line(error)})") from None


@dataclass(frozen=True)
class Columns:
    """Names of the fields of a record; an empty one is looked for among the usual names."""

    image: str = ""
    caption: str = ""
    label: str = ""

    def resolve(self, available: Collection[str], where: str) -> Columns:
        """The fields that are there. Raises `HartError` for a named one that is not, or when none holds the image."""
        for name in (self.image, self.caption, self.label):
            if name and name not in available:
                raise HartError(f"{where}: no field {name!r}; it has {', '.join(sorted(available)) or 'none'}")
        image = self.image or _first(IMAGE_FIELDS, available)
        if not image:
            raise HartError(
                f"{where}: no field holds the image: looked for {', '.join(IMAGE_FIELDS)} among "
                f"{', '.join(sorted(available)) or 'no fields'}; name it with the option for the image column"
            )
        return Columns(
            image, self.caption or _first(CAPTION_FIELDS, available), self.label or _first(LABEL_FIELDS, available)
        )


@dataclass(frozen=True)
class Note:
    """What is said about a picture. label: as written, a number or a name."""

    captions: tuple[str, ...] = ()
    label: int | str | None = None
    weight: float = 1.0
    record: Mapping[str, Any] = field(default_factory=dict)


def read_record(record: Mapping[str, Any], columns: Columns) -> Note:
    """What a record with known fields says. Raises `DamagedSample` where it makes no sense."""
    given = record.get(columns.caption) if columns.caption else None
    captions = [given] if isinstance(given, str) else [] if given is None else list(given)
    if not all(isinstance(caption, str) for caption in captions):
        raise DamagedSample("captions are not text")
    weight = record.get(WEIGHT_FIELD, 1.0)
    if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
        raise DamagedSample("weight is not a number from 0 up")
    label = record.get(columns.label) if columns.label else None
    return Note(_stripped(captions), label if isinstance(label, int | str) else None, float(weight), record)


def read_notes(files: Mapping[str, bytes]) -> Note:
    """The note of a picture from the files beside it, by suffix (`NOTE_SUFFIXES`).

    `.txt`: captions, one a line. `.json`: an object with the usual fields. `.cls`: a class number or name, which also
    serves as a caption. Raises `DamagedSample` where they make no sense.
    """
    record: dict[str, Any] = {}
    try:
        if "json" in files:
            record = json.loads(files["json"])
            if not isinstance(record, dict):
                raise DamagedSample("its .json holds no object")
        lines = {suffix: files.get(suffix, b"").decode("utf-8").splitlines() for suffix in ("txt", "cls")}
    except ValueError as error:
        raise DamagedSample(f"its captions cannot be read ({one_line(error)})") from None
    columns = Columns(caption=_first(CAPTION_FIELDS, record), label=_first(LABEL_FIELDS, record))
    note = read_record(record, columns)
    label = " ".join(lines["cls"]).strip() or note.label
    # img2dataset writes the same caption into .txt and .json; repeats within one list are meant, they come more often
    others = tuple(caption for caption in _stripped(lines["txt"] + lines["cls"]) if caption not in note.captions)
    return Note(note.captions + others, label, note.weight, record)


def read_image_field(value: Any, folder: Path | None) -> bytes:
    """The encoded image of a record: bytes, {"bytes", "path"} as Hugging Face has it, or a path below `folder`."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise DamagedSample("no image")
    if "://" in value:
        raise DamagedSample("its image is a web address; download it first")
    path = Path(value) if folder is None else folder / value
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedSample(f"{path} cannot be read ({error.strerror})") from None


def class_number(label: int | str | None) -> int | None:
    """The number that a label is, or None where it is a name or absent."""
    if isinstance(label, str):
        return int(label) if label.isdecimal() else None
    return label


def number_classes(labels: Sequence[int | str | None]) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """Class numbers, and the names in the order of their numbers; no names where all labels are numbers."""
    numbers = tuple(class_number(label) for label in labels)
    if all(label is None or number is not None for label, number in zip(labels, numbers, strict=True)):
        return numbers, ()
    names = sorted({str(label) for label in labels if label is not None})
    place = {name: number for number, name in enumerate(names)}
    return tuple(None if label is None else place[str(label)] for label in labels), tuple(names)


def in_split(name: str, split: str) -> bool:
    """Whether a picture of an undivided set belongs to "train" or "val", by the hash of its name; to `WHOLE` all do."""
    if split == WHOLE:
        return True
    digest = hashlib.sha256(name.encode()).digest()
    return (int.from_bytes(digest[:4], "big") / 2**32 < VALIDATION_SHARE) == (split == "val")


def require_hash_split(split: str, where: str, wanted: str) -> None:
    """Only train and val can be told apart by name. Raises `HartError` for another split but `WHOLE`."""
    if split not in SPLIT_NAMES and split != WHOLE:
        raise HartError(f"{where} has no {wanted}: ask for train, val or {WHOLE}, or make it")


def split_names(split: str) -> tuple[str, ...]:
    """All names under which a split is found."""
    return SPLIT_NAMES.get(split, (split,))


def as_weights(weights: Iterable[float]) -> Tensor:
    """(N,) float32."""
    return torch.tensor(list(weights), dtype=torch.float32)


def one_line(error: BaseException) -> str:
    """An error's text for a message."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _first(names: Sequence[str], available: Collection[str]) -> str:
    return next((name for name in names if name in available), "")


def _stripped(captions: Iterable[str]) -> tuple[str, ...]:
    return tuple(caption.strip() for caption in captions if caption.strip())

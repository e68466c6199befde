"""The files of an encoded set, checked as they are opened: the index and its shards.

    train.json                      the index: settings, shards and their sizes; written last, when all shards exist
    train-00000.safetensors ...     `TENSORS` of some images each

Codes and residuals are stored image by image, since images may have different shapes.

Shapes: n images and c captions of a shard, L tokens of all its images, N_K of their last scales, D latent channels, S
text tokens, E text width, T stored rows of text features.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field, TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import TypedDict

from hart.data.kinds import StoredType
from hart.errors import HartError
from hart.files import FileError, is_file_name, list_folder, parse_json, read_json, require_regular
from hart.grids import Grid, ScaleSchedule
from hart.strict import printable, reason

FORMAT = 4
CODES = "codes"  # (L,) int32, all scales of an image one after the other
LAST_SCALE = "last_scale"  # (N_K, D), the latent left for the last scale; absent if only codes are stored
SHAPES = "shapes"  # (n,) int64, which of the settings' schedules an image has
LABELS = "labels"  # (n,) int64, -1 for none
WEIGHTS = "weights"  # (n,) float32
CAPTION_EDGES = "caption_edges"  # (n + 1,) int64: captions edges[i] to edges[i + 1] are those of image i
TEXT_MASK = "text_mask"  # (c, S) uint8
TEXT_PLACE = "text_place"  # (c, 3) int64: first row in text_features, first token, number of tokens
TEXT_FEATURES = "text_features"  # (T, E); the zero tokens around them are not stored
FACTS = "hart"
"""Entry in a shard's metadata: how it was made, and what was left out."""

LARGEST = 2**20
"""Largest plausible width, length or number of tokens."""
_FLOATS = {"F16", "BF16", "F32"}

SHARD = re.compile(r"(?P<split>.+)(?<!-of)-\d{5,}\.safetensors")
"""Names of shards. Weights in several files are named differently: model-00001-of-00002."""


def index_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.json"


def shard_file(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:05d}.safetensors"


def is_encoded_set(folder: Path) -> bool:
    """Return whether a folder holds an encoded set: an index, or shards of an unfinished one."""
    return bool(_shards(folder)) or any(_is_index(folder / n) for n in list_folder(folder) if n.endswith(".json"))


def encoded_splits(folder: Path, split: str) -> set[str]:
    """Return the splits of encoded sets in a folder: `split` even if it is unfinished or lacks its shards.

    Other splits need both: a folder of images may have a JSON file for each of them, and weights beside them.
    """
    try:
        shards, has_index = _shards(folder), _is_index(index_file(folder, split))
    except (OSError, ValueError):  # an address that is not a path
        return set()
    others = {name for name in shards - {split} if _is_index(index_file(folder, name))}
    return others | {split} if has_index or split in shards else others


def _is_index(file: Path) -> bool:
    try:
        return {"format", "settings", "shards"} <= read_json(file).keys()
    except FileError:
        return False


def _shards(folder: Path) -> set[str]:
    """Return the splits that a folder has shards of."""
    return {found["split"] for name in list_folder(folder) if (found := SHARD.fullmatch(name)) is not None}


def stamp_of(settings: Mapping[str, Any]) -> str:
    """Return the mark of shards made with these settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts in a shard; empty if it is missing or incomplete."""
    try:
        require_regular(path)
        with safe_open(path, framework="pt") as file:
            facts = _facts(file, path)
    except (FileError, SafetensorError, OSError):
        return {}
    counted = all(isinstance(facts.get(name), int) for name in ("images", "captions", "cut"))
    return facts if counted and isinstance(facts.get("damaged"), list) else {}


def _facts(file: Any, path: Path) -> dict[str, Any]:
    facts = parse_json((file.metadata() or {}).get(FACTS, "{}").encode(), str(path))
    return facts if isinstance(facts, dict) else {}


_Scales = Annotated[list[Annotated[int, Field(ge=1, le=1024)]], Field(min_length=1, max_length=64)]


class _Settings(TypedDict):
    """The settings that all shards of a set share and that reading depends on."""

    scales: _Scales
    base_scales: NotRequired[_Scales]
    """The tokenizer's base scales, if they decide codes of these images."""
    aspects: NotRequired[list[str]]
    schedules: Annotated[list[list[list[int]]], Field(min_length=1, max_length=64)]
    tokenizer: str
    text_encoder: str | None
    text_width: Annotated[int, Field(ge=1, le=LARGEST)] | None
    text_tokens: Annotated[int, Field(ge=1, le=LARGEST)] | None
    text_instruction: bool
    vocabulary: NotRequired[str]
    classes: NotRequired[str]
    """Digest of the class names, if any, in the order of their numbers."""
    residual: bool
    dtype: StoredType


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the settings by which two sets are incompatible; they may store numbers in different types, and the names
    of their classes may be unknown."""
    compared = _Settings.__annotations__.keys() - {"dtype"}
    compared -= {"classes"} - (one.keys() & other.keys())
    return sorted(name for name in compared if one.get(name) != other.get(name))


def _plain_name(name: str) -> str:
    if not name.endswith(".safetensors") or ":" in name or not is_file_name(name):
        raise ValueError(f"{printable(name)[:100]} is not the name of a shard in this folder")
    return name


class _ShardEntry(TypedDict):
    file: Annotated[str, AfterValidator(_plain_name)]
    images: Annotated[int, Field(ge=0, le=LARGEST**2)]


class _Index(TypedDict):
    settings: _Settings
    shards: list[_ShardEntry]


class EncodedIndex(NamedTuple):
    """files: the shards, all in the set's folder. sizes: images of each."""

    settings: dict[str, Any]
    files: tuple[Path, ...]
    sizes: tuple[int, ...]


def read_index(folder: Path, split: str) -> EncodedIndex:
    """Read a set's index. Raises `HartError` if the set is missing or unfinished, or its index damaged."""
    path = index_file(folder, split)
    if not path.exists():
        begun = folder.is_dir() and split in _shards(folder)
        advice = "it was not finished: run the same hart data encode again" if begun else "run hart data encode"
        raise HartError(f"{path}: not found; {advice}")
    index = read_json(path)
    if index.get("format") != FORMAT:
        version = printable(str(index.get("format")))[:20]
        raise HartError(f"{path}: format {version}, this version reads {FORMAT}: encode the set again")
    try:
        TypeAdapter(_Index).validate_python(index, strict=True)
        schedules_of(index["settings"])
    except (TypeError, ValueError) as error:  # includes pydantic's error
        raise HartError(f"{path}: not the index of an encoded set ({reason(error)}): encode it again") from None
    files = tuple(folder / shard["file"] for shard in index["shards"])
    if missing := [file.name for file in files if not file.exists()]:
        raise HartError(f"{folder}: missing shards: {', '.join(missing[:5])}: copy them there or encode them again")
    return EncodedIndex(index["settings"], files, tuple(shard["images"] for shard in index["shards"]))


def schedules_of(settings: Mapping[str, Any]) -> tuple[ScaleSchedule, ...]:
    """Return the schedules of a set's images. Raises `TypeError` or `ValueError` for invalid ones."""
    return tuple(ScaleSchedule(tuple(Grid(*grid) for grid in grids)) for grids in settings["schedules"])


class Shard:
    """A memory-mapped shard: only the requested rows are read."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Raise `HartError` unless the file holds what `settings` promise, in the types and shapes of this format."""
        self.path = path
        require_regular(path)
        try:
            self._file: Any = safe_open(path, framework="pt")
            stamp = _facts(self._file, path).get("stamp")
        except (SafetensorError, OSError) as error:
            raise self.damaged(reason(error)) from None
        if stamp != stamp_of(settings):
            raise self.damaged("it was made with other settings than the index says")
        schedules = schedules_of(settings)
        (count,) = self._declare(LABELS, {"I64"}, None)
        self._declare(WEIGHTS, {"F32"}, count)
        self._declare(SHAPES, {"I64"}, count)
        self._declare(CAPTION_EDGES, {"I64"}, count + 1)
        whole = map(self._whole, (LABELS, WEIGHTS, SHAPES, CAPTION_EDGES))
        self.labels, self.weights, self.shapes, self.edges = whole
        if self.labels.lt(-1).any():
            raise self.damaged("labels below -1")
        if not (self.weights.isfinite() & self.weights.ge(0)).all():
            raise self.damaged("weights that are negative or not finite")
        if self.edges[0] != 0 or self.edges.diff().lt(0).any():
            raise self.damaged("caption edges that do not rise from 0")
        if not (self.shapes.ge(0) & self.shapes.lt(len(schedules))).all():
            raise self.damaged("shapes that the index does not have")
        # where the codes and the residual of each image begin, and where the last ones end
        sizes = torch.tensor([[schedule.total_tokens, schedule.final.tokens] for schedule in schedules])
        self._edges = F.pad(sizes[self.shapes].cumsum(0), (0, 0, 1, 0))
        codes, tokens = self._edges[-1].tolist()
        self._declare(CODES, {"I32"}, codes)
        if settings["residual"]:
            self._declare(LAST_SCALE, _FLOATS, tokens, None)
        if settings["text_encoder"] is not None:
            captions = int(self.edges[-1])
            if count and self.edges.diff().min() < 1:
                raise self.damaged("an image without a caption")
            self._declare(TEXT_MASK, {"U8"}, captions, settings["text_tokens"])
            self._declare(TEXT_PLACE, {"I64"}, captions, 3)
            self._rows, self._width = self._declare(TEXT_FEATURES, _FLOATS, None, settings["text_width"])

    def damaged(self, what: str) -> HartError:
        return HartError(f"{self.path}: damaged ({what}): delete it and encode again")

    def codes(self, row: int, count: int) -> Tensor:
        """Return an image's codes, (L,) int64, from 0 to `count` - 1."""
        codes: Tensor = self._of_image(CODES, row, 0).long()
        if codes.min() < 0 or codes.max() >= count:
            raise self.damaged(f"codes outside 0 to {count - 1}, the codebook of the tokenizer")
        return codes

    def last_scale(self, row: int) -> Tensor:
        """Return an image's last scale, (N_K, D) float32."""
        return self._require_finite(LAST_SCALE, self._of_image(LAST_SCALE, row, 1))

    def text(self, number: int) -> tuple[Tensor, Tensor]:
        """Return features (S, E) in float32 and mask (S,) bool of a caption of this shard."""
        first, token, count = self._slice(TEXT_PLACE, number, number + 1)[0].tolist()
        mask: Tensor = self._slice(TEXT_MASK, number, number + 1)[0].bool()
        if min(first, token, count) < 0 or first + count > self._rows or token + count > len(mask):
            raise self.damaged("text features that are not in it")
        features = torch.zeros(len(mask), self._width)
        if count:
            rows = self._slice(TEXT_FEATURES, first, first + count)
            features[token : token + count] = self._require_finite(TEXT_FEATURES, rows)
        return features, mask

    def _whole(self, name: str) -> Tensor:
        tensor: Tensor = self._read(lambda: self._file.get_tensor(name))
        return tensor

    def _slice(self, name: str, start: int, stop: int) -> Tensor:
        rows: Tensor = self._read(lambda: self._file.get_slice(name)[start:stop])
        return rows

    def _of_image(self, name: str, row: int, kind: int) -> Tensor:
        """Return the part of `name` that belongs to an image. kind: 0 for codes, 1 for the last scale's tokens."""
        return self._slice(name, *self._edges[row : row + 2, kind].tolist())

    def _require_finite(self, name: str, values: Tensor) -> Tensor:
        values = values.float()
        if not values.isfinite().all():
            raise self.damaged(f"{name} that are not finite")
        return values

    def _declare(self, name: str, dtypes: set[str], *shape: int | None) -> list[int]:
        """Return the shape of a tensor, which must have one of these types and fit this shape; None is any length."""
        found = self._read(lambda: self._file.get_slice(name))
        here: list[int] = list(found.get_shape())
        fits = len(here) == len(shape) and all(want in (None, size) for want, size in zip(shape, here, strict=True))
        if found.get_dtype() not in dtypes or not fits:
            wanted = " x ".join("any" if size is None else str(size) for size in shape)
            is_now = f"{found.get_dtype()} of {' x '.join(map(str, here))}"
            raise self.damaged(f"{name} is {is_now}, not {' or '.join(sorted(dtypes))} of {wanted}")
        return here

    def _read(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise self.damaged(reason(error)) from None

"""Pictures as codes and captions as text features, precomputed by `hart data encode` and read back by row.

A set is a folder:

    train.json                      the index: settings, shards and their sizes; written last, when all shards are there
    train-00000.safetensors ...     `TENSORS` of some pictures each

Shapes: n pictures and c captions of a shard, B pictures of a batch, K scales, L tokens of all scales, N_k tokens of
scale k, D latent channels, S text tokens, E text width, T stored rows of text features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from hart.data.datasets import SampleOrder
from hart.data.digests import SetDigest, mark_shard
from hart.data.draws import draw_generator
from hart.data.loader import ReadAhead, require_sharing, within
from hart.errors import HartError
from hart.types import TextContext

FORMAT = 2
CODES = "codes"  # (n, L) int32, all scales one after the other
LAST_SCALE = "last_scale"  # (n, N_K, D), what the last scale has to hold; absent where only codes were wanted
LABELS = "labels"  # (n,) int64, -1 for none
WEIGHTS = "weights"  # (n,) float32
CAPTION_EDGES = "caption_edges"  # (n + 1,) int64: captions edges[i] to edges[i + 1] are those of picture i
TEXT_MASK = "text_mask"  # (c, S) uint8
TEXT_PLACE = "text_place"  # (c, 3) int64: first row in text_features, first token, number of tokens
TEXT_FEATURES = "text_features"  # (T, E); tokens before and after are zero and not stored
OPEN_SHARDS = 256
"""Shards kept open by a process."""


def index_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.json"


def is_encoded_set(folder: Path, split: str = "train") -> bool:
    """Whether a folder holds a precomputed set, told by its index, or by shards where it is not finished."""
    try:
        index = json.loads(index_file(folder, split).read_bytes())
    except (OSError, ValueError):
        index = None
    if isinstance(index, dict) and {"format", "settings", "shards"} <= index.keys():
        return True
    return any(folder.glob(f"{split}-*.safetensors"))


def shard_file(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:05d}.safetensors"


@dataclass(frozen=True)
class EncodedBatch:
    """One rank's part of a step.

    indices: K tensors (B, N_k) int64. last_scale_continuous: (B, N_K, D) float32, None where only codes were stored.
    text: features of one caption a picture, drawn evenly among its own, in float32; None for a set without.
    labels: (B,) int64, -1 where a picture has none.
    """

    step: int
    indices: tuple[Tensor, ...]
    last_scale_continuous: Tensor | None
    text: TextContext | None
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: slice) -> EncodedBatch:
        """Some of the pictures."""
        rest, text = self.last_scale_continuous, self.text
        return EncodedBatch(
            self.step,
            tuple(index[rows] for index in self.indices),
            None if rest is None else rest[rows],
            None if text is None else TextContext(text.embeddings[rows], text.mask[rows]),
            self.labels[rows],
        )


class EncodedSet:
    """Random access to a precomputed set. Shards are mapped into memory: only the rows asked for are read."""

    def __init__(self, folder: Path, split: str = "train") -> None:
        """Raises `HartError` when the set is unfinished, or shards are missing or damaged."""
        self.folder = folder
        path = index_file(folder, split)
        if not path.is_file():
            begun = any(folder.glob(f"{split}-*.safetensors"))
            advice = "it was not finished: run the same hart data encode again" if begun else "run hart data encode"
            raise HartError(f"{path}: not found; {advice}")
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            if index["format"] != FORMAT:
                raise HartError(f"{path}: format {index['format']}, this version reads {FORMAT}: encode the set again")
            self.settings: dict[str, Any] = index["settings"]
            self._files = [folder / shard["file"] for shard in index["shards"]]
            sizes = [int(shard["pictures"]) for shard in index["shards"]]
            self.sides: tuple[int, ...] = tuple(self.settings["scales"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, HartError):
                raise
            raise HartError(f"{path}: no index of an encoded set ({error}): encode it again") from None
        if missing := [file.name for file in self._files if not file.is_file()]:
            raise HartError(f"{folder}: missing shards: {', '.join(missing[:5])}: copy them there or encode them again")
        self._open: dict[int, Any] = {}
        self._firsts = torch.tensor([0, *sizes]).cumsum(0)
        shards = range(len(self._files))
        self.weights = torch.cat([self._whole(shard, WEIGHTS) for shard in shards])
        self.labels = torch.cat([self._whole(shard, LABELS) for shard in shards])
        self._edges = [self._whole(shard, CAPTION_EDGES) for shard in shards]
        if len(self.weights) != int(self._firsts[-1]):
            raise HartError(f"{path}: the shards hold {len(self.weights)} pictures, the index says {self._firsts[-1]}")
        if not len(self):
            raise HartError(f"{path}: no pictures in it: encode it again")

    def __len__(self) -> int:
        return len(self.weights)

    def __getstate__(self) -> dict[str, Any]:
        # open files do not travel to other processes
        return self.__dict__ | {"_open": {}}

    @property
    def has_text(self) -> bool:
        return self.settings["text_encoder"] is not None

    def require_made_by(self, *, tokenizer: str, text_encoder: str | None) -> None:
        """Raises `HartError` unless the set comes from these weights, given as `checkpoint.storage.fingerprint`s."""
        for part, digest in (("tokenizer", tokenizer), ("text_encoder", text_encoder)):
            if self.settings[part] != digest:
                name = part.replace("_", " ")
                raise HartError(f"{self.folder} was encoded with another {name}: encode the set again with this one")

    def digest(self) -> str:
        """What there is to learn from, as SHA-256 in hex; see `hart.data.digests`."""
        digest = SetDigest("encoded set")
        digest.add(json.dumps(self.settings, sort_keys=True))
        for file in self._files:
            digest.add(file.name, mark_shard(file))
        return digest.hexdigest()

    def captions(self, row: int) -> int:
        """How many captions a picture has."""
        shard, local = self._place(row)
        return int(self._edges[shard][local + 1] - self._edges[shard][local])

    def codes(self, row: int) -> Tensor:
        """(L,) int64."""
        shard, local = self._place(row)
        return self._slice(shard, CODES, local, local + 1)[0].long()

    def last_scale(self, row: int) -> Tensor | None:
        """(N_K, D) float32, or None where only codes were stored."""
        if not self.settings["residual"]:
            return None
        shard, local = self._place(row)
        return self._slice(shard, LAST_SCALE, local, local + 1)[0].float()

    def text(self, row: int, caption: int) -> TextContext:
        """Features of one caption of a picture, as a batch of one in float32."""
        shard, local = self._place(row)
        number = int(self._edges[shard][local]) + caption
        first, token, count = self._slice(shard, TEXT_PLACE, number, number + 1)[0].tolist()
        mask = self._slice(shard, TEXT_MASK, number, number + 1).bool()
        features = torch.zeros(1, mask.shape[1], self.settings["text_width"])
        if count:
            features[0, token : token + count] = self._slice(shard, TEXT_FEATURES, first, first + count).float()
        return TextContext(features, mask)

    def batch(self, step: int, rows: Sequence[int], captions: Sequence[int]) -> EncodedBatch:
        """Some rows; `captions` says which caption of each."""
        codes = torch.stack([self.codes(row) for row in rows])
        rests = [rest for row in rows if (rest := self.last_scale(row)) is not None]
        texts = [self.text(row, caption) for row, caption in zip(rows, captions, strict=True)] if self.has_text else []
        return EncodedBatch(
            step,
            tuple(codes.split([side * side for side in self.sides], dim=1)),
            torch.stack(rests) if rests else None,
            TextContext.cat(texts) if texts else None,
            self.labels[list(rows)],
        )

    def _place(self, row: int) -> tuple[int, int]:
        """The shard of a row, and its place in it."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        shard = int(torch.searchsorted(self._firsts, row, right=True)) - 1
        return shard, row - int(self._firsts[shard])

    def _shard(self, number: int) -> Any:
        if number not in self._open:
            if len(self._open) >= OPEN_SHARDS:
                del self._open[next(iter(self._open))]
            try:
                self._open[number] = safe_open(self._files[number], framework="pt")
            except FileNotFoundError:
                raise HartError(f"{self._files[number]}: missing: copy it there or encode it again") from None
            except (SafetensorError, OSError) as error:
                raise HartError(f"{self._files[number]}: damaged ({error}): delete it and encode again") from None
        return self._open[number]

    def _whole(self, shard: int, name: str) -> Tensor:
        return self._shard(shard).get_tensor(name)

    def _slice(self, shard: int, name: str, start: int, stop: int) -> Tensor:
        return self._shard(shard).get_slice(name)[start:stop]


class EncodedLoader:
    """Batches of a precomputed set by step: the same rows as `hart.data.loader.ImageLoader` of a set in that order."""

    def __init__(
        self, data: EncodedSet, *, batch_size: int, seed: int, rank: int = 0, world: int = 1, workers: int = 0
    ) -> None:
        """batch_size: of all ranks together. Raises `HartError` for numbers that do not fit each other."""
        require_sharing(batch_size, rank, world)
        part = batch_size // world
        self.places = range(rank * part, (rank + 1) * part)
        self._ahead = ReadAhead(_EncodedSteps(data, batch_size, seed, self.places), workers)
        self._last: EncodedBatch | None = None

    def batch(self, step: int) -> EncodedBatch:
        """This rank's part of step `step`, from 0."""
        if self._last is None or self._last.step != step:
            self._last = self._ahead.parts(step)[0]
        return self._last

    def rows(self, step: int, rows: slice) -> EncodedBatch:
        """Some places of the global batch of a step; see `ImageLoader.rows`."""
        return self.batch(step).select(within(rows, self.places))

    def close(self) -> None:
        """End the worker processes; a later `batch` starts them again."""
        self._ahead.close()


class _EncodedSteps(Dataset[Any]):
    """The places of one rank in every step."""

    def __init__(self, data: EncodedSet, batch_size: int, seed: int, places: range) -> None:
        self._data = data
        self._batch_size = batch_size
        self._seed = seed
        self._places = places
        self._order = SampleOrder(data.weights, seed)

    def __getitem__(self, step: int) -> EncodedBatch | HartError:
        everyone = self._order.batch(step, self._batch_size).tolist()
        rows = [everyone[place] for place in self._places]
        # the same draw as `ImageLoader` makes for the caption of this place
        draws = [draw_generator(self._seed, "picture", step, place).random() for place in self._places]
        captions = [int(draw * self._data.captions(row)) for row, draw in zip(rows, draws, strict=True)]
        try:
            return self._data.batch(step, rows, captions)
        except HartError as error:
            return error

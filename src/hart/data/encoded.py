"""Images as codes, and captions as text features, written by `hart data encode` and read by row.

Shapes: B images of a batch, K scales, N_k tokens of scale k, S text tokens, E text width; otherwise see
`hart.data.encoded_files`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hart.data.digests import SetDigest, mark_shard
from hart.data.encoded_files import Shard, differing, index_file, read_index, schedules_of
from hart.data.order import BucketOrder
from hart.data.read_ahead import MAX_NUMBER, StepLoader, places_of, row_items
from hart.errors import HartError
from hart.grids import ScaleSchedule
from hart.randomness import numpy_generator
from hart.strict import counted, whole_number
from hart.types import Rows, TextContext

OPEN_SHARDS = 256
"""Most shards that a process keeps open."""


@dataclass(frozen=True)
class EncodedBatch(Rows):
    """One rank's share of a step.

    schedule: the same for all images. indices: K tensors (B, N_k) int64.
    last_scale_continuous: (B, N_K, D) float32, None if only codes were stored.
    text: features of one caption per image, chosen at random among its own, in float32; None for a set without text.
    labels: (B,) int64, -1 if an image has none.
    """

    schedule: ScaleSchedule
    indices: tuple[Tensor, ...]
    last_scale_continuous: Tensor | None
    text: TextContext | None
    labels: Tensor


class EncodedSet:
    """Random access to an encoded set, or to several one after the other.

    Shards are memory-mapped: only the requested rows are read.
    """

    def __init__(
        self, folder: Path, split: str = "train", *, also: Sequence[Path] = (), parts: Sequence[float] = ()
    ) -> None:
        """also: folders of further sets. parts: proportions of images, sampled by `weights`, from `folder` and from
        each of `also`; empty: weights are as stored.

        Raises `HartError` if a set is unfinished, its index or a shard is missing or damaged, or the sets were encoded
        by different networks or options.
        """
        self.folder = folder
        self.folders = (folder, *also)
        self.parts = tuple(parts)
        indices = [read_index(each, split) for each in self.folders]
        self.settings: Mapping[str, Any] = indices[0].settings
        self.schedules = schedules_of(self.settings)
        self.aspects: tuple[str, ...] = tuple(self.settings.get("aspects", ()))
        for each, index in zip(self.folders, indices, strict=True):
            if not sum(index.sizes):
                raise HartError(f"{index_file(each, split)}: no images in it: encode it again")
            if other := differing(self.settings, index.settings):
                raise HartError(f"{each} differs from {folder} in {', '.join(other)}: encode both in the same way")
        self._indices = indices
        self._files = [(file, index.settings) for index in indices for file in index.files]
        self._sizes = [size for index in indices for size in index.sizes]
        self._firsts = torch.tensor([0, *self._sizes]).cumsum(0)
        self._open: dict[int, Shard] = {}
        # one by one: they are not all kept open
        shards = map(self._shard, range(len(self._files)))
        known = zip(*((shard.weights, shard.labels, shard.shapes) for shard in shards), strict=True)
        self.weights, self.labels, self.shapes = map(torch.cat, known)
        if parts:
            each_set = self.weights.double().split([sum(index.sizes) for index in indices])
            self.weights = torch.cat([own * (part / own.sum()) for own, part in zip(each_set, parts, strict=True)])
        self._code_count = 2**31

    def __len__(self) -> int:
        return len(self.weights)

    def __getstate__(self) -> dict[str, Any]:
        # open files cannot be sent to other processes
        return self.__dict__ | {"_open": {}}

    @property
    def has_text(self) -> bool:
        return self.settings["text_encoder"] is not None

    @property
    def base_scales(self) -> tuple[int, ...]:
        """Return the tokenizer's base scales if they decided codes of these images, else none."""
        return tuple(self.settings.get("base_scales", ()))

    def require_made_by(self, **known: str) -> None:
        """Raise `HartError` unless the sets come from these weights and words.

        known: `checkpoint.storage.fingerprint` for `tokenizer` and `text_encoder`, `text_encoder.vocabulary_digest` for
            `vocabulary`.
        """
        for part, digest in known.items():
            if self.settings.get(part, "") != digest:
                name = part.replace("_", " ")
                raise HartError(f"{self.folder} was encoded with another {name}: encode the set again with this one")

    def digest(self) -> str:
        """Return the content of the set as SHA-256 in hex; see `hart.data.digests`."""
        digest = SetDigest("encoded set")
        for index in self._indices:
            digest.add(json.dumps(index.settings, sort_keys=True))
            for file in index.files:
                digest.add(file.name, mark_shard(file))
        return digest.hexdigest()

    def require_labels(self) -> Tensor:
        """Return the class of each image, (N,) int64. Raises `HartError` unless every image has one."""
        if bare := (self.labels < 0).nonzero().flatten().tolist():
            raise HartError(
                f"{self.folder} has images without a class number: {len(bare)} of {len(self)} ({self.key(bare[0])}): "
                "encode a set in which all have one"
            )
        return self.labels

    def require_codes_of(self, codebook_size: int) -> None:
        """From now on, raise `HartError` for codes that the codebook lacks."""
        self._code_count = codebook_size

    def key(self, row: int) -> str:
        """Return where a row is stored, for messages."""
        shard, local = self._place(row)
        return f"{shard.path}, image {local}"

    def captions(self, row: int) -> int:
        """Return how many captions an image has."""
        shard, local = self._place(row)
        return int(shard.edges[local + 1] - shard.edges[local])

    def codes(self, row: int) -> Tensor:
        """Return an image's codes, (L,) int64."""
        shard, local = self._place(row)
        return shard.codes(local, self._code_count)

    def text(self, row: int, caption: int) -> TextContext:
        """Return the features of one caption of an image, as a batch of one in float32."""
        shard, local = self._place(row)
        features, mask = shard.text(int(shard.edges[local]) + caption)
        return TextContext(features[None], mask[None])

    def batch(self, rows: Sequence[int], captions: Sequence[int]) -> EncodedBatch:
        """Return some rows, all of one shape, each with the caption of the given number."""
        schedule = self.schedules[int(self.shapes[rows[0]])]
        codes = torch.stack([self.codes(row) for row in rows])
        residuals = [shard.last_scale(n) for shard, n in map(self._place, rows)] if self.settings["residual"] else []
        texts = [self.text(row, caption) for row, caption in zip(rows, captions, strict=True)] if self.has_text else []
        return EncodedBatch(
            schedule,
            codes.split(list(schedule.token_counts), dim=1),
            torch.stack(residuals) if residuals else None,
            TextContext.cat(texts) if texts else None,
            self.labels[list(rows)],
        )

    def _place(self, row: int) -> tuple[Shard, int]:
        """Return the shard of a row, and the row within it."""
        number = int(torch.searchsorted(self._firsts, row, right=True)) - 1
        return self._shard(number), row - int(self._firsts[number])

    def _shard(self, number: int) -> Shard:
        if number not in self._open:
            if len(self._open) >= OPEN_SHARDS:
                del self._open[next(iter(self._open))]
            shard = Shard(*self._files[number])
            if len(shard.labels) != self._sizes[number]:
                raise shard.damaged(f"{counted(len(shard.labels), 'image')}, the index says {self._sizes[number]}")
            self._open[number] = shard
        return self._open[number]


class EncodedLoader(StepLoader[EncodedBatch]):
    """Batches of an encoded set by step: the same rows as an `ImageLoader` over the images gives."""

    def __init__(
        self, data: EncodedSet, *, batch_size: int, seed: int, rank: int = 0, world: int = 1, workers: int = 0
    ) -> None:
        """batch_size: of all ranks together. Raises `HartError` for numbers that do not fit together."""
        seed = whole_number("seed", seed, 0, MAX_NUMBER)
        places = places_of(rank, world, batch_size)
        order = BucketOrder(data.shapes, data.weights, seed)
        items = partial(row_items, partial(_batch, data, seed, places), order, batch_size)
        super().__init__(items, places=places, workers=workers)


def _batch(data: EncodedSet, seed: int, places: range, step: int, rows: Sequence[int]) -> EncodedBatch:
    rows = [rows[place] for place in places]
    # the caption that `ImageLoader` chooses at this place
    uniform = [numpy_generator(seed, "picture", step, place).random() for place in places]
    captions = [int(chance * data.captions(row)) for row, chance in zip(rows, uniform, strict=True)]
    return data.batch(rows, captions)

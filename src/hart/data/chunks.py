"""The pictures of a set, decoded by worker processes in the order in which shards of an encoded set want them.

Shapes: n pictures of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hart.data.datasets import read_row
from hart.data.read_ahead import as_it_is, leave_interrupts
from hart.data.samples import Condition, Damage, DamagedSample, Sample
from hart.data.sources import Source, Stream
from hart.data.transforms import ImageTransform
from hart.errors import HartError


@dataclass(frozen=True)
class Chunk:
    """Decoded pictures of a shard, in their order. pixels: (n, 3, size, size) uint8. last: the shard ends here."""

    shard: int
    pixels: Tensor
    captions: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...]
    damaged: tuple[Damage, ...]
    last: bool


@dataclass(frozen=True)
class ChunkSizes:
    """shard: pictures of a shard; of a stream its units are the shards. chunk: pictures decoded together.

    workers: processes that decode; 0 decodes when asked.
    """

    shard: int
    chunk: int
    workers: int


def decoded_chunks(
    source: Source | Stream,
    transform: ImageTransform,
    shards: Sequence[int],
    sizes: ChunkSizes,
    condition: Condition,
) -> Iterator[Chunk]:
    """All chunks of the shards in their order. Raises `HartError`."""
    # a stream is one sequence: more than one process would only read it twice
    workers = min(sizes.workers, 1) if isinstance(source, Stream) else sizes.workers
    loader = DataLoader(
        _Decoding(source, transform, shards, sizes, condition),
        batch_size=None,
        num_workers=workers,
        collate_fn=as_it_is,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=leave_interrupts,
    )
    for item in loader:
        if isinstance(item, HartError):
            raise item
        yield item


class _Decoding(IterableDataset[Any]):
    """Chunks of shards; worker w of W takes every W-th, which the loader puts in order again."""

    def __init__(
        self,
        source: Source | Stream,
        transform: ImageTransform,
        shards: Sequence[int],
        sizes: ChunkSizes,
        condition: Condition,
    ) -> None:
        self._source = source
        self._transform = transform
        self._shards = shards
        self._sizes = sizes
        self._condition = condition

    def __iter__(self) -> Iterator[Chunk | HartError]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        try:
            if isinstance(self._source, Stream):
                for shard in self._shards:
                    yield from self._stream_chunks(self._source, shard)
                return
            size, step = self._sizes.shard, self._sizes.chunk
            plan = []
            for shard in self._shards:
                end = min((shard + 1) * size, len(self._source))
                plan += [(shard, range(start, min(start + step, end)), end) for start in range(shard * size, end, step)]
            for shard, rows, end in plan[number::count]:
                samples = [read_row(self._source, row) for row in rows]
                yield self._chunk(shard, samples, last=rows.stop == end)
        except HartError as error:
            yield error

    def _stream_chunks(self, stream: Stream, unit: int) -> Iterator[Chunk]:
        gathered: list[Sample | Damage] = []
        for sample in stream.read_unit(unit):
            gathered.append(sample)
            if len(gathered) == self._sizes.chunk:
                yield self._chunk(unit, gathered, last=False)
                gathered = []
        yield self._chunk(unit, gathered, last=True)

    def _chunk(self, shard: int, samples: Iterable[Sample | Damage], last: bool) -> Chunk:
        pixels, kept, damaged = [], [], []
        for sample in samples:
            try:
                if isinstance(sample, Damage):
                    raise DamagedSample(sample.reason)
                sample.require(self._condition)
                pixels.append(sample.pixels(self._transform))
            except DamagedSample as error:
                damaged.append(Damage(sample.key, str(error)))
                continue
            kept.append(sample)
        size = self._transform.size
        return Chunk(
            shard,
            torch.stack(pixels) if pixels else torch.empty(0, 3, size, size, dtype=torch.uint8),
            tuple(sample.captions for sample in kept),
            tuple(-1 if sample.label is None else sample.label for sample in kept),
            tuple(sample.weight for sample in kept),
            tuple(damaged),
            last,
        )

"""Captioned pictures in memory, and the order in which training sees the pictures of a set.

All pictures of a split are decoded once and kept: 3 * size**2 bytes each (0.2 GB for 18,000 at 64 px). That makes every
later access instant and the order free, which suits sets of up to a few 100,000 small pictures. Larger ones are read
by `hart.data.loader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hart.data.notes import Columns, as_weights
from hart.data.opening import Kind, open_source
from hart.data.samples import Condition, Damage, DamagedSample, Sample
from hart.data.sources import Source, Stream
from hart.data.transforms import ImageTransform
from hart.errors import HartError

STREAM_ROOM = 1024
"""Pictures that memory is made for at first where their number is not known."""


@dataclass(frozen=True)
class CaptionedImages:
    """Pictures with captions, by number.

    pixels: (N, 3, H, W) uint8, RGB, 0 to 255. texts: the captions of each picture, possibly none.
    weights: (N,) float32, how often a picture is drawn relative to others; 1 where the source does not say.
    records: what a `.json` beside the picture holds (concept, style and so on), else empty.
    damaged: what could not be read. labels: (N,) int64, the class of each, -1 for none; None where no picture has one.
    """

    pixels: Tensor
    texts: tuple[tuple[str, ...], ...]
    weights: Tensor
    records: tuple[Mapping[str, Any], ...]
    damaged: tuple[Damage, ...] = ()
    labels: Tensor | None = None

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

    def require_labels(self) -> Tensor:
        """The class of each picture, (N,) int64. Raises `HartError` unless every picture has one."""
        bare = len(self) if self.labels is None else int((self.labels < 0).sum())
        if self.labels is None or bare:
            raise HartError(
                f"{bare} of {len(self)} pictures have no class number: give a folder per class, or records with a label"
            )
        return self.labels


def open_dataset(
    path: str | Path, split: str, size: int, *, kind: Kind | None = None, columns: Columns | None = None
) -> CaptionedImages:
    """Read the pictures of one split, square and `size` pixels wide (see `hart.data.transforms.pil_to_pixels`).

    path, split, kind, columns: as for `hart.data.opening.open_source`; every format will do.
    Unreadable files are skipped and named. Raises `HartError` where nothing at all can be read.
    """
    return read_all(open_source(path, split, kind=kind, columns=columns), ImageTransform(size), f"{path} ({split})")


def read_all(
    source: Source | Stream, transform: ImageTransform, where: str, condition: Condition = "none"
) -> CaptionedImages:
    """Every picture of a set, in its order; `where` names the set in errors. Raises as `open_dataset` does.

    condition: a picture that comes without it counts as damaged.
    """
    size = transform.size
    room = STREAM_ROOM if isinstance(source, Stream) else len(source)
    pixels = torch.empty(room, 3, size, size, dtype=torch.uint8)
    texts: list[tuple[str, ...]] = []
    weights: list[float] = []
    records: list[Mapping[str, Any]] = []
    labels: list[int] = []
    damaged: list[Damage] = []
    for sample in iterate(source):
        if len(texts) == len(pixels):
            pixels = torch.cat([pixels, torch.empty_like(pixels)])
        if isinstance(sample, Damage):
            damaged.append(sample)
            continue
        try:
            sample.require(condition)
            pixels[len(texts)] = sample.pixels(transform)
        except DamagedSample as error:
            damaged.append(Damage(sample.key, str(error)))
            continue
        texts.append(sample.captions)
        weights.append(sample.weight)
        records.append(sample.record)
        labels.append(-1 if sample.label is None else sample.label)
    if not texts:
        reasons = "; ".join(f"{damage.key}: {damage.reason}" for damage in damaged[:3])
        raise HartError(f"{where}: no picture could be read, {len(damaged)} damaged ({reasons}): mend the set")
    classes = torch.tensor(labels) if max(labels) >= 0 else None
    pixels = pixels[: len(texts)]
    return CaptionedImages(pixels, tuple(texts), as_weights(weights), tuple(records), tuple(damaged), classes)


class SampleOrder:
    """Which pictures a step sees.

    Draws run in rounds of N. In each, picture i comes N * w_i / sum(w) times, rounded up or down at random
    (systematic sampling), in random order: with equal weights every picture exactly once. A resumed run needs no
    state but the step. The round last asked for is kept, since the next step mostly goes on in it.
    """

    def __init__(self, weights: Tensor, seed: int) -> None:
        """Raises `HartError` for weights that are negative, not finite, or all zero."""
        total = weights.double().sum()
        if not (torch.isfinite(total) and total > 0 and bool((weights >= 0).all())):
            raise HartError("weights must be finite, not negative, and not all zero")
        edges = weights.double().cumsum(0)
        # Divided by the last edge itself, so that the line ends at exactly N whatever the rounding.
        self._edges = edges / edges[-1] * len(weights)
        self._seed = seed
        self._round = -1
        self._rows = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int, batch_size: int) -> Tensor:
        """The pictures of training step `step`: (batch_size,) int64, always the same for the same arguments."""
        count = len(self._edges)
        first = step * batch_size
        parts = []
        for number in range(first // count, (first + batch_size - 1) // count + 1):
            rows = self._rows_of_round(number)
            parts.append(rows[max(first - number * count, 0) : first + batch_size - number * count])
        return torch.cat(parts)

    def anywhere(self, draw: float) -> int:
        """A picture by its weight for a draw in [0, 1)."""
        count = len(self._edges)
        return int(torch.searchsorted(self._edges, torch.tensor(draw * count, dtype=torch.float64), right=True))

    def _rows_of_round(self, number: int) -> Tensor:
        if number != self._round:
            count = len(self._edges)
            # no more bits than a generator takes, whatever the seed
            generator = torch.Generator().manual_seed((self._seed * 1_000_003 + number) % 2**63)
            start = torch.rand((), generator=generator, dtype=torch.float64)
            place = torch.randperm(count, generator=generator)
            self._round, self._rows = number, torch.searchsorted(self._edges, place + start, right=True)
        return self._rows


def batch_indices(weights: Tensor, batch_size: int, seed: int, step: int) -> Tensor:
    """`SampleOrder.batch` in one call: (batch_size,) int64. Raises `HartError` for senseless weights."""
    return SampleOrder(weights, seed).batch(step, batch_size)


def iterate(source: Source | Stream) -> Iterator[Sample | Damage]:
    """Everything a set holds, in its order. Raises `HartError` when a shard is missing."""
    if isinstance(source, Stream):
        for unit in range(len(source.units)):
            yield from source.read_unit(unit)
        return
    yield from source.damaged
    for row in range(len(source)):
        yield read_row(source, row)


def read_row(source: Source, row: int) -> Sample | Damage:
    """A picture of a set, or why it cannot be used."""
    try:
        return source.read(row)
    except DamagedSample as error:
        return Damage(source.key(row), str(error))

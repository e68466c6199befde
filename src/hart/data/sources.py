"""What a set of pictures offers, whatever its format: rows at random (`Source`) or shards in a stream (`Stream`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor

from hart.data.samples import Damage, DamagedSample, Sample


class Source(Protocol):
    """Pictures by number. Cheap to send to another process; nothing is kept open between two reads."""

    @property
    def description(self) -> str:
        """Format, place and number of pictures, for people."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their numbers; empty where there are none."""
        ...

    @property
    def weights(self) -> Tensor:
        """(N,) float32, how often a picture is drawn relative to others; 1 where the set does not say."""
        ...

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """What was found unusable while the set was listed; it has no row."""
        ...

    def __len__(self) -> int: ...

    def key(self, row: int) -> str:
        """Where row `row` lies, for messages."""
        ...

    def read(self, row: int) -> Sample:
        """The picture of a row, not decoded. Raises `DamagedSample`."""
        ...

    def digest(self) -> str:
        """What there is to learn from, as SHA-256 in hex: see `hart.data.digests`. Seconds for 100,000 files."""
        ...


@runtime_checkable
class Stream(Protocol):
    """Pictures that can only be read one after the other, in units (tar shards, Parquet row groups)."""

    @property
    def description(self) -> str: ...

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the units."""
        ...

    def read_unit(self, unit: int) -> Iterator[Sample | Damage]:
        """The pictures of a unit in their order, not decoded.

        A unit that breaks off is a `Damage` after what could be read. Raises `HartError` when it cannot be had at all.
        """
        ...

    def digest(self) -> str:
        """As `Source.digest`; of what is read from the network, the addresses alone."""
        ...


def read_row(source: Source, row: int) -> Sample | Damage:
    """A picture of a set, or why it cannot be used."""
    try:
        return source.read(row)
    except DamagedSample as error:
        return Damage(source.key(row), str(error))


def iterate(source: Source | Stream) -> Iterator[Sample | Damage]:
    """Everything a set holds, in its order. Raises `HartError` when a shard is missing."""
    if isinstance(source, Stream):
        for unit in range(len(source.units)):
            yield from source.read_unit(unit)
        return
    yield from source.damaged
    for row in range(len(source)):
        yield read_row(source, row)

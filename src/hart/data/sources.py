"""A set of images, whatever its format: rows at random (`Source`) or units in order (`Stream`)."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hart.data.digests import ABSENT, SetDigest, mark_bytes
from hart.data.notes import Note, class_number, number_classes
from hart.data.samples import Damage, DamagedSample, ImageFile, Sample, made_or_damaged, require_mostly_sound
from hart.data.splits import HELD_OUT_SHARE, WHOLE, chance_of, divide
from hart.errors import HartError
from hart.strict import counted

Read = tuple[Note, bytes]
"""The notes on an image, and the encoded image."""
Located = tuple[Note, Callable[[], bytes]]
"""The notes on an image, and a function that reads the encoded image. Both may raise `DamagedSample`."""

MIN_SEEN = 200
"""A stream does not know how many images it has: damage is judged against at least this many."""


class Listed(NamedTuple):
    """What must be known of every image before the first is read. name: its hash may decide the split."""

    label: int | str | None = None
    weight: float = 1.0
    name: str = ""


class Source(ABC):
    """Images by row, in a format in which any record can be read at any time. Cheap to send to another process: no file
    stays open between two reads.

    A record is identified by its place, which the format chooses: a small value, since there may be millions.

    description: format, place and number of images, for people. classes: names in the order of their numbers.
    weights: (N,) float32, how often an image is sampled relative to others; 1 if the set does not say.
    damaged: what could not be used when the set was listed; it has no row.
    """

    remark = ""
    """End of the description."""

    def __init__(self, title: str, *, division: str | None = None, classes: tuple[str, ...] | None = None) -> None:
        """title: what the set is, for people. division: the split to keep, if the hash of the name decides it.

        classes: names of the labels; by default taken from the labels.
        """
        weights, names = array("d"), list[str]()
        places: list[Any] = []
        labels: list[int | str | None] = []
        damaged: list[Damage] = []
        for place, facts in self.records():
            try:
                listed = made_or_damaged(facts)
            except DamagedSample as error:
                # the name itself may be damaged: the hash of the place decides the split
                if division in (None, WHOLE) or (chance_of(str(place)) < HELD_OUT_SHARE) == (division == "val"):
                    damaged.append(Damage(self.name(place), str(error)))
                continue
            places.append(place)
            labels.append(listed.label)
            weights.append(listed.weight)
            if division is not None:
                names.append(listed.name)
        # before the split, so that all splits number the classes alike
        numbers, found = number_classes(labels)
        self.classes = found if classes is None else classes
        self.damaged = tuple(damaged)
        if division is not None:
            ours, self.remark = divide(names, division, title)
            places, numbers = list(compress(places, ours)), tuple(compress(numbers, ours))
            weights = array("d", compress(weights, ours))
        self._places = array("q", places) if places and isinstance(places[0], int) else places
        self._labels = numbers
        self.weights: Tensor = torch.tensor(weights, dtype=torch.float32)
        self.description = f"{title}: {counted(len(self), 'image')}{self.remark}"

    @abstractmethod
    def records(self) -> Iterator[tuple[Any, Callable[[], Listed] | str]]:
        """Yield the place of each record, with its fault or a function that inspects it (raises `DamagedSample`)."""

    @abstractmethod
    def name(self, place: Any) -> str:
        """Return where a record is stored, for messages."""

    @abstractmethod
    def read_record(self, place: Any) -> Located:
        """Return a record's notes, and what reads its image. Raises `DamagedSample`."""

    @property
    def labels(self) -> Tensor:
        """Return (N,) int64, the class of each; -1 for none, and if it is only known when the row is read."""
        return torch.tensor([-1 if label is None else label for label in self._labels], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._places)

    def key(self, row: int) -> str:
        """Return where a row is stored, for messages."""
        return self.name(self._places[row])

    def read(self, row: int) -> Sample:
        """Return a row, its image not decoded. Raises `DamagedSample`."""
        sample, image = self._located(row)
        return replace(sample, image=image())

    def said(self, row: int) -> Sample:
        """Return a row without the bytes of its image, which need not be read. Raises `DamagedSample`."""
        return self._located(row)[0]

    def _located(self, row: int) -> tuple[Sample, Callable[[], bytes]]:
        note, image = self.read_record(self._places[row])
        label = self._labels[row]
        label = class_number(note.label) if label is None else label
        return Sample(self.key(row), b"", note.captions, label, note.weight, note.record), image

    def digest(self) -> str:
        """Return the content of the set as SHA-256 in hex, see `hart.data.digests`. Seconds for 100,000 files."""
        digest = SetDigest("images")
        digest.add(*self.classes)
        for row in range(len(self)):
            try:
                sample, image = self._located(row)
                mark = image.mark() if isinstance(image, ImageFile) else mark_bytes(image())
            except DamagedSample:
                digest.add(ABSENT)
                continue
            said = sample.captions, sample.label, sample.weight, sample.record
            digest.add(json.dumps(said, sort_keys=True, default=str), mark)
        return digest.hexdigest()


class Stream(ABC):
    """Images that can only be read in order, in named units (tar shards, Parquet row groups)."""

    units: tuple[str, ...]
    sizes: Sequence[int]
    """Images of each unit, or 1 if their numbers are unknown."""
    description: str
    damaged: tuple[Damage, ...] = ()
    """See `Source.damaged`; nothing is listed, and damage shows as it is read."""

    @abstractmethod
    def records(self, unit: int) -> Iterator[tuple[str, Callable[[], Read] | str]]:
        """Yield the name of each record, with a function that reads it (may raise `DamagedSample`), or its fault."""

    @abstractmethod
    def digest(self) -> str:
        """Return `Source.digest`; units on the network count with their addresses only."""

    def read_unit(self, unit: int) -> Iterator[Sample | Damage]:
        """Yield the images of a unit in order, not decoded.

        A unit that breaks off ends with a `Damage`. Raises `HartError` if it cannot be read at all.
        """
        for key, read in self.records(unit):
            try:
                note, image = made_or_damaged(read)
            except DamagedSample as error:
                yield Damage(key, str(error))
                continue
            if note.weight != 1:
                raise HartError(f"{key} has a weight, which a stream cannot honour: read local shards as kind 'shards'")
            yield Sample(key, image, note.captions, class_number(note.label), record=note.record)


class DamageCount:
    """What was skipped of a set, each image once; too much of it is an error."""

    def __init__(self, source: Source | Stream, max_damaged: float, option: str) -> None:
        """option: sets `max_damaged`."""
        self._found: dict[str, Damage] = {}
        self._sound = 0
        self._limit = max_damaged, source.description, option, MIN_SEEN if isinstance(source, Stream) else 0
        self._total = None if isinstance(source, Stream) else len(source) + len(source.damaged)
        self.add(source.damaged)

    @property
    def found(self) -> tuple[Damage, ...]:
        return tuple(self._found.values())

    def add(self, damaged: Iterable[Damage], sound: int = 0) -> None:
        """Raise `HartError` if more than the share `max_damaged` is damaged: of a whole `Source`, or of what was seen
        of a `Stream`, but of at least `MIN_SEEN`."""
        self._found.update((damage.key, damage) for damage in damaged)
        self._sound += sound
        total = self._sound + len(self._found) if self._total is None else self._total
        require_mostly_sound(self.found, total, *self._limit)


def read_row(source: Source, row: int) -> Sample | Damage:
    """Return a row of a set, or why it cannot be used."""
    try:
        return source.read(row)
    except DamagedSample as error:
        return Damage(source.key(row), str(error))


def iterate(source: Source | Stream) -> Iterator[Sample | Damage]:
    """Yield all images of a set, in order. Raises `HartError` if a shard is missing."""
    if isinstance(source, Stream):
        for unit in range(len(source.units)):
            yield from source.read_unit(unit)
        return
    yield from source.damaged
    for row in range(len(source)):
        yield read_row(source, row)

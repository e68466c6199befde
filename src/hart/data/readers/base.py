"""What formats that are read at random share: a reader lists its records and reads any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hart.data.digests import SetDigest
from hart.data.notes import class_number, number_classes
from hart.data.samples import Damage, DamagedSample, Sample, made_or_damaged
from hart.data.sources import Located
from hart.data.splits import divide
from hart.strict import counted


class Listed(NamedTuple):
    """What must be known of every image before the first is read. name: its hash may decide the split."""

    label: int | str | None = None
    weight: float = 1.0
    name: str = ""


class RowReader(ABC):
    """A `hart.data.sources.Source`: a format of which any record can be read at any time.

    A record is known by its place, which the reader chooses: a small value, since there may be millions.
    """

    digest_kind: str
    """First word of the digest; it never changes."""
    digests_classes = False
    remark = ""
    """End of the description."""

    def __init__(self, title: str, *, division: str | None = None, classes: tuple[str, ...] | None = None) -> None:
        """title: what the set is, for people. division: the split to keep, where the hash of the name decides it.

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
        """The place of each record, with a function that inspects it (may raise `DamagedSample`), or with its fault."""

    @abstractmethod
    def name(self, place: Any) -> str:
        """Where a record is stored, for messages."""

    @abstractmethod
    def read_record(self, place: Any) -> Located:
        """Raises `DamagedSample`."""

    @abstractmethod
    def mark(self, place: Any, label: int | None) -> tuple[str | bytes, ...]:
        """What the digest covers of a record; never fails."""

    @property
    def labels(self) -> Tensor:
        return torch.tensor([-1 if label is None else label for label in self._labels], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._places)

    def key(self, row: int) -> str:
        return self.name(self._places[row])

    def read(self, row: int) -> Sample:
        sample, image = self._located(row)
        return replace(sample, image=image())

    def said(self, row: int) -> Sample:
        return self._located(row)[0]

    def _located(self, row: int) -> tuple[Sample, Callable[[], bytes]]:
        note, image = self.read_record(self._places[row])
        label = self._labels[row]
        label = class_number(note.label) if label is None else label
        return Sample(self.key(row), b"", note.captions, label, note.weight, note.record), image

    def digest(self) -> str:
        digest = SetDigest(self.digest_kind)
        if self.digests_classes:
            digest.add(*self.classes)
        for place, label in zip(self._places, self._labels, strict=True):
            digest.add(*self.mark(place, label))
        return digest.hexdigest()

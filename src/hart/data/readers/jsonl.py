"""JSON lines: a picture's path and its captions or label on each line."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hart.data.digests import ABSENT, SetDigest, mark_bytes
from hart.data.samples import (
    Columns,
    Damage,
    DamagedSample,
    Sample,
    as_weights,
    in_split,
    number_classes,
    one_line,
    read_image_field,
    read_record,
)
from hart.errors import HartError


class JsonlSource:
    """Lines such as {"image": "a/b.png", "caption": "a cat"}; paths are relative to the file's folder.

    Only where each line begins is kept in memory; a line is read again when its picture is.
    """

    def __init__(self, file: Path, columns: Columns, split: str | None = None) -> None:
        """split: keep only the pictures that belong to it by the hash of their name; None keeps all."""
        self._file = file
        self._starts = array("q")
        self._columns: Columns | None = None
        weights: list[float] = []
        labels: list[int | str | None] = []
        kept: list[int] = []
        damaged: list[Damage] = []
        start = 0
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                here, start = start, start + len(line)
                if not line.strip():
                    continue
                try:
                    record = _parse(line)
                    if self._columns is None:
                        self._columns = columns.resolve(record.keys(), f"{file} line {number}")
                    note = read_record(record, self._columns)
                except DamagedSample as error:
                    damaged.append(Damage(f"{file}:{number}", str(error)))
                    continue
                # numbered before the split is taken, so that both splits number the classes alike
                labels.append(note.label)
                if split is None or in_split(str(record.get(self._columns.image)), split):
                    self._starts.append(here)
                    weights.append(note.weight)
                    kept.append(len(labels) - 1)
        if self._columns is None:
            raise HartError(f"{file}: no line holds a JSON object: write one a line, with an image and a caption")
        numbers, self.classes = number_classes(labels)
        self._labels = [numbers[place] for place in kept]
        self.weights: Tensor = as_weights(weights)
        self.damaged = tuple(damaged)
        self.description = f"JSON lines {file}{f' ({split})' if split else ''}: {len(self)} pictures"

    def __len__(self) -> int:
        return len(self._starts)

    def key(self, row: int) -> str:
        return f"{self._file} at byte {self._starts[row]}"

    def read(self, row: int) -> Sample:
        assert self._columns is not None
        with self._file.open("rb") as lines:
            lines.seek(self._starts[row])
            record = _parse(lines.readline())
        note = read_record(record, self._columns)
        image = read_image_field(record.get(self._columns.image), self._file.parent)
        return Sample(self.key(row), image, note.captions, self._labels[row], note.weight, record)

    def digest(self) -> str:
        digest = SetDigest("JSON lines")
        digest.add(*self.classes)
        with self._file.open("rb") as lines:
            for row, start in enumerate(self._starts):
                lines.seek(start)
                try:
                    mark = mark_bytes(self.read(row).image)
                except DamagedSample:
                    mark = ABSENT
                digest.add(lines.readline().strip(), mark)
        return digest.hexdigest()


def _parse(line: bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DamagedSample(f"no JSON ({one_line(error)})") from None
    if not isinstance(record, dict):
        raise DamagedSample("no JSON object")
    return record

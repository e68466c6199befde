"""JSON lines: a picture's path and its captions or label on each line."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from hart.data.digests import ABSENT, SetDigest, mark_bytes, mark_image
from hart.data.notes import IMAGE_FIELDS, NOTE_LIMIT, Columns, as_weights, number_classes, read_record
from hart.data.samples import Damage, DamagedSample, Sample, one_line, read_image_field, text_fault
from hart.data.splits import Division
from hart.errors import HartError
from hart.files import MEBIBYTE, FileError, open_regular, parse_json


class JsonlSource:
    """Lines such as {"image": "a/b.png", "caption": "a cat"}; paths are relative to the file's folder.

    Only where each line begins is kept in memory; a line is read again when its picture is.
    """

    def __init__(self, file: Path, columns: Columns, split: str | None = None) -> None:
        """split: keep only the pictures that belong to it by the hash of their name; None keeps all."""
        self._file = file
        self._columns = columns
        starts, weights = array("q"), array("d")
        labels: list[int | str | None] = []
        names: list[str] = []
        damaged: list[Damage] = []
        wanted = {columns.image, columns.caption, columns.label, *IMAGE_FIELDS}
        fields: set[str] = set()
        with open_regular(file) as lines:
            for number, (start, line) in enumerate(_lines(lines), start=1):
                if not line.strip():
                    continue
                try:
                    record = _parse(line)
                    # the first record stands for all in messages
                    fields |= record.keys() & wanted if fields else record.keys()
                    own = columns.among(record)
                    image = record.get(own.image)
                    if image is None:
                        raise DamagedSample("no field holds the image")
                    note = read_record(record, own)
                    if isinstance(image, str) and (fault := text_fault(image)):
                        raise DamagedSample(f"the name of its image {fault}")
                except DamagedSample as error:
                    damaged.append(Damage(f"{file}:{number}", str(error)))
                    continue
                # numbered before the split is taken, so that both splits number the classes alike
                starts.append(start)
                labels.append(note.label)
                weights.append(note.weight)
                if split is not None:
                    names.append(str(image))
        if not fields:
            raise HartError(f"{file}: no line holds a JSON object: write one a line, with an image and a caption")
        columns.resolve(fields, str(file))
        numbers, self.classes = number_classes(labels)
        division = None if split is None else Division(names, split, str(file))
        kept = [row for row in range(len(labels)) if division is None or names[row] in division]
        self._starts = array("q", [starts[row] for row in kept])
        self._labels = [numbers[row] for row in kept]
        self.weights: Tensor = as_weights(weights[row] for row in kept)
        self.damaged = tuple(damaged)
        held_out = "" if division is None else division.note
        self.description = f"JSON lines {file}{f' ({split})' if split else ''}: {len(self)} pictures{held_out}"

    def __len__(self) -> int:
        return len(self._starts)

    def key(self, row: int) -> str:
        return f"{self._file} at byte {self._starts[row]}"

    def read(self, row: int) -> Sample:
        try:
            record = _parse(self._line(row))
        except FileError as error:
            raise DamagedSample(one_line(error)) from None
        columns = self._columns.among(record)
        note = read_record(record, columns)
        image = read_image_field(record.get(columns.image), self._file.parent)
        return Sample(self.key(row), image, note.captions, self._labels[row], note.weight, record)

    def digest(self) -> str:
        digest = SetDigest("JSON lines")
        digest.add(*self.classes)
        with open_regular(self._file) as lines:
            for start in self._starts:
                lines.seek(start)
                line = lines.readline(NOTE_LIMIT + 1)
                digest.add(line.strip(), self._mark(line))
        return digest.hexdigest()

    def _mark(self, line: bytes) -> bytes:
        try:
            record = _parse(line)
            image = record.get(self._columns.among(record).image)
            # a file of its own need not be read whole for its mark
            if isinstance(image, str) and "://" not in image:
                return mark_image(self._file.parent / image)
            return mark_bytes(read_image_field(image, self._file.parent))
        except DamagedSample:
            return ABSENT

    def _line(self, row: int) -> bytes:
        with open_regular(self._file) as lines:
            lines.seek(self._starts[row])
            return lines.readline(NOTE_LIMIT + 1)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Where each line begins, and the line; of one longer than `NOTE_LIMIT` the beginning, which is longer too."""
    start = 0
    while line := file.readline(NOTE_LIMIT + 1):
        yield start, line
        start += len(line)
        rest = line
        while len(rest) > NOTE_LIMIT and not rest.endswith(b"\n"):
            rest = file.readline(NOTE_LIMIT + 1)
            start += len(rest)


def _parse(line: bytes) -> Mapping[str, Any]:
    if len(line) > NOTE_LIMIT:
        raise DamagedSample(f"the line is longer than {NOTE_LIMIT // MEBIBYTE} MiB")
    try:
        record = parse_json(line, "the line")
    except FileError as error:
        raise DamagedSample(one_line(error)) from None
    if not isinstance(record, dict):
        raise DamagedSample("no JSON object")
    return record

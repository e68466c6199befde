"""JSON lines: the path of an image with its captions or label on each line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from hart.data.notes import IMAGE_FIELDS, NOTE_LIMIT, Columns, read_record
from hart.data.samples import DamagedSample, damaged_by, image_of_field, text_fault
from hart.data.sources import Listed, Located, Source
from hart.files import MEBIBYTE, FileError, open_regular, parse_json


class JsonlReader(Source):
    """Lines such as {"image": "a/b.png", "caption": "a cat"}; paths are relative to the file's folder.

    Memory only holds where each line begins; a line is read again with its image.
    """

    def __init__(self, file: Path, columns: Columns, split: str | None = None) -> None:
        """split: keep only the images that the hash of the name assigns to it; None keeps all."""
        self._file = file
        self._columns = columns
        self._fields: set[str] = set()
        self._line = 0
        super().__init__(f"JSON lines {file}{f' ({split})' if split else ''}", division=split)
        if self._fields:
            columns.resolve(self._fields, str(file))

    def records(self) -> Iterator[tuple[int, Callable[[], Listed]]]:
        with open_regular(self._file) as lines:
            for self._line, (start, line) in enumerate(_lines(lines), start=1):
                if line.strip():
                    yield start, partial(self._facts, line)
        self._line = 0

    def _facts(self, line: bytes) -> Listed:
        record = _parse(line)
        # the first record stands for all in messages
        wanted = {self._columns.image, self._columns.caption, self._columns.label, *IMAGE_FIELDS}
        self._fields |= record.keys() & wanted if self._fields else record.keys()
        columns = self._columns.among(record)
        image = record.get(columns.image)
        if image is None:
            raise DamagedSample("no field holds the image")
        note = read_record(record, columns)
        if isinstance(image, str) and (fault := text_fault(image)):
            raise DamagedSample(f"the name of its image {fault}")
        return Listed(note.label, note.weight, str(image))

    def name(self, place: int) -> str:
        # lines are counted while the file is listed
        return f"{self._file}:{self._line}" if self._line else f"{self._file} at byte {place}"

    def read_record(self, place: int) -> Located:
        with damaged_by(FileError), open_regular(self._file) as lines:
            lines.seek(place)
            record = _parse(lines.readline(NOTE_LIMIT + 1))
        columns = self._columns.among(record)
        return read_record(record, columns), image_of_field(record.get(columns.image), self._file.parent)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield where each line begins, and the line; one longer than `NOTE_LIMIT` is cut to one byte more."""
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
    with damaged_by(FileError):
        record = parse_json(line, "the line")
    if not isinstance(record, dict):
        raise DamagedSample("no JSON object")
    return record

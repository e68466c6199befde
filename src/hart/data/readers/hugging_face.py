"""Hugging Face datasets through the library `datasets`: rows lie in memory-mapped Arrow files, at random."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hart.data.digests import ABSENT, SetDigest, mark_bytes
from hart.data.notes import WEIGHT_FIELD, Columns, as_weights, number_classes, read_label, read_record, read_weight
from hart.data.readers.parquet import read_row, require_sound
from hart.data.samples import Damage, DamagedSample, Sample, one_line, read_image_field
from hart.data.splits import split_names
from hart.errors import HartError

PREFIX = "hf:"
READ_ROWS = 1000
"""Rows of labels and weights read at a time."""


class HuggingFaceSource:
    """A split of a data set: "hf:OWNER/NAME", "hf:OWNER/NAME:CONFIG", or a folder written by `save_to_disk`.

    Images stay encoded until a picture is read. A `ClassLabel` column gives the class names.
    """

    def __init__(self, name: str, split: str, columns: Columns) -> None:
        import datasets

        where = f"Hugging Face data set {name}"
        table = _load(name, split)
        images = [column for column, feature in table.features.items() if isinstance(feature, datasets.Image)]
        if not columns.image and len(images) == 1:
            columns = Columns(images[0], columns.caption, columns.label)
        self._columns = columns.resolve(table.column_names, where)
        feature = table.features.get(self._columns.label)
        named = isinstance(feature, datasets.ClassLabel)
        require_sound(table.data.table, where)
        # columns as Arrow has them: images are not decoded, and what is damaged is met row by row
        self._table = table.with_format("arrow")
        self._name = name
        labels: list[int | str | None] = []
        self._rows: list[int] = []
        weights: list[float] = []
        damaged = []
        for row, record in enumerate(self._small_columns()):
            try:
                if isinstance(record, DamagedSample):
                    raise record
                # -1 is how the library writes "no label"
                label = record.get(self._columns.label)
                labels.append(read_label(None if label == -1 and not isinstance(label, bool) else label))
                weights.append(read_weight(record.get(WEIGHT_FIELD, 1.0)))
            except DamagedSample as error:
                del labels[len(weights) :]
                damaged.append(Damage(f"{name}, row {row}", str(error)))
                continue
            self._rows.append(row)
        numbers, names = number_classes(labels)
        self.classes: tuple[str, ...] = tuple(feature.names) if named else names
        self._labels = numbers
        self.weights: Tensor = as_weights(weights)
        self.damaged = tuple(damaged)
        self.description = f"{where} ({split}): {len(self)} rows"

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, row: int) -> str:
        return f"{self._name}, row {self._rows[row]}"

    def read(self, row: int) -> Sample:
        record = self._record(row)
        note = read_record(record | {self._columns.label: None}, self._columns)
        image = read_image_field(record[self._columns.image], None)
        return Sample(self.key(row), image, note.captions, self._labels[row], note.weight, record)

    def digest(self) -> str:
        digest = SetDigest("Hugging Face")
        digest.add(*self.classes)
        wanted = {self._columns.caption, self._columns.label, WEIGHT_FIELD}
        for row in range(len(self)):
            try:
                record = self._record(row)
                mark = mark_bytes(read_image_field(record[self._columns.image], None))
            except DamagedSample:
                digest.add(ABSENT)
                continue
            said = {name: value for name, value in record.items() if name in wanted}
            digest.add(json.dumps(said, sort_keys=True, default=str), mark)
        return digest.hexdigest()

    def _record(self, row: int) -> dict[str, Any]:
        return read_row(self._table[self._rows[row] : self._rows[row] + 1], 0)

    def _small_columns(self) -> Iterator[dict[str, Any] | DamagedSample]:
        """Label and weight of every row, or why they cannot be had."""
        wanted = {self._columns.label, WEIGHT_FIELD} & set(self._table.column_names)
        if not wanted:
            yield from ({} for _ in range(len(self._table)))
            return
        table = self._table.select_columns(sorted(wanted))
        for start in range(0, len(table), READ_ROWS):
            batch = table[start : start + READ_ROWS]
            for number in range(batch.num_rows):
                try:
                    yield read_row(batch, number)
                except DamagedSample as error:
                    yield error


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _load(name: str, split: str) -> Any:
    import datasets

    try:
        if name.startswith(PREFIX):
            place, _, config = name.removeprefix(PREFIX).partition(":")
            found = datasets.get_dataset_split_names(place, config or None)
            chosen = _choose_split(found, split, name)
            table = datasets.load_dataset(place, config or None, split=chosen)
        else:
            table = datasets.load_from_disk(name)
            if isinstance(table, datasets.DatasetDict):
                table = table[_choose_split(list(table), split, name)]
    except HartError:
        raise
    except Exception as error:  # the library raises whatever its builders and the network raise
        raise HartError(f"{name}: the library datasets cannot load it: {one_line(error)}") from None
    return table


def _choose_split(found: Sequence[str], split: str, name: str) -> str:
    for candidate in split_names(split):
        if candidate in found:
            return candidate
    raise HartError(f"{name} has no split '{split}': it has {', '.join(found)}")

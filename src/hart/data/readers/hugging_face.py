"""Hugging Face datasets through the library `datasets`: rows lie in memory-mapped Arrow files, at random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hart.data.digests import ABSENT, SetDigest, mark_bytes
from hart.data.samples import (
    Columns,
    Damage,
    DamagedSample,
    Sample,
    as_weights,
    number_classes,
    one_line,
    read_image_field,
    read_record,
    split_names,
)
from hart.errors import HartError

PREFIX = "hf:"


class HuggingFaceSource:
    """A split of a data set: "hf:OWNER/NAME", "hf:OWNER/NAME:CONFIG", or a folder written by `save_to_disk`.

    Images stay encoded until a picture is read. A `ClassLabel` column gives the class names.
    """

    damaged: tuple[Damage, ...] = ()

    def __init__(self, name: str, split: str, columns: Columns) -> None:
        import datasets

        where = f"Hugging Face data set {name}"
        table = self._load(name, split)
        images = [column for column, feature in table.features.items() if isinstance(feature, datasets.Image)]
        if not columns.image and len(images) == 1:
            columns = Columns(images[0], columns.caption, columns.label)
        self._columns = columns.resolve(table.column_names, where)
        if self._columns.image in images:
            table = table.cast_column(self._columns.image, datasets.Image(decode=False))
        self._table = table
        self._name = name
        label = self._columns.label
        feature = table.features.get(label)
        self._labels: tuple[int | None, ...] = ()
        self.classes: tuple[str, ...] = ()
        if isinstance(feature, datasets.ClassLabel):
            self.classes = tuple(feature.names)
        elif label:
            self._labels, self.classes = number_classes(list(table[label]))
        weights = table["weight"] if "weight" in table.column_names else None
        self.weights: Tensor = torch.ones(len(table)) if weights is None else as_weights(weights)
        self.description = f"{where} ({split}): {len(table)} rows"

    def __len__(self) -> int:
        return len(self._table)

    def key(self, row: int) -> str:
        return f"{self._name}, row {row}"

    def read(self, row: int) -> Sample:
        record = self._table[row]
        note = read_record(record, self._columns)
        label = self._labels[row] if self._labels else note.label
        image = read_image_field(record[self._columns.image], None)
        assert label is None or isinstance(label, int)
        # -1 is how the library writes "no label"
        return Sample(self.key(row), image, note.captions, None if label == -1 else label, note.weight, record)

    def digest(self) -> str:
        digest = SetDigest("Hugging Face")
        digest.add(*self.classes)
        wanted = [name for name in (self._columns.image, self._columns.caption, self._columns.label) if name]
        if "weight" in self._table.column_names:
            wanted.append("weight")
        for record in self._table.select_columns(wanted):
            try:
                mark = mark_bytes(read_image_field(record.pop(self._columns.image), None))
            except DamagedSample:
                mark = ABSENT
            digest.add(json.dumps(record, sort_keys=True, default=str), mark)
        return digest.hexdigest()

    @staticmethod
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


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _choose_split(found: list[str], split: str, name: str) -> str:
    for candidate in split_names(split):
        if candidate in found:
            return candidate
    raise HartError(f"{name} has no split '{split}': it has {', '.join(found)}")

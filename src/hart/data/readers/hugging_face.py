"""Hugging Face data sets through the library `datasets`: memory-mapped Arrow files, read at random."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hart.data.notes import WEIGHT_FIELD, Columns, read_label, read_record, read_weight
from hart.data.readers.parquet import read_row, require_sound
from hart.data.samples import image_of_field
from hart.data.sources import Listed, Located, Source
from hart.data.splits import split_names
from hart.errors import HartError
from hart.files import is_file_name, read_json
from hart.hub import hub_address, is_hub_name, unreachable
from hart.strict import printable, reason

PREFIX = "hf:"
READ_ROWS = 1000
"""Rows whose labels and weights are read together."""


class HuggingFaceReader(Source):
    """A split of a data set: "hf:OWNER/NAME", "hf:OWNER/NAME:CONFIG", or a folder written by `save_to_disk`.

    Images stay encoded until they are read. A `ClassLabel` column gives the class names.
    """

    def __init__(self, name: str, split: str, columns: Columns) -> None:
        hub_address()  # before the library is imported, even for a folder
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
        # Arrow columns: images are not decoded, and damage shows row by row
        self._table = table.with_format("arrow")
        self._set = name
        super().__init__(f"{where} ({split})", classes=tuple(feature.names) if named else None)

    def records(self) -> Iterator[tuple[int, Callable[[], Listed]]]:
        wanted = {self._columns.label, WEIGHT_FIELD} & set(self._table.column_names)
        table = self._table.select_columns(sorted(wanted))
        for start in range(0, len(self._table), READ_ROWS):
            batch = table[start : start + READ_ROWS] if wanted else None
            for number in range(min(READ_ROWS, len(self._table) - start)):
                yield start + number, Listed if batch is None else partial(self._facts, batch, number)

    def _facts(self, batch: Any, number: int) -> Listed:
        record = read_row(batch, number)
        return Listed(read_label(record.get(self._columns.label)), read_weight(record.get(WEIGHT_FIELD)))

    def name(self, place: int) -> str:
        return f"{self._set}, row {place}"

    def read_record(self, place: int) -> Located:
        record = read_row(self._table[place : place + 1], 0)
        image = record.pop(self._columns.image)
        note = read_record(record | {self._columns.label: None}, self._columns)
        return replace(note, record=record), image_of_field(image, None)


def is_saved_dataset(path: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _load(name: str, split: str) -> Any:
    import datasets

    try:
        if name.startswith(PREFIX):
            table = _load_by_name(name, split)
        else:
            for index in Path(name).rglob("state.json"):
                _require_inside(index)
            table = datasets.load_from_disk(name)
            if not isinstance(table, datasets.DatasetDict):  # the split that it says it is, perhaps as "train[:10%]"
                table = {re.split(r"\W", str(table.split or "train"))[0]: table}
            table = table[_choose_split(list(table), split, name)]
    except HartError:
        raise
    except Exception as error:  # the library raises whatever its builders and the network raise
        raise HartError(f"{name}: the library datasets cannot load it: {reason(error)}") from None
    return table


def _load_by_name(name: str, split: str) -> Any:
    """Load a folder or a set of the hub; if that cannot be reached, an earlier download."""
    import datasets

    place, _, config = name.removeprefix(PREFIX).partition(":")
    if not place:
        raise HartError(f"{name} does not name a data set: give hf:OWNER/NAME")
    why = unreachable() if is_hub_name(place) and not Path(place).is_dir() else None
    try:
        with _offline(why is not None or datasets.config.HF_HUB_OFFLINE):
            found = datasets.get_dataset_split_names(place, config or None)
            return datasets.load_dataset(place, config or None, split=_choose_split(found, split, name))
    except ConnectionError:
        if why is None:
            raise
        raise HartError(
            f"{name}: was not downloaded earlier, and the Hugging Face hub cannot be reached ({why}): check the name "
            "and the connection, or give a folder with the images"
        ) from None


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Keep the library, if `offline`, from asking the hub for what is on disk, which it would try for half a minute."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = offline
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _require_inside(index: Path) -> None:
    """Raise `HartError` if a saved set names files outside its folder, which the library would read."""
    files = read_json(index).get("_data_files")
    for file in files if isinstance(files, list) else []:
        name = file.get("filename") if isinstance(file, dict) else None
        if isinstance(name, str) and not is_file_name(name):
            raise HartError(f"{index}: {printable(name)} is not the name of a file in this folder: copy the set again")


def _choose_split(found: Sequence[str], split: str, name: str) -> str:
    for candidate in split_names(split):
        if candidate in found:
            return candidate
    raise HartError(f"{name} has no split '{split}': it has {', '.join(found)}")

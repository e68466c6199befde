"""Parquet files, read with pyarrow as a stream of row groups: a row cannot be read without its group."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hart.data.digests import SetDigest, mark_file, mark_shard
from hart.data.notes import WEIGHT_FIELD, Columns, read_record
from hart.data.samples import damaged_by, image_of_field
from hart.data.sources import Read, Stream
from hart.errors import HartError
from hart.files import FileError, require_regular
from hart.strict import counted, printable, reason

READ_ROWS = 16
"""Rows decoded at a time, since images are large."""


class ParquetStream(Stream):
    """Rows with an image column (bytes, Hugging Face's {"bytes", "path"}, or a path) and caption or label columns."""

    def __init__(self, files: Sequence[Path], columns: Columns) -> None:
        self._groups: list[tuple[Path, int]] = []
        self.sizes = list[int]()
        names = set[str]()
        for file in files:
            require_regular(file)
            with _opened(file) as table:
                here = set(table.schema_arrow.names)
                self._groups += [(file, group) for group in range(table.num_row_groups)]
                self.sizes += [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            names = here if file is files[0] else names
            if here != names:
                raise HartError(f"{file}: its columns differ from those of {files[0]}: read them as two sets")
        if not (rows := sum(self.sizes)):
            raise HartError(f"{files[0]}: it has no rows: give another file")
        if WEIGHT_FIELD in names:
            raise HartError(f"{files[0]}: has a column 'weight', which a stream cannot honour: drop it")
        self._columns = columns.resolve(names, str(files[0]))
        self.units = tuple(printable(f"{file}, row group {group}") for file, group in self._groups)
        inside = f"{counted(rows, 'row')}, {counted(len(self.units), 'row group')}"
        self.description = f"{counted(len(files), 'Parquet file')} in {files[0].parent}: {inside}"

    def records(self, unit: int) -> Iterator[tuple[str, Callable[[], Read] | str]]:
        file, group = self._groups[unit]
        wanted = [name for name in (self._columns.image, self._columns.caption, self._columns.label) if name]
        require_regular(file)
        rows = itertools.count()
        try:
            with _opened(file) as table:
                for batch in table.iter_batches(batch_size=READ_ROWS, row_groups=[group], columns=wanted):
                    for number in range(batch.num_rows):
                        yield f"{self.units[unit]}, row {next(rows)}", partial(self._read, batch, number, file.parent)
        except FileError as error:
            yield self.units[unit], str(error).removeprefix(f"{file}: ")  # the unit begins with it

    def _read(self, batch: Any, number: int, folder: Path) -> Read:
        record = read_row(batch, number)
        image = record.pop(self._columns.image)
        return read_record(record, self._columns), image_of_field(image, folder)()

    def digest(self) -> str:
        """Return the digest of the files, and of the images beside them."""
        digest = SetDigest("Parquet")
        for file in dict.fromkeys(file for file, _ in self._groups):
            digest.add(mark_shard(file), *map(mark_file, self._images_beside(file)))
        return digest.hexdigest()

    def _images_beside(self, file: Path) -> Iterator[Path]:
        """Yield the paths in the image column, if it has any."""
        import pyarrow as pa

        try:
            with _opened(file) as table:
                kind = table.schema_arrow.field(self._columns.image).type
                kind = kind.value_type if pa.types.is_dictionary(kind) else kind
                if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
                    name = f"{self._columns.image}.path"
                elif str(kind) in ("string", "large_string", "string_view"):
                    name = self._columns.image
                else:
                    return
                images = table.read(columns=[name]).column(0).to_pylist()
        except FileError:
            return
        paths = (image["path"] if isinstance(image, dict) else image for image in images)
        yield from (file.parent / path for path in paths if isinstance(path, str))


def read_row(batch: Any, number: int) -> dict[str, Any]:
    """Return a row of an Arrow table or batch. Raises `DamagedSample` for values that Python cannot hold."""
    import pyarrow as pa

    kinds = pa.ArrowException, ValueError, OverflowError, ArithmeticError, KeyError
    with damaged_by(*kinds, said="the row cannot be read ({})"):
        return {name: batch.column(name)[number].as_py() for name in batch.schema.names}


def require_sound(table: Any, where: str) -> None:
    """Raise `HartError` for an Arrow table that points outside its own memory: reading it would crash."""
    import pyarrow as pa

    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        # invalid text shows row by row
        if "UTF8" not in str(error):
            raise HartError(f"{where}: damaged ({reason(error)}): copy or build it again") from None


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a Parquet file. Raises `FileError` for anything that goes wrong with it, in the block too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            yield table
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError) as error:
        raise FileError(f"{file}: not a readable Parquet file ({reason(error)}); copy it again") from None
